"""One process of the server: its real objects, what it remembers, and its sessions.

It can be stopped, killed before, during or after any write to its storage, and started again on
what is left.
"""

import asyncio
from contextlib import suppress

from tests.model.mortal import Crashed, Mortal, MortalRepo, MortalStore
from tests.model.storages import Storage
from tests.model.wire import Wire

from edgereplica.adapters import migrations
from edgereplica.adapters.clock import ManualClock
from edgereplica.adapters.event_log import EventLog
from edgereplica.adapters.ids import SeededIds
from edgereplica.adapters.page_storage import PageStorage
from edgereplica.app.compaction import Compactor
from edgereplica.app.driver import Driver
from edgereplica.app.gc import GarbageCollector
from edgereplica.app.history import DatabaseHistory
from edgereplica.app.pull_server import PullServerEnd
from edgereplica.app.push_server import PushServerEnd
from edgereplica.app.sync_services import SyncServices
from edgereplica.app.tokens import VerifiedClaims
from edgereplica.events.errors import EdgeReplicaError, NetworkError, NotFound, ServerShuttingDown
from edgereplica.fsm.machine import Machine, server_limits
from edgereplica.fsm.server_pull import ServerPull
from edgereplica.fsm.server_push import ServerPush

BATCH_BYTES = 4096
"""What the server asks clients to put into one batch, so that small databases need many."""
PIECES_MAX = 2
"""Versions that compaction leaves alone."""


class Process:
    """One after another in the same place, on `storage`. `defects` takes what its sessions must
    not end with."""

    def __init__(
        self, storage: Storage, clock: ManualClock, ids: SeededIds, defects: list[BaseException]
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._ids = ids
        self._defects = defects
        self._running: dict[asyncio.Task[None], tuple[str, Wire]] = {}
        self.mortal = Mortal()
        self.wires: list[Wire] = []
        """All that it served since it was started."""
        self.away: EdgeReplicaError | None = None
        """What a client that connects is told, while it does not run."""

    async def start(self) -> None:
        self.mortal, self.wires, self.away = Mortal(), [], None
        self.repo = await self._storage.open_repo()
        await migrations.migrate(self.repo)
        mortal_repo = MortalRepo(self.repo, self.mortal)
        self.log = EventLog(mortal_repo, self._clock)
        self.services = SyncServices(
            mortal_repo,
            self.log,
            DatabaseHistory(self.log),
            PageStorage(MortalStore(self._storage.store, self.mortal), self._ids),
            self._clock,
            _unrevoked,
        )

    async def stop(self) -> None:
        """A clean end: sessions are told."""
        self.away = ServerShuttingDown("the server is shutting down")
        for _, wire in self._running.values():
            wire.server.interrupt(ServerShuttingDown("the server is shutting down"))
        if self._running:
            await asyncio.wait(self._running)
        await self._storage.close_repo(self.repo)

    async def kill(self) -> None:
        self.away = NetworkError("connection refused")
        self.mortal.dead = True
        for task, (_, wire) in list(self._running.items()):
            task.cancel()
            wire.cut()
        if self._running:
            await asyncio.wait(self._running)
        await self._storage.close_repo(self.repo)

    async def delete_database(self, database: str, org: str, user: str) -> None:
        """As `AdminService` and `SyncServer.end_database` do it: other processes hear nothing."""
        history = await self.services.histories.open(database, org)
        await self.services.histories.delete(history, user)
        for its_database, wire in self._running.values():
            if its_database == database:
                wire.server.interrupt(NotFound("the database was deleted"))

    async def look_after_storage(self) -> int:
        """Collect garbage and compact, as a server does now and then; how many objects went."""
        histories = DatabaseHistory(self.log)
        repo, store = self.services.repo, self.services.storage.objects
        collector = GarbageCollector(repo, self.log, histories, store, self._clock, self._ids)
        collected = await collector.run()
        storage = PageStorage(store, self._ids, cache_bytes=0)
        await Compactor(repo, histories, storage, self._clock, pieces_max=PIECES_MAX).run()
        return collected.deleted

    async def finish(self, wire: Wire) -> None:
        """Let the session on `wire`, which its client has left, do what it still does."""
        left = [task for task, (_, its_wire) in self._running.items() if its_wire is wire]
        if left:
            await asyncio.wait(left)

    def accept(self, wire: Wire, claims: VerifiedClaims) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(wire, claims))
        self.wires.append(wire)
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
            self._defects.append(error)


async def _unrevoked(claims: VerifiedClaims) -> VerifiedClaims:
    """There are no accounts in this world, so nothing is ever revoked."""
    return claims
