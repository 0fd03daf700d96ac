"""The process's memory: what the C library keeps of it, and what Python searches for garbage.

Page storage passes megabytes through many short-lived threads. glibc gives each thread an arena and
keeps what is freed there, so that a server's memory would follow the sum of its peaks: arenas are
bounded at start, and what is free is given back after large sessions.

Within a session it is the other way round. A batch of pages is a megabyte that is freed and asked
for again a millisecond later; glibc gives each back to the system, which then has to find and clear
256 pages for the next one. `keep_freed` lets it hold on to some.

A session's machine is full of cycles, so Python looks for garbage often; and what it goes through
is, for the most part, the program itself. `settle` spares it that.
"""

import ctypes
import functools
import gc
import platform
import sys

from ..events.limits import FREED_BYTES_KEPT_MAX, GARBAGE_OBJECTS_MAX, MALLOC_ARENAS_MAX

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        return ctypes.CDLL(None)
    return None


def bound_arenas() -> None:
    """Let all threads share a few arenas; to be called before there are threads."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_ARENA_MAX, MALLOC_ARENAS_MAX)


@functools.cache
def keep_freed() -> None:
    """Keep a few batches' worth of freed memory for the next ones: a quarter of a large session."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, FREED_BYTES_KEPT_MAX)
        libc.mallopt(_M_TRIM_THRESHOLD, FREED_BYTES_KEPT_MAX)


def give_back() -> None:
    """Return what is free to the system: some milliseconds, worth it after many megabytes."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def settle() -> None:
    """Leave what the process is made of now out of every later search for garbage, and search once
    in `GARBAGE_OBJECTS_MAX` new objects. To be called when a server stands."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS_MAX, *gc.get_threshold()[1:])
