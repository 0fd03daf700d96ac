"""Hostile input, by the million: frames, messages, bombs, database images, tokens (`make hostile`).

One property everywhere: accepted, or the documented error; never anything else, nothing changed by
what is refused, and at a bounded price. Each check runs in two processes and records its counts
through `proof.evidence`.
"""
