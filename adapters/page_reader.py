"""Reads pages of a version out of segments, in batches fit to be sent.

Storage order by default, within windows of many pages so that planning a large version takes no
memory to speak of: each block is read once in a window, neighbouring blocks in one request, a few
requests ahead of the consumer. A block whose pages are all wanted is handed on exactly as stored;
of other blocks the wanted pages are taken and joined into batches anew. Every stored block is
checked against its checksum; pages are also checked against their digests unless the receiver is
said to do that for blocks handed on whole. Wrong bytes are never handed on: `StorageError` names
the object.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import zstandard

from ..events.errors import InvalidArgument, NotFound
from ..events.limits import (
    BATCH_DECODED_BYTES_MAX,
    PAGE_ORDER_WINDOW_BYTES,
    READ_PLAN_PAGES_MAX,
    SEGMENT_READ_BYTES_MAX,
    SEGMENT_READ_GAP_BYTES_MAX,
    SEGMENT_READS_IN_FLIGHT_MAX,
)
from ..events.messages import Codec
from ..events.pages import Runs
from .block_table import CODECS, RAW
from .hashing import hash_pages
from .page_arrays import U16, U32, Bytes2D, digest_rows, pages_of_runs, rows_differ, runs_of_pages
from .page_map import PageMap
from .ports import Buffer, ObjectStore
from .segments import checksum, corrupt, decode_block, missing, segment_key


@dataclass(frozen=True, slots=True)
class PageBatch:
    """Pages joined in the order of `runs`, encoded by `codec`."""

    runs: Runs
    codec: Codec
    data: Buffer = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Pages wanted of one block, ascending by slot."""

    block: int
    pages: U32


@dataclass(frozen=True, slots=True)
class _Fetch:
    """Neighbouring blocks of one segment, to be read by one request."""

    key: str
    offset: int
    length: int
    wanted: tuple[_Wanted, ...]


