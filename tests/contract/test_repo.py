"""The contract of `adapters.ports.Repo`, for every adapter of it."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from edgereplica.adapters.memory_repo import MemoryRepo
from edgereplica.adapters.migrations import known, migrate, pending, statements_of
from edgereplica.adapters.ports import Repo, Statement
from edgereplica.adapters.postgres_repo import PostgresRepo
from edgereplica.adapters.sqlite_repo import SqliteRepo
from edgereplica.events.errors import AlreadyExists, StorageError

Check = Callable[[Repo], Awaitable[None]]
THINGS = "CREATE TABLE IF NOT EXISTS things (id BIGINT PRIMARY KEY, name TEXT NOT NULL)"
INSERT = "INSERT INTO things (id, name) VALUES (?, ?)"


OpenRepo = Callable[[], Awaitable[Repo]]


async def _memory() -> Repo:
    return MemoryRepo()


def _opener(kind: str, request: pytest.FixtureRequest, directory: Path) -> OpenRepo:
    """Opens one fresh database, each time through another repo, as several programs would."""
    if kind == "postgres":
        url = request.getfixturevalue("postgres").database()
        return lambda: PostgresRepo.open(url)
    return (lambda: SqliteRepo.open(directory / "repo.db")) if kind == "sqlite" else _memory


@asynccontextmanager
async def opened(open_repo: OpenRepo) -> AsyncIterator[Repo]:
    """Closed whatever happens: an open connection's thread would keep the test run from ending."""
    repo = await open_repo()
    try:
        await repo.execute(THINGS)
        yield repo
    finally:
        await repo.close()


@pytest.fixture(params=["sqlite", "postgres"])
def open_shared(request: pytest.FixtureRequest, tmp_path: Path) -> OpenRepo:
    """For checks of what several programs, or several tasks, do to one database."""
    return _opener(request.param, request, tmp_path)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def with_repo(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Check], None]:
    """Runs a check against a fresh repo that holds the table `things`."""
    open_repo = _opener(request.param, request, tmp_path)

    def run(check: Check) -> None:
        async def main() -> None:
            async with opened(open_repo) as repo:
                await check(repo)

        asyncio.run(main())

    return run


async def _names(repo: Repo) -> list[str]:
    return [row["name"] for row in await repo.all("SELECT name FROM things ORDER BY id")]


def test_execute_counts_rows_and_reads_see_them(with_repo: Callable[[Check], None]) -> None:
    async def check(repo: Repo) -> None:
        assert await repo.execute(INSERT, 1, "one") == 1
        assert await repo.execute(INSERT, 2, "two") == 1
        assert await repo.execute("UPDATE things SET name = ?", "x") == 2
        assert dict(await repo.first("SELECT id, name FROM things WHERE id = ?", 2) or {}) == {
            "id": 2,
            "name": "x",
        }
        assert await repo.first("SELECT 1 AS one FROM things WHERE id = ?", 3) is None
        assert await repo.all("SELECT id FROM things WHERE id > ?", 5) == []

    with_repo(check)


def test_batch_is_all_or_nothing(with_repo: Callable[[Check], None]) -> None:
    async def check(repo: Repo) -> None:
        await repo.batch([Statement(INSERT, (1, "one")), Statement(INSERT, (2, "two"))])
        with pytest.raises(AlreadyExists) as refused:
            await repo.batch([Statement(INSERT, (3, "three")), Statement(INSERT, (1, "again"))])
        assert refused.value.details["table"] == "things"
        assert await _names(repo) == ["one", "two"]
        await repo.batch([])
        await repo.batch([Statement(INSERT, (4, "four"))])
        assert await _names(repo) == ["one", "two", "four"]

    with_repo(check)


@pytest.mark.parametrize(
    ("sql", "parameters", "table"),
    [
        (INSERT, (1, None), "things"),
        ("INSERT INTO nowhere VALUES (1)", (), None),
        ("not SQL", (), None),
    ],
)
def test_other_failures_are_storage_errors(
    with_repo: Callable[[Check], None], sql: str, parameters: tuple[Any, ...], table: str | None
) -> None:
    async def check(repo: Repo) -> None:
        for attempt in (repo.execute(sql, *parameters), repo.batch([Statement(sql, parameters)])):
            with pytest.raises(StorageError) as refused:
                await attempt
            assert refused.value.details.get("table") == table
        assert await _names(repo) == []

    with_repo(check)


def test_batch_takes_what_an_async_iterable_gives(with_repo: Callable[[Check], None]) -> None:
    async def two(repo: Repo, then: Exception | None) -> AsyncIterator[Statement]:
        for number in (1, 2):
            assert await repo.first("SELECT 1 AS one") == {"one": 1}
            yield Statement(INSERT, (number, str(number)))
        if then:
            raise then

    async def check(repo: Repo) -> None:
        with pytest.raises(LookupError):
            await repo.batch(two(repo, LookupError()))
        assert await _names(repo) == []
        await repo.batch(two(repo, None))
        assert await _names(repo) == ["1", "2"]

    with_repo(check)


