"""Every object store keeps the same promises: created once, whole, exact ranges, typed errors."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers_faults import Fault, FaultyProxy
from tests.helpers_s3 import S3

from edgereplica.adapters.memory_store import MemoryStore
from edgereplica.adapters.object_store import MeteredStore, open_store
from edgereplica.adapters.ports import ObjectStore
from edgereplica.events import limits
from edgereplica.events.errors import AlreadyExists, InvalidArgument, NotFound, StorageError

KINDS: dict[str, Callable[[Path], ObjectStore]] = {
    "local": lambda path: open_store(path / "pages"),
    "local-url": lambda path: open_store(f"file://{path}/pages"),
    "obstore-memory": lambda _: open_store("memory://"),
    "memory": lambda _: MemoryStore(),
    "metered": lambda _: MeteredStore(MemoryStore()),
}


@pytest.fixture(params=[*KINDS, "s3"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ObjectStore:
    if request.param == "s3":
        return _s3(request.getfixturevalue("s3"), monkeypatch)
    return KINDS[request.param](tmp_path)


def _s3(server: S3, monkeypatch: pytest.MonkeyPatch, endpoint: str = "") -> ObjectStore:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    return open_store(server.bucket())


@pytest.fixture
def faulty_s3(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ObjectStore, FaultyProxy]]:
    with FaultyProxy(s3.endpoint) as proxy:
        yield _s3(s3, monkeypatch, proxy.endpoint), proxy


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def test_what_was_put_comes_back(store: ObjectStore) -> None:
    async def scenario() -> None:
        parts = [b"first", bytearray(b"-second"), memoryview(b"x-third-x")[1:7]]
        await store.put("orgs/o1/segments/s1", parts)
        assert await store.get("orgs/o1/segments/s1") == b"first-second-third"
        assert bytes(await store.get_range("orgs/o1/segments/s1", 6, 6)) == b"second"
        assert bytes(await store.get_range("orgs/o1/segments/s1", 6, 0)) == b""
        tail, size = await store.get_tail("orgs/o1/segments/s1", 5)
        assert (bytes(tail), size) == (b"third", 18)
        whole, size = await store.get_tail("orgs/o1/segments/s1", 1000)
        assert (bytes(whole), size) == (b"first-second-third", 18)

    run(scenario())


@pytest.mark.parametrize("parts", [[], [b""]])
def test_an_empty_object_is_an_object(store: ObjectStore, parts: list[bytes]) -> None:
    async def scenario() -> None:
        await store.put("a/empty", parts)
        assert await store.get("a/empty") == b""
        assert [info.size_bytes for info in await store.list("a")] == [0]

    run(scenario())


def test_a_key_is_created_once(store: ObjectStore) -> None:
    async def scenario() -> None:
        await store.put("a/k", [b"winner"])
        with pytest.raises(AlreadyExists):
            await store.put("a/k", [b"loser"])
        assert await store.get("a/k") == b"winner"

    run(scenario())


def test_of_many_creators_one_wins(store: ObjectStore) -> None:
    async def scenario() -> None:
        bodies = [bytes([n]) * 100_000 for n in range(16)]
        results = await asyncio.gather(
            *(store.put("a/k", [body]) for body in bodies), return_exceptions=True
        )
        winners = [n for n, result in enumerate(results) if result is None]
        assert len(winners) == 1
        assert all(isinstance(r, AlreadyExists) for r in results if r is not None)
        assert await store.get("a/k") == bodies[winners[0]]

    run(scenario())


def test_a_missing_object_is_not_found(store: ObjectStore) -> None:
    async def scenario() -> None:
        for read in (
            store.get("a/none"),
            store.get_range("a/none", 0, 1),
            store.get_tail("a/none", 1),
        ):
            with pytest.raises(NotFound):
                await read
        await store.delete("a/none")

    run(scenario())


@pytest.mark.parametrize(("offset", "length"), [(0, 5), (3, 2), (4, 1), (100, 1)])
def test_a_range_past_the_end_is_never_short(store: ObjectStore, offset: int, length: int) -> None:
    async def scenario() -> None:
        await store.put("a/k", [b"1234"])
        with pytest.raises(StorageError):
            await store.get_range("a/k", offset, length)

    run(scenario())


def test_listing_takes_whole_segments_of_a_key(store: ObjectStore) -> None:
    async def scenario() -> None:
        for key in ("a/b/2", "a/b/1", "a/bc/3", "a/b.1", "b/x"):
            await store.put(key, [key.encode()])
        assert [info.key for info in await store.list("a/b")] == ["a/b/1", "a/b/2"]
        assert [info.size_bytes for info in await store.list("a/b")] == [5, 5]
        assert await store.list("none") == []
        await store.delete("a/b/1")
        assert [info.key for info in await store.list("a/b")] == ["a/b/2"]

    run(scenario())


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.b", "a b", "a\0"])
def test_a_key_that_could_leave_the_store_is_refused(store: ObjectStore, key: str) -> None:
    async def scenario() -> None:
        for attempt in (store.put(key, [b"x"]), store.get(key), store.delete(key)):
            with pytest.raises(InvalidArgument):
                await attempt

    run(scenario())


def test_a_store_that_works_is_ready(store: ObjectStore) -> None:
    async def scenario() -> None:
        await store.check()
        await asyncio.gather(*(store.check() for _ in range(8)))

    run(scenario())


def test_unknown_url() -> None:
    for url in ("ftp://host/x", "https://host/x"):
        with pytest.raises(InvalidArgument):
            open_store(url)


def test_remote_stores_open_by_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    for url in ("s3://bucket/prefix", "gs://bucket/prefix", "az://container/prefix"):
        assert open_store(url)


def test_the_meter_counts_requests_and_bytes() -> None:
    async def scenario() -> None:
        store = MeteredStore(MemoryStore())
        await store.put("a/k", [b"12", b"345"])
        before = store.usage
        await store.get("a/k")
        await store.get_range("a/k", 1, 3)
        await store.get_tail("a/k", 2)
        await store.list("a")
        await store.delete("a/k")
        used = store.usage.since(before)
        assert (before.puts, before.put_bytes) == (1, 5)
        assert (used.puts, used.gets, used.get_bytes, used.lists, used.deletes) == (0, 3, 10, 1, 1)

    run(scenario())


def test_a_local_put_is_synced_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power loss after `put` must find the file, and every new directory entry on the way to it."""
    synced: list[Path] = []
    fsync = os.fsync

    def recording(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    if sys.platform != "linux":
        pytest.fail("this check reads /proc: run it on Linux")
    monkeypatch.setattr(os, "fsync", recording)
    root = tmp_path / "new" / "pages"
    store = open_store(root)
    assert synced == [tmp_path, tmp_path / "new"]
    synced.clear()
    run(store.put("a/b/one", [b"1"]))
    assert synced == [root, root / "a", root / "a/b/one", root / "a/b"]
    synced.clear()
    run(store.put("a/b/two", [b"2"]))
    assert synced == [root / "a/b/two", root / "a/b"]
    synced.clear()
    run(store.put("a/c/one", [b"3"]))
    assert synced == [root, root / "a", root / "a/c/one", root / "a/c"]


_FULL = """
import asyncio, os, resource, signal, sys
from edgereplica.adapters.object_store import open_store
from edgereplica.events.errors import StorageError
store = open_store(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    asyncio.run(store.put("a/big", [bytes(1 << 20)]))
except StorageError as error:
    print(error.details["reason"], sys.argv[1] in error.message)
print(asyncio.run(store.list("a")), flush=True)
os._exit(0)  # obstore's threads may abort an interpreter that ends right behind a call of theirs
"""


def test_a_full_disk_is_told_apart_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path / "pages")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split("\n")[:2] == ["disk_full False", "[]"]


