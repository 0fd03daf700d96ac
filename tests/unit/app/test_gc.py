"""Garbage collection: what is not referred to goes in the end, and what is never does."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.app.gc_world import GRACE_SECONDS, STAGED_SECONDS, Crash, Hook, Pull, Push, World

from edgereplica.adapters.clock import ManualClock
from edgereplica.app.retention import Retention, set_retention
from edgereplica.events.errors import (
    Conflict,
    LeaseTaken,
    NotFound,
    SessionTooSlow,
    StorageError,
)
from edgereplica.events.limits import CLOCK_SKEW_SECONDS_MAX, LEASE_SECONDS, PIN_SECONDS
from edgereplica.fsm.effects import AbandonPush, CompareHashes

LONG = max(GRACE_SECONDS, STAGED_SECONDS, PIN_SECONDS) + 2 * CLOCK_SKEW_SECONDS_MAX


def in_world(check: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        world = World()
        await world.start()
        try:
            await check(world)
        finally:
            await world.repo.close()

    asyncio.run(main())


async def collect_everything(world: World, runs: int = 4) -> None:
    for _ in range(runs):
        world.clock.advance(LONG)
        await world.collect()


async def keep_last(world: World, count: int, database: str = "d1") -> None:
    history = await world.history(database)
    await set_retention(world.histories, history, Retention(keep_last=count), "u")


def test_a_history_without_a_rule_is_kept_whole() -> None:
    async def check(world: World) -> None:
        for number in range(1, 6):
            await world.commit("d1", (1, 2, number + 10))
        objects = dict(world.store.objects)
        await collect_everything(world)
        assert world.store.objects == objects
        await world.check()

    in_world(check)


def test_an_object_goes_when_two_runs_a_grace_apart_have_seen_it_unreferenced() -> None:
    async def check(world: World) -> None:
        await world.commit("d1", (1, 2, 3))
        lost = await world.push("d1", (1, 2, 4))
        await lost.end.abandon(AbandonPush())
        await lost.end.close()
        await world.repo.execute("DELETE FROM staged_segments")  # nobody knows of the segment
        before = set(world.store.objects)
        assert len(before) == 3
        assert (await world.collect()).candidates == 0, "younger than the grace"
        world.clock.advance(GRACE_SECONDS)
        report = await world.collect()
        assert (report.candidates, report.deleted) == (1, 0)
        world.clock.advance(GRACE_SECONDS)
        assert (await world.collect()).deleted == 0, "within the skew of clocks"
        world.clock.advance(CLOCK_SKEW_SECONDS_MAX)
        guess = await world.collector().run(dry_run=True)
        assert (guess.dry_run, guess.deleted, len(world.store.objects)) == (True, 1, 3)
        report = await world.collect()
        assert (report.deleted, report.deleted_bytes > 500) == (1, True)
        assert len(world.store.objects) == 2
        await world.check()
        assert await world.repo.all("SELECT * FROM gc_candidates") == []

    in_world(check)


def test_an_organization_is_left_alone_until_it_is_time_or_something_may_go() -> None:
    async def check(world: World) -> None:
        await (await world.push("d1", (1, 2, 4))).cut()
        await world.repo.execute("DELETE FROM staged_segments")
        world.clock.advance(GRACE_SECONDS)
        for candidates, organizations in ((1, 1), (0, 0)):
            report = await world.collector(look_seconds=1e6).run()
            assert (report.candidates, report.organizations) == (candidates, organizations)
        world.clock.advance(GRACE_SECONDS + CLOCK_SKEW_SECONDS_MAX)
        report = await world.collector(look_seconds=1e6).run()
        assert (report.deleted, report.organizations) == (1, 1)
        assert (await world.collector(look_seconds=1e6).run()).organizations == 0
        world.clock.advance(1e6)
        assert (await world.collector(look_seconds=1e6).run()).organizations == 1

    in_world(check)


def test_staged_segments_wait_for_their_push_and_then_go() -> None:
    async def check(world: World) -> None:
        await (await world.push("d1", (1, 2, 3))).cut()
        for _ in range(3):
            world.clock.advance(GRACE_SECONDS + CLOCK_SKEW_SECONDS_MAX)
            assert (await world.collect()).staged_expired == 0
        resumed = await world.push("d1", (1, 2, 3))
        assert resumed.end._staging.staged_pages == 3
        await resumed.cut()
        world.clock.advance(STAGED_SECONDS)
        assert (await world.collect()).staged_expired == 1
        await collect_everything(world)
        assert world.store.objects == {}

    in_world(check)


def test_a_running_push_keeps_the_segments_it_counts_on() -> None:
    async def check(world: World) -> None:
        await (await world.push("d1", (1, 2, 3))).cut()
        world.clock.advance(LONG)
        push = await world.push("d1", (1, 2, 3))  # counts on what was staged, a moment before…
        for _ in range(5):  # … it is too old
            await world.collect()
            world.clock.advance(GRACE_SECONDS + CLOCK_SKEW_SECONDS_MAX)
            await push.end.compare_hashes(CompareHashes(()))
        await push.commit(world)
        await collect_everything(world)
        await world.check()

    in_world(check)


def test_a_pull_of_an_expired_version_goes_on() -> None:
    async def check(world: World) -> None:
        for number in range(1, 5):
            await world.commit("d1", (number, number + 10, number + 20))
        pull = await world.pull("d1", 2)
        await keep_last(world, 1)
        for _ in range(4):
            await world.collect()
            world.clock.advance(GRACE_SECONDS / 2)
        assert (await world.history("d1")).oldest == 2, "what a session uses stays readable"
        await pull.read()
        await collect_everything(world)
        history = await world.history("d1")
        assert (history.oldest, history.head_version) == (4, 4)
        with pytest.raises(NotFound, match=r"version 3 is no longer kept; the oldest is 4"):
            history.at(3)
        with pytest.raises(NotFound, match="the oldest is 4"):
            await world.pull("d1", 2)
        assert len(world.store.objects) == 2
        await world.check()

    in_world(check)


def test_an_expired_version_under_a_kept_map_leaves_its_objects() -> None:
    """The kept versions' maps are written relative to the first one's."""

    async def check(world: World) -> None:
        pages = tuple(range(100, 140))
        await world.commit("d1", pages)
        for number in range(1, 4):
            await world.commit("d1", (number, *pages[1:]))
        history = await world.history("d1")
        assert [v.map_is_snapshot for v in history.versions] == [True, False, False, False]
        await keep_last(world, 2)
        await collect_everything(world)
        history = await world.history("d1")
        assert (history.first, history.oldest) == (1, 3)
        await world.check()

    in_world(check)


@pytest.mark.parametrize("keep_days", [1, 3])
def test_days_keep_what_was_the_head_in_them(keep_days: int) -> None:
    async def check(world: World) -> None:
        for number in range(1, 7):
            await world.commit("d1", (number,))
            world.clock.advance(86_400)
        history = await world.history("d1")
        await set_retention(world.histories, history, Retention(keep_days=keep_days), "u")
        await world.collect()
        history = await world.history("d1")
        # Version 6 is a day old: it was committed at the very moment that one day goes back to.
        assert history.oldest == 7 - keep_days
        assert history.at_time(world.clock.now() - keep_days * 86_400).version == history.oldest

    in_world(check)


@pytest.mark.parametrize(("keep", "oldest"), [(None, 1), (4, 2)])
def test_a_rule_that_is_set_during_a_run_keeps_what_has_not_gone(
    keep: int | None, oldest: int
) -> None:
    """At whatever call of the run it comes: who was told that it holds counts on it."""

    calls = 0

    async def check(world: World, at: int) -> None:
        nonlocal calls
        for number in range(1, 6):
            await world.commit("d1", (1, 2, number + 10))
        await keep_last(world, 2)
        calls, kept = 0, False

        async def change_the_rule() -> None:
            nonlocal calls, kept
            calls += 1
            if calls == at:
                history = await world.history("d1")
                kept = not history.expired
                await set_retention(world.histories, history, Retention(keep_last=keep), "u")

        report = await world.collector(change_the_rule).run()
        history = await world.history("d1")
        assert report.versions_expired == history.expired
        if kept:
            assert history.oldest == oldest
        await world.check()

    for at in itertools.count(1):
        in_world(partial(check, at=at))
        if calls < at:
            break
    assert at > 20


def test_a_deleted_database_is_freed_and_others_are_not() -> None:
    async def check(world: World) -> None:
        await world.commit("d1", (1, 2))
        await world.commit("d2", (1, 2))
        pull = await world.pull("d1", 1)
        await (await world.push("d1", (1, 2, 3))).cut()
        await world.histories.delete(await world.history("d1"), "u")
        for _ in range(7):
            await world.collect()
            world.clock.advance(GRACE_SECONDS / 2)
        await pull.read()
        await collect_everything(world)
        assert len(world.store.objects) == 2
        assert [dict(row) for row in await world.repo.all("SELECT * FROM gc_released")] == [
            {"database_id": "d1", "freed": 1}
        ]
        await world.check()

    in_world(check)


def test_a_push_that_slept_through_its_pin_commits_nothing() -> None:
    async def check(world: World) -> None:
        await world.commit("d1", (1, 2))
        sleeper, reporter = await world.push("d1", (1, 3)), await world.push("d1", (1, 4))
        world.clock.advance(LONG)
        await world.collect()
        with pytest.raises(SessionTooSlow):
            await sleeper.commit(world)
        await reporter.cut()
        assert await world.repo.all("SELECT * FROM staged_segments") == []
        with pytest.raises(SessionTooSlow):
            await sleeper.end.compare_hashes(CompareHashes(()))
        assert (await world.history("d1")).head_version == 1

    in_world(check)


@pytest.mark.parametrize("ahead_seconds", [-LONG, CLOCK_SKEW_SECONDS_MAX, 10 * LONG])
def test_a_collector_whose_clock_is_wrong_takes_nothing_that_is_referred_to(
    ahead_seconds: float,
) -> None:
    """However far it is: a session that loses its pin so is told, and commits nothing."""

    async def check(world: World) -> None:
        await world.commit("d1", (1, 2, 3))
        await (await world.push("d1", (1, 2, 4))).cut()
        resumed = await world.uploaded("d1", (1, 2, 4))
        pull = await world.pull("d1", 1)
        clock = ManualClock(world.clock.now() + ahead_seconds)
        for _ in range(4):
            await world.collector(clock=clock).run()
            clock.advance(LONG)
            await world.check()
        try:
            await resumed.commit(world)
        except SessionTooSlow:
            await world.commit("d1", (1, 2, 4))
        await pull.read()
        await world.check()
        assert (await world.history("d1")).head_version == 2

    in_world(check)


def test_one_runner_at_a_time_and_a_dead_one_does_not_block() -> None:
    async def check(world: World) -> None:
        await world.commit("d1", (1,))
        entered = 0

        async def another() -> None:
            nonlocal entered
            entered += 1
            if entered == 12:
                with pytest.raises(LeaseTaken):
                    await world.collect()
                raise Crash

        with pytest.raises(Crash):
            await world.collector(another).run()
        await world.repo.execute(
            "UPDATE leases SET holder = 'dead', expires_at = ?", world.clock.now() + LEASE_SECONDS
        )
        with pytest.raises(LeaseTaken):
            await world.collect()
        world.clock.advance(LEASE_SECONDS + CLOCK_SKEW_SECONDS_MAX + 1)
        await world.collect()

    in_world(check)


def test_a_missing_map_stops_the_sweep_of_its_organization() -> None:
    async def check(world: World) -> None:
        await world.commit("d1", (1, 2))
        await (await world.push("d1", (1, 3))).cut()
        await world.repo.execute("DELETE FROM staged_segments")
        for key in [key for key in world.store.objects if "/maps/" in key]:
            await world.store.delete(key)
        before = dict(world.store.objects)
        for _ in range(3):
            world.clock.advance(LONG)
            report = await world.collector().run()
            assert report.failed[0][0] == "o"
            assert "is missing" in report.failed[0][1]
        assert world.store.objects == before

    in_world(check)


async def _candidate_of_a_running_push(world: World) -> Push:
    """A push that has uploaded and not yet committed, and whose objects are candidates already."""
    await world.commit("d1", (1, 2))
    push = await world.uploaded("d1", (3, 4))
    world.clock.advance(GRACE_SECONDS)
    await push.end.compare_hashes(CompareHashes(()))
    assert (await world.collect()).candidates == 2
    world.clock.advance(GRACE_SECONDS + CLOCK_SKEW_SECONDS_MAX)
    await push.end.compare_hashes(CompareHashes(()))
    return push


def test_a_push_may_commit_candidates_at_any_moment_of_a_run() -> None:
    reached = True

    async def check(world: World) -> None:
        nonlocal reached
        push, taken = await _candidate_of_a_running_push(world), 0

        async def hook() -> None:
            nonlocal taken
            taken += 1
            if taken == step:
                await push.commit(world)

        await world.collector(hook).run()
        reached = taken >= step
        if reached:
            await world.check()
            await collect_everything(world)
            await world.check()

    step = 0
    while reached:
        step += 1
        in_world(check)
    assert step > 20


def test_a_candidate_that_was_referred_to_meanwhile_is_judged_anew() -> None:
    """Referred to again, seen by a new session, let go again: the old row counts for nothing."""

    async def check(world: World) -> None:
        push, pulls, taken = await _candidate_of_a_running_push(world), list[Pull](), 0
        await push.commit(world)
        await world.commit("d1", (5, 6))
        await keep_last(world, 1)

        async def hook() -> None:
            nonlocal taken
            taken += 1
            if taken == 12:  # after the pins were read
                pulls.append(await world.pull("d1", 2))

        await world.collector(hook).run()
        assert (await world.history("d1")).oldest == 3
        await world.collect()
        await pulls[0].read()

    in_world(check)


def test_a_candidate_of_a_deleted_database_is_judged_anew() -> None:
    async def check(world: World) -> None:
        await (await _candidate_of_a_running_push(world)).commit(world)
        pull = await world.pull("d1", 2)
        await world.histories.delete(await world.history("d1"), "u")
        await world.collect()
        await pull.read()

    in_world(check)


DATABASES = st.sampled_from(["d1", "d1", "d2"])
SECONDS = st.sampled_from(
    [1.0, GRACE_SECONDS / 2, GRACE_SECONDS + CLOCK_SKEW_SECONDS_MAX, PIN_SECONDS * 2, LONG]
)
SMALL_PAGES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
ACTION = st.one_of(
    st.tuples(st.just("push"), DATABASES, SMALL_PAGES, st.integers(0, 3)),
    st.tuples(st.just("pull"), DATABASES, st.integers(0, 3)),
    st.tuples(st.just("finish"), st.integers(0, 5)),
    st.tuples(st.just("finish"), st.integers(0, 5)),
    st.tuples(st.just("cut"), st.integers(0, 5)),
    st.tuples(st.just("vanish"), st.integers(0, 5)),
    st.tuples(st.just("retain"), DATABASES, st.integers(1, 2)),
    st.tuples(st.just("advance"), SECONDS),
    st.tuples(st.just("collect")),
    st.tuples(st.just("compact")),
    st.tuples(st.just("delete"), DATABASES),
)
COLLECTION = st.tuples(
    st.sampled_from(["interrupted", "interrupted", "interrupted compaction"]),
    st.lists(st.tuples(st.integers(0, 60), ACTION), max_size=5),
    st.none() | st.integers(0, 60),
)


class Randomly:
    """Does what Hypothesis says."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sessions: list[Push | Pull] = []

    async def do(self, action: tuple[Any, ...]) -> None:
        world = self.world
        match action:
            case "push", database, pages, back:
                if not (await world.history(database)).deleted:
                    head = (await world.history(database)).head_version
                    self.sessions.append(await world.push(database, pages, max(0, head - back)))
            case "pull", database, back:
                history = await world.history(database)
                number = history.head_version - back
                if not history.deleted and number >= max(1, history.oldest):
                    self.sessions.append(await world.pull(database, number))
            case "finish" | "cut" | "vanish", index if index < len(self.sessions):
                await self.end(self.sessions.pop(index), action[0])
            case "retain", database, count:
                if not (await world.history(database)).deleted:
                    await keep_last(world, count, database)
            case "advance", seconds:
                world.clock.advance(seconds)
            case "collect", *_:
                with contextlib.suppress(LeaseTaken):
                    await world.collect()
            case "compact", *_:
                with contextlib.suppress(LeaseTaken):
                    assert (await world.compactor().run()).failed == ()
            case "delete", database:
                history = await world.history(database)
                if not history.deleted:
                    await world.histories.delete(history, "u")
            case "interrupted", interruptions, crash_at:
                await self.interrupted(world.collector, dict(interruptions), crash_at)
            case "interrupted compaction", interruptions, crash_at:
                await self.interrupted(world.compactor, dict(interruptions), crash_at)

    async def end(self, session: Push | Pull, how: str) -> None:
        pin = session.end._pin
        held = (
            pin is None
            or pin._released
            or await self.world.repo.first("SELECT 1 AS held FROM pins WHERE pin_id = ?", pin._id)
        )
        if how == "vanish":
            return
        try:
            if isinstance(session, Pull):
                await session.read()
            elif how == "cut":
                await session.cut()
            else:
                await session.commit(self.world)
        except (SessionTooSlow, StorageError):
            assert not held
        except (Conflict, NotFound):
            assert isinstance(session, Push)

    async def interrupted(
        self, runner: Callable[[Hook], Any], interruptions: dict[int, Any], crash_at: int | None
    ) -> None:
        """A run in which others act between its steps, and which may die at one."""
        step = 0

        async def hook() -> None:
            nonlocal step
            step += 1
            if step in interruptions:
                await self.do(interruptions[step])
            if crash_at is not None and step >= crash_at:
                raise Crash

        try:
            report = await runner(hook).run()
            assert report.failed == ()
        except (Crash, LeaseTaken, SessionTooSlow):
            pass


