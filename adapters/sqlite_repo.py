"""The embedded repository: one SQLite file through aiosqlite.

One connection writes, a few read. The file is in WAL mode, so a reader never waits for the writer,
and a slow write holds up only other writes. `synchronous=FULL` makes a transaction durable when
`batch` returns: a version that a client was told about survives a power cut.

A transaction runs in a task of its own: a caller that is cancelled in the middle leaves no half
open transaction behind, it only never learns how it ended.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from ..events.errors import StorageError
from ..events.limits import REPO_BUSY_SECONDS_MAX, REPO_READERS_MAX
from .ports import Row, Statement
from .sqlite_dialect import repo_errors

_T = TypeVar("_T")

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
)


async def _connect(path: Path) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(
        path, isolation_level=None, timeout=REPO_BUSY_SECONDS_MAX, cached_statements=256
    )
    try:
        connection.row_factory = sqlite3.Row
        for pragma in _PRAGMAS:
            await connection.execute_fetchall(pragma)
    except BaseException:
        await connection.close()
        raise
    return connection


class SqliteRepo:
    """A `Repo` on the file at `path`. Make one with `SqliteRepo.open`."""

    def __init__(self, writer: aiosqlite.Connection, readers: list[aiosqlite.Connection]) -> None:
        self._writer = writer
        self._readers = readers
        self._idle: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()
        for reader in readers:
            self._idle.put_nowait(reader)
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    @classmethod
    async def open(cls, path: Path, readers: int = REPO_READERS_MAX) -> "SqliteRepo":
        """Open or create the database at `path`; its directory must exist."""
        opened: list[aiosqlite.Connection] = []
        with repo_errors():
            try:
                for _ in range(readers + 1):
                    opened.append(await _connect(path))
            except BaseException:
                for connection in opened:
                    await connection.close()
                raise
        return cls(opened[0], opened[1:])

    async def execute(self, sql: str, *parameters: Any) -> int:
        return await self._shielded(self._execute(sql, parameters))

    async def first(self, sql: str, *parameters: Any) -> Row | None:
        rows = await self.all(sql, *parameters)
        return rows[0] if rows else None

    async def all(self, sql: str, *parameters: Any) -> list[Row]:
        async with self._reader() as reader:
            with repo_errors():
                return [dict(row) for row in await reader.execute_fetchall(sql, parameters)]

    async def batch(self, statements: Sequence[Statement] | AsyncIterable[Statement]) -> None:
        await self._shielded(self._batch(statements))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._tasks:
            await asyncio.wait(self._tasks)
        for connection in (*self._readers, self._writer):
            await connection.close()

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[aiosqlite.Connection]:
        if self._closed:
            raise StorageError("the repository is closed")
        reader = await self._idle.get()
        try:
            yield reader
        finally:
            self._idle.put_nowait(reader)

    async def _execute(self, sql: str, parameters: tuple[Any, ...]) -> int:
        async with self._writing:
            with repo_errors():
                cursor = await self._writer.execute(sql, parameters)
                changed = cursor.rowcount
                await cursor.close()
                return changed

    async def _batch(self, statements: Sequence[Statement] | AsyncIterable[Statement]) -> None:
        async with self._writing:
            with repo_errors():
                await self._writer.execute_fetchall("BEGIN IMMEDIATE")
                try:
                    if isinstance(statements, AsyncIterable):
                        async for statement in statements:
                            await self._writer.execute_fetchall(*statement)
                    else:
                        for statement in statements:
                            await self._writer.execute_fetchall(*statement)
                    await self._writer.execute_fetchall("COMMIT")
                except BaseException:
                    await self._rollback()
                    raise

    async def _rollback(self) -> None:
        """SQLite may have rolled back by itself (a full disk, an I/O error)."""
        try:
            await self._writer.execute_fetchall("ROLLBACK")
        except sqlite3.OperationalError:
            if self._writer.in_transaction:
                raise

    async def _shielded(self, work: Coroutine[Any, Any, _T]) -> _T:
        if self._closed:
            work.close()
            raise StorageError("the repository is closed")
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)
