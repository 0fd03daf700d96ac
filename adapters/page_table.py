"""What a push has said about pages so far: sorted columns that grow with what was really said.

42 bytes an entry, however large the page numbers are. Announcements come nearly always in page
order and are appended; the few that do not are collected in a small side table and merged now and
then, so that no order of pages makes a frame cost more than a bounded copy.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..events.limits import DIGEST_BYTES
from .page_arrays import U16, U32, Bytes2D, Flags

Rows = npt.NDArray[np.intp]

_SIDE_PAGES_MAX: Final = 16_384
_GROWTH_PAGES_MIN: Final = 1024


class Entries(NamedTuple):
    """Parallel columns: digests, block numbers (0: content not here yet), slots."""

    digests: Bytes2D
    block: U32
    slot: U16

    @classmethod
    def zeros(cls, count: int) -> "Entries":
        return cls(
            np.zeros((count, DIGEST_BYTES), dtype=np.uint8),
            np.zeros(count, dtype=np.uint32),
            np.zeros(count, dtype=np.uint16),
        )

    def at(self, rows: Flags | slice | Rows) -> "Entries":
        return Entries(self.digests[rows], self.block[rows], self.slot[rows])

    def set(self, rows: Flags | slice | Rows, entries: "Entries") -> None:
        self.digests[rows] = entries.digests
        self.block[rows] = entries.block
        self.slot[rows] = entries.slot


class _SortedTable:
    """Columns sorted by page. No view of a column leaves this class: they are resized in place."""

    def __init__(self) -> None:
        self.count = 0
        self._pages = np.zeros(0, dtype=np.uint32)
        self._entries = Entries.zeros(0)

    @property
    def last_page(self) -> int:
        return int(self._pages[self.count - 1]) if self.count else 0

    def find(self, pages: U32) -> tuple[Flags, Rows]:
        """For each page whether it is held, and its row (meaningless where it is not)."""
        if not self.count or int(pages[0]) > self.last_page:
            return np.zeros(len(pages), dtype=np.bool_), np.zeros(len(pages), dtype=np.intp)
        held = self._pages[: self.count]
        rows = np.searchsorted(held, pages)
        np.minimum(rows, self.count - 1, out=rows)
        return held[rows] == pages, rows

    def read(self, rows: Rows) -> Entries:
        return self._entries.at(rows)

    def write(self, rows: Rows | slice, entries: Entries) -> None:
        self._entries.set(rows, entries)

    def append(self, pages: U32, entries: Entries) -> None:
        """Add pages that all come after the last."""
        self._reserve(self.count + len(pages))
        rows = slice(self.count, self.count + len(pages))
        self._pages[rows] = pages
        self.write(rows, entries)
        self.count += len(pages)

    def merge(self, pages: U32, entries: Entries) -> None:
        """Add pages of which none is held, anywhere."""
        at = np.searchsorted(self._pages[: self.count], pages)
        mine = self.columns()
        self._pages = np.insert(mine[0], at, pages)
        self._entries = Entries(
            np.insert(mine[1].digests, at, entries.digests, axis=0),
            np.insert(mine[1].block, at, entries.block),
            np.insert(mine[1].slot, at, entries.slot),
        )
        self.count = len(self._pages)

    def columns(self) -> tuple[U32, Entries]:
        """All of it, by page, cut to its length: the caller may keep the arrays."""
        self._resize(self.count)
        return self._pages, self._entries

    def pages_within(self, first: int, last: int) -> U32:
        bounds = np.searchsorted(self._pages[: self.count], [first, last + 1])
        return self._pages[bounds[0] : bounds[1]].copy()

    def _reserve(self, count: int) -> None:
        if count > len(self._pages):
            grown = len(self._pages) + max(_GROWTH_PAGES_MIN, len(self._pages) // 8)
            self._resize(max(count, grown))

    def _resize(self, count: int) -> None:
        # In place (realloc): a second copy of the columns would double the server's memory.
        if count == len(self._pages):
            return
        self._pages.resize(count, refcheck=False)
        self._entries.digests.resize((count, DIGEST_BYTES), refcheck=False)
        self._entries.block.resize(count, refcheck=False)
        self._entries.slot.resize(count, refcheck=False)


class PageTable:
    """Pages and their entries; the last word on a page holds."""

    def __init__(self) -> None:
        self._main = _SortedTable()
        self._side = _SortedTable()

    def __len__(self) -> int:
        return self._main.count + self._side.count

    def get(self, pages: U32) -> tuple[Flags, Entries]:
        """For each of `pages` (ascending, not empty) whether it is held, and its entry or zeros."""
        held, rows = self._main.find(pages)
        if held.all():
            return held, self._main.read(rows)
        entries = Entries.zeros(len(pages))
        for table in (self._main, self._side):
            found, rows = table.find(pages)
            if found.any():
                entries.set(found, table.read(rows[found]))
                held |= found
        return held, entries

    def put(self, pages: U32, entries: Entries) -> None:
        """Set the entries of `pages`: ascending, no repeats, not empty."""
        for table in (self._main, self._side):
            found, rows = table.find(pages)
            if found.any():
                table.write(rows[found], entries.at(found))
                pages, entries = pages[~found], entries.at(~found)
            if not len(pages):
                return
        # After a page of the side table nothing may be appended past it unseen; `find` saw to it.
        early = int(np.searchsorted(pages, self._main.last_page))
        if early < len(pages):
            self._main.append(pages[early:], entries.at(slice(early, None)))
        if early:
            self._side.merge(pages[:early], entries.at(slice(0, early)))
        if self._side.count > _SIDE_PAGES_MAX:
            self._fold()

    def pages_within(self, first: int, last: int) -> U32:
        """The pages of `first`..`last` that are held, ascending."""
        main, side = (table.pages_within(first, last) for table in (self._main, self._side))
        return np.union1d(main, side) if len(side) else main

    def columns(self) -> tuple[U32, Entries]:
        """Everything, by page, without a copy where possible. The table is spent."""
        self._fold()
        return self._main.columns()

    def _fold(self) -> None:
        if self._side.count:
            self._main.merge(*self._side.columns())
            self._side = _SortedTable()
