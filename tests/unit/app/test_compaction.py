"""Compaction: the same versions, in fewer and better places."""

import contextlib
from dataclasses import replace

import pytest
from tests.unit.app.gc_world import GRACE_SECONDS, Crash, World
from tests.unit.app.test_gc import collect_everything, in_world, keep_last

from edgereplica.adapters.object_store import MeteredStore
from edgereplica.adapters.page_storage import PageStorage
from edgereplica.app import compaction
from edgereplica.app.history import DatabaseHistory
from edgereplica.events.errors import LeaseLost, LeaseTaken
from edgereplica.events.limits import CLOCK_SKEW_SECONDS_MAX, LEASE_SECONDS

PAGES = tuple(range(1000, 1100))
VERSIONS = 60


async def _many_small_pushes(world: World, versions: int = VERSIONS) -> None:
    pages = list(PAGES)
    await world.commit("d1", tuple(pages))
    for number in range(1, versions):
        pages[number * 7 % len(pages)] = number
        await world.commit("d1", tuple(pages))


def _segments(world: World) -> list[str]:
    return [key for key in world.store.objects if key.startswith("orgs/")]


async def _reads_of_a_fresh_pull(world: World) -> int:
    store = MeteredStore(world.store)
    services = world.services
    world.services = type(services)(
        services.repo,
        services.log,
        DatabaseHistory(services.log),
        PageStorage(store, world.ids, cache_bytes=0),
        services.clock,
        services.still_good,
    )
    try:
        history = await world.history("d1")
        await (await world.pull("d1", history.head_version)).read()
    finally:
        world.services = services
    return store.usage.gets


def test_small_segments_are_merged_and_the_head_lies_in_order() -> None:
    async def check(world: World) -> None:
        await _many_small_pushes(world)
        assert len(_segments(world)) == VERSIONS
        before = await _reads_of_a_fresh_pull(world)
        report = await world.compactor().run()
        assert (report.databases_compacted, report.heads_rewritten, report.failed) == (1, 1, ())
        assert report.segments_merged == VERSIONS
        await world.check()
        assert await _reads_of_a_fresh_pull(world) == 2 < before
        await collect_everything(world)
        assert len(_segments(world)) == 2
        assert len(world.store.objects) == 2 + VERSIONS
        await world.check()
        again = await world.compactor().run()
        assert (again.databases_looked_at, again.databases_compacted) == (0, 0)

    in_world(check)


