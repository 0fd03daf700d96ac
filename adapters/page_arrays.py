"""Page numbers and digests as numpy arrays: the arithmetic that page storage is made of.

Server side only: the client never imports numpy. Page numbers are uint32, digests are rows of 32
bytes. Nothing here knows what a map or a segment is.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..events.limits import DIGEST_BYTES
from ..events.pages import Runs

Bytes2D = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]
Records = npt.NDArray[Any]

_ROWS_AT_ONCE: Final = 65_536


def pages_of_runs(runs: Runs) -> U32:
    """Every page of `runs`, in their order."""
    bounds = np.fromiter(chain.from_iterable(runs), dtype=np.int64, count=2 * len(runs))
    return pages_of_bounds(bounds.reshape(-1, 2))


def pages_of_bounds(bounds: npt.NDArray[np.int64]) -> U32:
    """Every page of the runs in `bounds` [n, 2] (first, last), in their order."""
    if len(bounds) == 1:
        return np.arange(bounds[0, 0], bounds[0, 1] + 1, dtype=np.uint32)
    counts = bounds[:, 1] - bounds[:, 0] + 1
    ends = np.cumsum(counts)
    starts_at = np.repeat(bounds[:, 0] - (ends - counts), counts)
    return (starts_at + np.arange(len(starts_at))).astype(np.uint32)


def bounds_of_pages(pages: U32) -> npt.NDArray[np.uint32]:
    """The shortest runs [n, 2] that hold exactly the ascending `pages`."""
    if not len(pages):
        return np.empty((0, 2), dtype=np.uint32)
    breaks = np.flatnonzero(np.diff(pages) != 1)
    bounds = np.empty((len(breaks) + 1, 2), dtype=np.uint32)
    bounds[0, 0], bounds[1:, 0] = pages[0], pages[breaks + 1]
    bounds[-1, 1], bounds[:-1, 1] = pages[-1], pages[breaks]
    return bounds


def runs_of_pages(pages: U32) -> Runs:
    """`bounds_of_pages` as the tuples that messages carry."""
    bounds = bounds_of_pages(pages)
    return tuple(zip(bounds[:, 0].tolist(), bounds[:, 1].tolist(), strict=True))


def runs_of_flags(flags: Flags) -> Runs:
    """The runs of pages whose flag is set; flag 0 is page 1. Takes two bytes a page."""
    edges = np.diff(flags.view(np.int8), prepend=np.int8(0), append=np.int8(0))
    firsts = (np.flatnonzero(edges == 1) + 1).tolist()
    lasts = np.flatnonzero(edges == -1).tolist()
    return tuple(zip(firsts, lasts, strict=True))


def digest_rows(joined: bytes | bytearray | memoryview) -> Bytes2D:
    """Joined digests as rows of 32 bytes; a view."""
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, DIGEST_BYTES)


def _words(digests: Bytes2D) -> U64:
    return digests.view(np.uint64)


def row_slices(count: int) -> Iterator[slice]:
    """`count` rows in slices of a bounded size: arithmetic over a whole map would otherwise make
    intermediate arrays of 8 bytes and more a page."""
    for start in range(0, count, _ROWS_AT_ONCE):
        yield slice(start, min(start + _ROWS_AT_ONCE, count))


def rows_differ(left: Bytes2D, right: Bytes2D) -> Flags:
    """For each row, whether the two digests differ."""
    differ = np.empty(len(left), dtype=np.bool_)
    for rows in row_slices(len(left)):
        unequal = _words(left[rows]) != _words(right[rows])
        differ[rows] = unequal[:, 0] | unequal[:, 1] | unequal[:, 2] | unequal[:, 3]
    return differ


class DigestIndex:
    """Finds a row by its digest, over rows that do not change: 12 bytes a row beside them.

    Of rows with the same first eight bytes only one is found; a miss costs a page sent again.
    """

    def __init__(self, digests: Bytes2D) -> None:
        self._digests = digests
        prefixes = _words(digests)[:, 0] if len(digests) else np.empty(0, dtype=np.uint64)
        self._order = np.argsort(prefixes).astype(np.uint32)
        self._sorted = prefixes[self._order]

    def find(self, digests: Bytes2D) -> tuple[Flags, U32]:
        """For each digest, whether a row has it, and that row (0 where none has)."""
        rows = np.zeros(len(digests), dtype=np.uint32)
        if not len(self._sorted) or not len(digests):
            return np.zeros(len(digests), dtype=np.bool_), rows
        at = np.searchsorted(self._sorted, _words(np.ascontiguousarray(digests))[:, 0])
        np.minimum(at, len(self._sorted) - 1, out=at)
        rows[:] = self._order[at]
        found = ~rows_differ(np.ascontiguousarray(digests), self._digests[rows])
        rows[~found] = 0
        return found, rows
