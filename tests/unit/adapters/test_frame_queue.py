"""A bounded queue of frames: order, room, endings and interruptions."""

import asyncio

import pytest

from edgereplica.adapters.frame_queue import FrameQueue
from edgereplica.events.errors import (
    NetworkError,
    NotFound,
    ServerShuttingDown,
    TextFrameReceived,
)
from edgereplica.events.limits import V1_ANNOUNCED_PAGES_MAX
from edgereplica.events.messages import PageHashes
from edgereplica.events.wire_v1 import WireV1


def test_frames_come_in_order_and_waiting_works() -> None:
    async def scenario() -> list[bytes]:
        queue = FrameQueue()
        taker = asyncio.create_task(queue.receive())
        await asyncio.sleep(0)
        for frame in (b"a", b"b", b"c"):
            queue.put(frame)
        first = await taker
        queue.push_back(first)
        taken = [await queue.receive() for _ in range(3)]
        assert queue.receive_nowait() is None
        return taken

    assert asyncio.run(scenario()) == [b"a", b"b", b"c"]


def test_room_is_counted_in_bytes() -> None:
    async def scenario() -> None:
        queue = FrameQueue(bytes_max=100)
        queue.put(b"x" * 9)
        assert not queue.full
        await asyncio.wait_for(queue.wait_room(), 5)
        queue.put(b"y" * 9)
        assert queue.full
        waiter = asyncio.create_task(queue.wait_room())
        await asyncio.sleep(0)
        assert not waiter.done()
        frame = queue.receive_nowait()
        assert frame is not None
        await asyncio.wait_for(waiter, 5)
        queue.push_back(frame)
        assert queue.full
        assert [await queue.receive(), await queue.receive()] == [b"x" * 9, b"y" * 9]
        assert not queue.full

    asyncio.run(scenario())


def test_empty_frames_fill_it_too() -> None:
    """They once did not, and a peer that sent nothing else could fill the memory with them."""
    queue = FrameQueue(bytes_max=10_000)
    for _ in range(10_000):
        if queue.full:
            break
        queue.put(b"")
    assert queue.full


def test_what_a_v1_pull_announces_fits() -> None:
    """Each of the two ends would else wait for the other to read."""
    (frame,) = WireV1().encode(PageHashes(((V1_ANNOUNCED_PAGES_MAX, bytes(32)),)))
    queue = FrameQueue()
    for _ in range(V1_ANNOUNCED_PAGES_MAX):
        queue.put(frame)
    assert not queue.full


def test_the_end_comes_after_what_arrived_and_stays() -> None:
    async def scenario() -> None:
        queue = FrameQueue()
        queue.put(b"last words")
        queue.end(NetworkError("first"))
        queue.end(TextFrameReceived("second"))
        queue.put(b"too late")
        assert queue.lost is not None
        assert await queue.receive() == b"last words"
        assert queue.receive_nowait() is None
        for _ in range(2):
            with pytest.raises(NetworkError, match="first"):
                await queue.receive()

    asyncio.run(scenario())


def test_only_a_lost_connection_is_lost() -> None:
    queue = FrameQueue()
    assert queue.lost is None
    queue.end(TextFrameReceived("text"))
    assert queue.lost is None


def test_the_end_wakes_whoever_waits_for_frames_or_for_room() -> None:
    async def scenario() -> None:
        queue = FrameQueue(bytes_max=1)
        taker = asyncio.create_task(queue.receive())
        await asyncio.sleep(0)
        queue.end(NetworkError("gone"))
        with pytest.raises(NetworkError):
            await asyncio.wait_for(taker, 5)
        full = FrameQueue(bytes_max=1)
        full.put(b"xx")
        sender = asyncio.create_task(full.wait_room())
        await asyncio.sleep(0)
        full.end(NetworkError("gone"))
        await asyncio.wait_for(sender, 5)

    asyncio.run(scenario())


def test_an_interruption_overtakes_frames_once() -> None:
    async def scenario() -> None:
        queue = FrameQueue()
        queue.put(b"a")
        queue.interrupt(ServerShuttingDown("stop"))
        with pytest.raises(ServerShuttingDown):
            await queue.receive()
        assert await queue.receive() == b"a"
        taker = asyncio.create_task(queue.receive())
        await asyncio.sleep(0)
        queue.interrupt(NotFound("deleted"))
        with pytest.raises(NotFound):
            await asyncio.wait_for(taker, 5)

    asyncio.run(scenario())


def test_an_interruption_is_taken_by_whoever_asks_first() -> None:
    async def scenario() -> None:
        queue = FrameQueue()
        assert queue.take_interruption() is None
        queue.interrupt(NotFound("deleted"))
        assert isinstance(queue.take_interruption(), NotFound)
        queue.put(b"a")
        assert await queue.receive() == b"a"

    asyncio.run(scenario())
