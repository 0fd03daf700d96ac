"""Group commit of the SQLite repository; what a `Repo` promises is in tests/contract."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgereplica.adapters import sqlite_repo
from edgereplica.adapters.sqlite_repo import SqliteRepo
from edgereplica.events.errors import AlreadyExists, StorageError

INSERT = "INSERT INTO things (id) VALUES (?)"
RECOVERING = """
import fcntl, os, sys
index = os.open(sys.argv[1], os.O_RDWR)
for byte in (120, 122):  # the locks of who writes and of who recovers (walformat.html, 2.3.1)
    fcntl.lockf(index, fcntl.LOCK_EX, 1, byte)
headers = os.pread(index, 96, 0)
os.pwrite(index, bytes(96), 0)
print(flush=True)
sys.stdin.readline()
os.pwrite(index, headers, 0)
"""


@asynccontextmanager
async def traced(path: Path) -> AsyncIterator[tuple[SqliteRepo, list[str]]]:
    """A repo with an empty table, and the first words that its writer says to SQLite from now."""
    repo = await SqliteRepo.open(path)
    try:
        await repo.execute("CREATE TABLE things (id INTEGER PRIMARY KEY)")
        said: list[str] = []
        await repo._writer.set_trace_callback(lambda sql: said.append(sql.split()[0]))
        yield repo, said
    finally:
        await repo.close()


async def at_once(repo: SqliteRepo, *ids: int) -> list[Any]:
    """A transaction for each id: all of them wait before the first is written."""
    return await asyncio.gather(*(repo.execute(INSERT, one) for one in ids), return_exceptions=True)


def test_what_waits_is_committed_together(tmp_path: Path) -> None:
    async def main() -> None:
        async with traced(tmp_path / "repo.db") as (repo, said):
            assert await at_once(repo, *range(10)) == [1] * 10
            assert said == ["BEGIN", *["INSERT"] * 10, "COMMIT"]

    asyncio.run(main())


def test_one_that_is_refused_takes_no_other_with_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with traced(tmp_path / "repo.db") as (repo, said):
            first, second, third, last = await at_once(repo, 1, 2, 1, 3)
            assert (first, second, last) == (1, 1, 1)
            assert isinstance(third, AlreadyExists)
            assert said.count("COMMIT") == 3
            assert len(await repo.all("SELECT id FROM things")) == 3

    asyncio.run(main())


def test_a_lock_that_is_not_given_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_repo, "REPO_BUSY_SECONDS_MAX", 0)
    path = tmp_path / "repo.db"

    async def main() -> None:
        async with traced(path) as (repo, said):
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                outcomes = await at_once(repo, *range(5))
            assert {type(outcome) for outcome in outcomes} == {StorageError}
            assert said == ["BEGIN"]
            assert await at_once(repo, 1, 2) == [1, 1]

    asyncio.run(main())


def test_a_lock_of_another_process_is_asked_for_until_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "repo.db"

    async def main() -> None:
        async with traced(path) as (repo, said):
            with closing(
                sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            ) as other:
                other.execute("BEGIN IMMEDIATE")
                asked = 0

                def pause(seconds: float) -> None:
                    nonlocal asked
                    asked += 1
                    if asked == 5:
                        other.execute("COMMIT")

                monkeypatch.setattr(sqlite_repo._NEVER, "wait", pause)
                assert await at_once(repo, 1, 2) == [1, 1]
            assert asked == 5
            assert said == ["BEGIN"] * 6 + ["INSERT", "INSERT", "COMMIT"]

    asyncio.run(main())


@contextmanager
def recovering(path: Path) -> Iterator[Callable[[], object]]:
    """Another process reads the log of `path` anew, until what this yields is called."""
    with subprocess.Popen(
        [sys.executable, "-c", RECOVERING, f"{path}-shm"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            yield other.communicate
        finally:
            other.kill()


def test_a_recovery_by_another_process_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker was killed in the middle of a commit, and another one reads the log anew."""
    path = tmp_path / "repo.db"

    async def main() -> None:
        async with traced(path) as (repo, said):
            with recovering(path) as end:
                asked = 0

                def pause(seconds: float) -> None:
                    nonlocal asked
                    asked += 1
                    if asked == 3:
                        end()

                monkeypatch.setattr(sqlite_repo._NEVER, "wait", pause)
                assert await at_once(repo, 1) == [1]
            assert asked == 3
            assert said[-2:] == ["INSERT", "COMMIT"]

    asyncio.run(main())


def test_another_that_makes_the_file_a_wal_one_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers start on an empty data directory: SQLite refused one of them at once."""
    path = tmp_path / "repo.db"

    async def main() -> None:
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            asked = 0

            def pause(seconds: float) -> None:
                nonlocal asked
                asked += 1
                if asked == 3:
                    other.execute("COMMIT")

            monkeypatch.setattr(sqlite_repo._NEVER, "wait", pause)
            repo = await SqliteRepo.open(path)
            await repo.close()
        assert asked == 3

    asyncio.run(main())
