"""What every run begins with: one empty database, a clock at zero, and identifiers from one up."""

import asyncio
from collections.abc import Coroutine
from functools import lru_cache
from typing import Any

from edgereplica.adapters import migrations
from edgereplica.adapters.clock import ManualClock
from edgereplica.adapters.event_log import EventLog
from edgereplica.events.domain import DatabaseCreated, OrganizationCreated, UserSignedUp

from .loop import SimLoop
from .storage import RewindableRepo

DATABASE = "d" * 32
ORG = "o" * 32
START_UNIX = 1_800_000_000.0


class SimIds:
    """Identifiers in the order of their making. (`SeededIds` draws a hash for each.)"""

    def __init__(self) -> None:
        self._made = 0

    def new_id(self) -> str:
        self._made += 1
        return f"{self._made:032x}"

    def token_bytes(self, count: int) -> bytes:
        self._made += 1
        return self._made.to_bytes(count, "big")


class SimClock:
    """Unix time as the loop has it."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return START_UNIX + self._loop.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@lru_cache
def installed() -> RewindableRepo:
    """A repository with one empty database."""
    repo = RewindableRepo()
    user = UserSignedUp(user_id="u", email="u@e.org", provider="password", subject="u@e.org")
    org = OrganizationCreated(org_id=ORG, name="o", personal=True)
    created = DatabaseCreated(database_id=DATABASE, org_id=ORG, name="main", created_by="u")
    finish(migrations.migrate(repo))
    log = EventLog(repo, ManualClock(START_UNIX))
    finish(log.append([(event.stream, 0, [event]) for event in (user, org, created)]))
    return repo


def finish(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")
