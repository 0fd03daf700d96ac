"""Interrupted pushes, failing stores, damaged objects: never wrong bytes, never a dangling map."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from tests.unit.adapters.page_storage_model import (
    SIZE,
    Database,
    Pages,
    as_dict,
    digests_of,
    page,
    read,
    root,
    run,
    small_segments,
)

from edgereplica.adapters.map_format import decode_map, encode_delta, encode_snapshot
from edgereplica.adapters.memory_store import MemoryStore
from edgereplica.adapters.object_store import MeteredStore
from edgereplica.adapters.page_map import Lineage, MapDelta
from edgereplica.adapters.page_storage import MapCache, PageMap, StagedSegment
from edgereplica.adapters.ports import Buffer, Payload
from edgereplica.events.errors import EdgeReplicaError, NotFound, ProtocolViolation, StorageError
from edgereplica.events.limits import (
    MAP_DELTAS_PER_SNAPSHOT_MAX,
    SEGMENT_UPLOADS_IN_FLIGHT_MAX,
    SEGMENTS_UNREPORTED_MAX,
)
from edgereplica.events.pages import count_pages


class FailingStore(MemoryStore):
    """Fails every put from the n-th on: a disk that is full, a server that dies there."""

    def __init__(self, puts_allowed: int) -> None:
        super().__init__()
        self.puts_allowed = puts_allowed
        self.puts = 0

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        self.puts += 1
        await asyncio.sleep(0)
        if self.puts > self.puts_allowed:
            raise StorageError(f"could not write {key}", key=key, reason="disk_full")
        await super().put(key, parts)


class SlowStore(MemoryStore):
    """Puts wait until they are let through."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.running = 0
        self.most = 0

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        await self.gate.wait()
        await super().put(key, parts)
        self.running -= 1


def make(count: int) -> Pages:
    return [page(n) for n in range(count)]


# --- interrupted pushes ---------------------------------------------------------------------------


def test_an_interrupted_push_resumes_where_it_stopped() -> None:
    async def scenario() -> None:
        database = Database(MemoryStore())
        pages = make(100)
        stage = await database.open()
        stage.announce([(1, digests_of(pages))])
        await database.send(stage, pages, ((1, 70),), "zstd", per_batch=8)
        abandoned = await stage.abandon()
        assert abandoned.error is None
        assert [s.segment_id for s in abandoned.segments] == database.staged
        assert sum(s.pages for s in abandoned.segments) == 70
        database.restart()
        stage = await database.open()
        assert stage.staged_pages == 70
        # The file went on changing meanwhile: a page is new, another has moved.
        pages[3], pages[90] = page(1003), pages[3]
        assert stage.announce([(1, digests_of(pages))]) == ((4, 4), (71, 90), (92, 100))
        await database.send(stage, pages, ((4, 4), (71, 90), (92, 100)), "raw")
        sealed = await stage.seal(100, expected_root=root(pages))
        assert len(sealed.segments) == 1 + len(database.staged)
        database.commit(sealed)
        database.restart()
        assert await database.read(1) == as_dict(pages)

    with small_segments(8 * SIZE):
        run(scenario())


def test_full_segments_are_reported_and_the_last_goes_with_the_commit() -> None:
    async def scenario() -> None:
        database = Database(MemoryStore())
        pages = make(64)
        stage = await database.open()
        stage.announce([(1, digests_of(pages))])
        await database.send(stage, pages, ((1, 64),), "raw", per_batch=8)
        sealed = await stage.seal(64)
        assert len(sealed.segments) == 4
        assert len(database.staged) == 3
        assert set(database.staged) < set(sealed.segments)
        # The race for the version is lost: another parent, and still nothing to send again.
        again = await stage.seal(64, snapshot=True)
        assert again.map_key != sealed.map_key
        assert (again.segments, again.root) == (sealed.segments, sealed.root)
        abandoned = await stage.abandon()
        assert {s.segment_id for s in abandoned.segments} == set(sealed.segments)
        stage = await database.open()
        assert stage.announce([(1, digests_of(pages))]) == ()

    with small_segments(17 * SIZE):
        run(scenario())


