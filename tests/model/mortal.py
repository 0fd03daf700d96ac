"""A process that can be killed before, during or after any write to its storage."""

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgereplica.adapters.ports import Buffer, ObjectStore, Repo, Statement
from edgereplica.events.domain import VersionCommitted

When = Literal["before", "during", "after"]


class Crashed(BaseException):
    """The process is dead. No code of the product may catch it."""


@dataclass(slots=True)
class CrashPoint:
    """Die at the `countdown`-th write to storage, or at the commit (None), around its effect."""

    countdown: int | None
    when: When


class Mortal:
    """Counts writes, and dies at the armed one."""

    def __init__(self) -> None:
        self.armed: CrashPoint | None = None
        self.dead = False
        self.died = ""
        """Where, in words."""

    def strikes(self, *, commits: bool) -> When | None:
        if self.dead:
            raise Crashed
        point = self.armed
        if point is None:
            return None
        if point.countdown is not None:
            point.countdown -= 1
        if point.countdown != 0 and not (point.countdown is None and commits):
            return None
        self.armed, self.dead = None, True
        self.died = f"{point.when} a {'commit' if commits else 'write'}"
        return point.when


class MortalRepo:
    def __init__(self, repo: Repo, mortal: Mortal) -> None:
        self._repo = repo
        self._mortal = mortal

    async def execute(self, sql: str, *parameters: Any) -> int:
        return await self._repo.execute(sql, *parameters)

    async def first(self, sql: str, *parameters: Any) -> Any:
        return await self._repo.first(sql, *parameters)

    async def all(self, sql: str, *parameters: Any) -> Any:
        return await self._repo.all(sql, *parameters)

    async def batch(self, statements: Sequence[Statement] | AsyncIterable[Statement]) -> None:
        assert isinstance(statements, Sequence)
        when = self._mortal.strikes(commits=_commits(statements))
        if when is None:
            await self._repo.batch(statements)
        elif when == "before":
            raise Crashed
        elif when == "during":
            await self._repo.batch(_half(statements))
        else:
            await self._repo.batch(statements)
            raise Crashed

    async def close(self) -> None:
        await self._repo.close()


def _commits(statements: Sequence[Statement]) -> bool:
    return any(VersionCommitted.kind in statement.parameters for statement in statements)


async def _half(statements: Sequence[Statement]) -> AsyncIterator[Statement]:
    for statement in statements[: (len(statements) + 1) // 2]:
        yield statement
    raise Crashed


class MortalStore:
    """An object store whose `put` dies before or after; "during" is nothing, as on a real one:
    an object appears whole."""

    def __init__(self, store: ObjectStore, mortal: Mortal) -> None:
        self._store = store
        self._mortal = mortal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        when = self._mortal.strikes(commits=False)
        if when in ("before", "during"):
            raise Crashed
        await self._store.put(key, parts)
        if when == "after":
            raise Crashed
