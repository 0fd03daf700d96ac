"""Fills segments one after another and uploads them while the next one fills.

At most `SEGMENT_UPLOADS_IN_FLIGHT_MAX` segments are being taken by the store and one full segment
waits, so a push holds three of them in memory, however long it is. A segment that was taken needs
no memory until it is durable and reported: some more of those may be on their way, so that a push
waits for the disk's throughput and not for its latency. The last segment of a push that is sealed
is not reported: the version that commits it is its report.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass

import numpy as np

from ..events.errors import EdgeReplicaError
from ..events.limits import SEGMENT_UPLOADS_IN_FLIGHT_MAX, SEGMENTS_UNREPORTED_MAX
from .block_table import BlockTable, no_rows
from .page_arrays import U32, Records
from .ports import Buffer, Ids, ObjectStore, Payload
from .segments import Segment, SegmentBuilder, segment_key


@dataclass(frozen=True, slots=True)
class StagedSegment:
    """A segment that is durable and that no version refers to yet."""

    segment_id: str
    stored_bytes: int
    pages: int


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The segments an interrupted push reported, and what kept it from reporting more."""

    segments: tuple[StagedSegment, ...]
    error: EdgeReplicaError | None


OnSegment = Callable[[StagedSegment], Awaitable[None]]


class SegmentWriter:
    """The segments of one push."""

    def __init__(self, objects: ObjectStore, ids: Ids, org_id: str, on_segment: OnSegment) -> None:
        self._objects = objects
        self._ids = ids
        self._org_id = org_id
        self._on_segment = on_segment
        self._builder = SegmentBuilder()
        self._blocks_before = 0
        self._rows: list[Records] = [no_rows()]
        self._names: list[str] = []
        self._waiting: list[tuple[str, Segment]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._in_memory = 0
        self._moved = asyncio.Event()
        self._unreported: list[StagedSegment] = []
        self._reported: list[StagedSegment] = []
        self._failure: BaseException | None = None
        self.stored_bytes = 0

    async def make_room(self, stored_bytes: int) -> None:
        """Wait until a block of `stored_bytes` can be taken. Raises what an upload failed with."""
        if not self._builder.room_for(stored_bytes):
            self.close()
            while (
                self._in_memory >= SEGMENT_UPLOADS_IN_FLIGHT_MAX
                or len(self._running) >= SEGMENT_UPLOADS_IN_FLIGHT_MAX + SEGMENTS_UNREPORTED_MAX
            ):
                self._moved.clear()
                await self._moved.wait()
            while self._waiting:
                self._start_upload(*self._waiting.pop())
        if self._failure is not None:
            raise self._failure

    def append(
        self,
        pages: U32,
        page_size: int,
        codec: str,
        data: Buffer,
        digests: Buffer,
        *,
        join: bool = True,
    ) -> tuple[int, int]:
        """Add a batch: its block's number over all segments, from 0, and its first slot."""
        number, slot = self._builder.append(pages, page_size, codec, data, digests, join=join)
        return self._blocks_before + number, slot

    def close(self) -> None:
        """End the segment in the making; nothing is uploaded yet."""
        builder, self._builder = self._builder, SegmentBuilder()
        if not builder.blocks:
            return
        segment = builder.finish()
        segment.rows["segment"] = len(self._names)
        self._names.append(self._ids.new_id())
        self._rows.append(segment.rows)
        self._blocks_before += len(segment.rows)
        self._waiting.append((self._names[-1], segment))

    def table(self) -> BlockTable:
        """All blocks of closed segments; the block numbered n is row n + 1."""
        return BlockTable(np.concatenate(self._rows), tuple(self._names))

    async def finish(self, needed: Collection[str]) -> None:
        """Wait for all uploads, and upload what is left of the `needed` segments unreported."""
        self.close()
        await self._wait_for_running()
        if self._failure is not None:
            raise self._failure
        while self._waiting:
            name, segment = self._waiting[-1]
            if name in needed:
                await self._upload(name, segment, report=False)
            self._waiting.pop()

    async def abandon(self) -> Abandoned:
        """Upload and report everything that is not yet. Raises nothing but cancellation."""
        self.close()
        await self._wait_for_running()
        failure = self._failure
        try:
            while self._waiting:
                await self._upload(*self._waiting.pop(), report=True)
            while self._unreported:
                await self._report(self._unreported.pop())
        except EdgeReplicaError as error:
            failure = failure or error
        known = failure if isinstance(failure, EdgeReplicaError) else None
        return Abandoned(tuple(self._reported), known)

    def _start_upload(self, name: str, segment: Segment) -> None:
        task = asyncio.create_task(self._upload(name, segment, report=True))
        self._running.add(task)
        task.add_done_callback(self._note_end)

    def _upload(self, name: str, segment: Segment, *, report: bool) -> Coroutine[None, None, None]:
        """The upload to be awaited. From now on it counts, and alone holds the segment's bytes."""
        self._in_memory += 1
        staged = StagedSegment(name, segment.stored_bytes, segment.pages)
        return self._put(staged, Payload(segment.parts, self._note_release), report=report)

    async def _put(self, staged: StagedSegment, payload: Payload, *, report: bool) -> None:
        try:
            await self._objects.put(segment_key(self._org_id, staged.segment_id), payload)
        finally:
            payload.release()
        self.stored_bytes += staged.stored_bytes
        if report:
            await self._report(staged)
        else:
            self._unreported.append(staged)

    def _note_release(self) -> None:
        self._in_memory -= 1
        self._moved.set()

    async def _report(self, staged: StagedSegment) -> None:
        await self._on_segment(staged)
        self._reported.append(staged)

    async def _wait_for_running(self) -> None:
        if self._running:
            await asyncio.wait(self._running)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """One upload ended. Of those that fail it is the first that is remembered."""
        self._running.discard(task)
        if not task.cancelled() and self._failure is None:
            self._failure = task.exception()
        self._moved.set()