def _delete(store: MemoryStore, key: str) -> None:
    del store.objects[key]


def _flip(store: MemoryStore, key: str) -> None:
    data = bytearray(store.objects[key])
    data[-30] ^= 1
    store.objects[key] = bytes(data)


def _cut(store: MemoryStore, key: str) -> None:
    store.objects[key] = store.objects[key][:-40]


@pytest.mark.parametrize("damage", [_delete, _flip, _cut])
def test_a_staged_segment_that_cannot_be_read_is_sent_again(
    damage: Callable[[MemoryStore, str], None],
) -> None:
    async def scenario() -> None:
        store = MemoryStore()
        database = Database(store)
        pages = make(32)
        stage = await database.open()
        await database.send(stage, pages, ((1, 32),), "raw", per_batch=8)
        await stage.abandon()
        damage(store, f"orgs/o1/segments/{database.staged[1]}")
        stage = await database.open()
        assert stage.unreadable_segments == (database.staged[1],)
        wanted = stage.announce([(1, digests_of(pages))])
        assert count_pages(wanted) == 8
        await database.send(stage, pages, wanted, "raw")
        database.commit(await stage.seal(32, expected_root=root(pages)))
        assert await database.read(1) == as_dict(pages)

    with small_segments(9 * SIZE):
        run(scenario())


def test_a_store_that_fails_to_read_a_footer_fails_the_push() -> None:
    class Unreadable(MemoryStore):
        async def get_tail(self, key: str, length: int) -> tuple[memoryview, int]:
            raise StorageError(f"could not read {key}", key=key, reason="failed")

    async def scenario() -> None:
        database = Database(Unreadable())
        database.staged.append("s1")
        with pytest.raises(StorageError):
            await database.open()

    run(scenario())


# --- uploads --------------------------------------------------------------------------------------


def test_a_slow_store_holds_the_sender_back() -> None:
    async def scenario() -> None:
        store = SlowStore()
        database = Database(store)
        pages = make(80)
        stage = await database.open()
        sending = asyncio.create_task(database.send(stage, pages, ((1, 80),), "raw", per_batch=8))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not sending.done()
        assert store.running == store.most == SEGMENT_UPLOADS_IN_FLIGHT_MAX
        assert database.sent == 8 * (SEGMENT_UPLOADS_IN_FLIGHT_MAX + 1)
        store.gate.set()
        await sending
        assert store.most == SEGMENT_UPLOADS_IN_FLIGHT_MAX
        database.commit(await stage.seal(80))
        assert await database.read(1) == as_dict(pages)

    with small_segments(9 * SIZE):
        run(scenario())


class TakingStore(SlowStore):
    """Takes the bytes at once and is durable when the gate opens."""

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        await MemoryStore.put(self, key, parts)
        if isinstance(parts, Payload):
            parts.release()
            assert not parts
        self.running += 1
        self.most = max(self.most, self.running)
        await self.gate.wait()
        self.running -= 1


def test_what_a_store_has_taken_holds_the_sender_back_only_when_it_is_much() -> None:
    most = SEGMENT_UPLOADS_IN_FLIGHT_MAX + SEGMENTS_UNREPORTED_MAX

    async def scenario() -> None:
        store = TakingStore()
        database = Database(store)
        pages = make(8 * (most + 4))
        stage = await database.open()
        runs = ((1, len(pages)),)
        sending = asyncio.create_task(database.send(stage, pages, runs, "raw", per_batch=8))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert not sending.done()
        assert store.running == store.most == most
        assert database.sent == 8 * (most + 1)
        # Nothing is durable, so nothing may be counted on.
        assert database.staged == []
        store.gate.set()
        await sending
        database.commit(await stage.seal(len(pages)))
        assert await database.read(1) == as_dict(pages)
        assert len(database.staged) == most + 3

    with small_segments(9 * SIZE):
        run(scenario())


