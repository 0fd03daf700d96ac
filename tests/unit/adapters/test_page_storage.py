"""A push through page storage: what is asked for, stored, refused, and read back."""

import tracemalloc

import pytest
import zstandard
from blake3 import blake3
from tests.unit.adapters.page_storage_model import (
    SIZE,
    Database,
    as_dict,
    digests_of,
    page,
    read,
    root,
    run,
)

from edgereplica.adapters import push_stage
from edgereplica.adapters.hashing import hash_pages, root_of
from edgereplica.adapters.memory_store import MemoryStore
from edgereplica.adapters.object_store import MeteredStore
from edgereplica.adapters.page_storage import PageMap
from edgereplica.events.errors import (
    LimitExceeded,
    PageHashMismatch,
    ProtocolViolation,
    RootMismatch,
)
from edgereplica.events.limits import PAGES_PER_DATABASE_MAX
from edgereplica.events.pages import Runs, pages_of, runs_of


@pytest.mark.parametrize("codec", ["raw", "zstd"])
@pytest.mark.parametrize("size", [512, 4096, 65536])
def test_a_pushed_version_reads_back(codec: str, size: int) -> None:
    async def scenario() -> None:
        database = Database(MemoryStore())
        pages = [page(n, size) for n in range(40)]
        sealed = await database.push(pages, codec)
        assert sealed.root == root(pages) == root_of(hash_pages(b"".join(pages), size))
        assert (sealed.pages_changed, sealed.map_is_snapshot) == (40, True)
        for how in (
            {},
            {"codecs": ("raw", "zstd")},
            {"codecs": ("raw", "zstd"), "verify": False},
            {"page_order": True},
            {"codecs": ("raw", "zstd"), "decoded_bytes_max": size * 3},
        ):
            assert await database.read(1, **how) == as_dict(pages)
            some: Runs = ((2, 3), (7, 7), (30, 40))
            assert await database.read(1, some, **how) == as_dict(pages, some)
        assert await database.read(1, ()) == {}

    run(scenario())


def test_a_small_push_costs_two_requests_to_write_and_no_listing() -> None:
    async def scenario() -> None:
        store = MeteredStore(MemoryStore())
        database = Database(store)
        pages = [page(n) for n in range(500)]
        await database.push(pages)
        first = store.usage
        pages[7] = page(1000)
        await database.push(pages)
        used = store.usage.since(first)
        assert (used.puts, used.gets, used.lists) == (2, 0, 0)
        assert used.put_bytes < 3 * SIZE

    run(scenario())


def test_whole_blocks_are_forwarded_as_they_came() -> None:
    async def scenario() -> None:
        database = Database(MemoryStore())
        pages = [page(n) for n in range(64)]
        stage = await database.open()
        stage.announce([(1, digests_of(pages))])
        frames = [
            zstandard.ZstdCompressor(level=19).compress(b"".join(pages[at : at + 16]))
            for at in range(0, 64, 16)
        ]
        for at, frame in enumerate(frames):
            await stage.add(((16 * at + 1, 16 * at + 16),), "zstd", frame)
        database.commit(await stage.seal(64))
        reader = database.storage.reader(await database.base(), "o1")
        both = ("raw", "zstd")
        batches = [b async for b in reader.batches(((1, 64),), codecs=both)]
        assert [bytes(b.data) for b in batches] == frames
        batches = [b async for b in reader.batches(((1, 40),), codecs=both)]
        assert [bytes(b.data) for b in batches[:2]] == frames[:2]
        assert batches[2].runs == ((33, 40),)
        assert batches[2].codec == "zstd", "the sender's choice to compress is kept"
        assert all(b.codec == "raw" for b in [x async for x in reader.batches(((1, 64),))])

    run(scenario())


