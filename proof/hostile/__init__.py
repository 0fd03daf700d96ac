"""Hostile input, by the million: frames, messages, bombs, servers, database images, tokens.

One property everywhere: accepted, or the documented error; never anything else, nothing changed by
what is refused, and at a bounded price.
"""
