"""What a push need not send again: pages of its base, and of segments staged by an earlier push.

A page counts as held if its digest is that of a page whose place is known: at the same number in
the base, or anywhere in a staged segment whose footer was read, or, where it pays, anywhere in the
base (a VACUUM moves pages without changing them).
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np

from ..events.errors import StorageError
from ..events.limits import SEGMENT_FOOTERS_IN_FLIGHT_MAX
from .block_table import BlockTable, no_rows
from .page_arrays import U16, U32, Bytes2D, DigestIndex, rows_differ
from .page_map import PageMap
from .page_table import Entries
from .ports import ObjectStore
from .segments import SegmentFooter, read_footer, segment_key

_INDEX_BASE_ONE_IN: Final = 64
"""The base is indexed by digest once one in so many of its pages was announced with content that
is not in its place: sorting the whole base for a handful of changed pages would not pay."""


async def read_footers(
    objects: ObjectStore, org_id: str, segment_ids: Sequence[str]
) -> tuple[list[tuple[str, SegmentFooter]], tuple[str, ...]]:
    """The footers of staged segments, and the ids of those that are gone or damaged: what such a
    segment held is simply sent again. Any other failure of the store is raised."""
    gate = asyncio.Semaphore(SEGMENT_FOOTERS_IN_FLIGHT_MAX)

    async def read(segment_id: str) -> SegmentFooter | None:
        async with gate:
            try:
                return await read_footer(objects, segment_key(org_id, segment_id))
            except StorageError as error:
                if error.details.get("reason") in ("missing", "corrupt", "truncated"):
                    return None
                raise

    footers = await asyncio.gather(*(read(segment_id) for segment_id in segment_ids))
    found = zip(segment_ids, footers, strict=True)
    readable = [(name, footer) for name, footer in found if footer is not None]
    names = {name for name, _ in readable}
    return readable, tuple(name for name in segment_ids if name not in names)


class HeldContent:
    """Answers where content with a given digest lies. `table` has the base's rows first."""

    def __init__(
        self, base: PageMap, page_size: int, staged: Sequence[tuple[str, SegmentFooter]]
    ) -> None:
        self.base = base if base.page_size == page_size else PageMap.empty(page_size)
        self.staged_pages = 0
        self._unmatched = 0
        self._base_index: DigestIndex | None = None
        self._staged_index: DigestIndex | None = None
        self._staged = Entries.zeros(0)
        self.table = self._join_staged(page_size, staged) if staged else self.base.table

    def _join_staged(
        self, page_size: int, staged: Sequence[tuple[str, SegmentFooter]]
    ) -> BlockTable:
        rows, digests, blocks, slots = [no_rows()], list[Bytes2D](), list[U32](), list[U16]()
        count = 0
        for number, (_, footer) in enumerate(staged):
            mine = footer.rows.copy()
            mine["segment"] = number
            rows.append(mine)
            usable = (footer.page_sizes == page_size)[footer.block]
            digests.append(footer.digests[usable])
            blocks.append(footer.block[usable] + np.uint32(count + 1))
            slots.append(footer.slot[usable])
            count += len(mine)
        table, (moved,) = self.base.table.joined(
            BlockTable(np.concatenate(rows), tuple(name for name, _ in staged))
        )
        self._staged = Entries(
            np.concatenate(digests),
            (np.concatenate(blocks) + np.uint32(moved)).astype(np.uint32),
            np.concatenate(slots),
        )
        self._staged_index = DigestIndex(self._staged.digests)
        self.staged_pages = len(self._staged.block)
        return table

    def locate(self, pages: U32, digests: Bytes2D) -> Entries:
        """Entries for `pages` with these digests; block 0 where their content is not held."""
        entries = Entries(
            np.ascontiguousarray(digests),
            np.zeros(len(pages), dtype=np.uint32),
            np.zeros(len(pages), dtype=np.uint16),
        )
        rows = pages.astype(np.int64) - 1
        within = rows < self.base.page_count
        if within.any():
            rows = rows[within]
            differ = rows_differ(entries.digests[within], self.base.digests[rows])
            entries.block[within] = np.where(differ, 0, self.base.block[rows])
            entries.slot[within] = np.where(differ, 0, self.base.slot[rows])
        self._locate_elsewhere(entries)
        return entries

    def _locate_elsewhere(self, entries: Entries) -> None:
        lacking = np.flatnonzero(entries.block == 0)
        if self._staged_index is not None and len(lacking):
            found, rows = self._staged_index.find(entries.digests[lacking])
            entries.block[lacking[found]] = self._staged.block[rows[found]]
            entries.slot[lacking[found]] = self._staged.slot[rows[found]]
            lacking = lacking[~found]
        self._unmatched += len(lacking)
        if self._unmatched * _INDEX_BASE_ONE_IN < self.base.page_count or not len(lacking):
            return
        if self._base_index is None:
            self._base_index = DigestIndex(self.base.digests)
        found, rows = self._base_index.find(entries.digests[lacking])
        entries.block[lacking[found]] = self.base.block[rows[found]]
        entries.slot[lacking[found]] = self.base.slot[rows[found]]