def test_a_block_is_copied_once_over_all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later maps name blocks that were copied for earlier ones; a snapshot names nearly all."""
    monkeypatch.setattr(compaction, "COMPACT_MAPS_IN_MEMORY_MAX", 4)

    async def check(world: World) -> None:
        await _many_small_pushes(world)
        report = await world.compactor().run()
        assert (report.segments_merged, report.failed) == (VERSIONS, ())
        await collect_everything(world)
        assert len(_segments(world)) == VERSIONS // 4 + 1
        await world.check()

    in_world(check)


def test_pushes_go_on_from_a_compacted_head() -> None:
    async def check(world: World) -> None:
        await _many_small_pushes(world)
        during = await world.push("d1", (1, *PAGES[1:]))
        await world.compactor().run()
        await during.commit(world)
        await _more(world)
        await world.check()
        await world.compactor().run()
        await collect_everything(world)
        await world.check()

    async def _more(world: World) -> None:
        for number in range(5000, 5020):
            await world.commit("d1", (number, *PAGES[1:]))

    in_world(check)


def _remember_maps(world: World) -> None:
    """Let the server keep the maps it has read and written, as every server does."""
    storage = PageStorage(world.store, world.ids)
    world.services = replace(world.services, storage=storage)


@pytest.mark.parametrize("then", ["pull", "push"])
def test_a_map_of_a_push_during_a_compaction_is_not_remembered_as_it_was(then: str) -> None:
    """The delta is right, but its server knew what lies under it from before: to read there would
    find nothing, and a snapshot made of it would refer to segments that are gone."""

    async def check(world: World) -> None:
        _remember_maps(world)
        await _many_small_pushes(world, 20)
        during = await world.push("d1", (1, *world.versions["d1"][-1][1:]))
        assert (await world.compactor().run()).segments_merged == 20
        await during.commit(world)
        assert not (await world.history("d1")).outline(21).map_is_snapshot
        await collect_everything(world)
        if then == "push":
            await world.commit("d1", (*range(1, 60), *world.versions["d1"][-1][59:]))
            assert (await world.history("d1")).outline(22).map_is_snapshot
            _remember_maps(world)  # a server that was started anew
        await world.check()

    in_world(check)


def test_a_map_that_was_not_rewritten_is_not_remembered_on_what_lay_under_it() -> None:
    """The head came with one large segment: only the maps under it were moved."""

    async def check(world: World) -> None:
        _remember_maps(world)
        await world.commit("d1", PAGES)
        for number in range(1, 6):
            await world.commit("d1", (number, *PAGES[1:]))
        await world.commit("d1", (5, *PAGES[1:60], *range(201, 241)))
        head = (await world.history("d1")).outline(7)
        assert not head.map_is_snapshot
        compactor = world.compactor()
        compactor._small_segment_bytes = 10_000
        assert (await compactor.run()).segments_merged == 5
        assert (await world.history("d1")).outline(7) == head
        await collect_everything(world)
        await world.check()

    in_world(check)


def test_a_pull_that_began_before_reads_on_and_its_objects_go_after_it() -> None:
    async def check(world: World) -> None:
        await _many_small_pushes(world)
        pull = await world.pull("d1", 30)
        await world.compactor().run()
        for _ in range(4):
            world.clock.advance(GRACE_SECONDS / 2 + CLOCK_SKEW_SECONDS_MAX)
            await world.collect()
        await pull.read()
        await collect_everything(world)
        assert len(_segments(world)) == 2

    in_world(check)


def test_what_retention_took_is_not_copied() -> None:
    async def check(world: World) -> None:
        await _many_small_pushes(world)
        await keep_last(world, 1)
        await collect_everything(world)
        await world.compactor().run()
        await collect_everything(world)
        await world.check()
        history = await world.history("d1")
        assert history.first == history.oldest == VERSIONS, "the head stands alone now"
        assert len(world.store.objects) == 2

    in_world(check)


@pytest.mark.parametrize("action", ["killed", "push", "second runner"])
def test_at_any_call(action: str) -> None:
    """Killed, or overtaken: nothing is lost, and the next run does its work."""
    step, reached = 0, True

    async def check(world: World) -> None:
        nonlocal reached
        await _many_small_pushes(world, 6)
        taken = 0

        async def hook() -> None:
            nonlocal taken
            taken += 1
            if taken >= step and action == "killed":
                raise Crash
            if taken == step and action == "push":
                await world.commit("d1", (1, *PAGES[1:]))
            if taken == step and action == "second runner":
                world.clock.advance(LEASE_SECONDS + CLOCK_SKEW_SECONDS_MAX + 1)
                await world.compactor().run()

        with contextlib.suppress(Crash, LeaseLost, LeaseTaken):
            await world.compactor(hook).run()
        reached = taken >= step
        await world.check()
        world.clock.advance(LEASE_SECONDS + CLOCK_SKEW_SECONDS_MAX + 1)
        await world.compactor().run()
        await collect_everything(world)
        await world.check()
        assert len(_segments(world)) <= 3
        assert len(world.store.objects) <= 10

    while reached:
        step += 1
        in_world(check)
    assert step > 40


def test_a_damaged_block_is_not_passed_on() -> None:
    async def check(world: World) -> None:
        await _many_small_pushes(world, 6)
        key = _segments(world)[2]
        data = bytearray(world.store.objects[key])
        data[60] ^= 1
        world.store.objects[key] = bytes(data)
        report = await world.compactor().run()
        assert report.failed[0][0] == "d1"
        assert (await world.history("d1")).rewritten == {}

    in_world(check)
