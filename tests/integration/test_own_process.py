"""`Replica` in a process that has the file open itself, as an application has."""

import asyncio
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.helpers_local import line, python
from tests.helpers_server import Account, ServerProcess

from edgereplica import AsyncReplica, Progress, Replica
from edgereplica.app import own_process
from edgereplica.app.sample_database import create
from edgereplica.events.errors import (
    Conflict,
    FileBusy,
    LocalFileError,
    NetworkError,
    Unauthenticated,
)

READ_AND_CLOSE = """
import sqlite3, sys
app = sqlite3.connect(sys.argv[1])
print(app.execute("SELECT count(*) FROM mine").fetchone()[0])
app.close()
"""
"""Another process: the last one to close a file removes its log."""


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with ServerProcess(tmp_path_factory.mktemp("server") / "data") as server:
        yield Account.signup(server.base, "own@example.org")


class Site:
    def __init__(self, account: Account, folder: Path) -> None:
        name = folder.name.replace("_", "-")[:60]
        self.base, self.folder = account.base, folder
        self._account, self._database = account, account.create_database(name)

    def token(self, direction: str) -> str:
        return self._account.token(self._database, direction)

    def replica(self, name: str, direction: str, **options: object) -> Replica:
        path = self.folder / name
        return Replica(path, server=self.base, token=self.token(direction), **options)


@pytest.fixture
def site(account: Account, tmp_path: Path) -> Site:
    create(tmp_path / "a.db", 1 << 20)
    return Site(account, tmp_path)


@pytest.fixture
def app(site: Site) -> Iterator[sqlite3.Connection]:
    """The application's connection to `a.db`, with a transaction in the log."""
    with closing(sqlite3.connect(site.folder / "a.db", isolation_level=None)) as app:
        app.execute("PRAGMA journal_mode=WAL")
        app.execute("CREATE TABLE mine(a)")
        yield app


def workers() -> list[int]:
    """The processes that sync for this one."""
    found = []
    for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
        if own_process.__name__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            found.append(int(pid))
    return found


def count_by_another_process(path: Path) -> int:
    with python(READ_AND_CLOSE, path) as other:
        return int(line(other))


def test_an_application_syncs_its_own_file_and_keeps_its_locks(
    site: Site, app: sqlite3.Connection
) -> None:
    """They were dropped: the next process to close the file removed the log under it, and what was
    committed to it after that was seen by nobody else."""
    path = site.folder / "a.db"
    for count in range(1, 4):
        app.execute("INSERT INTO mine VALUES (?)", (count,))
        assert site.replica("a.db", "push").push().version == count
        assert site.replica("a.db", "pull").pull().outcome == "unchanged"
        assert site.replica("a.db", "pull").status().head == count
        assert count_by_another_process(path) == count
    app.execute("INSERT INTO mine VALUES (4)")
    assert count_by_another_process(path) == 4


def test_its_reader_keeps_the_snapshot_that_it_has(site: Site, app: sqlite3.Connection) -> None:
    site.replica("a.db", "push").push()
    site.replica("b.db", "pull").pull()
    with closing(sqlite3.connect(site.folder / "b.db")) as other:
        other.execute("INSERT INTO mine VALUES (1)")
        other.commit()
        other.execute("PRAGMA wal_checkpoint")
    site.replica("b.db", "push").push()
    app.execute("BEGIN")
    assert app.execute("SELECT * FROM mine").fetchall() == []
    assert site.replica("a.db", "pull").pull().version == 2
    assert app.execute("SELECT * FROM mine").fetchall() == []
    app.execute("COMMIT")
    assert app.execute("SELECT * FROM mine").fetchall() == [(1,)]


def test_it_hears_of_progress_and_its_token_is_renewed(site: Site, app: sqlite3.Connection) -> None:
    heard: list[Progress] = []
    asked: list[str] = []

    def renew() -> str:
        asked.append(site.token("push"))
        return asked[-1]

    site.replica("a.db", "push", progress=heard.append, renew_token=renew).push()
    assert {"reading", "sending", "committing"} <= {progress.phase for progress in heard}
    assert not asked
    away = Replica(
        site.folder / "a.db",
        server="http://127.0.0.1:1",
        token=site.token("push"),
        retries=1,
        renew_token=renew,
        progress=heard.append,
    )
    with pytest.raises(NetworkError):
        away.push(force=True)
    assert len(asked) == 1
    assert heard[-2].phase == "retrying" or heard[-1].phase == "retrying"


def test_its_errors_are_what_they_would_be(site: Site, app: sqlite3.Connection) -> None:
    site.replica("a.db", "push").push()
    site.replica("b.db", "pull").pull()
    with closing(sqlite3.connect(site.folder / "b.db")) as other:
        other.execute("CREATE TABLE theirs(a)")
    site.replica("b.db", "push").push()
    app.execute("INSERT INTO mine VALUES (1)")
    with pytest.raises(Conflict) as conflict:
        site.replica("a.db", "push").push()
    assert (conflict.value.details["base"], conflict.value.details["head"]) == (1, 2)
    assert "sync push --force" in conflict.value.details["hint"]
    with pytest.raises(Unauthenticated):
        Replica(site.folder / "a.db", server=site.base, token="no token").push()


def test_one_that_is_cancelled_leaves_no_process(site: Site, app: sqlite3.Connection) -> None:
    seen: list[int] = []

    async def main() -> None:
        def cancel(progress: Progress) -> None:
            seen.extend(workers())
            task.cancel()

        replica = AsyncReplica(
            site.folder / "a.db", server=site.base, token=site.token("push"), progress=cancel
        )
        task = asyncio.ensure_future(replica.push())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert workers() == []

    asyncio.run(main())
    assert seen
    assert site.replica("a.db", "push").push().outcome in ("pushed", "unchanged")


def test_one_that_dies_is_an_error(site: Site, app: sqlite3.Connection) -> None:
    def kill(progress: Progress) -> None:
        for worker in workers():
            os.kill(worker, signal.SIGKILL)

    with pytest.raises(LocalFileError, match=r"died \(-9\)"):
        site.replica("a.db", "push", progress=kill).push()


def test_where_there_can_be_no_process_it_is_refused(
    site: Site, app: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_process.sys, "executable", "")
    with pytest.raises(FileBusy, match="open in this very process"):
        site.replica("a.db", "push").push()
