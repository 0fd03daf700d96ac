"""The `edgereplica` command line: it parses, calls `app`, and prints."""
