"""The page map of a version: for each page its digest and where its bytes lie.

38 bytes a page: the digest, the number of its block in a `BlockTable`, its slot within the block.
Block 0 means no content: the lock-byte page, whose digest is 32 zero bytes, and pages that a map in
the making does not hold yet. A `PageMap` never changes; versions are made of each other by
`overlay`. How maps are written down is `map_format`'s business, when and where `page_storage`'s.
"""

from dataclasses import dataclass, field

import numpy as np
from blake3 import blake3

from ..events.errors import InvalidArgument
from ..events.limits import DIGEST_BYTES
from ..events.pages import Run, Runs, lock_byte_page
from .block_table import BlockTable, moved_rows
from .page_arrays import U16, U32, Bytes2D, rows_differ, runs_of_pages


@dataclass(frozen=True, slots=True)
class MapDelta:
    """What a version changed against its parent: the ascending `pages` and their new entries."""

    page_size: int
    page_count: int
    pages: U32
    digests: Bytes2D
    block: U32
    slot: U16
    table: BlockTable


@dataclass(frozen=True, slots=True)
class Lineage:
    """How long the chain of deltas under a map is, so that it is cut before it grows costly."""

    version: int = 0
    deltas: int = 0
    delta_pages: int = 0

    def after_delta(self, pages: int) -> "Lineage":
        return Lineage(self.version + 1, self.deltas + 1, self.delta_pages + pages)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class PageMap:
    """Entries of pages 1..page_count; page p is row p - 1. All arrays are read-only."""

    page_size: int
    digests: Bytes2D
    block: U32
    slot: U16
    table: BlockTable
    lineage: Lineage = field(default_factory=Lineage)

    def __post_init__(self) -> None:
        for array in (self.digests, self.block, self.slot, self.table.rows):
            array.setflags(write=False)

    @classmethod
    def empty(cls, page_size: int) -> "PageMap":
        """Version 0: no pages."""
        return cls(
            page_size,
            np.empty((0, DIGEST_BYTES), dtype=np.uint8),
            np.empty(0, dtype=np.uint32),
            np.empty(0, dtype=np.uint16),
            BlockTable.empty(),
        )

    @property
    def page_count(self) -> int:
        return len(self.block)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        arrays = self.digests.nbytes + self.block.nbytes + self.slot.nbytes
        return arrays + self.table.nbytes

    @property
    def lock_page(self) -> int:
        """The page that never has content, if the map reaches it."""
        return lock_byte_page(self.page_size)

    def root(self) -> bytes:
        """The range hash over all pages (design §4)."""
        return blake3(np.ascontiguousarray(self.digests).data).digest()

    def range_hash(self, first: int, last: int) -> bytes:
        """BLAKE3 over the digests of pages `first`..`last`, which must be within the map."""
        if not 1 <= first <= last <= self.page_count:
            raise InvalidArgument(f"range {first}..{last} is outside 1..{self.page_count}")
        return blake3(self.digests[first - 1 : last].data).digest()

    def changed_pages(self, other: "PageMap") -> U32:
        """The pages of this map whose digest is another in `other`, or which it does not have."""
        common = 0
        if self.page_size == other.page_size:
            common = min(self.page_count, other.page_count)
        differ = np.flatnonzero(rows_differ(self.digests[:common], other.digests[:common]))
        beyond = np.arange(common + 1, self.page_count + 1, dtype=np.uint32)
        return np.concatenate([(differ + 1).astype(np.uint32), beyond])

    def diff(self, other: "PageMap") -> Runs:
        """`changed_pages` as runs."""
        return runs_of_pages(self.changed_pages(other))

    def resized(self, page_count: int) -> "PageMap":
        """The map cut to `page_count` pages, or grown by pages without content."""
        keep = min(page_count, self.page_count)
        if page_count <= self.page_count:
            columns = self.digests[:keep], self.block[:keep], self.slot[:keep]
        else:
            columns = (
                np.zeros((page_count, DIGEST_BYTES), dtype=np.uint8),
                np.zeros(page_count, dtype=np.uint32),
                np.zeros(page_count, dtype=np.uint16),
            )
            columns[0][:keep], columns[1][:keep] = self.digests, self.block
            columns[2][:keep] = self.slot
        return PageMap(self.page_size, *columns, self.table, self.lineage)

    def overlay(self, delta: MapDelta) -> "PageMap":
        """The next version: this one resized, with the delta's entries over it."""
        if delta.page_size != self.page_size:
            raise InvalidArgument("a delta cannot change the page size")
        table, moved = self.table.joined(delta.table)
        digests = np.zeros((delta.page_count, DIGEST_BYTES), dtype=np.uint8)
        block = np.zeros(delta.page_count, dtype=np.uint32)
        slot = np.zeros(delta.page_count, dtype=np.uint16)
        keep = min(delta.page_count, self.page_count)
        digests[:keep], block[:keep] = self.digests[:keep], self.block[:keep]
        slot[:keep] = self.slot[:keep]
        at = delta.pages.astype(np.int64) - 1
        digests[at], block[at] = delta.digests, moved_rows(delta.block, moved)
        slot[at] = delta.slot
        lineage = self.lineage.after_delta(len(delta.pages))
        return PageMap(self.page_size, digests, block, slot, table, lineage)

    def delta_from(self, pages: U32) -> MapDelta:
        """The entries of `pages` alone, with only the blocks they lie in."""
        at = pages.astype(np.int64) - 1
        table, renumbered = self.table.kept(self.block[at])
        block = renumbered[self.block[at]]
        return MapDelta(
            self.page_size, self.page_count, pages, self.digests[at], block, self.slot[at], table
        )

    def pruned(self) -> "PageMap":
        """The same map without blocks and segments that no page lies in."""
        table, renumbered = self.table.kept(self.block)
        block = renumbered[self.block]
        return PageMap(self.page_size, self.digests, block, self.slot, table, self.lineage)

    def segments(self) -> tuple[str, ...]:
        """The ids of the segments in which this map's pages lie."""
        return self.table.kept(self.block)[0].segments

    def missing(self) -> Runs:
        """Pages without content, other than the lock-byte page: none in a committed version."""
        pages = np.flatnonzero(self.block == 0) + 1
        return runs_of_pages(pages[pages != self.lock_page].astype(np.uint32))

    def run(self) -> Run | None:
        """All pages as one run; None for an empty map."""
        return (1, self.page_count) if self.page_count else None