def test_what_a_killed_process_had_begun_to_write_goes_when_it_is_old(tmp_path: Path) -> None:
    """Nothing else knows of it: no list names it, no quota counts it."""

    async def check() -> None:
        store = open_store(tmp_path)
        for key in ("orgs/o/segments/whole", "orgs/o/segments-too/other"):
            await store.put(key, [b"bytes"])
        segments, long_ago = tmp_path / "orgs/o/segments", time.time() - limits.GC_GRACE_SECONDS - 9
        os.utime(segments / "whole", (long_ago, long_ago))
        for name in ("killed#1", "killed#12", "running#1"):
            (segments / name).write_bytes(b"byt")
        for name in ("killed#1", "killed#12"):
            os.utime(segments / name, (long_ago, long_ago))
        for _ in range(2):
            assert [info.key for info in await store.list("orgs/o/segments")] == [
                "orgs/o/segments/whole"
            ]
            assert {path.name for path in segments.iterdir()} == {"whole", "running#1"}
        assert await store.list("orgs/nobody/segments") == []

    asyncio.run(check())


@pytest.mark.parametrize("fault", ["refused", "cut", "failed", "answer_lost"])
def test_a_request_that_fails_once_is_sent_again(
    faulty_s3: tuple[ObjectStore, FaultyProxy], fault: Fault
) -> None:
    """Also when it was carried out and only its answer was lost: the second finds the first's."""
    store, proxy = faulty_s3

    async def scenario() -> None:
        proxy.fail_nth(fault, 1)
        await store.put("a/one", [b"first", b"-second"])
        proxy.fail_nth(fault, 1, method="GET")
        assert await store.get("a/one") == b"first-second"
        proxy.fail_nth("answer_lost", 1)
        with pytest.raises(AlreadyExists):
            await store.put("a/one", [b"another"])
        assert await store.get("a/one") == b"first-second"

    run(scenario())


def test_a_store_that_stays_down_is_an_error_that_names_the_key(
    faulty_s3: tuple[ObjectStore, FaultyProxy],
) -> None:
    store, proxy = faulty_s3

    async def scenario() -> None:
        proxy.fail_all("refused")
        with pytest.raises(StorageError) as failed:
            await store.put("a/one", [b"1"])
        assert failed.value.details == {"key": "a/one", "reason": "failed"}
        assert failed.value.retryable
        assert "127.0.0.1" not in failed.value.message
        assert len(proxy.requests) == limits.STORE_RETRIES_MAX + 1
        proxy.fail_all("none")
        await store.put("a/one", [b"1"])

    run(scenario())
