"""Random histories of pushes, cuts and resumes: every version stays readable, byte for byte."""

import asyncio
import random
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.adapters.page_storage_model import (
    Database,
    Pages,
    as_dict,
    digests_of,
    page,
    read,
    root,
    small_segments,
)

from edgereplica.adapters import page_reader, push_stage, staged_content
from edgereplica.adapters.memory_store import MemoryStore
from edgereplica.adapters.page_storage import PushStage
from edgereplica.events.errors import ProtocolViolation
from edgereplica.events.limits import RANGE_PAGES_MAX
from edgereplica.events.pages import Runs, pages_of, runs_of

HOW: list[dict[str, Any]] = [
    {},
    {"page_order": True},
    {"page_order": True, "decoded_bytes_max": 4096},
    {"codecs": ("raw", "zstd")},
    {"codecs": ("raw", "zstd"), "verify": False},
    {"codecs": ("raw", "zstd"), "verify": False, "decoded_bytes_max": 2048},
]


def edited(pages: Pages, rng: random.Random) -> Pages:
    """What an application may have done since: edits, growth, truncation, a VACUUM."""
    pages = list(pages)
    size = len(pages[0]) if pages else 512
    for _ in range(rng.choice([0, 1, 3, 10])):
        if pages:
            pages[rng.randrange(len(pages))] = page(rng.randrange(60), size)
    kind = rng.randrange(6)
    if kind == 0:
        pages += [page(rng.randrange(60), size) for _ in range(rng.randrange(20))]
    elif kind == 1:
        del pages[rng.randrange(len(pages) + 1) :]
    elif kind == 2:
        rng.shuffle(pages)
    elif kind == 3 and rng.randrange(3) == 0:
        size = rng.choice([512, 1024])
        pages = [page(rng.randrange(60), size) for _ in range(rng.randrange(1, 20))]
    return pages


def announce(stage: PushStage, base: Pages, pages: Pages, rng: random.Random) -> Runs:
    """One of the ways in which a client says what it holds; what the server asks for."""
    way = rng.randrange(4)
    if way == 0 and base and pages and len(base[0]) == len(pages[0]):
        stage.keep_base()
        changed = [n + 1 for n in range(len(pages)) if pages[n : n + 1] != base[n : n + 1]]
        windows = [(a, digests_of(pages[a - 1 : b])) for a, b in runs_of(changed)]
        return stage.announce(windows)
    if way == 1 and pages:
        step = rng.randrange(1, 9)
        ranges = [
            (at + 1, min(at + step, len(pages)), root(pages[at : at + step]))
            for at in range(0, len(pages), step)
        ]
        differing = stage.compare_ranges(ranges)
        return stage.announce([(a, digests_of(pages[a - 1 : b])) for a, b in differing])
    if way == 2:
        windows = [(n + 1, digests_of([content])) for n, content in enumerate(pages)]
        rng.shuffle(windows)
        half = len(windows) // 2
        wanted = {*pages_of(stage.announce(windows[:half]))}
        wanted |= {*pages_of(stage.announce(windows[half:]))}
        return runs_of(sorted(wanted))
    return stage.announce([(1, digests_of(pages))]) if pages else ()


async def push(database: Database, base: Pages, pages: Pages, rng: random.Random) -> bool:
    """Whether the push went through; otherwise it was cut, with or without a farewell."""
    stage = await database.open(len(pages[0]) if pages else 512)
    wanted = announce(stage, base, pages, rng)
    codec = rng.choice(["raw", "zstd"])
    if rng.randrange(3) == 0:
        some = runs_of(n for n in pages_of(wanted) if rng.randrange(2))
        await database.send(stage, pages, some, codec, per_batch=rng.choice([1, 5]))
        if some != wanted:
            with pytest.raises(ProtocolViolation):
                await stage.seal(len(pages))
        if rng.randrange(2):
            await stage.abandon()
        return False
    await database.send(stage, pages, wanted, codec, per_batch=rng.choice([1, 4, 30]))
    sealed = await stage.seal(len(pages), expected_root=root(pages), snapshot=rng.random() < 0.1)
    database.commit(sealed, len(pages[0]) if pages else 512)
    return True


async def history(seed: int) -> None:
    rng = random.Random(seed)
    database = Database(MemoryStore(), seed, cache_bytes=rng.choice([0, 3000, 1 << 20]))
    versions: list[Pages] = [[]]
    pages: Pages = []
    for _ in range(rng.randrange(2, 14)):
        pages = edited(pages, rng)
        if await push(database, versions[-1], pages, rng):
            versions.append(pages)
        if rng.randrange(4) == 0:
            database.restart()
    for version in range(1, len(versions)):
        content = versions[version]
        page_map = await database.storage.open_map(database.history, version)
        for how in rng.sample(HOW, 2):
            assert await read(
                database.storage, page_map, ((1, len(content)),) if content else (), **how
            ) == as_dict(content)
        some = runs_of(n + 1 for n in range(len(content)) if rng.randrange(2))
        assert await read(database.storage, page_map, some, **rng.choice(HOW)) == as_dict(
            content, some
        )
        older = rng.randrange(version)
        other = await database.storage.open_map(database.history, older)
        if len({len(p[0]) for p in (content, versions[older]) if p}) == 1:
            assert set(pages_of(page_map.diff(other))) == {
                n + 1
                for n in range(len(content))
                if content[n : n + 1] != versions[older][n : n + 1]
            }


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_every_version_of_a_random_history_reads_back(seed: int) -> None:
    with small_segments(3000), pytest.MonkeyPatch.context() as patch:
        patch.setattr(push_stage, "MAP_DELTAS_PER_SNAPSHOT_MAX", 3)
        patch.setattr(page_reader, "PAGE_ORDER_WINDOW_BYTES", 4096)
        patch.setattr(page_reader, "SEGMENT_READ_BYTES_MAX", 2000)
        patch.setattr(staged_content, "_INDEX_BASE_ONE_IN", 8)
        asyncio.run(history(seed))


def test_a_range_hash_is_blake3_of_the_joined_digests() -> None:
    async def scenario() -> None:
        database = Database(MemoryStore())
        pages = [page(n) for n in range(30)]
        await database.push(pages)
        page_map = await database.base()
        assert page_map.range_hash(4, 9) == blake3(digests_of(pages[3:9])).digest()
        assert page_map.root() == root(pages)
        assert page_map.page_count <= RANGE_PAGES_MAX

    asyncio.run(scenario())
