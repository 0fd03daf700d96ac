"""A whole server whose page store is slow, refuses or fails: the client hears it, nothing is torn,
and the next attempt goes on where the last one ended."""

import asyncio
import http.client
import itertools
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.helpers_faults import Fault, FaultyProxy
from tests.helpers_postgres import Postgres
from tests.helpers_s3 import S3
from tests.helpers_scaled import User, change, make_database, rows, server

from edgereplica.adapters import object_store, postgres_pool
from edgereplica.adapters.ports import Statement
from edgereplica.adapters.postgres_repo import PostgresRepo
from edgereplica.app.settings import Settings, load_settings
from edgereplica.events.errors import StorageError


@pytest.fixture
def store(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3.endpoint) as proxy:
        for name, value in (s3.environment | {"AWS_ENDPOINT_URL": proxy.endpoint}).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def settings(s3: S3, store: FaultyProxy, tmp_path: Path) -> Settings:
    return load_settings(tmp_path / "data", page_store_url=s3.bucket())


def ready(base: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=30)
    connection.request("GET", "/readyz")
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


@pytest.mark.parametrize("fault", ["refused", "cut", "failed", "answer_lost"])
def test_a_push_survives_a_request_that_fails(
    settings: Settings, store: FaultyProxy, tmp_path: Path, fault: Fault
) -> None:
    async def main() -> None:
        async with server(settings) as running:
            user = await User.signup(running.base)
            source = tmp_path / "source.db"
            make_database(source)
            for number in (1, 2):
                change(source, number)
                store.fail_nth(fault, number)
                pushed = await user.replica(running.base, source, retries=0).push()
                assert pushed.version == number
            assert await user.pulled(running.base, tmp_path / "back.db")
            assert rows(tmp_path / "back.db") == rows(source)

    asyncio.run(main())


def test_a_push_to_a_store_that_is_down_is_refused_and_changes_nothing(
    settings: Settings, store: FaultyProxy, tmp_path: Path
) -> None:
    async def main() -> None:
        async with server(settings) as running:
            user = await User.signup(running.base)
            source = tmp_path / "source.db"
            make_database(source)
            await user.replica(running.base, source).push()
            change(source, 1)
            store.fail_all("refused")
            with pytest.raises(StorageError) as refused:
                await user.replica(running.base, source, retries=0).push()
            assert store.target not in refused.value.message
            status, body = await asyncio.to_thread(ready, running.base)
            assert status == 503
            assert b"page_storage" in body
            store.fail_all("none")
            assert await user.pulled(running.base, tmp_path / "old.db") != source.read_bytes()
            assert (await user.replica(running.base, source).push()).version == 2
            assert await user.pulled(running.base, tmp_path / "new.db") == source.read_bytes()

    asyncio.run(main())


@pytest.mark.parametrize("fault", ["refused", "cut", "answer_lost"])
def test_a_store_that_fails_from_the_nth_request_on(
    settings: Settings,
    store: FaultyProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    """At every request of a push and of a pull by a server that has just started."""
    monkeypatch.setattr(object_store, "STORE_RETRIES_MAX", 0)
    source, seen = tmp_path / "source.db", []
    make_database(source)

    async def requests_of(work: Callable[[], Awaitable[object]]) -> int:
        """Fail `work` from its n-th request on, for every n that it has."""
        for number in itertools.count():
            before = len(store.requests)
            store.plan = lambda n, *_, last=before + number: fault if n > last else "none"
            try:
                await work()
            except StorageError:
                assert len(store.requests) > before + number
            else:
                assert len(store.requests) == before + number
                return number
            finally:
                store.fail_all("none")
        raise AssertionError("unreachable")

    async def push() -> None:
        async with server(settings) as running:
            user = seen[0]
            await user.replica(running.base, source, retries=0).push()

    async def pull() -> None:
        target = tmp_path / "fresh.db"
        for path in tmp_path.glob("fresh.db*"):
            path.unlink()
        async with server(settings) as running:
            user = seen[0]
            try:
                await user.replica(running.base, target, "pull", retries=0).pull()
            except StorageError:
                assert not target.exists()
                raise
            assert rows(target) == rows(source)

    async def main() -> None:
        async with server(settings) as running:
            seen.append(await User.signup(running.base))
            await seen[0].replica(running.base, source).push()
        change(source, 1)
        assert await requests_of(push) >= 2
        assert await requests_of(pull) >= 2
        async with server(settings) as running:
            assert (await seen[0].replica(running.base, source).push()).version == 2

    asyncio.run(main())


def test_a_small_push_costs_two_puts_and_no_list(
    settings: Settings, store: FaultyProxy, tmp_path: Path
) -> None:
    async def main() -> None:
        async with server(settings) as running:
            user = await User.signup(running.base)
            source = tmp_path / "source.db"
            make_database(source)
            for stamp in range(3):
                change(source, stamp)
                before = len(store.requests)
                await user.replica(running.base, source).push()
                sent = store.requests[before:]
                assert [method for method, _ in sent] == ["PUT", "PUT"], sent

    asyncio.run(main())


def test_a_slow_store_delays_a_push_and_nobody_else(
    settings: Settings, store: FaultyProxy, tmp_path: Path
) -> None:
    async def main() -> None:
        async with server(settings) as running:
            user = await User.signup(running.base)
            source = tmp_path / "source.db"
            make_database(source)
            store.plan = lambda _, method, __: "held" if method == "PUT" else "none"
            slow = asyncio.create_task(user.replica(running.base, source).push())
            await asyncio.to_thread(store.holding.wait)
            other = await User.signup(running.base, "b@example.org")
            assert other.database
            assert not slow.done()
            store.release()
            assert (await slow).version == 1

    asyncio.run(main())


def test_a_pool_without_a_free_connection_says_so(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_pool, "REPO_BUSY_SECONDS_MAX", 0.2)

    async def main() -> None:
        repo = await PostgresRepo.open(postgres.database(), connections=2)
        try:
            await repo.execute("CREATE TABLE t (i BIGINT)")
            insert = Statement("INSERT INTO t (i) VALUES (?)", (1,))

            async def slow():
                yield insert
                with pytest.raises(StorageError, match="all 1 database connections are busy"):
                    await repo.batch([insert])
                assert await repo.all("SELECT i FROM t") == []

            await repo.batch(slow())
            await repo.batch([insert])
            assert len(await repo.all("SELECT i FROM t")) == 2
        finally:
            await repo.close()

    asyncio.run(main())


def test_a_hundred_tasks_share_two_connections(postgres: Postgres) -> None:
    async def main() -> None:
        repo = await PostgresRepo.open(postgres.database(), connections=2)
        try:
            await repo.execute("CREATE TABLE t (i BIGINT)")
            insert = "INSERT INTO t (i) VALUES (?)"
            await asyncio.gather(*(repo.execute(insert, n) for n in range(100)))
            counts = await asyncio.gather(
                *(repo.first("SELECT COUNT(*) AS n FROM t") for _ in range(100))
            )
            assert counts == [{"n": 100}] * 100
            inside = await repo.first(
                "SELECT COUNT(*) AS n FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = 'edgereplica'"
            )
            assert inside == {"n": 2}
        finally:
            await repo.close()

    asyncio.run(main())
