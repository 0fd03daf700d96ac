"""Two transports joined in memory keep the port's promises."""

import asyncio

import pytest

from edgereplica.adapters.memory_transport import memory_pair
from edgereplica.events.errors import NetworkError, NotFound


def test_what_one_sends_the_other_receives_in_order() -> None:
    async def scenario() -> None:
        left, right = memory_pair()
        buffer = bytearray(b"one")
        await left.send(buffer)
        buffer[:] = b"xxx"
        await left.send(memoryview(b"two"))
        await right.send(b"three")
        assert [await right.receive(), right.receive_nowait()] == [b"one", b"two"]
        assert right.receive_nowait() is None
        assert await left.receive() == b"three"
        assert (left.bytes_sent, left.bytes_received) == (6, 5)
        assert (right.bytes_sent, right.bytes_received) == (5, 6)

    asyncio.run(scenario())


def test_a_frame_given_back_is_received_again_and_counted_once() -> None:
    async def scenario() -> None:
        left, right = memory_pair()
        await left.send(b"one")
        right.push_back(await right.receive())
        assert await right.receive() == b"one"
        assert right.bytes_received == 3

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["close", "cut"])
def test_the_end_reaches_both_ends_after_what_was_sent(how: str) -> None:
    async def scenario() -> None:
        left, right = memory_pair()
        await left.send(b"last words")
        if how == "close":
            await left.close(1002, "why")
            await left.close(1000, "again")
            assert left.closed_with == 1002
        else:
            left.cut()
            assert left.closed_with is None
        assert await right.receive() == b"last words"
        for end in (left, right):
            with pytest.raises(NetworkError):
                await end.receive()
            with pytest.raises(NetworkError):
                await end.send(b"x")
        await right.close(1000, "")
        assert right.closed_with == 1000

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["left", "right"])
def test_a_sender_that_waits_for_room_learns_of_the_end(how: str) -> None:
    async def scenario() -> None:
        left, right = memory_pair(inbound_bytes_max=4)
        await left.send(b"fills")
        sender = asyncio.create_task(left.send(b"waits"))
        await asyncio.sleep(0)
        assert not sender.done()
        (left if how == "left" else right).cut()
        with pytest.raises(NetworkError):
            await asyncio.wait_for(sender, 5)

    asyncio.run(scenario())


def test_a_sender_waits_until_there_is_room() -> None:
    async def scenario() -> None:
        left, right = memory_pair(inbound_bytes_max=4)
        await left.send(b"fills")
        sender = asyncio.create_task(left.send(b"waits"))
        await asyncio.sleep(0)
        assert await right.receive() == b"fills"
        await asyncio.wait_for(sender, 5)
        assert await right.receive() == b"waits"

    asyncio.run(scenario())


def test_an_interruption_is_raised_by_receive() -> None:
    async def scenario() -> None:
        left, right = memory_pair()
        await left.send(b"one")
        right.interrupt(NotFound("deleted"))
        with pytest.raises(NotFound):
            await right.receive()
        assert await right.receive() == b"one"

    asyncio.run(scenario())