def test_batches_of_many_tasks_do_not_mix(with_repo: Callable[[Check], None]) -> None:
    async def check(repo: Repo) -> None:
        add = "UPDATE things SET name = CAST(CAST(name AS INTEGER) + 1 AS TEXT) WHERE id = ?"
        await repo.batch([Statement(INSERT, (n, "0")) for n in range(8)])
        await asyncio.gather(
            *(repo.batch([Statement(add, (n,)) for n in range(8)]) for _ in range(20))
        )
        assert await _names(repo) == ["20"] * 8

    with_repo(check)


def test_of_many_at_once_each_ends_as_if_it_were_alone(
    with_repo: Callable[[Check], None],
) -> None:
    """They may be written together; what is refused of one is no matter of another."""

    async def check(repo: Repo) -> None:
        await repo.execute(INSERT, 0, "taken")

        def batch(number: int) -> list[Statement]:
            last = number if number % 3 else 0  # every third one fails at its second statement
            return [
                Statement(INSERT, (100 + number, "first")),
                Statement(INSERT, (200 + last if last else 0, "second")),
            ]

        outcomes = await asyncio.gather(
            *(repo.batch(batch(number)) for number in range(30)),
            *(repo.execute("UPDATE things SET name = ? WHERE id = 0", str(n)) for n in range(5)),
            return_exceptions=True,
        )
        refused = {n for n, outcome in enumerate(outcomes) if isinstance(outcome, AlreadyExists)}
        assert refused == set(range(0, 30, 3))
        assert outcomes[30:] == [1] * 5
        rows = {row["id"] for row in await repo.all("SELECT id FROM things")}
        stand = set(range(30)) - refused
        assert rows == {0} | {100 + n for n in stand} | {200 + n for n in stand}

    with_repo(check)


def test_a_closed_repo_refuses(with_repo: Callable[[Check], None]) -> None:
    async def check(repo: Repo) -> None:
        await repo.close()
        await repo.close()
        for attempt in (repo.execute(INSERT, 1, "x"), repo.all("SELECT 1"), repo.batch([])):
            with pytest.raises(StorageError):
                await attempt

    with_repo(check)


def test_a_read_does_not_wait_for_a_transaction(open_shared: OpenRepo) -> None:
    async def main() -> None:
        async with opened(open_shared) as repo:
            inside, finish = asyncio.Event(), asyncio.Event()

            async def slow() -> AsyncIterator[Statement]:
                yield Statement(INSERT, (1, "one"))
                inside.set()
                await finish.wait()

            writing = asyncio.create_task(repo.batch(slow()))
            await inside.wait()
            try:
                assert await _names(repo) == []
            finally:
                finish.set()
            await writing
            assert await _names(repo) == ["one"]

    asyncio.run(main())


def test_a_cancelled_caller_leaves_no_transaction_open(open_shared: OpenRepo) -> None:
    async def main() -> None:
        async with opened(open_shared) as repo:
            inside, finish = asyncio.Event(), asyncio.Event()

            async def slow() -> AsyncIterator[Statement]:
                yield Statement(INSERT, (1, "one"))
                inside.set()
                await finish.wait()
                yield Statement(INSERT, (2, "two"))

            caller = asyncio.create_task(repo.batch(slow()))
            await inside.wait()
            caller.cancel()
            try:
                with pytest.raises(asyncio.CancelledError):
                    await caller
            finally:
                finish.set()
            await repo.batch([Statement(INSERT, (3, "three"))])
            assert await _names(repo) == ["one", "two", "three"]

    asyncio.run(main())


