"""Connections to PostgreSQL: kept while they work, dropped when they do not, never too many.

psycopg_pool keeps its size with background workers that back off by seconds when the server is
gone; what a server of ours wants after a restart of PostgreSQL is the next connection at once and
every dead one dropped at the first sign. That is little enough to stand here: a semaphore, a stack
of idle connections, and a deadline.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row

from ..events.errors import InvalidArgument, StorageError
from ..events.limits import (
    REPO_BUSY_SECONDS_MAX,
    REPO_CONNECT_SECONDS_MAX,
    REPO_RECONNECT_SECONDS,
)
from .postgres_dialect import NumberLoader

Connection = AsyncConnection[DictRow]

_DEFAULTS: Final[dict[str, Any]] = {
    "connect_timeout": int(REPO_CONNECT_SECONDS_MAX),
    "application_name": "edgereplica",
    # A host that vanished without a word is noticed within half a minute.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


def parameters_of(url: str) -> dict[str, Any]:
    """Connection parameters of a `postgresql://` URL, over our defaults.

    What the URL leaves out comes from libpq's own places: PGPASSWORD, PGSSLMODE, ~/.pgpass …
    `InvalidArgument` for a malformed URL, in words that do not repeat it.
    """
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise InvalidArgument("DATABASE_URL is not a PostgreSQL URL") from None
    return _DEFAULTS | given | {"client_encoding": "utf8"}


async def connect(parameters: dict[str, Any]) -> Connection:
    """One connection, each statement its own transaction unless it says BEGIN.

    Nothing is prepared on it: psycopg 3.3 takes a statement for prepared whose preparation was
    skipped because an earlier one of the pipeline failed, and a lost race for the log is just that.
    """
    connection: Connection = await AsyncConnection.connect(
        **parameters,
        autocommit=True,
        prepare_threshold=None,
        row_factory=dict_row,
        cursor_factory=AsyncRawCursor,
    )
    connection.adapters.register_loader("numeric", NumberLoader)
    return connection


class PostgresPool:
    """At most `size` connections with the same parameters."""

    def __init__(self, parameters: dict[str, Any], size: int) -> None:
        self._parameters = parameters
        self._free = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._closed = False
        self._size = size

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection that was working when it was last used; `StorageError` if there is none.

        Waits for one to be free and for PostgreSQL to be there, each as long as
        `REPO_BUSY_SECONDS_MAX`.
        """
        try:
            async with asyncio.timeout(REPO_BUSY_SECONDS_MAX):
                await self._free.acquire()
        except TimeoutError:
            raise StorageError(f"all {self._size} database connections are busy") from None
        try:
            if self._closed:
                raise StorageError("the repository is closed")
            connection = self._idle.pop() if self._idle else await self._connect()
            try:
                yield connection
            finally:
                await self._give_back(connection)
        finally:
            self._free.release()

    async def drop_idle(self) -> None:
        """Close the idle connections: one was found dead, and the others may be as well."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    async def close(self) -> None:
        self._closed = True
        await self.drop_idle()

    async def _give_back(self, connection: Connection) -> None:
        unfinished = connection.info.transaction_status != TransactionStatus.IDLE
        if self._closed or connection.closed or unfinished:
            await connection.close()
        else:
            self._idle.append(connection)

    async def _connect(self) -> Connection:
        """A new connection; while PostgreSQL is starting or gone, try again and again."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REPO_BUSY_SECONDS_MAX
        while True:
            try:
                connection = await connect(self._parameters)
                await connection.execute(f"SET lock_timeout = {int(REPO_BUSY_SECONDS_MAX * 1000)}")
            except psycopg.OperationalError as error:
                if self._closed or loop.time() + REPO_RECONNECT_SECONDS > deadline:
                    raise StorageError("the database cannot be reached") from error
                await asyncio.sleep(REPO_RECONNECT_SECONDS)
            else:
                return connection
