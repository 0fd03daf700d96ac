"""Places for sessions, and deadlines that only a peer's own silence can miss."""

import asyncio
from dataclasses import dataclass, field

import pytest

from edgereplica.adapters.clock import ManualClock
from edgereplica.app.session_limits import Deadlines, SessionSlots, watch
from edgereplica.events.errors import EdgeReplicaError, LimitExceeded, RateLimited

DEADLINES = Deadlines(hello_seconds=8, idle_seconds=40, session_seconds=1000)


@dataclass
class FakeTransport:
    wait_number: int | None = None
    frames_received: int = 0
    errors: list[EdgeReplicaError] = field(default_factory=list)

    def interrupt(self, error: EdgeReplicaError) -> None:
        self.errors.append(error)

    @property
    def limits(self) -> list[tuple[str, int]]:
        assert all(isinstance(error, LimitExceeded) for error in self.errors)
        return [(error.details["limit"], error.details["value"]) for error in self.errors]


class Watched:
    """A session under watch; `live` lets time pass in the steps that the watch sleeps."""

    def __init__(self, transport: FakeTransport) -> None:
        self.transport = transport
        self.clock = ManualClock()
        self.task = asyncio.create_task(watch(transport, DEADLINES, self.clock))

    async def live(self, seconds: int) -> None:
        for _ in range(seconds // 2):
            for _ in range(3):
                await asyncio.sleep(0)
            self.clock.advance(2)
        for _ in range(3):
            await asyncio.sleep(0)


def test_a_peer_that_never_says_hello() -> None:
    async def main() -> None:
        watched = Watched(FakeTransport(wait_number=1))
        await watched.live(8)
        assert watched.transport.limits == []
        await watched.live(4)
        assert watched.transport.limits == [("session_hello_seconds", 8)]
        assert watched.task.done(), "it says so once"

    asyncio.run(main())


def test_a_peer_that_falls_silent() -> None:
    async def main() -> None:
        watched = Watched(FakeTransport(wait_number=5, frames_received=4))
        await watched.live(38)
        assert watched.transport.limits == []
        watched.transport.wait_number = 6  # a frame came
        await watched.live(38)
        assert watched.transport.limits == []
        await watched.live(6)
        assert watched.transport.limits == [("session_idle_seconds", 40)]

    asyncio.run(main())


def test_a_server_that_works_for_long_has_no_idle_client() -> None:
    async def main() -> None:
        watched = Watched(FakeTransport(wait_number=None, frames_received=4))
        await watched.live(900)
        assert watched.transport.limits == []
        watched.transport.wait_number = 5
        await watched.live(38)
        assert watched.transport.limits == []

    asyncio.run(main())


def test_a_session_that_never_ends() -> None:
    async def main() -> None:
        watched = Watched(FakeTransport(frames_received=1))
        for number in range(100):
            watched.transport.wait_number = number
            await watched.live(10)
        assert watched.transport.limits == [("session_seconds_max", 1000)]

    asyncio.run(main())


def test_a_wall_clock_that_jumps_ends_no_session() -> None:
    async def main() -> None:
        watched = Watched(FakeTransport(wait_number=1, frames_received=1))
        await watched.live(4)
        watched.clock.advance(100_000)
        await watched.live(4)
        assert watched.transport.limits == []

    asyncio.run(main())


def test_places_are_given_back_whatever_happens() -> None:
    slots = SessionSlots(per_database_max=2, per_address_max=3)
    for _ in range(10):
        with pytest.raises(KeyError), slots.held("a", "192.0.2.1"):
            raise KeyError
    with slots.held("a", "192.0.2.1"), slots.held("a", "192.0.2.2"):
        with pytest.raises(RateLimited) as caught, slots.held("a", "192.0.2.3"):
            raise AssertionError
        assert caught.value.details["limit"] == "sessions_per_database_max"
        assert caught.value.details["value"] == 2
        with slots.held("b", "192.0.2.1"), slots.held("c", "192.0.2.1"):
            with pytest.raises(RateLimited) as caught, slots.held("d", "192.0.2.1"):
                raise AssertionError
            assert caught.value.details["limit"] == "sessions_per_address_max"
    with slots.held("a", "192.0.2.3"), slots.held("a", "192.0.2.3"):
        pass
    assert not slots._databases, "what is empty is forgotten"
    assert not slots._addresses