@pytest.mark.parametrize("fails", [False, True])
def test_a_seal_waits_for_every_upload(fails: bool) -> None:
    """A version must not be committed while a segment of it may still fail."""

    class Gated(SlowStore):
        async def put(self, key: str, parts: Sequence[Buffer]) -> None:
            self.running += 1
            first = self.running == 1
            if first:
                await self.gate.wait()
            if first and fails:
                raise StorageError(f"could not write {key}", key=key, reason="failed")
            await MemoryStore.put(self, key, parts)

    async def scenario() -> None:
        store = Gated()
        database = Database(store)
        pages = make(8 * SEGMENT_UPLOADS_IN_FLIGHT_MAX + 8)
        stage = await database.open()
        await database.send(stage, pages, ((1, len(pages)),), "raw", per_batch=8)
        sealing = asyncio.create_task(stage.seal(len(pages)))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not sealing.done()
        store.gate.set()
        if fails:
            with pytest.raises(StorageError):
                await sealing
        else:
            sealed = await sealing
            assert len(store.objects) == len(sealed.segments) + 1

    with small_segments(9 * SIZE):
        run(scenario())


def test_a_cancelled_push_still_keeps_what_arrived() -> None:
    async def scenario() -> None:
        store = SlowStore()
        database = Database(store)
        pages = make(80)
        stage = await database.open()
        sending = asyncio.create_task(database.send(stage, pages, ((1, 80),), "raw", per_batch=8))
        for _ in range(1000):
            await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        store.gate.set()
        abandoned = await stage.abandon()
        assert abandoned.error is None
        assert sum(s.pages for s in abandoned.segments) == database.sent
        assert len(database.staged) == len(store.objects) == 3

    with small_segments(9 * SIZE):
        run(scenario())


def test_a_failed_upload_ends_the_push_and_abandon_does_not_raise() -> None:
    async def scenario() -> None:
        store = FailingStore(puts_allowed=2)
        database = Database(store)
        pages = make(80)
        stage = await database.open()
        with pytest.raises(StorageError):
            await database.send(stage, pages, ((1, 80),), "raw", per_batch=8)
        abandoned = await stage.abandon()
        assert abandoned.error is not None
        assert abandoned.error.details["reason"] == "disk_full"
        assert len(abandoned.segments) == 2
        assert [s.segment_id for s in abandoned.segments] == database.staged

    with small_segments(9 * SIZE):
        run(scenario())


def test_a_log_that_refuses_a_report_ends_the_push() -> None:
    async def scenario() -> None:
        database = Database(MemoryStore())

        async def refuse(segment: StagedSegment) -> None:
            raise StorageError("the log is gone")

        stage = await database.storage.open_stage(
            org_id="o1",
            database_id="d1",
            base=PageMap.empty(SIZE),
            page_size=SIZE,
            staged_segment_ids=[],
            on_segment=refuse,
        )
        pages = make(80)
        with pytest.raises(StorageError, match="the log"):
            await database.send(stage, pages, ((1, 80),), "raw", per_batch=8)
            await stage.seal(80)
        assert (await stage.abandon()).error is not None

    with small_segments(9 * SIZE):
        run(scenario())


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_no_crash_point_leaves_a_version_without_its_objects(codec: str) -> None:
    """The store dies at its n-th put, for every n; then another process pushes again."""

    async def scenario(puts_allowed: int) -> bool:
        store = FailingStore(puts_allowed=10**9)
        database = Database(store)
        first, second = make(40), [page(n + n % 3 * 500) for n in range(50)]
        await database.push(first, codec)
        store.puts_allowed = store.puts + puts_allowed
        sealed = None
        try:
            sealed = await database.push(second, codec)
        except StorageError:
            assert len(database.history) == 1
        store.puts_allowed = 10**9
        database.restart()
        if sealed is not None:
            assert f"orgs/o1/segments/{sealed.segments[0]}" in store.objects
        else:
            await database.push(second, codec)
        for version, content in ((1, first), (2, second)):
            page_map = await database.storage.open_map(database.history, version)
            for segment in page_map.segments():
                assert f"orgs/o1/segments/{segment}" in store.objects
            assert await database.read(version) == as_dict(content)
        return sealed is not None

    with small_segments(9 * SIZE):
        outcomes = [run(scenario(n)) for n in range(9)]
    assert outcomes[0] is False
    assert outcomes[-1] is True