@settings(max_examples=150, deadline=None)
@given(st.lists(ACTION | COLLECTION | COLLECTION, min_size=1, max_size=25))
def test_nothing_referenced_is_ever_lost_and_everything_else_goes(actions: list[Any]) -> None:
    async def check(world: World) -> None:
        randomly = Randomly(world)
        for action in actions:
            await randomly.do(action)
            if action[0] in {"collect", "compact", "interrupted", "interrupted compaction"}:
                await world.check()
        while randomly.sessions:
            await randomly.end(randomly.sessions.pop(), "finish")
        await world.check()
        for database in ("d1", "d2"):
            history = await world.history(database)
            if not history.deleted:
                await world.histories.delete(history, "u")
        await collect_everything(world, 5)
        assert world.store.objects == {}
        for table in ("gc_candidates", "gc_map_segments", "pins", "staged_segments"):
            assert await world.repo.all(f"SELECT * FROM {table}") == [], table

    in_world(check)


async def _busy(world: World) -> Pull:
    """Something of everything: kept and expiring versions, staged and lost segments, a pull."""
    for number in range(1, 5):
        await world.commit("d1", (number, number + 10))
    await world.commit("d2", (1,))
    await (await world.push("d1", (4, 9))).cut()
    await (await world.push("d2", (8, 9))).cut()
    await world.repo.execute("DELETE FROM staged_segments WHERE database_id = 'd2'")
    await keep_last(world, 2)
    world.clock.advance(LONG)
    await world.collect()
    await keep_last(world, 1)
    await world.histories.delete(await world.history("d2"), "u")
    world.clock.advance(LONG)
    return await world.pull("d1", 4)


def test_killed_at_any_call_it_loses_nothing_and_the_next_run_does_its_work() -> None:
    async def kill_at(world: World, step: int) -> bool:
        pull, taken = await _busy(world), 0

        async def hook() -> None:
            nonlocal taken
            taken += 1
            if taken >= step:  # a dead process releases nothing
                raise Crash

        try:
            await world.collector(hook).run()
        except Crash:
            await world.check()
            await pull.read()
            await collect_everything(world)
            assert len(world.store.objects) == 2
            return True
        return False

    step, killed = 0, True
    while killed:
        step += 1

        async def check(world: World, step: int = step) -> None:
            nonlocal killed
            killed = await kill_at(world, step)

        in_world(check)
    assert step > 25
