"""The sync benchmark: `python -m bench.sync`; see `__main__`."""
