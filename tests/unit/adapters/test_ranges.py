"""Ranges that a peer announces cost what they say, not what they span."""

import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest
from blake3 import blake3
from tests.unit.adapters.page_storage_model import Database, digests_of, page

from edgereplica.adapters.memory_store import MemoryStore
from edgereplica.adapters.pull_selection import PullSelection
from edgereplica.events.errors import ProtocolViolation
from edgereplica.events.limits import PAGES_PER_DATABASE_MAX, RANGE_PAGES_MAX

PAGES = [page(n) for n in range(40)]
GROWN_BYTES_MAX = 4 * 1024 * 1024


async def _database() -> Database:
    database = Database(MemoryStore())
    await database.push(PAGES)
    return database


def measured(scenario: Callable[[], Awaitable[None]]) -> None:
    tracemalloc.start()
    try:
        asyncio.run(scenario())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < GROWN_BYTES_MAX


def test_overlapping_ranges_beyond_the_base_are_joined_by_their_ends() -> None:
    """3,000 of them, one frame of 128 KB, took 3.8 GiB."""

    async def scenario() -> None:
        stage = await (await _database()).open()
        ranges = [(n, n + RANGE_PAGES_MAX - 1, bytes(32)) for n in range(1, 3000)]
        assert stage.compare_ranges(ranges) == ((1, 2999 + RANGE_PAGES_MAX - 1),)

    measured(scenario)


def test_equal_ranges_said_again_and_again_are_remembered_once() -> None:
    async def scenario() -> None:
        stage = await (await _database()).open()
        digests = [blake3(digests_of([one])).digest() for one in PAGES]
        ranges = [(n, n, digest) for n, digest in enumerate(digests, 1)] * 400
        for _ in range(3):
            assert stage.compare_ranges(ranges) == ()
        assert len(stage._kept) < 2000
        assert (await stage.seal(40)).pages_changed == 0

    measured(scenario)


def test_a_pull_names_the_pages_of_its_version_that_differ() -> None:
    async def scenario() -> None:
        selection = PullSelection(await (await _database()).base())
        right = blake3(digests_of(PAGES[:10])).digest()
        ranges = [(21, 30, bytes(32)), (1, 10, right), (25, 35, bytes(32)), (39, 99, bytes(32)),
                  (90, 95, bytes(32))]  # fmt: skip
        assert selection.compare_ranges(tuple(ranges)) == ((21, 35), (39, 40))
        assert selection.runs() == ((11, 40),)
        assert selection.compare_ranges(()) == ()

    asyncio.run(scenario())


def test_overlapping_ranges_of_a_pull_are_refused() -> None:
    async def scenario() -> None:
        selection = PullSelection(await (await _database()).base())
        count = RANGE_PAGES_MAX // 40 + 2
        selection.compare_ranges(((1, PAGES_PER_DATABASE_MAX, bytes(32)),) * (count - 1))
        with pytest.raises(ProtocolViolation, match="ranges overlap"):
            selection.compare_ranges(((1, PAGES_PER_DATABASE_MAX, bytes(32)),) * count)
        assert selection.runs() == ((1, 40),)

    asyncio.run(scenario())
