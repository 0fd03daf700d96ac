"""The contract of `adapters.ports.Notifier`, and what becomes of it when a connection is lost."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.helpers_postgres import Postgres

from edgereplica.adapters.notifier import LocalNotifier, RelayNotifier, decode, encode
from edgereplica.adapters.ports import Change, Notifier
from edgereplica.adapters.postgres_notifier import PostgresNotifier
from edgereplica.adapters.postgres_repo import PostgresRepo
from edgereplica.events.limits import NOTIFICATION_BYTES_MAX

TOLD_SECONDS_MAX = 1.0
"""What the operations page promises."""


class Hearing:
    """Remembers what one notifier delivered."""

    def __init__(self, notifier: Notifier) -> None:
        self.heard: asyncio.Queue[Change] = asyncio.Queue()
        notifier.subscribe(self.heard.put_nowait)

    async def next(self, seconds: float = 10.0) -> Change:
        async with asyncio.timeout(seconds):
            return await self.heard.get()


@asynccontextmanager
async def local(_: Any) -> AsyncIterator[tuple[Notifier, Notifier]]:
    notifier = LocalNotifier()
    await notifier.start()
    yield notifier, notifier
    await notifier.close()


@asynccontextmanager
async def relayed(_: Any) -> AsyncIterator[tuple[Notifier, Notifier]]:
    """Two workers with a supervisor that passes everything on at once."""
    ends = socket.socketpair()
    notifiers = [RelayNotifier(end) for end in ends]
    for notifier in notifiers:
        await notifier.start()
    yield notifiers[0], notifiers[1]
    for notifier in notifiers:
        await notifier.close()
    for end in ends:
        end.close()


@asynccontextmanager
async def over_postgres(
    request: pytest.FixtureRequest,
) -> AsyncIterator[tuple[Notifier, Notifier]]:
    url = request.getfixturevalue("postgres").database()
    repos = [await PostgresRepo.open(url) for _ in range(2)]
    notifiers = [PostgresNotifier(url, repo, f"server{n}") for n, repo in enumerate(repos)]
    for notifier in notifiers:
        await notifier.start()
    try:
        yield notifiers[0], notifiers[1]
    finally:
        for notifier in notifiers:
            await notifier.close()
        for repo in repos:
            await repo.close()


Check = Callable[[Notifier, Notifier], Awaitable[None]]


@pytest.fixture(params=[local, relayed, over_postgres])
def with_notifiers(request: pytest.FixtureRequest) -> Callable[[Check], None]:
    def run(check: Check) -> None:
        async def main() -> None:
            async with request.param(request) as (mine, other):
                await check(mine, other)

        asyncio.run(main())

    return run


def test_a_change_is_heard_by_all_within_a_second(with_notifiers: Callable[[Check], None]) -> None:
    async def check(mine: Notifier, other: Notifier) -> None:
        here, there = Hearing(mine), Hearing(other)
        for change in (Change("head", "d1"), Change("deleted", "d1")):
            mine.publish(change)
            assert here.heard.get_nowait() == change, "this process is told at once"
            assert await there.next(TOLD_SECONDS_MAX) == change
        assert here.heard.empty(), "nobody hears an echo"

    with_notifiers(check)


def test_many_changes_at_once_are_all_heard(with_notifiers: Callable[[Check], None]) -> None:
    async def check(mine: Notifier, other: Notifier) -> None:
        there = Hearing(other)
        changes = [Change("head", f"{n:032x}") for n in range(200)]
        for change in changes:
            mine.publish(change)
        assert [await there.next() for _ in changes] == changes

    with_notifiers(check)


def test_a_closed_notifier_tells_nobody(with_notifiers: Callable[[Check], None]) -> None:
    async def check(mine: Notifier, other: Notifier) -> None:
        there = Hearing(other)
        await other.close()
        mine.publish(Change("head", "d1"))
        with pytest.raises(TimeoutError):
            await there.next(0.2)

    with_notifiers(check)


def test_a_worker_without_a_supervisor_tells_itself() -> None:
    async def main() -> None:
        mine, supervisor = socket.socketpair()
        notifier = RelayNotifier(mine)
        here = Hearing(notifier)
        await notifier.start()
        supervisor.close()
        notifier.publish(Change("head", "d1"))
        assert await here.next() == Change("head", "d1")
        await notifier.close()
        mine.close()

    asyncio.run(main())


def test_a_restart_of_postgres_is_told_and_survived(postgres: Postgres) -> None:
    async def main() -> None:
        url = postgres.database()
        repos = [await PostgresRepo.open(url) for _ in range(2)]
        mine, other = (PostgresNotifier(url, repo, str(n)) for n, repo in enumerate(repos))
        there = Hearing(other)
        for notifier in (mine, other):
            await notifier.start()
        await asyncio.to_thread(postgres.restart)
        assert await there.next(30) == Change("resumed"), "something may have been missed"
        mine.publish(Change("head", "d1"))
        assert await there.next(30) == Change("head", "d1")
        for notifier in (mine, other):
            await notifier.close()
        for repo in repos:
            await repo.close()

    asyncio.run(main())


def test_texts_hold_ids_only_and_fit() -> None:
    changes = [Change("head", f"{n:032x}") for n in range(1000)]
    lines = list(encode([*changes, *changes]))
    assert len(lines) > 1
    assert max(map(len, lines)) <= NOTIFICATION_BYTES_MAX
    assert [change for line in lines for change in decode(line)] == changes
    assert list(encode([])) == []
    assert list(decode("head:a/b resumed: x:1 head: deleted:ok \x00")) == [Change("deleted", "ok")]