def test_only_what_changed_is_asked_for_and_changed_content_is_never_mixed() -> None:
    async def scenario() -> None:
        database = Database(MemoryStore())
        pages = [page(n) for n in range(300)]
        await database.push(pages)
        newer = list(pages)
        newer[4], newer[299] = page(1004), page(1299)
        newer += [page(1300)]
        stage = await database.open()
        assert stage.announce([(1, digests_of(newer))]) == ((5, 5), (300, 301))
        stage = await database.open()
        stage.keep_base()
        assert stage.announce([(5, digests_of(newer[4:5])), (300, digests_of(newer[299:]))]) == (
            (5, 5),
            (300, 301),
        )
        await database.send(stage, newer, ((5, 5), (300, 301)), "raw")
        sealed = await stage.seal(301, expected_root=root(newer))
        assert (sealed.pages_changed, sealed.map_is_snapshot) == (3, False)
        database.commit(sealed)
        for version, content in ((1, pages), (2, newer)):
            assert await database.read(version) == as_dict(content)
        maps = [await database.storage.open_map(database.history, v) for v in (1, 2)]
        assert maps[1].diff(maps[0]) == ((5, 5), (300, 301))
        assert maps[0].diff(maps[1]) == ((5, 5), (300, 300))

    run(scenario())


def test_moved_pages_are_not_sent_again() -> None:
    """A VACUUM moves pages without changing them."""

    async def scenario() -> None:
        database = Database(MemoryStore())
        pages = [page(n) for n in range(400)]
        await database.push(pages, "zstd")
        moved = pages[200:] + pages[:150]
        stage = await database.open()
        assert stage.announce([(1, digests_of(moved))]) == ()
        sealed = await stage.seal(350, expected_root=root(moved))
        assert sealed.segments == ()
        database.commit(sealed)
        for how in ({}, {"codecs": ("raw", "zstd"), "verify": False}, {"page_order": True}):
            assert await database.read(2, **how) == as_dict(moved)

    run(scenario())


def test_two_pages_of_one_content_are_both_read() -> None:
    async def scenario() -> None:
        database = Database(MemoryStore())
        await database.push([page(n) for n in range(70)])
        twice = [page(5)] * 64 + [page(6), page(6)]
        stage = await database.open()
        wanted = stage.announce([(1, digests_of(twice))])
        await database.send(stage, twice, wanted, "raw")
        database.commit(await stage.seal(66))
        both = ("raw", "zstd")
        assert await database.read(2, codecs=both, verify=False) == as_dict(twice)

    run(scenario())


def test_equal_ranges_take_the_bases_digests() -> None:
    async def scenario() -> None:
        database = Database(MemoryStore())
        pages = [page(n) for n in range(100)]
        await database.push(pages)
        newer = [*pages]
        newer[49] = page(2000)
        ranges = [
            (first, first + 9, blake3(digests_of(newer[first - 1 : first + 9])).digest())
            for first in range(1, 100, 10)
        ]
        beyond = (101, 104, bytes(32))
        stage = await database.open()
        assert stage.compare_ranges([*ranges, beyond]) == ((41, 50), (101, 104))
        assert stage.announce([(41, digests_of(newer[40:50]))]) == ((50, 50),)
        await database.send(stage, newer, ((50, 50),), "raw")
        assert (await stage.seal(100)).root == root(newer)
        stage = await database.open()
        assert stage.announce([(50, digests_of(newer[49:50]))]) == ((50, 50),)
        base_ranges = [(1, 100, root(pages))]
        assert stage.compare_ranges(base_ranges) == ()
        assert (await stage.seal(100)).root == root(pages), "the last word on a page holds"
        with pytest.raises(ProtocolViolation):
            (await database.open()).compare_ranges([(1, 100, root(pages))] * 700)

    run(scenario())


def test_content_that_arrived_is_not_asked_for_again() -> None:
    async def scenario() -> None:
        database = Database(MemoryStore())
        pages = [page(n) for n in range(20)]
        stage = await database.open()
        assert stage.announce([(1, digests_of(pages))]) == ((1, 20),)
        await database.send(stage, pages, ((5, 9),), "raw")
        pages[6] = page(99)
        assert stage.announce([(1, digests_of(pages))]) == ((1, 4), (7, 7), (10, 20))
        await database.send(stage, pages, ((1, 4), (7, 7), (10, 20)), "zstd")
        assert stage.announce([(1, digests_of(pages))]) == ()
        database.commit(await stage.seal(20, expected_root=root(pages)))
        assert await database.read(1) == as_dict(pages)

    run(scenario())


