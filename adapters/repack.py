"""Pages copied to better places: what compaction does to segments and maps.

`rewrite_in_page_order` copies all pages of one version, in page order, into segments of their own:
a fresh pull then reads a few large objects from end to end. `merge_blocks` copies blocks of small
segments, as they are stored, into large ones, and gives maps in which those blocks lie there.

Nothing is changed or deleted: new objects are uploaded, and it is for the caller to let versions
refer to them. Whoever is killed in between leaves objects that nothing refers to.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import zstandard

from ..events.errors import NotFound, RootMismatch
from ..events.limits import BATCH_DECODED_BYTES_MAX
from .block_table import CODECS, RAW, BlockTable, renumber
from .map_format import DecodedMap, encode_delta, encode_snapshot, map_key
from .page_arrays import U16, U32, pages_of_runs
from .page_map import Lineage, MapDelta, PageMap
from .page_reader import PageReader
from .ports import Buffer, Ids, ObjectStore
from .segment_writer import SegmentWriter, StagedSegment
from .segments import SegmentFooter, corrupt, footer_of, missing, segment_key


@dataclass(frozen=True, slots=True)
class NewMap:
    """A map object that was written. `segments` are all that it refers to, `made` those of them
    that were written with it."""

    map_key: str
    is_snapshot: bool
    segments: tuple[str, ...]
    made: frozenset[str]


@dataclass(frozen=True, slots=True)
class Shape:
    """How the pages of one version lie: in how many blocks where `blocks_needed` would do, and
    the share of pages in those blocks that a fresh pull reads and throws away."""

    blocks: int
    blocks_needed: int
    waste_percent: float


def shape_of(page_map: PageMap) -> Shape:
    rows = page_map.pruned().table.rows[1:]
    held = int(rows["pages"].sum(dtype=np.int64))
    wanted = int(np.count_nonzero(page_map.block))
    if not held:
        return Shape(0, 0, 0.0)
    needed = -(-wanted * page_map.page_size // BATCH_DECODED_BYTES_MAX)
    return Shape(len(rows), needed, 100 * (1 - min(wanted, held) / held))


async def _unreported(segment: StagedSegment) -> None:
    """A segment of ours has no push to resume it: if we are killed, it is garbage."""


async def rewrite_in_page_order(
    objects: ObjectStore,
    ids: Ids,
    page_map: PageMap,
    org_id: str,
    database_id: str,
    version: int,
    meanwhile: Callable[[], Awaitable[None]],
) -> NewMap:
    """Copy the pages of `page_map`, whose version is `version`, and write its map as a snapshot.

    Every page is checked against its digest. Compressed if most of the pages were. `meanwhile` is
    called with every batch, since this can take long.
    """
    writer = SegmentWriter(objects, ids, org_id, _unreported)
    count, size = page_map.page_count, page_map.page_size
    block: U32 = np.zeros(count, dtype=np.uint32)
    slot: U16 = np.zeros(count, dtype=np.uint16)
    rows = page_map.table.rows[1:]
    packed = rows["codec"] != RAW
    compress = 2 * int(rows["pages"][packed].sum()) > int(rows["pages"].sum())
    reader = PageReader(objects, page_map, org_id)
    runs = ((1, count),) if count else ()
    async for batch in reader.batches(runs, page_order=True):
        await meanwhile()
        pages = pages_of_runs(batch.runs)
        at = pages.astype(np.int64) - 1
        codec, data = _encoded(batch.data, compress)
        await writer.make_room(len(data))
        digests = page_map.digests[at].reshape(-1).data
        number, first = writer.append(pages, size, codec, data, digests)
        block[at] = number + 1
        slot[at] = np.arange(first, first + len(pages))
    writer.close()
    table = writer.table()
    written = PageMap(size, page_map.digests, block, slot, table, Lineage(version))
    root = page_map.root()
    if written.missing():
        raise RootMismatch("not every page was copied")
    await writer.finish(table.segments)
    key = map_key(database_id, version, ids.new_id())
    await objects.put(key, encode_snapshot(written, root))
    return NewMap(key, True, table.segments, frozenset(table.segments))


def _encoded(data: Buffer, compress: bool) -> tuple[str, Buffer]:
    if compress:
        packed = zstandard.ZstdCompressor(level=1).compress(data)
        if len(packed) < len(data):
            return "zstd", packed
    return "raw", bytes(data)


class BlockMerger:
    """Copies blocks of `small` segments, group after group: `add` maps, then `write` them.

    A block is copied once, however many maps name it, also maps of later groups.
    """

    def __init__(
        self, objects: ObjectStore, ids: Ids, org_id: str, database_id: str, small: Collection[str]
    ) -> None:
        self._objects = objects
        self._ids = ids
        self._org_id = org_id
        self._database_id = database_id
        self._small = small
        self._places: dict[tuple[str, int], _Place] = {}
        self._begin()

    def _begin(self) -> None:
        """The next group."""
        self._writer = SegmentWriter(self._objects, self._ids, self._org_id, _unreported)
        self._copied: dict[tuple[str, int], int] = {}
        self._maps: list[tuple[int, DecodedMap]] = []
        self._merged: set[str] = set()
        self.bytes_added = 0

    def __len__(self) -> int:
        """Maps in this group."""
        return len(self._maps)

    async def add(self, version: int, decoded: DecodedMap) -> bool:
        """Copy the blocks that this map needs. False if none of them lies in a small segment."""
        table = decoded.content.table
        is_small = [name in self._small for name in table.segments]
        if not any(is_small):
            return False
        wanted: dict[str, list[int]] = {}
        rows = table.rows[1:]
        for segment, at in zip(rows["segment"].tolist(), rows["offset"].tolist(), strict=True):
            place = (table.segments[segment], at)
            if is_small[segment] and place not in self._places and place not in self._copied:
                wanted.setdefault(place[0], []).append(at)
        for name, offsets in wanted.items():
            await self._copy(name, offsets)
        self._maps.append((version, decoded))
        return True

    async def _copy(self, name: str, offsets: Sequence[int]) -> None:
        key = segment_key(self._org_id, name)
        try:
            data = memoryview(await self._objects.get(key))
        except NotFound as error:
            raise missing(key) from error
        footer = footer_of(data, key)
        numbers = {int(at): number for number, at in enumerate(footer.rows["offset"])}
        ends = np.cumsum(footer.rows["pages"], dtype=np.int64)
        for at in offsets:
            number = numbers.get(at)
            if number is None:
                raise corrupt(key, f"it has no block at {at}")
            await self._copy_block(name, footer, number, int(ends[number]), data)
        self._merged.add(name)

    async def _copy_block(
        self, name: str, footer: SegmentFooter, number: int, end: int, data: memoryview
    ) -> None:
        row = footer.rows[number]
        at, stored, count = int(row["offset"]), int(row["stored"]), int(row["pages"])
        pages = slice(end - count, end)
        await self._writer.make_room(stored)
        block, _ = self._writer.append(
            footer.pages[pages],
            int(footer.page_sizes[number]),
            CODECS[int(row["codec"])],
            bytes(data[at : at + stored]),
            footer.digests[pages].tobytes(),
            join=False,
        )
        self._copied[name, at] = block
        self.bytes_added += stored

    async def write(self) -> tuple[dict[int, NewMap], frozenset[str]]:
        """Upload the group: the new map of every version that was added, and the segments whose
        blocks were copied. Then the next group begins."""
        self._writer.close()
        table = self._writer.table()
        for place, block in self._copied.items():
            row = table.rows[block + 1]
            name = table.segments[int(row["segment"])]
            self._places[place] = _Place(name, int(row["offset"]), int(row["check"]))
        await self._writer.finish(table.segments)
        written: dict[int, NewMap] = {}
        for version, decoded in self._maps:
            moved = _with_blocks_moved(decoded.content, self._places)
            key = map_key(self._database_id, version, self._ids.new_id())
            if isinstance(moved, PageMap):
                parts = encode_snapshot(moved, decoded.root)
            else:
                parts = encode_delta(moved, decoded.root, decoded.parent_root)
            await self._objects.put(key, parts)
            names = moved.table.segments
            made = frozenset(table.segments).intersection(names)
            written[version] = NewMap(key, isinstance(moved, PageMap), names, made)
        merged = frozenset(self._merged)
        self._begin()
        return written, merged


class _Place(NamedTuple):
    """Where a copied block lies now."""

    segment: str
    offset: int
    check: int


def _with_blocks_moved(
    content: PageMap | MapDelta, places: Mapping[tuple[str, int], _Place]
) -> PageMap | MapDelta:
    """The same map where blocks that were copied lie in their new places."""
    old = content.table
    names = {name: number for number, name in enumerate(old.segments)}
    segments = old.rows["segment"].tolist()
    offsets, checks = old.rows["offset"].tolist(), old.rows["check"].tolist()
    for number in range(1, len(segments)):
        was = (old.segments[segments[number]], offsets[number])
        place = places.get(was)
        if place is None:
            continue
        if place.check != checks[number]:
            raise corrupt(was[0], f"the block at {was[1]} is not as the map says")
        segments[number] = names.setdefault(place.segment, len(names))
        offsets[number] = place.offset
    rows = old.rows.copy()
    rows["segment"], rows["offset"] = segments, offsets
    table, renumbered = BlockTable(rows, tuple(names)).kept(content.block)
    return replace(content, table=table, block=renumber(content.block, renumbered))
