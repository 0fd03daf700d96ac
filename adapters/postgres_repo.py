"""The repository of a scaled-out server: PostgreSQL through psycopg.

psycopg rather than asyncpg, because a batch goes to the server in one round trip (pipeline mode),
because libpq reads every URL, password file and TLS setting that an operator's other tools read,
and because notifications and transaction-mode poolers work without special cases.

A transaction is READ COMMITTED: the log's compare-and-swap stands on its unique key, not on the
isolation level. Every write holds a shared advisory lock for its transaction; a batch that reads
while it writes (an async iterable) and a change of the schema hold it alone. That is how "every
other writer is locked out" is said to any number of servers.

Reads have connections of their own, so a writer that waits never starves what it reads through.
"""

import asyncio
import itertools
from collections.abc import AsyncIterable, Callable, Coroutine, Sequence
from typing import Any, Final, LiteralString, TypeVar

import psycopg

from ..events.errors import StorageError
from ..events.limits import (
    POSTGRES_CONNECTIONS_MIN,
    REPO_ATTEMPTS_MAX,
    STATEMENTS_IN_FLIGHT_MAX,
)
from .ports import Row, Statement
from .postgres_dialect import (
    WORTH_ANOTHER_TRY,
    changes_schema,
    postgres_errors,
    storable,
    translate,
)
from .postgres_pool import Connection, PostgresPool, connect, parameters_of

_T = TypeVar("_T")

_LOCK: Final = 0x45444745  # "EDGE"
_BEGIN_SHARED: LiteralString = f"BEGIN; SELECT pg_advisory_xact_lock_shared({_LOCK})"
_BEGIN_ALONE: LiteralString = f"BEGIN; SELECT pg_advisory_xact_lock({_LOCK})"


class PostgresRepo:
    """A `Repo` on one PostgreSQL database. Make one with `PostgresRepo.open`."""

    def __init__(self, parameters: dict[str, Any], connections: int) -> None:
        writers = connections // 2
        self._writers = PostgresPool(parameters, writers)
        self._readers = PostgresPool(parameters, connections - writers)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    @classmethod
    async def open(cls, url: str, connections: int = POSTGRES_CONNECTIONS_MIN) -> "PostgresRepo":
        """Connect to the database at `url` (`postgresql://…`) with at most `connections`.

        `StorageError`, with PostgreSQL's own words, if it cannot be reached or is not UTF-8.
        """
        if connections < POSTGRES_CONNECTIONS_MIN:
            raise ValueError("a repository needs a connection to read and one to write")
        parameters = parameters_of(url)
        try:
            first = await connect(parameters)
            try:
                encoding = first.info.parameter_status("server_encoding")
            finally:
                await first.close()
        except psycopg.Error as error:
            raise StorageError(f"PostgreSQL cannot be used: {str(error).strip()}") from error
        if encoding != "UTF8":
            raise StorageError(f"the database's encoding is {encoding}; it must be UTF8")
        return cls(parameters, connections)

    async def execute(self, sql: str, *parameters: Any) -> int:
        return await self._shielded(self._write([Statement(sql, parameters)]))

    async def first(self, sql: str, *parameters: Any) -> Row | None:
        rows = await self.all(sql, *parameters)
        return rows[0] if rows else None

    async def all(self, sql: str, *parameters: Any) -> list[Row]:
        self._refuse_closed()

        async def read(connection: Connection) -> list[Row]:
            cursor = await connection.execute(translate(sql), storable(parameters))
            return list(await cursor.fetchall())

        with postgres_errors():
            return await _on_a_living(self._readers, read)

    async def batch(self, statements: Sequence[Statement] | AsyncIterable[Statement]) -> None:
        if isinstance(statements, AsyncIterable):
            await self._shielded(self._write_streamed(statements))
        else:
            await self._shielded(self._write(statements))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._readers.close()
        await self._writers.close()

    async def _write(self, statements: Sequence[Statement]) -> int:
        """All statements in one transaction; the rows that the last one changed."""
        alone = any(changes_schema(statement.sql) for statement in statements)
        begin = _BEGIN_ALONE if alone else _BEGIN_SHARED
        with postgres_errors():
            for attempt in itertools.count(1):
                try:
                    return await _in_transaction(
                        self._writers, begin, lambda c: _pipelined(c, statements, commit=True)
                    )
                except WORTH_ANOTHER_TRY:
                    if attempt == REPO_ATTEMPTS_MAX:
                        raise
        raise AssertionError("unreachable")

    async def _write_streamed(self, statements: AsyncIterable[Statement]) -> None:
        async def run(connection: Connection) -> None:
            piece: list[Statement] = []
            async for statement in statements:
                piece.append(statement)
                if len(piece) == STATEMENTS_IN_FLIGHT_MAX:
                    await _pipelined(connection, piece, commit=False)
                    piece.clear()
            await _pipelined(connection, piece, commit=True)

        with postgres_errors():
            await _in_transaction(self._writers, _BEGIN_ALONE, run)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StorageError("the repository is closed")

    async def _shielded(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run `work` to its end even if the caller is cancelled."""
        if self._closed:
            work.close()
            self._refuse_closed()
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)


async def _pipelined(
    connection: Connection, statements: Sequence[Statement], *, commit: bool
) -> int:
    """Send all statements at once, then hear of all; the rows that the last one changed.

    The first failure is raised. Caught inside of the pipeline, since psycopg writes what follows
    from it to the log when it leaves one.
    """
    cursor = connection.cursor()
    failure: psycopg.Error | None = None
    try:
        async with connection.pipeline():
            try:
                for sql, parameters in statements:
                    cursor = connection.cursor()
                    await cursor.execute(translate(sql), storable(parameters))
                if commit:
                    await connection.execute("COMMIT")
            except psycopg.Error as error:
                failure = error
    except psycopg.Error as error:
        failure = failure or error
    if failure is not None:
        raise failure
    return cursor.rowcount


async def _in_transaction(
    pool: PostgresPool, begin: LiteralString, work: Callable[[Connection], Coroutine[Any, Any, _T]]
) -> _T:
    """`begin`, then `work`, which commits; undone if it raises.

    A connection that proves dead at `begin` is replaced: nothing was asked of it yet. One that dies
    later is not, since nobody knows whether the commit arrived.
    """
    for attempt in itertools.count(1):
        async with pool.connection() as connection:
            try:
                await connection.execute(begin)
            except psycopg.OperationalError:
                if not connection.closed or attempt == REPO_ATTEMPTS_MAX:
                    raise
            else:
                try:
                    return await work(connection)
                except BaseException:
                    if not connection.closed:
                        await connection.execute("ROLLBACK")
                    raise
        await pool.drop_idle()
    raise AssertionError("unreachable")


async def _on_a_living(
    pool: PostgresPool, read: Callable[[Connection], Coroutine[Any, Any, _T]]
) -> _T:
    """`read` on a connection; once more on another if that one proves dead."""
    for attempt in itertools.count(1):
        async with pool.connection() as connection:
            try:
                return await read(connection)
            except psycopg.OperationalError:
                if not connection.closed or attempt == REPO_ATTEMPTS_MAX:
                    raise
        await pool.drop_idle()
    raise AssertionError("unreachable")