class PageReader:
    """Made by `PageStorage.reader`; any number of iterations may run over it."""

    def __init__(self, objects: ObjectStore, page_map: PageMap, org_id: str) -> None:
        self._objects = objects
        self._map = page_map
        self._org_id = org_id

    async def batches(
        self,
        runs: Runs,
        *,
        codecs: Collection[str] = ("raw",),
        decoded_bytes_max: int = BATCH_DECODED_BYTES_MAX,
        verify: bool = True,
        page_order: bool = False,
    ) -> AsyncGenerator[PageBatch, None]:
        """The pages of `runs` (ascending, within the version), each exactly once.

        `codecs` are those the receiver takes; "raw" is always used where nothing better is at
        hand. A batch decodes to at most `decoded_bytes_max` bytes and its pages ascend.
        `verify=False` hands on whole blocks without unpacking them to check digests: for a
        receiver that checks them. `page_order` lets pages ascend over all batches, at the price of
        reading a block again where the pages of several lie mingled.
        """
        pages = pages_of_runs(runs)
        if len(pages) and int(pages[-1]) > self._map.page_count:
            raise InvalidArgument(f"the version has {self._map.page_count} pages")
        pages = pages[pages != self._map.lock_page]
        per_batch = max(1, decoded_bytes_max // self._map.page_size)
        window = READ_PLAN_PAGES_MAX
        if page_order:
            window = max(1, PAGE_ORDER_WINDOW_BYTES // self._map.page_size)
        for start in range(0, len(pages), window):
            some = pages[start : start + window]
            source = self._in_storage_order(some, per_batch, codecs, verify)
            if page_order:
                source = self._in_page_order(some, per_batch)
            async with aclosing(source):
                async for batch in source:
                    yield batch

    async def _in_page_order(self, pages: U32, per_batch: int) -> AsyncGenerator[PageBatch, None]:
        """A window of pages, gathered in memory and cut into batches."""
        size = self._map.page_size
        gathered = np.empty((len(pages), size), dtype=np.uint8)
        async with aclosing(self._blocks(pages)) as blocks:
            async for wanted, stored in blocks:
                gathered[np.searchsorted(pages, wanted.pages)] = self._take(wanted, stored)
        for start in range(0, len(pages), per_batch):
            rows = slice(start, start + per_batch)
            data = gathered[rows].reshape(-1).data
            yield PageBatch(runs_of_pages(pages[rows]), "raw", data)

    async def _in_storage_order(
        self, pages: U32, per_batch: int, codecs: Collection[str], verify: bool
    ) -> AsyncGenerator[PageBatch, None]:
        joiner = _Joiner(self._map.page_size, per_batch, "zstd" in codecs)
        async with aclosing(self._blocks(pages)) as blocks:
            async for wanted, stored in blocks:
                row = self._map.table.rows[wanted.block]
                codec = int(row["codec"])
                if CODECS[codec] in codecs and self._is_whole(wanted, per_batch):
                    if verify:
                        self._take(wanted, stored)
                    yield PageBatch(
                        runs_of_pages(wanted.pages), "raw" if codec == RAW else "zstd", stored
                    )
                    continue
                joiner.add(wanted.pages, self._take(wanted, stored), codec != RAW)
                for batch in joiner.full():
                    yield batch
        for batch in joiner.rest():
            yield batch

    def _is_whole(self, wanted: _Wanted, per_batch: int) -> bool:
        """Whether the stored block is, as it is, a batch of exactly the wanted pages."""
        pages = wanted.pages
        held = int(self._map.table.rows["pages"][wanted.block])
        if len(pages) != held or held > per_batch:
            return False
        slots = self._map.slot[pages.astype(np.int64) - 1]
        return bool((slots == np.arange(held)).all() and (pages[1:] > pages[:-1]).all())

    def _take(self, wanted: _Wanted, stored: Buffer) -> Bytes2D:
        """The wanted pages of a block, one a row, checked against their digests."""
        row, size = self._map.table.rows[wanted.block], self._map.page_size
        try:
            decoded = decode_block(int(row["codec"]), stored, int(row["pages"]) * size)
        except ValueError as error:
            raise corrupt(self._key_of(wanted.block), str(error)) from error
        at = wanted.pages.astype(np.int64) - 1
        held = np.frombuffer(decoded, dtype=np.uint8).reshape(-1, size)
        slots = self._map.slot[at]
        taken = held if _is_all(slots, len(held)) else held[slots]
        digests = digest_rows(hash_pages(taken.reshape(-1).data, size))
        wrong = rows_differ(digests, self._map.digests[at])
        if wrong.any():
            page = int(wanted.pages[wrong][0])
            raise corrupt(self._key_of(wanted.block), f"page {page} has another digest")
        return taken

    def _key_of(self, block: int) -> str:
        table = self._map.table
        return segment_key(self._org_id, table.segments[int(table.rows["segment"][block])])

    async def _blocks(self, pages: U32) -> AsyncGenerator[tuple[_Wanted, Buffer], None]:
        """The stored bytes of all blocks in which `pages` lie, read a few requests ahead."""
        ahead: deque[tuple[_Fetch, asyncio.Task[memoryview]]] = deque()
        fetches = self._plan(pages)
        try:
            while True:
                while len(ahead) < SEGMENT_READS_IN_FLIGHT_MAX:
                    fetch = next(fetches, None)
                    if fetch is None:
                        break
                    ahead.append((fetch, asyncio.create_task(self._read(fetch))))
                if not ahead:
                    return
                fetch, task = ahead[0]
                data = await task
                ahead.popleft()
                for wanted in fetch.wanted:
                    row = self._map.table.rows[wanted.block]
                    at = int(row["offset"]) - fetch.offset
                    stored = data[at : at + int(row["stored"])]
                    if checksum(stored) != int(row["check"]):
                        raise corrupt(fetch.key, f"the block at {row['offset']} is not as stored")
                    yield wanted, stored
        finally:
            for _, task in ahead:
                task.cancel()
            await asyncio.gather(*(task for _, task in ahead), return_exceptions=True)

    async def _read(self, fetch: _Fetch) -> memoryview:
        try:
            return await self._objects.get_range(fetch.key, fetch.offset, fetch.length)
        except NotFound as error:
            raise missing(fetch.key) from error

    def _plan(self, pages: U32) -> Iterator[_Fetch]:
        """Requests for the blocks of `pages`, by segment and offset; near blocks are joined."""
        rows, key, length = self._map.table.rows, "", 0
        group: list[_Wanted] = []
        start = 0
        for wanted in self._grouped(pages):
            row = rows[wanted.block]
            offset, end = int(row["offset"]), int(row["offset"]) + int(row["stored"])
            here = self._key_of(wanted.block)
            near = here == key and 0 <= offset - start - length <= SEGMENT_READ_GAP_BYTES_MAX
            if group and not (near and end - start <= SEGMENT_READ_BYTES_MAX):
                yield _Fetch(key, start, length, tuple(group))
                group = []
            if not group:
                key, start = here, offset
            group.append(wanted)
            length = end - start
        if group:
            yield _Fetch(key, start, length, tuple(group))

    @staticmethod
    def _rows_of(pages: U32) -> slice | npt.NDArray[np.int64]:
        """The map's rows of ascending `pages`: a slice, hence views, where they are neighbours."""
        if len(pages) and int(pages[-1]) - int(pages[0]) + 1 == len(pages):
            return slice(int(pages[0]) - 1, int(pages[-1]))
        return pages.astype(np.int64) - 1

    def _grouped(self, pages: U32) -> Iterator[_Wanted]:
        """`pages` by block in storage order, and by slot within a block."""
        rows = self._map.table.rows
        rank = np.empty(len(rows), dtype=np.uint32)
        in_order = np.lexsort((rows["offset"], rows["segment"]))
        rank[in_order] = np.arange(len(rows), dtype=np.uint32)
        at = self._rows_of(pages)
        block, slot = self._map.block[at], self._map.slot[at]
        if not block.all():
            raise corrupt("the page map", "a page of the version lies nowhere")
        place = rank[block].astype(np.uint64) << np.uint64(16) | slot
        if (place[1:] < place[:-1]).any():
            order = np.argsort(place, kind="stable").astype(np.uint32)
            pages, block = pages[order], block[order]
        del at, slot, place  # several times the size of the pages' numbers, for as long as we read
        breaks = np.flatnonzero(block[1:] != block[:-1]) + 1
        bounds = np.concatenate([[0], breaks, [len(pages)]]).tolist()
        for first, end in pairwise(bounds):
            if end > first:
                yield _Wanted(int(block[first]), pages[first:end])


def _is_all(slots: U16, held: int) -> bool:
    return len(slots) == held and bool((slots == np.arange(held)).all())


class _Joiner:
    """Joins pages of partly wanted blocks into batches."""

    def __init__(self, page_size: int, per_batch: int, may_compress: bool) -> None:
        self._page_size = page_size
        self._per_batch = per_batch
        self._may_compress = may_compress
        self._pages: list[U32] = []
        self._data: list[Bytes2D] = []
        self._held = 0
        self._compressed = 0

    def add(self, pages: U32, data: Bytes2D, was_compressed: bool) -> None:
        self._pages.append(pages)
        self._data.append(data.copy())  # a slice would keep its whole block in memory
        self._held += len(pages)
        self._compressed += len(pages) * was_compressed

    def full(self) -> Iterator[PageBatch]:
        """Batches of the greatest size, once there is one."""
        if self._held >= self._per_batch:
            yield from self._cut(self._per_batch)

    def rest(self) -> Iterator[PageBatch]:
        if self._held:
            yield from self._cut(1)

    def _cut(self, pages_min: int) -> Iterator[PageBatch]:
        pages, data = np.concatenate(self._pages), np.concatenate(self._data)
        compress = self._may_compress and 2 * self._compressed > self._held
        at = 0
        while len(pages) - at >= pages_min:
            some = slice(at, at + self._per_batch)
            order = np.argsort(pages[some])
            joined = data[some][order].reshape(-1).data
            yield self._batch(runs_of_pages(pages[some][order]), joined, compress)
            at += len(order)
        self._pages, self._data, self._held = [pages[at:]], [data[at:].copy()], len(pages) - at
        self._compressed = self._held if compress else 0

    def _batch(self, runs: Runs, joined: memoryview, compress: bool) -> PageBatch:
        """Where most pages came compressed, sending them raw would waste the sender's choice."""
        if compress:
            packed = zstandard.ZstdCompressor(level=1).compress(joined)
            if len(packed) < len(joined):
                return PageBatch(runs, "zstd", packed)
        return PageBatch(runs, "raw", joined)
