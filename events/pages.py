"""Pages, runs of pages and sets of pages.

Pages are numbered from 1 (fileformat2 §1.2). A run is an inclusive pair (first, last). A
`PageSet` is the machine's memory of which pages were asked for: a sparse bitmap whose size follows
what was really put into it, never what a peer claims.
"""

from collections.abc import Iterable, Iterator
from typing import NewType

from .errors import InvalidArgument
from .limits import (
    DIGEST_BYTES,
    LOCK_BYTE_OFFSET,
    PAGE_NUMBER_MAX,
    PAGE_SIZE_BYTES_MAX,
    PAGE_SIZE_BYTES_MIN,
)

PageSize = NewType("PageSize", int)
Digest = NewType("Digest", bytes)
Run = tuple[int, int]
Runs = tuple[Run, ...]


def page_size(value: int) -> PageSize:
    """`value` bytes as a page size: a power of two, 512 to 65536 (fileformat2 §1.3.2)."""
    if not PAGE_SIZE_BYTES_MIN <= value <= PAGE_SIZE_BYTES_MAX or value & (value - 1):
        raise InvalidArgument(f"page size {value} is not a power of two from 512 to 65536")
    return PageSize(value)


def digest(value: bytes) -> Digest:
    """`value` as a BLAKE3-256 digest: exactly 32 bytes."""
    if len(value) != DIGEST_BYTES:
        raise InvalidArgument(f"a digest has {DIGEST_BYTES} bytes, not {len(value)}")
    return Digest(value)


def lock_byte_page(size: int) -> int:
    """The page that holds byte 0x40000000: never stored content (fileformat2 §1.2.1)."""
    return LOCK_BYTE_OFFSET // size + 1


def check_runs(runs: Iterable[Run], last_page: int = PAGE_NUMBER_MAX) -> Runs:
    """`runs`, refused unless ascending, disjoint, non-empty and within 1..last_page."""
    checked = tuple(runs)
    previous = 0
    for first, last in checked:
        if not previous < first <= last <= last_page:
            raise InvalidArgument(
                f"run {first}..{last} is empty, out of order or outside 1..{last_page}"
            )
        previous = last
    return checked


def count_pages(runs: Iterable[Run]) -> int:
    return sum(last - first + 1 for first, last in runs)


def pages_of(runs: Iterable[Run]) -> Iterator[int]:
    for first, last in runs:
        yield from range(first, last + 1)


def runs_of(pages: Iterable[int]) -> Runs:
    """The shortest runs that hold exactly `pages` (ascending, no repeats)."""
    runs: list[Run] = []
    numbers = iter(pages)
    first = last = next(numbers, None)
    if first is None or last is None:
        return ()
    for page in numbers:
        if page != last + 1:
            runs.append((first, last))
            first = page
        last = page
    runs.append((first, last))
    return tuple(runs)


def split_runs(runs: Iterable[Run], pages_max: int) -> Iterator[Runs]:
    """`runs` cut into groups of at most `pages_max` pages each, in order."""
    group: list[Run] = []
    room = pages_max
    for start, last in runs:
        first = start
        while first <= last:
            end = min(last, first + room - 1)
            group.append((first, end))
            room -= end - first + 1
            first = end + 1
            if room == 0:
                yield tuple(group)
                group, room = [], pages_max
    if group:
        yield tuple(group)


def merge_runs(runs: Iterable[Run], last_page: int) -> Runs:
    """`runs` in any order, overlapping or not, as the shortest runs; nothing beyond `last_page`.

    It takes time and memory for the runs, not for the pages in them.
    """
    merged: list[Run] = []
    for first, last in sorted(runs):
        end = min(last, last_page)
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        elif first <= end:
            merged.append((first, end))
    return tuple(merged)


def without_page(runs: Iterable[Run], page: int) -> Runs:
    """`runs` with one page cut out (used for the lock-byte page)."""
    kept: list[Run] = []
    for first, last in runs:
        if not first <= page <= last:
            kept.append((first, last))
            continue
        if first < page:
            kept.append((first, page - 1))
        if page < last:
            kept.append((page + 1, last))
    return tuple(kept)


_CHUNK_BITS = 10
_CHUNK_MASK = (1 << _CHUNK_BITS) - 1


class PageSet:
    """A set of page numbers, kept as chunks of 1,024 bits; all operations take runs.

    A chunk is an int, 164 bytes of memory however few pages it holds: what a peer names by a few
    bytes on the wire must not take a thousand here.

    >>> s = PageSet(); s.add([(1, 3), (2000, 2000)]); len(s)
    4
    >>> s.take([(2, 3)]), s.take([(2, 2)]), s.runs()
    (True, False, ((1, 1), (2000, 2000)))
    """

    __slots__ = ("_chunks", "_count")

    def __init__(self) -> None:
        self._chunks: dict[int, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, page: int) -> bool:
        return bool((self._chunks.get(page >> _CHUNK_BITS, 0) >> (page & _CHUNK_MASK)) & 1)

    @staticmethod
    def _pieces(runs: Iterable[Run]) -> Iterator[tuple[int, int]]:
        """Which chunks `runs` touch, and which bits of each."""
        for first, last in runs:
            at = first
            while at <= last:
                end = min(last, at | _CHUNK_MASK)
                yield at >> _CHUNK_BITS, ((1 << (end - at + 1)) - 1) << (at & _CHUNK_MASK)
                at = end + 1

    def add(self, runs: Iterable[Run]) -> None:
        for key, bits in self._pieces(runs):
            chunk = self._chunks.get(key, 0)
            self._count += (bits & ~chunk).bit_count()
            self._chunks[key] = chunk | bits

    def discard(self, runs: Iterable[Run]) -> None:
        for key, bits in self._pieces(runs):
            chunk = self._chunks.get(key, 0)
            self._count -= (chunk & bits).bit_count()
            if chunk & ~bits:
                self._chunks[key] = chunk & ~bits
            else:
                self._chunks.pop(key, None)

    def covers(self, runs: Iterable[Run]) -> bool:
        """Whether every page of `runs` is in the set."""
        return all(not bits & ~self._chunks.get(key, 0) for key, bits in self._pieces(runs))

    def take(self, runs: Iterable[Run]) -> bool:
        """Remove `runs` if all of it is present; otherwise change nothing and return False."""
        held = tuple(runs)
        if not self.covers(held):
            return False
        self.discard(held)
        return True

    def runs(self) -> Runs:
        found: list[Run] = []
        for key in sorted(self._chunks):
            chunk, at = self._chunks[key], key << _CHUNK_BITS
            while chunk:
                gap = (chunk & -chunk).bit_length() - 1
                chunk >>= gap
                length = (~chunk & (chunk + 1)).bit_length() - 1
                chunk >>= length
                at += gap
                if found and found[-1][1] == at - 1:
                    found[-1] = (found[-1][0], at + length - 1)
                else:
                    found.append((at, at + length - 1))
                at += length
        return tuple(found)
