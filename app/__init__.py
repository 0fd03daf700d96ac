"""Use cases and the composition root: what the ports and machines are joined into."""
