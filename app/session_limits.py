"""How many sync sessions at once, and for how long.

`SessionSlots` counts running sessions for each database and each address. `watch` ends a session
whose peer does nothing, or that lasts too long: the peer is told in an `error` frame. Only waiting
for the peer counts as idle; while the server itself works, for however long, its client is not to
blame.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from ..adapters.ports import Clock
from ..events.errors import EdgeReplicaError, LimitExceeded, RateLimited
from ..events.limits import (
    DEADLINE_TICKS,
    SESSION_HELLO_SECONDS,
    SESSION_IDLE_SECONDS,
    SESSION_SECONDS_MAX,
    SESSION_SLOT_RETRY_SECONDS,
    SESSIONS_PER_ADDRESS_MAX,
    SESSIONS_PER_DATABASE_MAX,
)
from .client_address import limit_key


class SessionSlots:
    """Places for running sessions."""

    def __init__(
        self,
        per_database_max: int = SESSIONS_PER_DATABASE_MAX,
        per_address_max: int = SESSIONS_PER_ADDRESS_MAX,
    ) -> None:
        self._databases: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()
        self._per_database_max = per_database_max
        self._per_address_max = per_address_max

    @contextmanager
    def held(self, database_id: str, address: str) -> Iterator[None]:
        """A place inside; `RateLimited` if there is none."""
        address = limit_key(address)
        _check(self._addresses[address], self._per_address_max, "address")
        _check(self._databases[database_id], self._per_database_max, "database")
        self._addresses[address] += 1
        self._databases[database_id] += 1
        try:
            yield
        finally:
            for counts, key in ((self._addresses, address), (self._databases, database_id)):
                counts[key] -= 1
                if not counts[key]:
                    del counts[key]


def _check(running: int, running_max: int, of: str) -> None:
    if running >= running_max:
        raise RateLimited(
            f"too many sync sessions of this {of} are running: at most {running_max}",
            limit=f"sessions_per_{of}_max",
            value=running_max,
            retry_after_seconds=SESSION_SLOT_RETRY_SECONDS,
        )


@dataclass(frozen=True, slots=True)
class Deadlines:
    """In seconds: for the first frame, for one wait for the peer, for the whole session."""

    hello_seconds: int = SESSION_HELLO_SECONDS
    idle_seconds: int = SESSION_IDLE_SECONDS
    session_seconds: int = SESSION_SECONDS_MAX


class Waiting(Protocol):
    """What a deadline needs of a transport."""

    @property
    def wait_number(self) -> int | None:
        """Which wait for the peer is going on, counted from 1; None while there is none."""
        ...

    frames_received: int

    def interrupt(self, error: EdgeReplicaError) -> None: ...


async def watch(transport: Waiting, deadlines: Deadlines, clock: Clock) -> None:
    """Interrupt the session of `transport` when it has outlived a deadline; then return.

    It looks at the session now and then and counts its own sleeps: a wall clock that jumps ends
    nobody's session.
    """
    tick = min(deadlines.hello_seconds, deadlines.idle_seconds) / DEADLINE_TICKS
    lasted = waited = 0.0
    seen: int | None = None
    while True:
        await clock.sleep(tick)
        lasted += tick
        waited = waited + tick if transport.wait_number is not None else 0.0
        if transport.wait_number != seen:
            seen, waited = transport.wait_number, 0.0
        idle, name = deadlines.idle_seconds, "session_idle_seconds"
        if not transport.frames_received:
            idle, name = deadlines.hello_seconds, "session_hello_seconds"
        if waited >= idle:
            transport.interrupt(_over(name, idle, f"nothing came for {idle} seconds"))
            return
        if lasted >= deadlines.session_seconds:
            limit = deadlines.session_seconds
            words = f"a session may last {limit} seconds; run it again to go on"
            transport.interrupt(_over("session_seconds_max", limit, words))
            return


def _over(limit: str, value: int, words: str) -> LimitExceeded:
    return LimitExceeded(words, limit=limit, value=value)
