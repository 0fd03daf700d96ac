"""`edgereplica serve --workers N`: one address, several processes, one history."""

import asyncio
import contextlib
import http.client
import os
import signal
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.helpers_postgres import Postgres
from tests.helpers_s3 import S3
from tests.helpers_scaled import (
    SESSION_KEY,
    User,
    admin_call,
    change,
    make_database,
    rows,
    scaled_out_environment,
)
from tests.helpers_server import ServerProcess
from tests.integration.test_scaled_out import ended, session

from edgereplica.app import data_dir
from edgereplica.app.results import PushResult
from edgereplica.app.serve import listen
from edgereplica.app.settings import environment_of, load_settings
from edgereplica.events.errors import FileBusy

PATIENCE_SECONDS = 30


@pytest.fixture(params=["embedded", "scaled_out"])
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., ServerProcess]:
    """Three workers on a data directory, or on PostgreSQL and S3."""
    environment = {}
    if request.param == "scaled_out":
        postgres: Postgres = request.getfixturevalue("postgres")
        s3: S3 = request.getfixturevalue("s3")
        environment = s3.environment | scaled_out_environment(postgres.database(), s3.bucket())
    return lambda: ServerProcess(tmp_path / "data", "--workers", "3", environment=environment)


def children(server: ServerProcess) -> list[int]:
    pid = server.process.pid
    return [int(pid) for pid in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110 - other processes set no event of ours
            await asyncio.sleep(0.02)


def healthy(base: str) -> bool:
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=10)
    connection.request("GET", "/readyz")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status == 200


def test_workers_are_one_server(serve: Callable[..., ServerProcess], tmp_path: Path) -> None:
    """Everybody pushes at once; of those who push to one database one wins each round."""

    async def main(base: str) -> None:
        users = await asyncio.gather(
            *(User.signup(base, f"u{number}@example.org") for number in range(4))
        )
        shared = users[0]
        files = [tmp_path / f"{number}.db" for number in range(4)]
        contended = [tmp_path / f"shared{number}.db" for number in range(3)]
        for number, file in enumerate(files):
            make_database(file, seed=number)
        await asyncio.gather(
            *(user.replica(base, file).push() for user, file in zip(users, files, strict=True))
        )
        for file in contended:
            await shared.replica(base, file, "pull").pull()
        for round_number in range(1, 6):
            for stamp, file in enumerate([*files[1:], *contended]):
                change(file, 10 * round_number + stamp)
            own = [u.replica(base, f).push() for u, f in zip(users[1:], files[1:], strict=True)]
            same = [shared.replica(base, file).push() for file in contended]
            results = await asyncio.gather(*own, *same, return_exceptions=True)
            assert [r.version for r in results[:3] if isinstance(r, PushResult)] == (
                [round_number + 1] * 3
            ), results
            assert sorted(type(r).__name__ for r in results[3:]) == (
                ["Conflict", "Conflict", "PushResult"]
            ), results
            winner = next(n for n, r in enumerate(results[3:]) if isinstance(r, PushResult))
            for file in contended:
                await shared.replica(base, file, "pull").pull(force=True, backup=False)
                assert rows(file) == rows(contended[winner])

    with serve() as server:
        assert len(children(server)) == 3
        asyncio.run(main(server.base))
        server.process.terminate()
        assert server.process.wait(PATIENCE_SECONDS) == 0
        said = server.log_path.read_text()
    assert "Traceback" not in said
    assert '"level": "error"' not in said
    assert not (tmp_path / "data" / "edgereplica.db-wal").exists(), "the database was closed"


def test_a_deletion_ends_the_sessions_of_every_worker(
    serve: Callable[..., ServerProcess],
) -> None:
    async def main(base: str) -> None:
        user = await User.signup(base)
        async with contextlib.AsyncExitStack() as stack:
            sessions = [await stack.enter_async_context(session(base, user)) for _ in range(12)]
            delete = {"databaseId": user.database}
            await admin_call(base, "DeleteDatabase", delete, user.session_token)
            async with asyncio.timeout(1.0):
                assert await asyncio.gather(*map(ended, sessions)) == (
                    [(1008, "the database was deleted")] * 12
                )

    with serve() as server:
        asyncio.run(main(server.base))


def test_a_worker_that_dies_is_replaced(
    serve: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    async def main(server: ServerProcess) -> None:
        user = await User.signup(server.base)
        source = tmp_path / "source.db"
        make_database(source)
        for number in range(3):
            before = children(server)
            os.kill(before[0], signal.SIGKILL)
            change(source, number)
            pushed = await user.replica(server.base, source).push()
            assert pushed.version == number + 1
            await until(lambda before=before: len(set(children(server)) - set(before)) == 1)
        await user.pulled(server.base, tmp_path / "back.db")
        assert rows(tmp_path / "back.db") == rows(source)

    with serve() as server:
        asyncio.run(main(server))
        server.process.terminate()
        assert server.process.wait(PATIENCE_SECONDS) == 0


def test_workers_end_with_their_supervisor_and_hold_the_directory_until_then(
    tmp_path: Path,
) -> None:
    def free() -> bool:
        try:
            with data_dir.held(tmp_path / "data"):
                return True
        except FileBusy:
            return False

    with ServerProcess(tmp_path / "data", "--workers", "2") as server:
        workers = children(server)
        assert not free()
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        server.process.kill()
        server.process.wait()
        assert not free(), "the workers still run"
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
        asyncio.run(until(free))
        asyncio.run(until(lambda: not any(map(_runs, workers))))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ctrl_c_ends_all_in_order(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", "--workers", "2") as server:
        workers = children(server)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(PATIENCE_SECONDS) == 0
        assert not any(map(_runs, workers))


@pytest.mark.parametrize(
    ("environment", "code", "words"),
    [
        ({"SESSION_KEY": "nonsense"}, 2, "SESSION_KEY"),
        ({"DATABASE_URL": "postgresql://x:hunter2@127.0.0.1:1/x"}, 2, "PAGE_STORE_URL"),
        (scaled_out_environment("postgresql://x:hunter2@127.0.0.1:1/x", "memory://"), 1, "refused"),
    ],
)
def test_what_keeps_a_worker_from_starting_is_said_once(
    tmp_path: Path, environment: dict[str, str], code: int, words: str
) -> None:
    server = ServerProcess(tmp_path / "data", "--workers", "2", environment=environment)
    with pytest.raises(AssertionError, match=words) as failed, server:
        raise RuntimeError("it started")
    assert server.process.wait(PATIENCE_SECONDS) == code
    assert "hunter2" not in str(failed.value)
    assert "Traceback" not in str(failed.value)


def test_settings_survive_the_way_to_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = load_settings(
        tmp_path, dev=True, session_key=SESSION_KEY, auto_migrate=False, page_store_url="s3://b/p"
    )
    for name, value in environment_of(given).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == given


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    taken = listen("127.0.0.1", 0)
    port = str(taken[0].getsockname()[1])
    server = ServerProcess(tmp_path / "data", "--workers", "2", "--port", port)
    with pytest.raises(AssertionError, match=port), server:
        raise RuntimeError("it started")
    assert server.process.wait(PATIENCE_SECONDS) == 5
    for opened in taken:
        opened.close()