def test_pages_never_announced_are_hashed_on_arrival() -> None:
    async def scenario() -> None:
        database = Database(MemoryStore())
        pages = [page(n) for n in range(20)]
        stage = await database.open()
        for number in (3, 1, 2, *range(20, 3, -1)):
            await stage.add(((number, number),), "raw", pages[number - 1])
        assert (await stage.seal(20)).root == root(pages)

    run(scenario())


def test_pages_sent_again_unasked_are_still_read_right() -> None:
    """A v1 peer may send what the base holds, at other slots than the base has it."""

    async def scenario() -> None:
        database = Database(MemoryStore())
        pages = [page(n) for n in range(60)]
        await database.push(pages)
        pages[40] = page(400)
        stage = await database.open()
        stage.keep_base()
        await stage.add(((31, 60),), "raw", b"".join(pages[30:]))
        sealed = await stage.seal(60, expected_root=root(pages))
        assert sealed.pages_changed == 1
        assert await read(database.storage, sealed.page_map, ((1, 60),)) == as_dict(pages)
        database.commit(sealed)
        database.restart()
        assert await database.read(2) == as_dict(pages)

    run(scenario())


def test_single_raw_pages_are_stored_as_blocks_of_many() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        database = Database(store)
        pages = [page(n) for n in range(200)]
        stage = await database.open()
        stage.announce([(1, digests_of(pages))])
        for number in range(1, 201):
            assert await stage.add(((number, number),), "raw", pages[number - 1]) == (1, SIZE)
        sealed = await stage.seal(200)
        assert len(sealed.page_map.table.rows) == 2

    run(scenario())


def test_a_long_raw_batch_is_cut_into_blocks() -> None:
    async def scenario() -> None:
        database = Database(MemoryStore())
        pages = [page(n, 65536) for n in range(40)]
        stage = await database.open(65536)
        await stage.add(((1, 40),), "raw", b"".join(pages))
        sealed = await stage.seal(40)
        assert sealed.page_map.table.rows["pages"][1:].tolist() == [16, 16, 8]
        database.commit(sealed, 65536)
        assert await database.read(1) == as_dict(pages)

    run(scenario())


def test_a_new_page_size_replaces_everything() -> None:
    async def scenario() -> None:
        database = Database(MemoryStore())
        small, large = [page(n) for n in range(30)], [page(n, 1024) for n in range(9)]
        await database.push(small)
        sealed = await database.push(large)
        assert (sealed.map_is_snapshot, sealed.pages_changed) == (True, 9)
        assert await database.read(2) == as_dict(large)
        assert await database.read(1) == as_dict(small)
        await database.push(large[:3])
        database.restart()
        assert await database.read(3) == as_dict(large[:3])

    run(scenario())


def test_an_empty_version() -> None:
    async def scenario() -> None:
        database = Database(MemoryStore())
        for content in ([], [page(1)], []):
            await database.push(content)
        database.restart()
        for version, count in ((1, 0), (2, 1), (3, 0)):
            assert len(await database.read(version)) == count

    run(scenario())


# --- what a peer may not do -----------------------------------------------------------------------


def test_a_page_that_is_not_what_was_announced_is_refused_with_its_batch() -> None:
    async def scenario() -> None:
        database = Database(MemoryStore())
        pages = [page(n) for n in range(3)]
        stage = await database.open()
        stage.announce([(1, digests_of(pages))])
        with pytest.raises(PageHashMismatch):
            await stage.add(((1, 3),), "raw", pages[0] + pages[1] + page(9))
        with pytest.raises(ProtocolViolation):
            await stage.seal(3)

    run(scenario())


def _bomb() -> bytes:
    return zstandard.ZstdCompressor().compress(bytes(1 << 28))


@pytest.mark.parametrize(
    ("runs", "codec", "data"),
    [
        (((1, 2),), "raw", page(1)),
        (((1, 1),), "raw", page(1) * 2),
        (((1, 1),), "zstd", _bomb()),
        (((1, 1),), "zstd", b"\x28\xb5\x2f\xfd junk"),
        (((1, 1),), "lz4", page(1)),
        (((2, 2), (1, 1)), "raw", page(1) * 2),
        (((1, 1), (1, 1)), "raw", page(1) * 2),
        (((0, 0),), "raw", page(1)),
        ((), "raw", b""),
        (((1, 2049),), "zstd", zstandard.ZstdCompressor().compress(bytes(2049 * SIZE))),
        (((2**26 + 1, 2**26 + 1),), "raw", page(1)),
    ],
)
def test_a_batch_that_lies_about_itself_is_refused(runs: Runs, codec: str, data: bytes) -> None:
    async def scenario() -> None:
        stage = await Database(MemoryStore()).open()
        with pytest.raises((ProtocolViolation, LimitExceeded)):
            await stage.add(runs, codec, data)

    run(scenario())


