"""The plainest model of page storage: a database whose versions are lists of pages."""

import asyncio
import struct
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import zstandard
from blake3 import blake3

from edgereplica.adapters import segment_writer
from edgereplica.adapters.clock import ManualClock
from edgereplica.adapters.ids import SeededIds
from edgereplica.adapters.page_storage import (
    PageMap,
    PageStorage,
    PushStage,
    Sealed,
    StagedSegment,
    VersionRef,
)
from edgereplica.adapters.ports import ObjectStore
from edgereplica.events.pages import Runs, count_pages, pages_of, split_runs

SIZE = 512
Pages = list[bytes]


def page(seed: int, size: int = SIZE) -> bytes:
    """Content that zstd halves, told apart by its seed."""
    return blake3(struct.pack("<Q", seed)).digest(length=size // 2) + bytes(size // 2)


def digests_of(pages: Sequence[bytes]) -> bytes:
    return b"".join(blake3(content).digest() for content in pages)


def root(pages: Sequence[bytes]) -> bytes:
    return blake3(digests_of(pages)).digest()


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


@contextmanager
def small_segments(limit: int) -> Iterator[None]:
    """Segments of at most `limit` bytes, so that small pushes have many."""
    original = segment_writer.SegmentBuilder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_writer, "SegmentBuilder", lambda: original(limit))
        yield


class Database:
    """One database as a session would drive it: its history, its staged segments, the storage."""

    def __init__(self, objects: ObjectStore, seed: int = 0, cache_bytes: int = 1 << 20) -> None:
        self.objects = objects
        self.ids = SeededIds(seed, ManualClock())
        self.storage = PageStorage(objects, self.ids, cache_bytes=cache_bytes)
        self.history: list[VersionRef] = []
        self.staged: list[str] = []
        self.sent = 0

    def restart(self) -> None:
        """Another process: nothing is remembered but the log."""
        self.storage = PageStorage(self.objects, self.ids, cache_bytes=0)

    async def base(self) -> PageMap:
        return await self.storage.open_map(self.history, len(self.history))

    async def open(self, page_size: int = SIZE) -> PushStage:
        async def on_segment(segment: StagedSegment) -> None:
            self.staged.append(segment.segment_id)

        return await self.storage.open_stage(
            org_id="o1",
            database_id="d1",
            base=await self.base(),
            page_size=page_size,
            staged_segment_ids=list(self.staged),
            on_segment=on_segment,
        )

    async def send(
        self, stage: PushStage, pages: Sequence[bytes], runs: Runs, codec: str, per_batch: int = 16
    ) -> None:
        for group in split_runs(runs, per_batch):
            data = b"".join(pages[number - 1] for number in pages_of(group))
            if codec == "zstd":
                data = zstandard.ZstdCompressor().compress(data)
            await stage.add(group, codec, data)
            self.sent += count_pages(group)

    def commit(self, sealed: Sealed, page_size: int = SIZE) -> None:
        self.history.append(
            VersionRef(
                database_id="d1",
                org_id="o1",
                version=len(self.history) + 1,
                page_size=page_size,
                page_count=sealed.page_count,
                root=sealed.root,
                map_key=sealed.map_key,
                map_is_snapshot=sealed.map_is_snapshot,
            )
        )

    async def push(self, pages: Sequence[bytes], codec: str = "raw") -> Sealed:
        size = len(pages[0]) if pages else SIZE
        stage = await self.open(size)
        wanted = stage.announce([(1, digests_of(pages))]) if pages else ()
        await self.send(stage, pages, wanted, codec)
        sealed = await stage.seal(len(pages), expected_root=root(pages))
        self.commit(sealed, size)
        return sealed

    async def read(self, version: int, runs: Runs | None = None, **how: Any) -> dict[int, bytes]:
        page_map = await self.storage.open_map(self.history, version)
        if runs is None:
            runs = ((1, page_map.page_count),) if page_map.page_count else ()
        return await read(self.storage, page_map, runs, **how)


async def read(storage: PageStorage, page_map: PageMap, runs: Runs, **how: Any) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    size, limit = page_map.page_size, how.get("decoded_bytes_max", 1 << 20)
    last = 0
    async for batch in storage.reader(page_map, "o1").batches(runs, **how):
        data = bytes(batch.data)
        assert batch.codec in how.get("codecs", ("raw",))
        if batch.codec == "zstd":
            data = zstandard.ZstdDecompressor().decompress(data)
        numbers = list(pages_of(batch.runs))
        assert numbers == sorted(set(numbers))
        assert len(data) == size * len(numbers)
        assert len(data) <= max(limit, size)
        for at, number in enumerate(numbers):
            assert number not in found, "a page is handed out once"
            found[number] = data[at * size : (at + 1) * size]
        if how.get("page_order"):
            assert numbers[0] > last
            last = numbers[-1]
    return found


def as_dict(pages: Sequence[bytes], runs: Runs | None = None) -> dict[int, bytes]:
    numbers = range(1, len(pages) + 1) if runs is None else pages_of(runs)
    return {number: pages[number - 1] for number in numbers}
