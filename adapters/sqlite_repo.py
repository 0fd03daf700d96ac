"""The embedded repository: one SQLite file through aiosqlite.

One connection writes, a few read. The file is in WAL mode, so a reader never waits for the writer,
and a slow write holds up only other writes. `synchronous=FULL` makes a transaction durable when
`batch` returns: a version that a client was told about survives a power cut.

Every connection has a thread. A query or a transaction is one visit there, not one a statement:
each visit waits for the interpreter's lock and for a turn of the event loop, and with many sessions
that is what a small push would mostly wait for, with the write lock in its hand. Transactions that
come while one is being written are written together, with one sync for all (group commit); if one
of them is refused, each is written alone, so none sees what became of another.

Between processes SQLite's lock has no queue. SQLite itself would ask for it after longer and longer
pauses, up to 100 ms, and whoever is asleep when it comes free has lost it: of two busy workers one
waited for seconds. So it is asked for every few milliseconds here.

A transaction runs to its end whatever becomes of its caller: one that is cancelled in the middle
only never learns how it ended.
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from ..events.errors import StorageError
from ..events.limits import (
    REPO_BUSY_PAUSE_SECONDS,
    REPO_BUSY_SECONDS_MAX,
    REPO_READERS_MAX,
    STATEMENTS_IN_FLIGHT_MAX,
)
from .ports import Row, Statement
from .sqlite_dialect import repo_errors

_T = TypeVar("_T")
_NEVER = threading.Event()

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
)


class _Connection(aiosqlite.Connection):
    """A connection and its thread."""

    async def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """`work` on the connection, in its thread."""
        execute: Callable[..., Awaitable[_T]] = self._execute
        return await execute(work, self._conn)


async def _connect(path: Path) -> _Connection:
    connector = partial(
        sqlite3.connect,
        path,
        isolation_level=None,
        timeout=REPO_BUSY_SECONDS_MAX,
        cached_statements=256,
    )
    connection = _Connection(connector, iter_chunk_size=1)
    await connection
    try:
        connection.row_factory = sqlite3.Row
        await connection.run(_configure)
    except BaseException:
        await connection.close()
        raise
    return connection


@dataclass(frozen=True, slots=True, eq=False)
class _Transaction:
    """One that waits to be written. `done` gets the rows that its last statement changed."""

    statements: Sequence[Statement]
    done: "asyncio.Future[int]"

    def end(self, outcome: int | Exception) -> None:
        if isinstance(outcome, Exception):
            self.done.set_exception(outcome)
            self.done.exception()  # its caller may be gone: nobody else has to hear of it
        else:
            self.done.set_result(outcome)


class SqliteRepo:
    """A `Repo` on the file at `path`. Make one with `SqliteRepo.open`."""

    def __init__(self, writer: _Connection, readers: list[_Connection]) -> None:
        self._writer = writer
        self._readers = readers
        self._idle: asyncio.Queue[_Connection] = asyncio.Queue()
        for reader in readers:
            self._idle.put_nowait(reader)
        self._writing = asyncio.Lock()
        self._waiting: list[_Transaction] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    async def open(cls, path: Path, readers: int = REPO_READERS_MAX) -> "SqliteRepo":
        """Open or create the database at `path`; its directory must exist."""
        opened: list[_Connection] = []
        with repo_errors():
            try:
                for _ in range(readers + 1):
                    opened.append(await _connect(path))
                await opened[0].run(lambda c: c.execute("PRAGMA busy_timeout = 0").fetchall())
            except BaseException:
                for connection in opened:
                    await connection.close()
                raise
        return cls(opened[0], opened[1:])

    async def execute(self, sql: str, *parameters: Any) -> int:
        return await self._write([Statement(sql, parameters)])

    async def first(self, sql: str, *parameters: Any) -> Row | None:
        rows = await self.all(sql, *parameters)
        return rows[0] if rows else None

    async def all(self, sql: str, *parameters: Any) -> list[Row]:
        async with self._reader() as reader:
            with repo_errors():
                rows = await reader.run(lambda c: c.execute(sql, parameters).fetchall())
        return [dict(row) for row in rows]

    async def batch(self, statements: Sequence[Statement] | AsyncIterable[Statement]) -> None:
        if isinstance(statements, AsyncIterable):
            self._refuse_closed()
            await asyncio.shield(self._spawn(self._write_streamed(statements)))
        else:
            await self._write(statements)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._tasks:
            await asyncio.wait(self._tasks)
        for connection in (*self._readers, self._writer):
            await connection.close()

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[_Connection]:
        self._refuse_closed()
        reader = await self._idle.get()
        try:
            yield reader
        finally:
            self._idle.put_nowait(reader)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StorageError("the repository is closed")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _write(self, statements: Sequence[Statement]) -> int:
        """All statements in one transaction; the rows that the last one changed."""
        self._refuse_closed()
        mine = _Transaction(statements, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        if len(self._waiting) == 1:
            self._spawn(self._write_waiting())
        with repo_errors():
            return await asyncio.shield(mine.done)

    async def _write_waiting(self) -> None:
        """Write what waits: it gathers while the writer is at work."""
        async with self._writing:
            group, self._waiting = self._waiting, []
            work = partial(_write_group, group=[waiting.statements for waiting in group])
            try:
                outcomes = await self._writer.run(work)
            except Exception as error:  # noqa: BLE001 - each caller raises it
                outcomes = [error] * len(group)
        for waiting, outcome in zip(group, outcomes, strict=True):
            waiting.end(outcome)

    async def _write_streamed(self, statements: AsyncIterable[Statement]) -> None:
        async with self._writing:
            with repo_errors():
                await self._writer.run(_begin)
                try:
                    piece: list[Statement] = []
                    async for statement in statements:
                        piece.append(statement)
                        if len(piece) == STATEMENTS_IN_FLIGHT_MAX:
                            await self._writer.run(partial(_execute, statements=piece))
                            piece.clear()
                    await self._writer.run(partial(_execute, statements=piece))
                    await self._writer.run(_commit)
                except BaseException:
                    await self._writer.run(_roll_back)
                    raise


def _write_group(
    connection: sqlite3.Connection, group: Sequence[Sequence[Statement]]
) -> list[int | Exception]:
    """Every transaction of `group`, in one if nothing hinders it; how each of them ended.

    Raises if none could even begin: another process holds the lock for too long.
    """
    if len(group) > 1:
        _begin(connection)
        with contextlib.suppress(Exception):  # whose failure it was shows when each is alone
            return [*_finish(connection, group)]
    return [_write_alone(connection, statements) for statements in group]


def _write_alone(
    connection: sqlite3.Connection, statements: Sequence[Statement]
) -> int | Exception:
    try:
        _begin(connection)
        return _finish(connection, [statements])[0]
    except Exception as error:  # noqa: BLE001 - its caller raises it
        return error


def _finish(connection: sqlite3.Connection, group: Sequence[Sequence[Statement]]) -> list[int]:
    """All of `group` and the commit, or nothing; the rows that the last statement of each
    changed."""
    try:
        changed = [_execute(connection, statements) for statements in group]
        _commit(connection)
    except BaseException:
        _roll_back(connection)
        raise
    return changed


def _configure(connection: sqlite3.Connection) -> None:
    """Of several processes that make a file a WAL one at the same moment, SQLite refuses all but
    one at once, however long they would wait: each might wait for the others."""
    for pragma in _PRAGMAS:
        _execute_patiently(connection, pragma)


def _begin(connection: sqlite3.Connection) -> None:
    """Take the write lock; SQLITE_BUSY if another process holds it for too long."""
    _execute_patiently(connection, "BEGIN IMMEDIATE")


def _execute_patiently(connection: sqlite3.Connection, sql: str) -> None:
    until = time.monotonic() + REPO_BUSY_SECONDS_MAX
    while True:
        try:
            connection.execute(sql).fetchall()
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() >= until:
                raise
            _NEVER.wait(REPO_BUSY_PAUSE_SECONDS)
        else:
            return


def _is_busy(error: sqlite3.OperationalError) -> bool:
    """Also where another process reads the log anew after one that was killed in the middle of a
    commit (SQLITE_BUSY_RECOVERY): the kind of an error is its code's low byte."""
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _execute(connection: sqlite3.Connection, statements: Sequence[Statement]) -> int:
    changed = 0
    for sql, parameters in statements:
        cursor = connection.execute(sql, parameters)
        changed = cursor.rowcount
        cursor.close()
    return changed


def _commit(connection: sqlite3.Connection) -> None:
    connection.execute("COMMIT")


def _roll_back(connection: sqlite3.Connection) -> None:
    """SQLite may have rolled back by itself (a full disk, an I/O error)."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
