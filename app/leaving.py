"""How a process ends that has spoken to a page store: at once, without taking Python apart.

obstore's threads hand their results to the event loop and then let go of what they held. If the
interpreter ends meanwhile, CPython ends such a thread in a way that Rust answers with abort(): one
listing in ten, right before the end, and the exit code is 134 instead of the command's own. Nothing
is lost by not ending in order: whatever had to be closed was closed by then, and what had to be
durable was synced when it was written.
"""

import os
import sys


def leave(code: int) -> None:
    """End the process with `code` if the page store's library was loaded; else return."""
    if "obstore" not in sys.modules:
        return
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)
