"""Any number of servers on PostgreSQL and S3: no sticky sessions, one winner, nothing torn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.helpers_postgres import Postgres
from tests.helpers_proxy import StallingProxy
from tests.helpers_s3 import S3
from tests.helpers_scaled import (
    Running,
    User,
    admin_call,
    change,
    login,
    make_database,
    rows,
    scaled_out,
    scaled_out_environment,
    server,
)
from tests.helpers_server import ServerProcess
from tests.interop.v1_peer import decode, encode, page_hash
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from edgereplica.adapters.clock import ManualClock, SystemClock
from edgereplica.adapters.notifier import LocalNotifier
from edgereplica.adapters.ports import Change
from edgereplica.app.bootstrap import build, migrate, rebuild
from edgereplica.app.results import PushResult
from edgereplica.app.settings import Settings, load_settings
from edgereplica.events.errors import (
    Conflict,
    InvalidArgument,
    NetworkError,
    NotFound,
    StorageError,
)

TOLD_SECONDS_MAX = 1.0


@pytest.fixture
def settings(postgres: Postgres, s3: S3, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return scaled_out(postgres.database(), s3.bucket())


@asynccontextmanager
async def two(settings: Settings, **parts: Any) -> AsyncIterator[tuple[Running, Running]]:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(server(settings, **parts))
        yield first, await stack.enter_async_context(server(settings, **parts))


def test_servers_share_everything(settings: Settings, tmp_path: Path) -> None:
    async def main() -> None:
        async with two(settings) as (a, b):
            user = await User.signup(a.base)
            source = tmp_path / "source.db"
            make_database(source)
            pushed = await user.replica(a.base, source).push()
            assert (pushed.outcome, pushed.version) == ("pushed", 1)
            assert await user.pulled(b.base, tmp_path / "b.db") == source.read_bytes()
            change(source, 2)
            assert (await user.replica(b.base, source).push()).version == 2
            await user.replica(a.base, tmp_path / "b.db", "pull").pull()
            assert rows(tmp_path / "b.db") == rows(source)
            listed = await admin_call(
                b.base, "ListDatabases", {}, (await login(b.base))["sessionToken"]
            )
            assert [row["id"] for row in listed["databases"]] == [user.database]

    asyncio.run(main())


def test_commits_on_two_servers_end_in_one_winner_and_one_conflict(
    settings: Settings, tmp_path: Path
) -> None:
    async def main() -> None:
        async with two(settings) as (a, b):
            user = await User.signup(a.base)
            files = [tmp_path / "one.db", tmp_path / "two.db"]
            make_database(files[0])
            await user.replica(a.base, files[0]).push()
            await user.replica(b.base, files[1], "pull").pull()
            for round_number in range(1, 4):
                for number, file in enumerate(files):
                    change(file, 10 * round_number + number)
                replicas = [
                    user.replica(at.base, file) for at, file in zip((a, b), files, strict=True)
                ]
                results = await asyncio.gather(
                    *(replica.push() for replica in replicas), return_exceptions=True
                )
                winners = [n for n, result in enumerate(results) if isinstance(result, PushResult)]
                losers = [result for result in results if isinstance(result, Conflict)]
                assert (len(winners), len(losers)) == (1, 1), results
                assert losers[0].details["head"] == round_number + 1
                head = tmp_path / f"head{round_number}.db"
                await user.pulled(b.base, head)
                assert rows(head) == rows(files[winners[0]])
                loser = files[1 - winners[0]]
                await user.replica(a.base, loser, "pull").pull(force=True, backup=False)

    asyncio.run(main())


def test_a_push_begun_on_one_server_resumes_on_another(settings: Settings, tmp_path: Path) -> None:
    async def main() -> None:
        async with two(settings) as (a, b):
            user = await User.signup(a.base)
            source = tmp_path / "source.db"
            make_database(source, kib=3000)
            with StallingProxy(a.base, 2_000_000) as proxy:
                first = asyncio.create_task(user.replica(proxy.base, source, retries=0).push())
                await asyncio.to_thread(proxy.stalled.wait)
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
            await _staged(a)
            pushed = await user.replica(b.base, source).push()
            assert pushed.version == 1
            assert pushed.pages_resumed >= 256, "at least the first MiB had arrived"
            assert pushed.pages_sent + pushed.pages_resumed <= pushed.page_count
            assert await user.pulled(a.base, tmp_path / "back.db") == source.read_bytes()

    asyncio.run(main())


async def _staged(at: Running) -> int:
    """Waits until an interrupted push has reported what it holds; the number of segments."""
    async with asyncio.timeout(30):
        while True:
            row = await at.core.repo.first("SELECT COUNT(*) AS n FROM staged_segments")
            if row and row["n"]:
                return int(row["n"])
            await asyncio.sleep(0.02)


def test_a_server_killed_in_mid_push_leaves_nothing_but_staged_segments(
    settings: Settings, s3: S3, tmp_path: Path
) -> None:
    environment = s3.environment | scaled_out_environment(
        settings.database_url.get_secret_value(), settings.page_store_url
    )

    async def main() -> None:
        async with server(settings) as b:
            user = await User.signup(b.base)
            source = tmp_path / "source.db"
            make_database(source, kib=40_000)
            with (
                ServerProcess(tmp_path / "none", environment=environment) as doomed,
                StallingProxy(doomed.base, 36_000_000) as proxy,
            ):
                first = asyncio.create_task(user.replica(proxy.base, source, retries=0).push())
                await asyncio.to_thread(proxy.stalled.wait)
                await _staged(b)
                doomed.process.kill()
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
            assert (await b.core.repo.first("SELECT head_version FROM databases")) == {
                "head_version": 0
            }
            assert await b.core.store.list(f"databases/{user.database}") == []
            pushed = await user.replica(b.base, source).push()
            assert (pushed.outcome, pushed.version) == ("pushed", 1)
            assert pushed.pages_resumed >= 1000, "at least one segment had been stored"
            assert pushed.pages_sent + pushed.pages_resumed <= pushed.page_count
            assert await user.pulled(b.base, tmp_path / "back.db") == source.read_bytes()

    asyncio.run(main())


def test_a_new_head_and_a_deletion_are_known_to_all_within_a_second(
    settings: Settings, tmp_path: Path
) -> None:
    async def main() -> None:
        async with two(settings) as (a, b):
            heard: asyncio.Queue[Change] = asyncio.Queue()
            b.core.notifier.subscribe(heard.put_nowait)
            user = await User.signup(a.base)
            source = tmp_path / "source.db"
            make_database(source)
            await user.replica(a.base, source).push()
            async with asyncio.timeout(TOLD_SECONDS_MAX):
                assert await heard.get() == Change("head", user.database)
            async with session(b.base, user) as running:
                delete = {"databaseId": user.database}
                await admin_call(a.base, "DeleteDatabase", delete, user.session_token)
                async with asyncio.timeout(TOLD_SECONDS_MAX):
                    assert await ended(running) == (1008, "the database was deleted")
            assert heard.get_nowait() == Change("deleted", user.database)

    asyncio.run(main())


@asynccontextmanager
async def session(base: str, user: User) -> AsyncIterator[Any]:
    """A v1 push that has said hello, had its answer, and says no more."""
    headers = {"Authorization": f"Bearer {user.tokens['push']}"}
    url = base.replace("http", "ws", 1) + "/sync"
    async with connect(url, additional_headers=headers, proxy=None) as running:
        hello = {"protocol_version": 1, "page_size": 4096, "max_page": 1}
        await running.send(encode("hello", hello))
        await running.recv()
        yield running


async def ended(running: Any) -> tuple[int, str]:
    """How a session was closed by the server, and the first four words of its error."""
    last = b""
    try:
        while True:
            last = await running.recv()
    except ConnectionClosed as closed:
        kind, data = decode(last)
        assert kind == "error"
        return closed.rcvd.code, " ".join(data["message"].split()[:4])


def test_what_nobody_was_told_is_stale_and_never_wrong(settings: Settings, tmp_path: Path) -> None:
    """Every notification between the two servers is lost."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            a, b = [
                await stack.enter_async_context(server(settings, notifier=LocalNotifier()))
                for _ in range(2)
            ]
            user = await User.signup(a.base)
            one, other = tmp_path / "one.db", tmp_path / "other.db"
            make_database(one)
            await user.replica(a.base, one).push()
            # Now the history of version 1 is cached by both.
            await user.replica(b.base, other, "pull").pull()
            change(one, 1)
            await user.replica(a.base, one).push()
            change(other, 2)
            with pytest.raises(Conflict):
                await user.replica(b.base, other).push()
            await user.pulled(b.base, tmp_path / "head.db")
            assert rows(tmp_path / "head.db") == rows(one)

            async with session(b.base, user) as running:
                delete = {"databaseId": user.database}
                await admin_call(a.base, "DeleteDatabase", delete, user.session_token)
                page = bytes(4096)
                await running.send(encode("page_hash", {"page_no": 1, "hash": page_hash(page)}))
                assert b"request_page" in await running.recv(), "it was not told"
                await running.send(encode("page_data", {"page_no": 1, "data": page}))
                await running.send(encode("complete"))
                assert await ended(running) == (1008, "there is no database")
            count = await a.core.repo.first(
                "SELECT COUNT(*) AS n FROM events WHERE kind = ?", "version_committed"
            )
            assert count == {"n": 2}
            with pytest.raises(NotFound):
                await user.pulled(b.base, tmp_path / "gone.db")

    asyncio.run(main())


