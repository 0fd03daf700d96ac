"""The page map of a version: for each page its digest and where its bytes lie.

38 bytes a page: the digest, the number of its block in a `BlockTable`, its slot within the block.
Block 0 means no content: the lock-byte page, whose digest is 32 zero bytes, and pages that a map in
the making does not hold yet. A `PageMap` never changes; versions are made of each other by
`overlay`. How maps are written down is `map_format`'s business, when and where `page_storage`'s.
"""

from dataclasses import dataclass, field

import numpy as np

from ..events.errors import InvalidArgument
from ..events.limits import DIGEST_BYTES
from ..events.pages import Runs, lock_byte_page
from .block_table import BlockTable, moved_rows, renumber
from .hashing import root_of
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
    """How long the chain of deltas under a map is, so that it is cut before it grows costly.

    `map_keys` are the objects of that chain, snapshot first, for a map that was read from them or
    written down as the last: they say where every page lies.
    """

    version: int = 0
    deltas: int = 0
    delta_pages: int = 0
    map_keys: tuple[str, ...] = ()

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
        return root_of(self.digests.reshape(-1).data)

    def range_hash(self, first: int, last: int) -> bytes:
        """BLAKE3 over the digests of pages `first`..`last`, which must be within the map."""
        if not 1 <= first <= last <= self.page_count:
            raise InvalidArgument(f"range {first}..{last} is outside 1..{self.page_count}")
        return root_of(self.digests[first - 1 : last].reshape(-1).data)

    def changed_pages(self, other: "PageMap") -> U32:
        """The pages of this map whose digest is another in `other`, or which it does not have.

        Never the lock-byte page, which has no content to send.
        """
        common = 0
        if self.page_size == other.page_size:
            common = min(self.page_count, other.page_count)
        differ = np.flatnonzero(rows_differ(self.digests[:common], other.digests[:common]))
        beyond = np.arange(common + 1, self.page_count + 1, dtype=np.uint32)
        changed: U32 = np.concatenate([(differ + 1).astype(np.uint32), beyond])
        content: U32 = changed[changed != self.lock_page]
        return content

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

    def overlay(self, *deltas: MapDelta) -> "PageMap":
        """The map after `deltas`, one version each: resized, with their entries over it."""
        if not deltas:
            return self
        table, moves = self.table.joined(*(delta.table for delta in deltas))
        room = max(self.page_count, *(delta.page_count for delta in deltas))
        digests = np.zeros((room, DIGEST_BYTES), dtype=np.uint8)
        block = np.zeros(room, dtype=np.uint32)
        slot = np.zeros(room, dtype=np.uint16)
        end, lineage = self.page_count, self.lineage
        digests[:end], block[:end], slot[:end] = self.digests, self.block, self.slot
        for delta, moved in zip(deltas, moves, strict=True):
            if delta.page_size != self.page_size:
                raise InvalidArgument("a delta cannot change the page size")
            cut = slice(delta.page_count, end)
            digests[cut], block[cut], slot[cut] = 0, 0, 0
            at = delta.pages.astype(np.int64) - 1
            digests[at], slot[at] = delta.digests, delta.slot
            block[at] = moved_rows(delta.block, moved)
            end, lineage = delta.page_count, lineage.after_delta(len(delta.pages))
        if end < room:  # a slice would keep the longer arrays alive
            digests, block, slot = digests[:end].copy(), block[:end].copy(), slot[:end].copy()
        return PageMap(self.page_size, digests, block, slot, table, lineage)

    def delta_from(self, pages: U32) -> MapDelta:
        """The entries of `pages` alone, with only the blocks they lie in."""
        at = pages.astype(np.int64) - 1
        table, renumbered = self.table.kept(self.block[at])
        block = renumber(self.block[at], renumbered)
        return MapDelta(
            self.page_size, self.page_count, pages, self.digests[at], block, self.slot[at], table
        )

    def pruned(self) -> "PageMap":
        """The same map without blocks and segments that no page lies in."""
        table, renumbered = self.table.kept(self.block)
        block = renumber(self.block, renumbered)
        return PageMap(self.page_size, self.digests, block, self.slot, table, self.lineage)

    def segments(self) -> tuple[str, ...]:
        """The ids of the segments in which this map's pages lie."""
        return self.table.kept(self.block)[0].segments

    def missing(self) -> Runs:
        """Pages without content, other than the lock-byte page: none in a committed version."""
        pages = np.flatnonzero(self.block == 0) + 1
        return runs_of_pages(pages[pages != self.lock_page].astype(np.uint32))
