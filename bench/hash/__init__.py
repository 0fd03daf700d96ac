"""The page-hash benchmark: `python -m bench.hash`; see `__main__`."""
