"""An object store in a dictionary: no threads, no clock of its own, the same order every time.

For simulations and tests: faults are put around it, never into it.
"""

from collections.abc import Sequence

from ..events.errors import AlreadyExists, NotFound
from .object_store import check_key, check_range
from .ports import Buffer, Clock, ObjectInfo


class MemoryStore:
    """Every call finishes without suspending. `objects` is open to a test that damages bytes."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock
        self.objects: dict[str, bytes] = {}
        self._modified: dict[str, float] = {}

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        if check_key(key) in self.objects:
            raise AlreadyExists(f"the page store already holds {key}", key=key)
        self.objects[key] = b"".join(parts)
        self._modified[key] = self._clock.now() if self._clock else 0.0

    async def get(self, key: str) -> memoryview:
        data = self.objects.get(check_key(key))
        if data is None:
            raise NotFound(f"the page store holds no {key}", key=key)
        return memoryview(data)

    async def get_range(self, key: str, offset: int, length: int) -> memoryview:
        data = (await self.get(key))[offset : offset + length]
        check_range(key, offset, length, len(data))
        return data

    async def get_tail(self, key: str, length: int) -> tuple[memoryview, int]:
        data = await self.get(key)
        return data[max(0, len(data) - length) :], len(data)

    async def delete(self, key: str) -> None:
        self.objects.pop(check_key(key), None)
        self._modified.pop(key, None)

    async def list(self, prefix: str) -> list[ObjectInfo]:
        inside = f"{check_key(prefix)}/"
        return [
            ObjectInfo(key, len(data), self._modified.get(key, 0.0))
            for key, data in sorted(self.objects.items())
            if key.startswith(inside)
        ]

    async def check(self) -> None:
        """A dictionary is always ready."""
