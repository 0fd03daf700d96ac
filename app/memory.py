"""The memory that the C library keeps: bounded at start, given back after large sessions.

Page storage passes megabytes through many short-lived threads. glibc gives each thread an arena and
keeps what is freed there, so that a server's memory would follow the sum of its peaks.
"""

import ctypes
import functools
import platform
import sys

from ..events.limits import MALLOC_ARENAS_MAX

_M_ARENA_MAX = -8  # malloc.h


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


def give_back() -> None:
    """Return what is free to the system: some milliseconds, worth it after many megabytes."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)
