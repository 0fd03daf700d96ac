"""The server's real objects in one process: history, page storage, tokens, sync ends.

It can be killed before, during or after any write to its storage and started again on what is
left. Versions are read back by objects that have cached nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.model.wire import Wire

from edgereplica.adapters import migrations
from edgereplica.adapters.clock import ManualClock
from edgereplica.adapters.event_log import EventLog
from edgereplica.adapters.ids import SeededIds
from edgereplica.adapters.memory_repo import MemoryRepo
from edgereplica.adapters.memory_store import MemoryStore
from edgereplica.adapters.object_store import open_store
from edgereplica.adapters.page_storage import PageStorage
from edgereplica.adapters.ports import Buffer, ObjectStore, Repo, Statement
from edgereplica.adapters.sqlite_repo import SqliteRepo
from edgereplica.app.driver import Driver
from edgereplica.app.history import DatabaseHistory
from edgereplica.app.pull_server import PullServerEnd
from edgereplica.app.push_server import PushServerEnd
from edgereplica.app.sync_services import Opened, SyncServices
from edgereplica.app.tokens import Identity, Keyring, VerifiedClaims
from edgereplica.events.domain import (
    DatabaseCreated,
    OrganizationCreated,
    UserSignedUp,
    VersionCommitted,
)
from edgereplica.events.errors import EdgeReplicaError, NotFound, ServerShuttingDown
from edgereplica.events.pages import pages_of
from edgereplica.fsm.machine import Machine
from edgereplica.fsm.server_pull import ServerPull
from edgereplica.fsm.server_push import ServerPush

When = Literal["before", "during", "after"]
ORG, USER = "org", "user"
IDENTITY = Identity(USER, ORG, "user@example.org", "admin")
Pages = tuple[bytes, ...]


class Crashed(BaseException):
    """The process is dead. No code of the product may catch it."""


@dataclass(slots=True)
class CrashPoint:
    """Die at the `countdown`-th write to storage, around its effect."""

    countdown: int
    when: When


class _Mortal:
    """Counts writes, and dies at the armed one."""

    def __init__(self) -> None:
        self.armed: CrashPoint | None = None
        self.dead = False

    def strikes(self) -> When | None:
        if self.dead:
            raise Crashed
        if self.armed is None:
            return None
        self.armed.countdown -= 1
        if self.armed.countdown > 0:
            return None
        when, self.armed, self.dead = self.armed.when, None, True
        return when


class MortalRepo:
    def __init__(self, repo: Repo, mortal: _Mortal) -> None:
        self._repo = repo
        self._mortal = mortal

    async def execute(self, sql: str, *parameters: Any) -> int:
        return await self._repo.execute(sql, *parameters)

    async def first(self, sql: str, *parameters: Any) -> Any:
        return await self._repo.first(sql, *parameters)

    async def all(self, sql: str, *parameters: Any) -> Any:
        return await self._repo.all(sql, *parameters)

    async def batch(self, statements: Sequence[Statement]) -> None:
        when = self._mortal.strikes()
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


async def _half(statements: Sequence[Statement]) -> AsyncIterator[Statement]:
    for statement in statements[: (len(statements) + 1) // 2]:
        yield statement
    raise Crashed


class MortalStore:
    """An object store whose `put` dies before or after; "during" is nothing, as on a real one:
    an object appears whole."""

    def __init__(self, store: ObjectStore, mortal: _Mortal) -> None:
        self._store = store
        self._mortal = mortal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        when = self._mortal.strikes()
        if when in ("before", "during"):
            raise Crashed
        await self._store.put(key, parts)
        if when == "after":
            raise Crashed


class Server:
    """`folder` None keeps everything in memory; else it is an embedded server's data directory."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.clock = ManualClock()
        self._ids = SeededIds(1, self.clock)
        self._keyring = Keyring([b"k" * 32])
        self._memory = MemoryRepo()
        self._store: ObjectStore = (
            MemoryStore(self.clock) if folder is None else open_store(folder / "objects")
        )
        self._mortal = _Mortal()
        self._running: dict[asyncio.Task[None], tuple[str, Wire]] = {}
        self.defects: list[BaseException] = []
        self.database = ""

    async def start(self) -> None:
        self._mortal = _Mortal()
        repo: Repo = self._memory
        if self._folder is not None:
            self._folder.mkdir(exist_ok=True)
            repo = await SqliteRepo.open(self._folder / "repo.db", readers=1)
        await migrations.migrate(repo)
        self._repo = repo
        mortal_repo = MortalRepo(repo, self._mortal)
        self._log = EventLog(mortal_repo, self.clock)
        self.services = SyncServices(
            mortal_repo,
            self._log,
            DatabaseHistory(self._log),
            PageStorage(MortalStore(self._store, self._mortal), self._ids),
            self.clock,
            _unrevoked,
        )

    async def sign_up(self) -> None:
        for event in (
            UserSignedUp(user_id=USER, email="u@e.org", provider="password", subject="u@e.org"),
            OrganizationCreated(org_id=ORG, name="o", personal=True),
        ):
            await self._log.append([(event.stream, 0, [event])])

    async def create_database(self) -> None:
        self.database = self._ids.new_id()
        name = f"db-{self.database[-8:]}"
        event = DatabaseCreated(database_id=self.database, org_id=ORG, name=name, created_by=USER)
        await self._log.append([(event.stream, 0, [event])])

    async def delete_database(self) -> None:
        """As `AdminService` and `SyncServer.end_database` do it."""
        history = await self.services.histories.open(self.database, ORG)
        await self.services.histories.delete(history, USER)
        for database, wire in self._running.values():
            if database == self.database:
                wire.server.interrupt(NotFound("the database was deleted"))

    async def stop(self) -> None:
        """A clean end: sessions are told."""
        for _, wire in self._running.values():
            wire.server.interrupt(ServerShuttingDown("the server is shutting down"))
        if self._running:
            await asyncio.wait(self._running)
        await self._close()

    async def kill(self) -> None:
        self._mortal.dead = True
        for task, (_, wire) in list(self._running.items()):
            task.cancel()
            wire.cut()
        if self._running:
            await asyncio.wait(self._running)
        await self._close()

    async def _close(self) -> None:
        if self._folder is not None:
            await self._repo.close()

    def die_at(self, point: CrashPoint | None) -> None:
        self._mortal.armed = point

    @property
    def crashed(self) -> bool:
        return self._mortal.dead

    def token(self, direction: Literal["push", "pull"], ttl_seconds: int = 600) -> str:
        token, _ = self._keyring.mint_sync(
            IDENTITY,
            self.database,
            direction,
            now=self.clock.now(),
            ttl_seconds=ttl_seconds,
            nonce=self._ids.token_bytes(16),
        )
        return token

    def accept(self, wire: Wire, token: str) -> None:
        """Begin a session on `wire`, or raise what the handshake is refused with."""
        claims = self._keyring.verify_sync(token, self.clock.now())
        task = asyncio.get_running_loop().create_task(self._serve(wire, claims))
        self._running[task] = (claims.database_id or "", wire)
        task.add_done_callback(lambda ended: self._ended(wire, ended))

    async def _serve(self, wire: Wire, claims: VerifiedClaims) -> None:
        machine: Machine
        end: PushServerEnd | PullServerEnd
        if claims.direction == "push":
            machine, end = ServerPush(), PushServerEnd(self.services, claims)
        else:
            machine, end = ServerPull(), PullServerEnd(self.services, claims)
        try:
            await Driver(machine, end, wire.server).run()
        finally:
            with suppress(EdgeReplicaError):
                await end.close()

    def _ended(self, wire: Wire, task: asyncio.Task[None]) -> None:
        del self._running[task]
        # What a process leaves behind when it dies is closed by its system.
        wire.cut()
        wire.moved.set()
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Crashed):
            self.defects.append(error)

    async def versions(self, known: int = 0) -> list[VersionCommitted]:
        """The versions above `known`, as the log has them."""
        recorded = await EventLog(self._repo, self.clock).read(f"database:{self.database}")
        events = [entry.event for entry in recorded]
        return [event for event in events if isinstance(event, VersionCommitted)][known:]

    async def read_version(self, version: int) -> Pages:
        """Every page of a version, by a reader that trusts no cache."""
        log = EventLog(self._repo, self.clock)
        history = await DatabaseHistory(log).open(self.database, ORG)
        claims = VerifiedClaims("sync", "", ORG, "", "", 1 << 40, b"", "", 0)
        storage = PageStorage(self._store, self._ids)
        page_map = await Opened(history, claims).open_map(storage, version)
        pages: dict[int, bytes] = {}
        runs = ((1, page_map.page_count),) if page_map.page_count else ()
        async for batch in storage.reader(page_map, ORG).batches(runs):
            size = page_map.page_size
            for at, page in enumerate(pages_of(batch.runs)):
                pages[page] = bytes(batch.data[at * size : (at + 1) * size])
        return tuple(pages[number] for number in sorted(pages))


async def _unrevoked(claims: VerifiedClaims) -> VerifiedClaims:
    """There are no accounts in this world, so nothing is ever revoked."""
    return claims