def test_a_version_with_a_page_missing_is_not_sealed() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        database = Database(store)
        pages = [page(n) for n in range(10)]
        stage = await database.open()
        stage.announce([(1, digests_of(pages))])
        await database.send(stage, pages, ((1, 6), (8, 10)), "raw")
        with pytest.raises(ProtocolViolation, match="first page 7"):
            await stage.seal(10)
        await database.push(pages)
        stage = await database.open()
        stage.keep_base()
        stage.announce([(3, digests_of([page(77)]))])
        with pytest.raises(ProtocolViolation, match="first page 3"):
            await stage.seal(10)
        stage = await database.open()
        stage.keep_base()
        with pytest.raises(ProtocolViolation):
            await stage.seal(11)

    run(scenario())


def test_another_root_than_announced_writes_no_map() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        database = Database(store)
        pages = [page(n) for n in range(10)]
        stage = await database.open()
        await database.send(stage, pages, ((1, 10),), "raw")
        with pytest.raises(RootMismatch):
            await stage.seal(10, expected_root=bytes(32))
        assert store.objects == {}

    run(scenario())


def test_a_claim_of_many_pages_costs_nothing() -> None:
    async def scenario() -> None:
        stage = await Database(MemoryStore()).open()
        last = PAGES_PER_DATABASE_MAX
        digest = blake3(b"x").digest()
        assert stage.announce([(last, digest)]) == ((last, last),)
        with pytest.raises(LimitExceeded):
            stage.announce([(last, digest * 2)])
        with pytest.raises(LimitExceeded):
            stage.compare_ranges([(last, last + 1, digest)])
        with pytest.raises(ProtocolViolation):
            stage.announce([(0, digest)])
        with pytest.raises(ProtocolViolation, match="not all"):
            await stage.seal(last)
        with pytest.raises(LimitExceeded):
            await stage.seal(last + 1)

    tracemalloc.start()
    try:
        run(scenario())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_the_lock_byte_page_has_no_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the lock byte moved into the third page: it is never asked for, stored or read."""
    monkeypatch.setattr(push_stage, "lock_byte_page", lambda _: 3)
    monkeypatch.setattr(PageMap, "lock_page", 3)

    async def scenario() -> None:
        store = MemoryStore()
        database = Database(store)
        pages = [page(n) for n in range(6)]
        digests = digests_of(pages)
        zeroed = digests[:64] + bytes(32) + digests[96:]
        for announced in (zeroed, digests):
            stage = await database.open()
            assert (3, 3) not in runs_of(pages_of(stage.announce([(1, announced)])))
            if not database.history:
                await database.send(stage, pages, ((1, 2), (4, 6)), "raw")
            sealed = await stage.seal(6)
            assert sealed.root == blake3(zeroed).digest()
            assert sealed.page_map.block.tolist().index(0) == 2
            database.commit(sealed)
            assert sorted(await database.read(len(database.history))) == [1, 2, 4, 5, 6]
        stage = await database.open()
        with pytest.raises(ProtocolViolation, match="lock-byte"):
            await stage.add(((2, 4),), "raw", page(1) * 3)
        # Grown over the lock-byte page from below it.
        await database.push(pages[:2])
        stage = await database.open()
        stage.keep_base()
        assert stage.announce([(3, zeroed[64:])]) == ((4, 6),)
        await database.send(stage, pages, ((4, 6),), "raw")
        sealed = await stage.seal(6)
        assert sealed.root == blake3(zeroed).digest()
        assert sealed.pages_changed == 3
        database.commit(sealed)
        database.restart()
        assert sorted(await database.read(4)) == [1, 2, 4, 5, 6]
        two = await database.storage.open_map(database.history, 3)
        assert (await database.base()).diff(two) == ((4, 6),)

    run(scenario())
