"""The server's real objects in one process: history, page storage, tokens, sync ends.

It can be killed before, during or after any write to its storage and started again on what is
left. Versions are read back by objects that have cached nothing.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from tests.model.storages import Storage
from tests.model.wire import Wire

from edgereplica.adapters import migrations
from edgereplica.adapters.clock import ManualClock
from edgereplica.adapters.event_log import EventLog
from edgereplica.adapters.ids import SeededIds
from edgereplica.adapters.page_storage import PageStorage
from edgereplica.adapters.ports import Buffer, ObjectStore, Repo, Statement
from edgereplica.app.compaction import Compactor
from edgereplica.app.driver import Driver
from edgereplica.app.gc import GarbageCollector
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
from edgereplica.events.errors import EdgeReplicaError, NetworkError, NotFound, ServerShuttingDown
from edgereplica.events.pages import pages_of
from edgereplica.fsm.machine import Machine, server_limits
from edgereplica.fsm.server_pull import ServerPull
from edgereplica.fsm.server_push import ServerPush

When = Literal["before", "during", "after"]
DATABASE_NAME = "db"
"""Of every database there is, one after the other."""
BATCH_BYTES = 4096
"""What the server asks clients to put into one batch, so that small databases need many."""
PIECES_MAX = 2
"""Versions that compaction leaves alone."""
Pages = tuple[bytes, ...]


class Crashed(BaseException):
    """The process is dead. No code of the product may catch it."""


@dataclass(slots=True)
class CrashPoint:
    """Die at the `countdown`-th write to storage, or at the commit (None), around its effect."""

    countdown: int | None
    when: When


class _Mortal:
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
    def __init__(self, repo: Repo, mortal: _Mortal) -> None:
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

    def __init__(self, store: ObjectStore, mortal: _Mortal) -> None:
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


class Server:
    """One server after another on `storage`."""

    def __init__(self, storage: Storage, clock: ManualClock) -> None:
        self._storage = storage
        self.clock = clock
        self._ids = SeededIds(storage.number, clock)
        self._keyring = Keyring([b"k" * 32])
        self._org, self._user = f"org-{storage.number}", f"user-{storage.number}"
        self._mortal = _Mortal()
        self._running: dict[asyncio.Task[None], tuple[str, Wire]] = {}
        self._away: EdgeReplicaError | None = None
        """What a client that connects is told, while none of the servers runs."""
        self.defects: list[BaseException] = []
        self.database = ""

    async def start(self) -> None:
        self._away = None
        self._mortal = _Mortal()
        self._repo = await self._storage.open_repo()
        await migrations.migrate(self._repo)
        mortal_repo = MortalRepo(self._repo, self._mortal)
        self._log = EventLog(mortal_repo, self.clock)
        self.services = SyncServices(
            mortal_repo,
            self._log,
            DatabaseHistory(self._log),
            PageStorage(MortalStore(self._storage.store, self._mortal), self._ids),
            self.clock,
            _unrevoked,
        )

    async def sign_up(self) -> None:
        for event in (
            UserSignedUp(
                user_id=self._user, email=self._email, provider="password", subject=self._email
            ),
            OrganizationCreated(org_id=self._org, name="o", personal=True),
        ):
            await self._log.append([(event.stream, 0, [event])])

    async def create_database(self) -> None:
        """`AlreadyExists` while there is one: they all have the same name."""
        database = self._ids.new_id()
        event = DatabaseCreated(
            database_id=database, org_id=self._org, name=DATABASE_NAME, created_by=self._user
        )
        await self._log.append([(event.stream, 0, [event])])
        self.database = database

    async def delete_database(self) -> None:
        """As `AdminService` and `SyncServer.end_database` do it."""
        history = await self.services.histories.open(self.database, self._org)
        await self.services.histories.delete(history, self._user)
        for database, wire in self._running.values():
            if database == self.database:
                wire.server.interrupt(NotFound("the database was deleted"))

    async def stop(self) -> None:
        """A clean end: sessions are told."""
        self._away = ServerShuttingDown("the server is shutting down")
        for _, wire in self._running.values():
            wire.server.interrupt(ServerShuttingDown("the server is shutting down"))
        if self._running:
            await asyncio.wait(self._running)
        await self._close()

    async def kill(self) -> None:
        self._away = NetworkError("connection refused")
        self._mortal.dead = True
        for task, (_, wire) in list(self._running.items()):
            task.cancel()
            wire.cut()
        if self._running:
            await asyncio.wait(self._running)
        await self._close()

    async def _close(self) -> None:
        await self._storage.close_repo(self._repo)

    async def look_after_storage(self) -> int:
        """Collect garbage and compact, as a server does now and then; how many objects went."""
        histories = DatabaseHistory(self._log)
        repo, store = self.services.repo, self.services.storage.objects
        collector = GarbageCollector(repo, self._log, histories, store, self.clock, self._ids)
        collected = await collector.run()
        storage = PageStorage(store, self._ids, cache_bytes=0)
        await Compactor(repo, histories, storage, self.clock, pieces_max=PIECES_MAX).run()
        return collected.deleted

    @property
    def _email(self) -> str:
        return f"{self._user}@example.org"

    def die_at(self, point: CrashPoint | None) -> None:
        self._mortal.armed = point

    @property
    def crashed(self) -> bool:
        return self._mortal.dead

    @property
    def died(self) -> str:
        return self._mortal.died

    async def finish(self, wire: Wire) -> None:
        """Let the session on `wire`, which its client has left, do what it still does."""
        left = [task for task, (_, its_wire) in self._running.items() if its_wire is wire]
        if left:
            await asyncio.wait(left)

    def token(self, direction: Literal["push", "pull"], ttl_seconds: int = 600) -> str:
        token, _ = self._keyring.mint_sync(
            Identity(self._user, self._org, self._email, "admin"),
            self.database,
            direction,
            now=self.clock.now(),
            ttl_seconds=ttl_seconds,
            nonce=self._ids.token_bytes(16),
        )
        return token

    def accept(self, wire: Wire, token: str) -> None:
        """Begin a session on `wire`, or raise what the handshake is refused with.

        A server that stops takes no more: a client whose sidecar proved stale by what it was still
        told would begin anew, on a repository that is being closed.
        """
        if self._away is not None:
            raise self._away
        claims = self._keyring.verify_sync(token, self.clock.now())
        task = asyncio.get_running_loop().create_task(self._serve(wire, claims))
        self._running[task] = (claims.database_id or "", wire)
        task.add_done_callback(lambda ended: self._ended(wire, ended))

    async def _serve(self, wire: Wire, claims: VerifiedClaims) -> None:
        machine: Machine
        end: PushServerEnd | PullServerEnd
        if claims.direction == "push":
            limits = server_limits() | {"batch_decoded_bytes_max": BATCH_BYTES}
            machine, end = ServerPush(limits), PushServerEnd(self.services, claims)
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

    async def versions(self) -> list[VersionCommitted]:
        """All versions, as the log has them."""
        recorded = await EventLog(self._repo, self.clock).read(f"database:{self.database}")
        events = [entry.event for entry in recorded]
        return [event for event in events if isinstance(event, VersionCommitted)]

    async def read_version(self, version: int) -> Pages:
        """Every page of a version, by a reader that trusts no cache."""
        log = EventLog(self._repo, self.clock)
        history = await DatabaseHistory(log).open(self.database, self._org)
        claims = VerifiedClaims("sync", "", self._org, "", "", 1 << 40, b"", "", 0)
        storage = PageStorage(self._storage.store, self._ids)
        page_map = await Opened(history, claims).open_map(storage, version)
        pages: dict[int, bytes] = {}
        runs = ((1, page_map.page_count),) if page_map.page_count else ()
        async for batch in storage.reader(page_map, self._org).batches(runs):
            size = page_map.page_size
            for at, page in enumerate(pages_of(batch.runs)):
                pages[page] = bytes(batch.data[at * size : (at + 1) * size])
        return tuple(pages[number] for number in sorted(pages))


async def _unrevoked(claims: VerifiedClaims) -> VerifiedClaims:
    """There are no accounts in this world, so nothing is ever revoked."""
    return claims
