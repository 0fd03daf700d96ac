"""Protocol buffer sources and the Python generated from them (`proto/gen`)."""