# --- damaged objects ------------------------------------------------------------------------------


async def _two_versions(store: MemoryStore) -> tuple[Database, list[Pages]]:
    database = Database(store)
    first = make(8)
    second = [*first[:5], page(100), *first[6:], page(101)]
    await database.push(first, "zstd")
    await database.push(second)
    assert [ref.map_is_snapshot for ref in database.history] == [True, False]
    return database, [first, second]


def test_no_flipped_bit_is_ever_handed_out() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        database, versions = await _two_versions(store)
        found = 0
        for key, sound in list(store.objects.items()):
            step = 1 if "/maps/" in key else 5
            for at in range(0, len(sound), step):
                store.objects[key] = sound[:at] + bytes([sound[at] ^ 0x10]) + sound[at + 1 :]
                database.restart()
                for how in ({}, {"codecs": ("raw", "zstd"), "verify": False}):
                    try:
                        assert await database.read(2, **how) == as_dict(versions[1])
                    except StorageError as error:
                        assert error.details == {"key": key, "reason": "corrupt"}
                        found += 1
            store.objects[key] = sound
        assert found > 2000
        database.restart()
        assert await database.read(2) == as_dict(versions[1])

    run(scenario())


def test_missing_and_truncated_objects_are_named() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        database, versions = await _two_versions(store)
        for key, sound in list(store.objects.items()):
            for damaged in (None, b"", sound[:9], sound[: len(sound) // 2]):
                if damaged is None:
                    del store.objects[key]
                else:
                    store.objects[key] = damaged
                database.restart()
                with pytest.raises(StorageError) as caught:
                    await database.read(2)
                assert caught.value.details["key"] == key
                assert not isinstance(caught.value, NotFound)
            store.objects[key] = sound
        assert await database.read(2) == as_dict(versions[1])

    run(scenario())


def test_a_sound_object_in_the_wrong_place_is_refused() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        database, _ = await _two_versions(store)
        other = Database(store, seed=7)
        await other.push([page(n + 50) for n in range(8)])
        keys = [database.history[0].map_key, database.history[1].map_key]
        sound = {key: store.objects[key] for key in keys}
        first, second = (decode_map(sound[key], key) for key in keys)
        assert isinstance(second.content, MapDelta)
        stranger = b"".join(encode_delta(second.content, second.root, bytes(32)))
        assert second.parent_root == first.root
        for key, instead, why in (
            (keys[0], sound[keys[1]], "not the map of version 1"),
            (keys[1], sound[keys[0]], "not the map of version 2"),
            (keys[0], store.objects[other.history[0].map_key], "not the map of version 1"),
            (keys[1], stranger, "relative to another version"),
        ):
            store.objects[key] = instead
            database.restart()
            with pytest.raises(StorageError, match=why):
                await database.read(2)
            store.objects[key] = sound[key]

    run(scenario())


def test_a_map_with_a_sound_checksum_and_a_wrong_root_is_refused() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        database, _ = await _two_versions(store)
        key = database.history[0].map_key
        decoded = decode_map(store.objects[key], key)
        assert isinstance(decoded.content, PageMap)
        digests = decoded.content.digests.copy()
        digests[3, 3] ^= 1
        content = decoded.content
        forged = PageMap(SIZE, digests, content.block, content.slot, content.table)
        store.objects[key] = b"".join(encode_snapshot(forged, decoded.root))
        database.restart()
        with pytest.raises(StorageError, match="root"):
            await database.read(1)

    run(scenario())


def test_a_page_whose_digest_is_another_is_not_handed_out() -> None:
    """Sound objects, and a map that points to the wrong slot: checksums cannot see that."""

    async def scenario() -> None:
        database = Database(MemoryStore())
        await database.push(make(8), "zstd")
        page_map = await database.base()
        slot = page_map.slot.copy()
        slot[[2, 3]] = slot[[3, 2]]
        wrong = replace(page_map, slot=slot)
        for how in ({}, {"page_order": True}, {"codecs": ("raw", "zstd"), "verify": False}):
            with pytest.raises(StorageError, match="another digest"):
                await read(database.storage, wrong, ((1, 8),), **how)
        assert len(await read(database.storage, wrong, ((5, 8),))) == 4

    run(scenario())


# --- chains and the cache -------------------------------------------------------------------------


def test_opening_reads_a_bounded_chain_however_long_the_history() -> None:
    async def scenario() -> None:
        store = MeteredStore(MemoryStore())
        database = Database(store)
        pages = make(400)
        versions = []
        for number in range(3 * MAP_DELTAS_PER_SNAPSHOT_MAX):
            pages = list(pages)
            pages[number * 7 % 400] = page(1000 + number)
            before = store.usage
            await database.push(pages)
            used = store.usage.since(before)
            assert (used.puts, used.gets, used.lists) == (2, 0, 0)
            versions.append(pages)
        database.restart()
        most = 0
        for version in range(1, len(versions) + 1, 5):
            before = store.usage
            page_map = await database.storage.open_map(database.history, version)
            most = max(most, store.usage.since(before).gets)
            assert page_map.root() == root(versions[version - 1])
            assert page_map.lineage.version == version
        assert most <= MAP_DELTAS_PER_SNAPSHOT_MAX + 1
        assert await database.read(len(versions)) == as_dict(versions[-1])
        assert sum(ref.map_is_snapshot for ref in database.history) in (2, 3)

    run(scenario())


def test_large_changes_write_a_snapshot_soon() -> None:
    async def scenario() -> None:
        database = Database(MemoryStore())
        for number in range(6):
            await database.push([page(n + 1000 * number * (n < 25)) for n in range(100)])
        flags = [ref.map_is_snapshot for ref in database.history]
        assert flags == [True, False, True, False, True, False]

    run(scenario())


def _kept_as(key: str, pages: int = 100) -> PageMap:
    return replace(PageMap.empty(SIZE).resized(pages), lineage=Lineage(1, map_keys=(key,)))


def test_the_cache_is_bounded_and_drops_the_least_recently_used() -> None:
    maps = [_kept_as(str(number)) for number in range(4)]
    cache = MapCache(3 * maps[0].nbytes)
    for page_map in maps[:3]:
        cache.put(page_map)
    assert cache.get(("0",)) is maps[0]
    cache.put(maps[3])
    assert cache.nbytes == 3 * maps[0].nbytes
    assert cache.get(("1",)) is maps[1], "found while somebody holds it"
    del maps[1:], page_map
    assert cache.get(("1",)) is None
    assert cache.get(("0",)) is not None
    assert cache.get(("3",)) is not None
    cache.put(_kept_as("huge", 1000))
    assert cache.nbytes <= 3 * maps[0].nbytes


def test_sessions_that_open_one_version_at_once_read_it_once() -> None:
    async def scenario() -> None:
        store = MeteredStore(MemoryStore())
        database = Database(store)
        await database.push(make(50))
        database.restart()
        before = store.usage
        maps = await asyncio.gather(*(database.base() for _ in range(16)))
        assert store.usage.since(before).gets == 1
        assert all(page_map is maps[0] for page_map in maps)

    run(scenario())


def test_a_version_that_is_not_there() -> None:
    async def scenario() -> None:
        database = Database(MemoryStore())
        await database.push(make(3))
        for version in (2, -1):
            with pytest.raises(NotFound):
                await database.storage.open_map(database.history, version)
        empty = await database.storage.open_map(database.history, 0)
        assert empty.page_count == 0
        with pytest.raises(EdgeReplicaError):
            await database.read(1, ((3, 4),))

    run(scenario())


def test_a_sealed_push_takes_no_more() -> None:
    async def scenario() -> None:
        database = Database(MemoryStore())
        stage = await database.open()
        await database.send(stage, make(3), ((1, 3),), "raw")
        await stage.seal(3)
        with pytest.raises(ProtocolViolation):
            await stage.add(((1, 1),), "raw", page(9))

    run(scenario())
