"""Leases, pins and garbage collection on every repository: what they promise rests on its locks."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.contract.test_repo import OpenRepo, _opener, opened
from tests.unit.app.gc_world import GRACE_SECONDS, World

from edgereplica.adapters.clock import ManualClock
from edgereplica.adapters.event_log import EventLog
from edgereplica.adapters.ids import SeededIds
from edgereplica.adapters.leases import Leases, fenced
from edgereplica.adapters.migrations import migrate
from edgereplica.adapters.pins import Pin, Pins, guarding
from edgereplica.adapters.ports import Repo
from edgereplica.app.history import DatabaseHistory
from edgereplica.app.retention import Retention, set_retention
from edgereplica.events.domain import OrganizationCreated
from edgereplica.events.errors import LeaseLost, LeaseTaken, SessionTooSlow
from edgereplica.events.limits import (
    CLOCK_SKEW_SECONDS_MAX,
    LEASE_SECONDS,
    PIN_RENEW_SECONDS,
    PIN_SECONDS,
)

ROUNDS = 25


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def open_repo(request: pytest.FixtureRequest, tmp_path: Path) -> OpenRepo:
    return _opener(request.param, request, tmp_path)


def run(open_repo: OpenRepo, check: Callable[[Repo, ManualClock], Awaitable[None]]) -> None:
    async def main() -> None:
        async with opened(open_repo) as repo:
            await migrate(repo)
            await check(repo, ManualClock())

    asyncio.run(main())


def test_a_lease_has_one_holder_and_a_growing_token(open_repo: OpenRepo) -> None:
    async def check(repo: Repo, clock: ManualClock) -> None:
        leases = Leases(repo, clock, SeededIds(1, clock).new_id)
        results = await asyncio.gather(
            *(leases.take("one") for _ in range(5)), return_exceptions=True
        )
        (held,) = [result for result in results if not isinstance(result, BaseException)]
        assert sum(isinstance(result, LeaseTaken) for result in results) == 4
        other = await leases.take("another")
        await held.release()
        second = await leases.take("one")
        assert (held.token, second.token, other.token) == (1, 2, 1)
        with pytest.raises(LeaseLost):
            await held.renew()
        # The next holder waits for the holder's time and for the skew of clocks.
        clock.advance(LEASE_SECONDS / 2)
        await second.keep()
        clock.advance(LEASE_SECONDS + CLOCK_SKEW_SECONDS_MAX)
        with pytest.raises(LeaseTaken):
            await leases.take("one")
        clock.advance(1)
        third = await leases.take("one")
        log = EventLog(repo, clock)
        event = OrganizationCreated(org_id="o", name="o", personal=True)
        with pytest.raises(LeaseLost), fenced():
            await log.append([(event.stream, 0, [event])], second.held())
        assert await log.last(event.stream) == 0
        with fenced():
            await log.append([(event.stream, 0, [event])], third.held())
        assert await log.last(event.stream) == 1

    run(open_repo, check)


def test_a_pin_is_renewed_while_its_session_works(open_repo: OpenRepo) -> None:
    async def check(repo: Repo, clock: ManualClock) -> None:
        pins = Pins(repo, clock, SeededIds(1, clock).new_id)
        first, second = await pins.take("o", "d", 3), await pins.take("o", "d", 0)
        rows = await repo.all("SELECT * FROM pins ORDER BY pin_no")
        assert [row["version"] for row in rows] == [3, 0]
        assert rows[0]["pin_no"] < rows[1]["pin_no"]
        for _ in range(12):
            clock.advance(PIN_RENEW_SECONDS + 1)
            await first.keep()
        row = await repo.first("SELECT expires_at FROM pins WHERE version = 3")
        assert row is not None
        assert row["expires_at"] == clock.now() + PIN_SECONDS
        await _delete_expired(repo, clock)
        with pytest.raises(SessionTooSlow):
            await second.keep()
        await first.release()
        await first.release()
        assert await repo.all("SELECT * FROM pins") == []

    run(open_repo, check)


async def _delete_expired(repo: Repo, clock: ManualClock) -> int:
    return await repo.execute("DELETE FROM pins WHERE expires_at < ?", clock.now())


def test_either_the_pin_is_taken_away_or_its_session_commits(open_repo: OpenRepo) -> None:
    async def check(repo: Repo, clock: ManualClock) -> None:
        ids = SeededIds(1, clock)
        log = EventLog(repo, clock)

        async def commit(pin: Pin, number: int) -> bool:
            event = OrganizationCreated(org_id=f"o{number}", name="o", personal=True)
            try:
                with guarding():
                    await log.append([(event.stream, 0, [event])], pin.held(release=True))
            except SessionTooSlow:
                return False
            return True

        for number in range(ROUNDS):
            pin = await Pins(repo, clock, ids.new_id).take("o", "d", 0)
            clock.advance(PIN_SECONDS + 1)
            committed, taken = await asyncio.gather(
                commit(pin, number), _delete_expired(repo, clock)
            )
            assert committed == (not taken)
            assert await log.last(f"org:o{number}") == committed

    run(open_repo, check)


def test_collection_and_compaction(open_repo: OpenRepo) -> None:
    async def check(repo: Repo, clock: ManualClock) -> None:
        world = World(repo=repo, clock=clock)
        await world.start()
        for number in range(8):
            await world.commit("d1", (number, 100, 200, 300))
            await world.commit("d2", (number, 1))
        histories = DatabaseHistory(world.log)
        await set_retention(histories, await world.history("d2"), Retention(keep_last=1), "u")
        assert (await world.compactor().run()).databases_compacted == 2
        await (await world.push("d1", (1, 2))).cut()
        for _ in range(4):
            clock.advance(10 * GRACE_SECONDS)
            assert (await world.collect()).failed == ()
        await world.check()
        assert (await world.history("d2")).oldest == 8
        await world.histories.delete(await world.history("d1"), "u")
        for _ in range(4):
            clock.advance(10 * GRACE_SECONDS)
            await world.collect()
        await world.check()
        assert len(world.store.objects) == 2

    run(open_repo, check)
