"""What a server does about changes, its own and those of other servers.

A deleted database's sessions end, here and everywhere. A new head needs nothing done: a cached
history stays a true beginning of what the log holds, and opening it reads the rest from there; to
drop it would make the next session read the whole life of the database again.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from ..adapters.ports import Change, Repo
from ..events.errors import EdgeReplicaError


class Sessions(Protocol):
    """The sync side, as far as a change concerns it."""

    def databases(self) -> set[str]:
        """Ids of the databases that sessions run on."""
        ...

    def end_database(self, database_id: str) -> None: ...


class Follower:
    """Subscribe `heard`. `forget` drops what is cached of a database."""

    def __init__(self, repo: Repo, sessions: Sessions, forget: Callable[[str], None]) -> None:
        self._repo = repo
        self._sessions = sessions
        self._forget = forget
        self._checks: set[asyncio.Task[None]] = set()

    def heard(self, change: Change) -> None:
        match change.topic:
            case "deleted":
                self._forget(change.database_id)
                self._sessions.end_database(change.database_id)
            case "resumed":
                check = asyncio.create_task(self._catch_up())
                self._checks.add(check)
                check.add_done_callback(self._checks.discard)
            case "head":
                pass

    async def close(self) -> None:
        for check in self._checks:
            check.cancel()
        await asyncio.gather(*self._checks, return_exceptions=True)

    async def _catch_up(self) -> None:
        """End the sessions of databases that were deleted while nothing was heard."""
        for database_id in self._sessions.databases():
            try:
                gone = await self._repo.first(
                    "SELECT 1 AS gone FROM databases "
                    "WHERE database_id = ? AND deleted_at IS NOT NULL",
                    database_id,
                )
            except EdgeReplicaError:
                return  # the database is gone once more: the next `resumed` asks again
            if gone:
                self.heard(Change("deleted", database_id))
