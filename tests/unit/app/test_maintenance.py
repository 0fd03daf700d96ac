"""A server looks after storage by itself, and goes on when it cannot."""

import asyncio
from pathlib import Path

import pytest
import structlog
from tests.unit.app.gc_world import World
from tests.unit.app.test_gc import in_world

from edgereplica.adapters.leases import Leases
from edgereplica.app.gc import MAINTENANCE
from edgereplica.app.maintenance import in_background
from edgereplica.app.settings import Settings
from edgereplica.events.limits import CLOCK_SKEW_SECONDS_MAX, GC_LOOK_SECONDS, LEASE_SECONDS


def _settings(interval: int) -> Settings:
    return Settings(
        data_dir=Path("unused"),
        gc_interval_seconds=interval,
        gc_grace_seconds=100,
        staged_ttl_seconds=100,
    )


async def _settle() -> None:
    """Let the background task run until it sleeps again: all it calls is synchronous."""
    for _ in range(500):
        await asyncio.sleep(0)


def test_garbage_goes_by_itself_and_a_failing_store_does_not_end_it() -> None:
    async def check(world: World) -> None:
        await (await world.push("d1", (1, 2, 3))).cut()
        interval = GC_LOOK_SECONDS + int(LEASE_SECONDS + CLOCK_SKEW_SECONDS_MAX)
        other = await Leases(world.repo, world.clock, world.ids.new_id).take(MAINTENANCE)
        with structlog.testing.capture_logs() as lines:
            async with in_background(
                world.repo, world.store, _settings(interval), world.clock, world.ids
            ):
                await _settle()
                for _ in range(5):
                    world.clock.advance(interval)
                    await _settle()
                assert world.store.objects == {}
        assert [line["event"] for line in lines] == ["maintained"] * 5
        assert sum(line["deleted"] for line in lines) == 1
        assert other.token == 1

    in_world(check)


def test_it_can_be_turned_off_and_ends_with_the_server() -> None:
    async def check(world: World) -> None:
        for interval in (0, 10):
            async with in_background(
                world.repo, world.store, _settings(interval), world.clock, world.ids
            ):
                assert len(asyncio.all_tasks()) == 1 + (interval > 0)
            assert len(asyncio.all_tasks()) == 1

    in_world(check)


def test_it_goes_on_when_another_runner_is_at_work_or_the_repository_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def check(world: World) -> None:
        await Leases(world.repo, world.clock, world.ids.new_id).take(MAINTENANCE)
        with structlog.testing.capture_logs() as lines:
            async with in_background(
                world.repo, world.store, _settings(10), world.clock, world.ids
            ):
                await _settle()
                world.clock.advance(11)  # the lease is held
                await _settle()
                assert lines == []
                world.clock.advance(LEASE_SECONDS + CLOCK_SKEW_SECONDS_MAX)
                await world.repo.execute("ALTER TABLE pins RENAME TO elsewhere")
                await _settle()
                await world.repo.execute("ALTER TABLE elsewhere RENAME TO pins")
                world.clock.advance(11)
                await _settle()
        assert [line["event"] for line in lines] == ["maintenance failed", "maintained"]

    in_world(check)
