"""What an organization is taken to store: what its pushes brought, less what collection freed."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.unit.app.gc_world import HookedRepo, World
from tests.unit.app.test_gc import LONG, collect_everything, in_world, keep_last

from edgereplica.app.quotas import Quotas
from edgereplica.events.errors import LimitExceeded
from edgereplica.events.limits import QUOTA_KNOWN_SECONDS, QUOTA_ROOM_BYTES_MIN

Check = Callable[[World], Coroutine[Any, Any, None]]
FIRST, SECOND, THIRD = (tuple(range(start, start + 40)) for start in (1, 101, 201))


async def has_room(world: World, quotas: Quotas, more_bytes: int) -> bool:
    try:
        await quotas.check_stored(world.repo, "o", more_bytes, world.clock.now())
    except LimitExceeded as error:
        assert error.details["limit"] == "org_stored_bytes_max"
        assert error.details["used"] == await world.counted()
        return False
    return True


def test_a_thinned_history_gives_room_when_its_objects_are_gone() -> None:
    """Not before: what waits to be deleted still lies there."""

    async def check(world: World) -> None:
        await world.commit("d1", FIRST)
        await world.commit("d1", SECOND)
        both = await world.counted()
        quotas = Quotas(org_stored_bytes_max=both + both // 4)
        assert not await has_room(world, quotas, both // 2)
        await keep_last(world, 1)
        assert (await world.collect()).versions_expired == 1
        assert await world.counted() == both
        world.clock.advance(LONG)
        assert (await world.collect()).candidates > 0
        assert await world.counted() == both
        assert not await has_room(world, quotas, both // 2)
        world.clock.advance(LONG)
        assert (await world.collect()).deleted > 0
        assert await world.counted() < 0.6 * both
        assert await has_room(world, quotas, both // 2)
        await world.commit("d1", THIRD)
        assert await world.counted() > 0.9 * both, "what is pushed after a look counts at once"

    in_world(check)


def test_a_version_that_others_stand_on_still_counts_when_it_has_expired() -> None:
    """Or a large version and a small change would be all that anybody pays for."""

    async def check(world: World) -> None:
        await world.commit("d1", FIRST)
        first = await world.counted()
        await world.commit("d1", (*FIRST[:-1], 500))
        await keep_last(world, 1)
        await collect_everything(world)
        assert (await world.history("d1")).oldest == 2
        assert await world.counted() >= first

    in_world(check)


def test_a_deleted_database_counts_until_it_is_freed() -> None:
    async def check(world: World) -> None:
        await world.commit("d1", FIRST)
        await world.commit("d2", SECOND)
        both = await world.counted()
        await world.histories.delete(await world.history("d1"), "u")
        await world.collect()
        assert await world.counted() == both
        await collect_everything(world)
        assert 0 < await world.counted() < 0.6 * both

    in_world(check)


def test_a_compaction_counts_as_what_it_leaves() -> None:
    async def check(world: World) -> None:
        for number in range(8):
            await world.commit("d1", (*FIRST, 100 + number))
        before = await world.counted()
        assert (await world.compactor().run()).databases_compacted == 1
        await collect_everything(world)
        held = sum(map(len, world.store.objects.values()))
        assert await world.counted() == held != before

    in_world(check)


def test_an_interrupted_push_that_is_resumed_counts_once() -> None:
    async def check(world: World) -> None:
        await (await world.push("d1", FIRST)).cut()
        staged = await world.counted()
        assert staged > 0
        await world.commit("d1", FIRST)
        await world.collect()
        held = sum(map(len, world.store.objects.values()))
        assert await world.counted() == held > staged

    in_world(check)


def test_what_a_resumed_push_had_uploaded_before_counts_without_a_look() -> None:
    """Or an organization could store what it likes until somebody looks: cut every push off."""

    async def check(world: World) -> None:
        for number in range(4):
            pages = tuple(range(100 * number, 100 * number + 40))
            await (await world.push("d1", pages)).cut()
            await world.commit("d1", pages)
            held = sum(map(len, world.store.objects.values()))
            assert await world.counted() == held

    in_world(check)


@pytest.mark.parametrize(
    ("room_bytes", "later", "asked"),
    [
        (QUOTA_ROOM_BYTES_MIN + 10, QUOTA_KNOWN_SECONDS - 1, 1),
        (QUOTA_ROOM_BYTES_MIN + 10, QUOTA_KNOWN_SECONDS, 2),
        (QUOTA_ROOM_BYTES_MIN + 10, -1.0, 2),  # a clock that was set back
        (QUOTA_ROOM_BYTES_MIN - 1, 0.0, 2),
    ],
)
def test_far_below_its_bound_an_organization_is_not_asked_about_at_every_step(
    room_bytes: int, later: float, asked: int
) -> None:
    async def check(world: World) -> None:
        await world.commit("d1", FIRST)
        queries = 0

        async def count() -> None:
            nonlocal queries
            queries += 1

        repo = HookedRepo(world.repo, count)
        quotas = Quotas(org_stored_bytes_max=await world.counted() + room_bytes)
        now = world.clock.now()
        await quotas.check_stored(repo, "o", 0, now)
        await quotas.check_stored(repo, "o", 5, now + later)
        assert queries == asked
        with pytest.raises(LimitExceeded):  # more than there is room for: asked, and refused
            await quotas.check_stored(repo, "o", room_bytes + 1, now)

    in_world(check)


def test_organizations_are_known_apart() -> None:
    async def check(world: World) -> None:
        quotas = Quotas(org_stored_bytes_max=QUOTA_ROOM_BYTES_MIN + 1)
        await quotas.check_stored(world.repo, "another", 0, world.clock.now())
        await world.commit("d1", FIRST)
        await asyncio.gather(
            *(quotas.check_stored(world.repo, org, 0, world.clock.now()) for org in ("o", "x"))
        )
        assert quotas._known["o"][0] == await world.counted() > quotas._known["x"][0] == 0

    in_world(check)
