"""The server's disks under fault: slow, failing at the n-th call, and cut off by a crash.

The repository and the store under these wrappers are what anybody can read. A transaction takes
effect, durably, at one moment; an object is first written, then synced, and what was not synced may
be gone after a crash, whoever had seen it. A call that a crash interrupts is done or not done, with
the caller told neither way: calls of a server that has crashed never end.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, Callable, Coroutine, Sequence
from random import Random
from typing import Any, TypeVar

from edgereplica.adapters.memory_repo import MemoryRepo
from edgereplica.adapters.memory_store import MemoryStore
from edgereplica.adapters.ports import Buffer, ObjectInfo, Row, Statement
from edgereplica.adapters.sqlite_dialect import repo_errors
from edgereplica.events.errors import StorageError

T = TypeVar("T")


class Killed(BaseException):
    """The process that made this call is no more. No code of the product may catch it."""


class RewindableRepo(MemoryRepo):
    """A repository with one and the same content for every run: what a run wrote is taken back.

    The run is one transaction of SQLite's, and its transactions are savepoints within. That spares
    every run a copy, and the preparation of every statement once more.
    """

    def begin(self) -> None:
        self._open().execute("BEGIN")

    def rewind(self) -> None:
        self._open().execute("ROLLBACK")

    def read(self, sql: str, *parameters: Any) -> list[Any]:
        """Rows, for whoever looks at the disk from outside."""
        return self._open().execute(sql, parameters).fetchall()

    async def batch(self, statements: Sequence[Statement] | AsyncIterable[Statement]) -> None:
        assert isinstance(statements, Sequence)
        connection = self._open()
        with repo_errors():
            connection.execute("SAVEPOINT batch")
            try:
                for statement in statements:
                    connection.execute(statement.sql, statement.parameters)
            except BaseException:
                connection.execute("ROLLBACK TO batch")
                raise
            finally:
                connection.execute("RELEASE batch")


class Disk:
    """One server process's way to its storage: counts calls, delays them, fails some, dies.

    `fail_before` are the numbers of calls that fail without effect, `fail_after` of those that
    take effect and fail all the same (a lost answer). `slow` is the longest wait, in seconds.
    """

    def __init__(
        self,
        rng: Random,
        counts: Counter[str],
        fail_before: frozenset[int] = frozenset(),
        fail_after: frozenset[int] = frozenset(),
        slow: float = 0.0,
    ) -> None:
        self._rng = rng
        self._counts = counts
        self._fail_before = fail_before
        self._fail_after = fail_after
        self._slow = slow
        self.calls = 0
        self.dead = False
        self.unsynced: list[str] = []
        """Objects that were written and not synced."""

    async def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self.calls += 1
        number = self.calls
        if self._slow:
            await self._wait()
        if self.dead:
            raise Killed
        if number in self._fail_before:
            self._counts["I/O errors"] += 1
            raise StorageError("input/output error", reason="failed")
        result = await work()
        if self._slow:
            await self._wait()
            if self.dead:
                raise Killed
        if number in self._fail_after:
            self._counts["I/O errors after the fact"] += 1
            raise StorageError("input/output error after the fact", reason="failed")
        return result

    async def _wait(self) -> None:
        if not self.dead and self._rng.random() < 0.5:
            await asyncio.sleep(self._rng.random() * self._slow)

    def crash(self, store: MemoryStore) -> None:
        """From now on nothing is done any more; any of the unsynced writes is lost."""
        self.dead = True
        for key in self.unsynced:
            if self._rng.random() < 0.5 and store.objects.pop(key, None) is not None:
                self._counts["unsynced writes lost"] += 1
        self.unsynced.clear()


class FaultyRepo:
    def __init__(self, repo: MemoryRepo, disk: Disk) -> None:
        self._repo = repo
        self._disk = disk

    async def execute(self, sql: str, *parameters: Any) -> int:
        return await self._disk.call(lambda: self._repo.execute(sql, *parameters))

    async def first(self, sql: str, *parameters: Any) -> Row | None:
        return await self._disk.call(lambda: self._repo.first(sql, *parameters))

    async def all(self, sql: str, *parameters: Any) -> list[Row]:
        return await self._disk.call(lambda: self._repo.all(sql, *parameters))

    async def batch(self, statements: Sequence[Statement] | AsyncIterable[Statement]) -> None:
        await self._disk.call(lambda: self._repo.batch(statements))

    async def close(self) -> None:
        pass


class FaultyStore:
    """`put` is two calls, and between them the object is there and not safe yet. An object is
    never there in part: that is the adapter's promise, tested with it."""

    def __init__(self, store: MemoryStore, disk: Disk) -> None:
        self._store = store
        self._disk = disk

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        await self._disk.call(lambda: self.write(key, parts))
        await self._disk.call(lambda: self.sync(key))

    async def write(self, key: str, parts: Sequence[Buffer]) -> None:
        await self._store.put(key, parts)
        self._disk.unsynced.append(key)

    async def sync(self, key: str) -> None:
        self._disk.unsynced.remove(key)

    async def get(self, key: str) -> memoryview:
        return await self._disk.call(lambda: self._store.get(key))

    async def get_range(self, key: str, offset: int, length: int) -> memoryview:
        return await self._disk.call(lambda: self._store.get_range(key, offset, length))

    async def get_tail(self, key: str, length: int) -> tuple[memoryview, int]:
        return await self._disk.call(lambda: self._store.get_tail(key, length))

    async def delete(self, key: str) -> None:
        await self._disk.call(lambda: self._store.delete(key))

    async def list(self, prefix: str) -> list[ObjectInfo]:
        return await self._disk.call(lambda: self._store.list(prefix))

    async def check(self) -> None:
        await self._disk.call(self._store.check)
