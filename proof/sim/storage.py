"""The server's disks under fault: slow, failing at the n-th call, and cut off by a crash.

The store and the repository under these wrappers are what has reached the disk. A call takes
effect at one moment between two waits, so a crash finds it done or not done, with the caller told
neither way. Calls of a server that has crashed never end.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any, TypeVar

from edgereplica.adapters.memory_repo import MemoryRepo
from edgereplica.adapters.memory_store import MemoryStore
from edgereplica.adapters.ports import Buffer, ObjectInfo, Row, Statement
from edgereplica.events.errors import StorageError

T = TypeVar("T")


class Killed(BaseException):
    """The process that made this call is no more. No code of the product may catch it."""


class Disk:
    """One server process's way to its storage: counts calls, delays them, fails some, dies.

    `fail_before` are the numbers of calls that fail without effect, `fail_after` of those that
    take effect and fail all the same (a lost answer).
    """

    def __init__(
        self,
        rng: Random,
        fail_before: frozenset[int] = frozenset(),
        fail_after: frozenset[int] = frozenset(),
        slow: float = 0.0,
    ) -> None:
        self._rng = rng
        self._fail_before = fail_before
        self._fail_after = fail_after
        self._slow = slow
        self.calls = 0
        self.dead = False
        self.faults = 0

    async def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self.calls += 1
        number = self.calls
        await self._wait()
        if number in self._fail_before:
            self.faults += 1
            raise StorageError("input/output error", reason="failed")
        result = await work()
        await self._wait()
        if number in self._fail_after:
            self.faults += 1
            raise StorageError("input/output error after the fact", reason="failed")
        return result

    async def _wait(self) -> None:
        if self.dead:
            raise Killed
        if self._slow and self._rng.random() < 0.5:
            await asyncio.sleep(self._rng.random() * self._slow)
            if self.dead:
                raise Killed


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

    async def batch(self, statements: Sequence[Statement]) -> None:
        await self._disk.call(lambda: self._repo.batch(statements))

    async def close(self) -> None:
        pass


class FaultyStore:
    """`put` may also leave nothing, or the whole object, behind an error; never a part of one:
    that an object appears whole or not at all is the adapter's promise, tested with it."""

    def __init__(self, store: MemoryStore, disk: Disk) -> None:
        self._store = store
        self._disk = disk

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        await self._disk.call(lambda: self._store.put(key, parts))

    async def get(self, key: str) -> bytes:
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