def test_the_file_is_in_wal_mode_and_fully_synchronous(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(lambda: SqliteRepo.open(tmp_path / "repo.db")) as repo:
            assert await repo.first("PRAGMA journal_mode") == {"journal_mode": "wal"}
            assert await repo.first("PRAGMA synchronous") == {"synchronous": 2}
            assert await repo.first("PRAGMA foreign_keys") == {"foreign_keys": 1}

    asyncio.run(main())


def test_migrations_apply_once(with_repo: Callable[[Check], None]) -> None:
    async def check(repo: Repo) -> None:
        assert await pending(repo) == list(known())
        assert await migrate(repo) == list(known())
        assert await pending(repo) == []
        assert await migrate(repo) == []

    with_repo(check)


def test_a_database_of_newer_code_is_refused(with_repo: Callable[[Check], None]) -> None:
    async def check(repo: Repo) -> None:
        await migrate(repo)
        await repo.execute("INSERT INTO schema_migrations VALUES (?, ?)", "9999_later", 0.0)
        with pytest.raises(StorageError, match="9999_later"):
            await migrate(repo)

    with_repo(check)


def test_a_failing_migration_leaves_no_trace(with_repo: Callable[[Check], None]) -> None:
    async def check(repo: Repo) -> None:
        await repo.execute("CREATE TABLE memberships (org_id TEXT)")
        with pytest.raises(StorageError):
            await migrate(repo)
        assert await pending(repo) == list(known())
        for table in ("events", "users"):
            with pytest.raises(StorageError):
                await repo.all(f"SELECT 1 FROM {table}")

    with_repo(check)


def test_who_comes_second_goes_on(
    with_repo: Callable[[Check], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program applies everything between our look and our transaction."""
    answers = [list(known()), []]

    async def stale(_: Repo) -> list[str]:
        return answers.pop(0)

    async def check(repo: Repo) -> None:
        await migrate(repo)
        monkeypatch.setattr("edgereplica.adapters.migrations.pending", stale)
        assert await migrate(repo) == []
        assert answers == []

    with_repo(check)


def test_two_programs_may_migrate_at_once(open_shared: OpenRepo) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            repos = [await stack.enter_async_context(opened(open_shared)) for _ in range(3)]
            applied = await asyncio.gather(*(migrate(repo) for repo in repos))
            assert sorted(name for names in applied for name in names) == list(known())

    asyncio.run(main())


def test_a_streamed_batch_locks_out_every_other_writer(open_shared: OpenRepo) -> None:
    async def main() -> None:
        async with opened(open_shared) as mine, opened(open_shared) as other:
            await mine.batch([Statement(INSERT, (n, "old")) for n in range(300)])
            writing: list[asyncio.Task[int]] = []

            async def rebuilt() -> AsyncIterator[Statement]:
                yield Statement("DELETE FROM things")
                for repo in (mine, other):
                    writing.append(asyncio.create_task(repo.execute(INSERT, 1000, "late")))
                for row in await mine.all("SELECT id FROM things ORDER BY id"):
                    await asyncio.sleep(0)
                    assert not any(task.done() for task in writing)
                    yield Statement(INSERT, (row["id"], "new"))

            await mine.batch(rebuilt())
            results = await asyncio.gather(*writing, return_exceptions=True)
            assert {type(result) for result in results} == {int, AlreadyExists}
            assert await _names(other) == ["new"] * 300 + ["late"]

    asyncio.run(main())


def test_numbers_and_texts_come_back_as_they_are(with_repo: Callable[[Check], None]) -> None:
    async def check(repo: Repo) -> None:
        await repo.execute("CREATE TABLE n (i BIGINT, f DOUBLE PRECISION, t TEXT)")
        for row in ((2**62, 0.1, "ä?'%s$1"), (-1, 1e300, ""), (None, None, None)):
            await repo.execute("INSERT INTO n (i, f, t) VALUES (?, ?, ?)", *row)
        assert await repo.all("SELECT i, f, t FROM n WHERE t = ? OR t = 'a?b'", "ä?'%s$1") == [
            {"i": 2**62, "f": 0.1, "t": "ä?'%s$1"}
        ]
        sums = await repo.first("SELECT SUM(i) AS total, COUNT(*) AS rows FROM n WHERE i < 0")
        assert sums == {"total": -1, "rows": 1}
        assert type((sums or {})["total"]) is int

    with_repo(check)


def test_batches_that_fail_leave_the_next_ones_alone(with_repo: Callable[[Check], None]) -> None:
    """Again and again, so that what a driver prepares after some repetitions is prepared."""

    async def check(repo: Repo) -> None:
        rename = Statement("UPDATE things SET name = ? WHERE id = ?", ("renamed", 1))
        await repo.execute(INSERT, 0, "taken")
        for number in range(1, 30):
            with pytest.raises(AlreadyExists):
                await repo.batch([Statement(INSERT, (0, "again")), rename])
            await repo.batch([Statement(INSERT, (number, "new")), rename])
        assert await _names(repo) == ["taken", "renamed"] + ["new"] * 28

    with_repo(check)


def test_a_nul_character_is_looked_for_in_vain(with_repo: Callable[[Check], None]) -> None:
    """Whoever asks for an account by such a name hears that there is none, not of a failure."""

    async def check(repo: Repo) -> None:
        await repo.execute(INSERT, 1, "one")
        assert await repo.first("SELECT id FROM things WHERE name = ?", "one\0") is None
        await repo.batch([Statement(INSERT, (2, "t\0wo"))])
        assert len(await _names(repo)) == 2

    with_repo(check)


def test_a_thousand_statements_are_one_batch(with_repo: Callable[[Check], None]) -> None:
    async def check(repo: Repo) -> None:
        many = [Statement(INSERT, (n, str(n))) for n in range(1000)]
        with pytest.raises(AlreadyExists):
            await repo.batch([*many, Statement(INSERT, (500, "again"))])
        assert await _names(repo) == []
        await repo.batch(many)
        assert len(await _names(repo)) == 1000

    with_repo(check)


def test_migrations_are_split_at_line_ends_and_hold_no_blob() -> None:
    assert statements_of("-- a; b\nSELECT ';' ;\n\nSELECT 2;") == [
        Statement("SELECT ';'"),
        Statement("SELECT 2"),
    ]
    with closing(sqlite3.connect(":memory:")) as connection:
        for sql in known().values():
            for statement in statements_of(sql):
                connection.execute(statement.sql)
            assert "BLOB" not in sql.upper(), "PostgreSQL has no such type"
