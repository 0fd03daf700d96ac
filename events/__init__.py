"""What happened and what was said: typed events, wire messages and their codecs.

The innermost layer. It imports nothing else of the project and touches no I/O, clock, random
source, web framework or database.
"""