@pytest.mark.parametrize("force", [False, True])
def test_old_content_is_not_in_sync_at_a_server_that_knows_no_later_version(
    settings: Settings, tmp_path: Path, force: bool
) -> None:
    """Unchanged content of version 1 comes to a server that was never told of version 2."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            a, b = [
                await stack.enter_async_context(server(settings, notifier=LocalNotifier()))
                for _ in range(2)
            ]
            user = await User.signup(a.base)
            one, other = tmp_path / "one.db", tmp_path / "other.db"
            make_database(one)
            await user.replica(a.base, one).push()
            await user.replica(b.base, other, "pull").pull()
            old = rows(other)
            change(one, 1)
            await user.replica(a.base, one).push()
            history = b.core.histories.cached(user.database)
            assert history is not None
            assert history.head_version == 1, "it was told"
            if force:
                pushed = await user.replica(b.base, other).push(force=True)
                assert (pushed.outcome, pushed.version) == ("pushed", 3)
            else:
                with pytest.raises(Conflict) as refused:
                    await user.replica(b.base, other).push()
                assert refused.value.details["head"] == 2
            await user.pulled(a.base, tmp_path / "head.db")
            assert rows(tmp_path / "head.db") == (old if force else rows(one))

    asyncio.run(main())


def test_clocks_of_servers_differ(settings: Settings, tmp_path: Path) -> None:
    """One server is ten minutes ahead; times in a history never go back."""

    async def main() -> None:
        now = SystemClock().now()
        async with AsyncExitStack() as stack:
            ahead, behind = [
                await stack.enter_async_context(server(settings, clock=ManualClock(at)))
                for at in (now + 600, now)
            ]
            user = await User.signup(ahead.base)
            source = tmp_path / "source.db"
            make_database(source)
            for stamp, at in enumerate((ahead, behind, behind, ahead), 1):
                change(source, stamp)
                assert (await user.replica(at.base, source).push()).version == stamp
            org = (await behind.core.repo.first("SELECT org_id FROM databases") or {})["org_id"]
            history = await behind.core.histories.open(user.database, org)
            times = [version.committed_at for version in history.versions]
            assert times == sorted(times)
            assert history.at_time(now + 601).version == 4
            with pytest.raises(NotFound):
                history.at_time(now + 599)

    asyncio.run(main())


def test_postgres_is_restarted_under_running_servers(
    settings: Settings, postgres: Postgres, tmp_path: Path
) -> None:
    async def main() -> None:
        async with two(settings) as (a, b):
            user = await User.signup(a.base)
            source = tmp_path / "source.db"
            make_database(source)
            await user.replica(a.base, source).push()
            restarting = asyncio.create_task(asyncio.to_thread(postgres.restart))
            stamp = refused = 0
            while not restarting.done() or stamp < 5:
                stamp += 1
                change(source, stamp)
                try:
                    await user.replica((a, b)[stamp % 2].base, source).push()
                except (StorageError, NetworkError):
                    refused += 1
            await restarting
            change(source, -1)
            await user.replica(b.base, source).push()
            assert await user.pulled(a.base, tmp_path / "back.db")
            assert rows(tmp_path / "back.db") == rows(source)
            # Notifications flow again.
            heard: asyncio.Queue[Change] = asyncio.Queue()
            b.core.notifier.subscribe(heard.put_nowait)
            change(source, -2)
            await user.replica(a.base, source).push()
            async with asyncio.timeout(30):
                while await heard.get() != Change("head", user.database):
                    pass

    asyncio.run(main())


def test_sessions_of_a_database_deleted_while_nothing_was_heard_end(
    settings: Settings, tmp_path: Path
) -> None:
    async def main() -> None:
        async with server(settings, notifier=LocalNotifier()) as a, server(settings) as b:
            user = await User.signup(a.base)
            async with session(b.base, user) as running:
                delete = {"databaseId": user.database}
                await admin_call(a.base, "DeleteDatabase", delete, user.session_token)
                await b.core.repo.first(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE query LIKE 'LISTEN%' AND datname = current_database()"
                )
                async with asyncio.timeout(30):
                    assert await ended(running) == (1008, "the database was deleted")

    asyncio.run(main())


def test_admin_commands_work_on_postgres(settings: Settings) -> None:
    migrated = migrate(settings)
    assert migrated[0] == "0001_log_and_projections"
    assert migrate(settings) == []

    async def main() -> None:
        async with server(settings) as a:
            await User.signup(a.base)
            await a.core.repo.execute("DELETE FROM memberships")
            assert await asyncio.to_thread(rebuild, settings) >= 4
            assert await a.core.repo.all("SELECT role FROM memberships") == [{"role": "admin"}]

    asyncio.run(main())


def test_half_a_configuration_is_refused(postgres: Postgres, tmp_path: Path) -> None:
    async def start(settings: Settings) -> None:
        async with build(settings):
            raise AssertionError("started")

    url = postgres.database()
    with pytest.raises(InvalidArgument, match="PAGE_STORE_URL"):
        asyncio.run(start(load_settings(tmp_path, database_url=url)))
    with pytest.raises(InvalidArgument, match="SESSION_KEY"):
        asyncio.run(start(load_settings(tmp_path, database_url=url, page_store_url="memory://")))
    with pytest.raises(InvalidArgument, match="DATABASE_URL"):
        load_settings(tmp_path, database_url="mysql://secret@host/x")
    with pytest.raises(StorageError, match="PostgreSQL cannot be used") as refused:
        asyncio.run(start(scaled_out("postgresql://x:hunter2@127.0.0.1:1/x", "memory://")))
    assert "hunter2" not in str(refused.value)
    assert list(tmp_path.iterdir()) == [], "nothing was made on this machine"
