"""A repository in memory, for simulations and tests.

It is the standard library's SQLite on ":memory:", called synchronously: no thread, no suspension
inside a call, the same behaviour on every run.
"""

import sqlite3
from collections.abc import AsyncIterable, Sequence
from typing import Any

from ..events.errors import StorageError
from .ports import Row, Statement
from .sqlite_dialect import repo_errors


class MemoryRepo:
    """A `Repo` that lives as long as the object."""

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False
        )
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA foreign_keys = ON")

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StorageError("the repository is closed")
        return self._connection

    async def execute(self, sql: str, *parameters: Any) -> int:
        with repo_errors():
            return self._open().execute(sql, parameters).rowcount

    async def first(self, sql: str, *parameters: Any) -> Row | None:
        rows = await self.all(sql, *parameters)
        return rows[0] if rows else None

    async def all(self, sql: str, *parameters: Any) -> list[Row]:
        with repo_errors():
            return [dict(row) for row in self._open().execute(sql, parameters)]

    async def batch(self, statements: Sequence[Statement] | AsyncIterable[Statement]) -> None:
        connection = self._open()
        with repo_errors():
            connection.execute("BEGIN IMMEDIATE")
            try:
                if isinstance(statements, AsyncIterable):
                    async for statement in statements:
                        connection.execute(statement.sql, statement.parameters)
                else:
                    for statement in statements:
                        connection.execute(statement.sql, statement.parameters)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    def copy(self) -> "MemoryRepo":
        """Another repository with the same content: a migrated one is copied faster than made."""
        other = MemoryRepo()
        self._open().backup(other._open())
        return other

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
