"""One run's world: servers that are booted, crashed and looked after, and what clients tell.

Everything is made of one seed. What must hold is in `oracle`, what clients do in `scenario`.
"""

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from edgereplica.adapters.event_log import EventLog
from edgereplica.adapters.memory_store import MemoryStore
from edgereplica.adapters.page_storage import PageStorage
from edgereplica.adapters.segments import read_footer, segment_key
from edgereplica.app.client_session import ClientTransport
from edgereplica.app.compaction import Compactor
from edgereplica.app.driver import Driver
from edgereplica.app.gc import GarbageCollector
from edgereplica.app.pull_server import PullServerEnd
from edgereplica.app.replay import FileRecorder
from edgereplica.app.sync_services import SyncServices
from edgereplica.app.tokens import Direction, VerifiedClaims
from edgereplica.events.domain import VersionCommitted, decode
from edgereplica.events.errors import Conflict, EdgeReplicaError, NetworkError
from edgereplica.events.messages import At
from edgereplica.events.wire import V1
from edgereplica.fsm.machine import Machine

from .beginning import DATABASE, ORG, SimClock, SimIds, finish, installed
from .client import Asked, SimClient
from .counted import DONE, INJECTED
from .loop import SimLoop
from .replica import Content, LocalDisk, Synced
from .sizes import drawn
from .storage import Disk, FaultyRepo, FaultyStore, Killed
from .tables import Machines
from .watched import WatchedHistory, WatchedPush, digests_in
from .wire import FAULT_KINDS, Connection, End, Fault, Trace

GRACE_SECONDS = 2_000.0
STAGED_SECONDS = 20_000.0
HASTY, SLOW = 0.1, 3_000.0
PACES = (HASTY,) * 5 + (1.0,) * 10 + (SLOW,)
PIECES_MAX = 2
"""Versions that compaction leaves alone."""


class Violation(Exception):
    """Something that must hold did not."""


@dataclass(slots=True)
class Attempt:
    """One push as it began. `version` is what the client was told, once it was."""

    content: Content
    base: Synced | None
    force: bool
    head: int
    """The head's number when it began."""
    head_then: int = 0
    """The head's number when the client was told that it is pushed."""
    acknowledged: bool = False
    version: int | None = None
    doubled: bool = False
    """The server heard it twice."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """A pull that ended well, with the version that the client was told and the head's number at
    its end."""

    asked: Asked
    version: int | None
    content: Content
    head: int


@dataclass(slots=True)
class _Process:
    """One life of a server. Several servers share repository and storage, and nothing else."""

    disk: Disk
    services: SyncServices
    store: FaultyStore
    sessions: dict[asyncio.Task[None], Connection] = field(default_factory=dict)
    others: set[asyncio.Task[None]] = field(default_factory=set)


class World:
    """`record` is a folder for the sessions' recordings.

    `quiet` worlds have no faults. `pace` stretches what people take their time for: in a hasty
    world clients meet, in a slow one pins expire, and storage is looked after.
    """

    def __init__(
        self, seed: int, loop: SimLoop, trace: Trace, machines: Machines, record: Path | None
    ) -> None:
        self.rng = Random(seed)
        self.loop = loop
        self.trace = trace
        self.machines = machines
        self.record = record
        self.clock = SimClock(loop)
        self.ids = SimIds()
        self.repo = installed()
        self.repo.begin()
        self.store = MemoryStore(self.clock)
        self.processes: list[_Process] = []
        """The servers that run."""
        self.attempts: dict[str, Attempt] = {}
        self.pulls: list[Pulled] = []
        self.keep_last: int | None = None
        """What retention was told to keep, once it was."""
        self.counts: Counter[str] = Counter(dict.fromkeys((*DONE, *INJECTED), 0))
        self.healing = False
        self.defects: list[BaseException] = []
        """What ended a task that nothing may end."""
        self._connections = 0
        self._pushing: dict[str, str] = {}
        self._wires: dict[str, Connection] = {}
        self._seen: list[VersionCommitted] = []
        self._seen_to = 0
        self.quiet = self.rng.random() < 0.15
        self.pace = self.rng.choice(PACES)
        self.sizes = drawn(self.rng)
        self.servers = self.rng.choice((1, 1, 2))

    @property
    def is_slow(self) -> bool:
        return self.pace > 1

    @property
    def faulty(self) -> bool:
        return not self.quiet and not self.healing

    # The server

    def boot(self) -> None:
        rng = self.rng
        fail_before: list[int] = []
        fail_after: list[int] = []
        if self.faulty and rng.random() < 0.5:
            fail_before = [rng.randrange(1, 60) for _ in range(rng.randrange(3))]
            fail_after = [rng.randrange(1, 60) for _ in range(rng.randrange(3))]
        waits = (0.0, 0.05, 1.0) if not self.is_slow else (0.0, 1.0, 600.0)
        slow = rng.choice(waits) if self.faulty else 0.0
        disk = Disk(rng, self.counts, frozenset(fail_before), frozenset(fail_after), slow)
        repo, store = FaultyRepo(self.repo, disk), FaultyStore(self.store, disk)
        log = EventLog(repo, self.clock)
        services = SyncServices(
            repo,
            log,
            WatchedHistory(log, self.counts),
            PageStorage(store, self.ids),
            self.clock,
            _unrevoked,
        )
        self.processes.append(_Process(disk, services, store))

    def crash(self) -> None:
        """Kill a server: what its sessions were doing is done or not, and never heard of."""
        if not self.processes:
            return
        process = self.processes.pop(self.rng.randrange(len(self.processes)))
        self.trace.note(self.loop.now, "crash")
        process.disk.crash(self.store)
        for task, connection in process.sessions.items():
            task.cancel()
            connection.strike("server_gone")
        for task in process.others:
            task.cancel()

    async def connect(
        self, client: str, wire_version: int, direction: Direction
    ) -> ClientTransport:
        rng = self.rng
        await asyncio.sleep(0.01 + rng.random() * 0.02)
        if not self.processes:
            raise NetworkError("connection refused")
        process = rng.choice(self.processes)
        self._connections += 1
        self.counts["sessions"] += 1
        self.counts["sessions in wire v1"] += wire_version == 1
        self.counts["sessions beside another"] += any(other.sessions for other in self.processes)
        self.counts["sessions of one of several servers"] += len(self.processes) > 1
        fault = None
        if self.faulty and rng.random() < 0.35:
            fault = Fault(rng.choice(FAULT_KINDS), rng.randrange(1, rng.choice((9, 25))))
        name = f"{client}.{self._connections}"
        connection = Connection(
            self.loop, rng, self.trace, self.counts, name, fault, max(1.0, self.pace)
        )
        self._wires[client] = connection
        self._accept(process, connection, client, direction)
        if self.faulty and rng.random() < 0.05:
            self.counts["duplicate connections"] += 1
            if client in self._pushing:
                self.attempts[self._pushing[client]].doubled = True
            frames = rng.choice((0, rng.randrange(1, 8), 1 << 30))
            double = rng.choice(self.processes)
            self._accept(double, connection.doubled(frames), client, direction)
        return connection.client

    def _accept(
        self, process: _Process, connection: Connection, client: str, direction: Direction
    ) -> None:
        task = self.loop.create_task(self._serve(process, connection.server, client, direction))
        process.sessions[task] = connection
        task.add_done_callback(lambda done: self._session_ended(process, done))

    async def _serve(
        self, process: _Process, transport: End, client: str, direction: Direction
    ) -> None:
        claims = VerifiedClaims(
            "sync", client, ORG, f"{client}@example.org", "admin", 1 << 40, b"", "", 0,
            database_id=DATABASE, direction=direction,
        )  # fmt: skip
        machine: Machine
        end: WatchedPush | PullServerEnd
        if direction == "push":
            machine, end = self.machines.server_push(), self._watched_push(process, claims)
        else:
            machine, end = self.machines.server_pull(), PullServerEnd(process.services, claims)
        recorder = None
        if self.record is not None:
            # Twins have the number of the connection that they double.
            name = transport.name.partition(".")[2].translate({ord("<"): None, ord(">"): "-"})
            recorder = FileRecorder(self.record / f"server-{name}.jsonl", machine)
        try:
            await Driver(machine, end, transport, recorder=recorder).run()
        finally:
            with suppress(EdgeReplicaError, Killed):
                await end.close()

    def _watched_push(self, process: _Process, claims: VerifiedClaims) -> WatchedPush:
        # In a slow world what was staged may be let go of in the middle of a push.
        return WatchedPush(
            process.services, claims, self._staged_digests, self.counts, strict=not self.is_slow
        )

    def _staged_digests(self, page_size: int) -> dict[str, frozenset[bytes]]:
        rows = self.repo.read(
            "SELECT segment_id FROM staged_segments WHERE database_id = ?", DATABASE
        )
        digests: dict[str, frozenset[bytes]] = {}
        for (segment_id,) in rows:
            if segment_key(ORG, segment_id) not in self.store.objects:
                continue  # what is gone is sent again
            footer = finish(read_footer(self.store, segment_key(ORG, segment_id)))
            usable = (footer.page_sizes == page_size)[footer.block]
            digests[segment_id] = frozenset(digests_in(footer.digests[usable].tobytes()))
        return digests

    def cut_off(self, client: str) -> None:
        """The client's machine is gone, and the server has to find out."""
        if client in self._wires:
            self._wires[client].strike("client_gone")

    def _session_ended(self, process: _Process, task: asyncio.Task[None]) -> None:
        del process.sessions[task]
        self._ended(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, Killed):
            self.defects.append(error)

    def note_defect(self, context: dict[str, Any]) -> None:
        """What the loop had nobody to tell, such as an error in a task that nobody awaits."""
        error = context.get("exception")
        if not isinstance(error, Killed):
            self.defects.append(error or RuntimeError(str(context["message"])))

    async def maintain(self) -> None:
        """Let the server look after its storage, once; it may crash meanwhile."""
        if not self.processes:
            return
        process = self.rng.choice(self.processes)
        task = self.loop.create_task(self._maintain(process))
        process.others.add(task)
        task.add_done_callback(process.others.discard)
        task.add_done_callback(self._ended)
        await asyncio.wait([task])

    async def _maintain(self, process: _Process) -> None:
        repo = process.services.repo
        log = EventLog(repo, self.clock)
        histories = WatchedHistory(log, self.counts)
        collector = GarbageCollector(
            repo,
            log,
            histories,
            process.store,
            self.clock,
            self.ids,
            grace_seconds=GRACE_SECONDS,
            staged_ttl_seconds=STAGED_SECONDS,
        )
        storage = PageStorage(process.store, self.ids, cache_bytes=0)
        try:
            collected = await collector.run()
            self.counts["objects collected"] += collected.deleted
            await Compactor(repo, histories, storage, self.clock, pieces_max=PIECES_MAX).run()
        except EdgeReplicaError as error:
            self.trace.note(self.loop.now, f"maintenance ends: {error.code}")

    # What clients tell

    def local_disk(self) -> LocalDisk:
        if not self.faulty or self.rng.random() < 0.92:
            return LocalDisk(self.counts)
        return LocalDisk(self.counts, self.rng.randrange(1, 4))

    def push_begins(self, client: SimClient, base: Synced | None, force: bool) -> str:
        message = f"{client.name}/{len(self.attempts)}"
        content = client.replica.content
        assert content is not None
        self.attempts[message] = Attempt(content, base, force, len(self.versions_now()))
        self._pushing[client.name] = message
        return message

    def pushed(self, message: str, version: int | None, *, in_sync: bool) -> None:
        attempt = self.attempts[message]
        attempt.acknowledged, attempt.version = True, version
        attempt.head_then = len(self.versions_now())
        self.counts["pushes found in sync" if in_sync else "pushed"] += 1
        self.counts["pushed in wire v1"] += version is None
        self._push_ended(message)
        self.trace.note(self.loop.now, f"{message} pushed {version}")

    def push_refused(self, message: str, error: EdgeReplicaError) -> None:
        self.counts["refused"] += 1
        self._push_ended(message)
        self.trace.note(self.loop.now, f"{message} {error.code}")
        if isinstance(error, Conflict) and (head := self.versions_now()):
            told = error.details.get("head")
            if told == head[-1].version and head[-1].root == self.attempts[message].content.root:
                raise Violation(f"{message}: refused for a head that is its own content")

    def _push_ended(self, message: str) -> None:
        self._pushing.pop(message.partition("/")[0], None)

    def pull_begins(self, client: SimClient, at: At) -> Asked:
        return Asked(client.name, client.wire_version, at, len(self.versions_now()))

    def pulled(self, asked: Asked, version: int | None, content: Content) -> None:
        pulled = Pulled(asked, version, content, len(self.versions_now()))
        self.pulls.append(pulled)
        in_v1, beside = asked.wire_version == V1, pulled.head > asked.head
        self.counts["pulled"] += 1
        self.counts["pulled in wire v1"] += in_v1
        self.counts["pulled beside a commit"] += beside
        self.counts["pulled in wire v1 beside a commit"] += in_v1 and beside
        self.counts["pulled an old version"] += asked.at is not None and asked.at != pulled.head
        self.trace.note(self.loop.now, f"{asked.name} pulled {version}")

    def versions_now(self) -> list[VersionCommitted]:
        """The history as it lies on the disk, past all caches and faults. What was read before is
        not read again; `all_versions` tells whether it is still there."""
        self._seen += self._versions_after(self._seen_to)
        return self._seen

    def all_versions(self) -> list[VersionCommitted]:
        """The history as it lies on the disk, whatever was read of it before."""
        before = list(self._seen)
        self._seen, self._seen_to = [], 0
        if self.versions_now()[: len(before)] != before:
            raise Violation("the history was rewritten")
        return self._seen

    def _versions_after(self, seq: int) -> list[VersionCommitted]:
        rows = self.repo.read(
            "SELECT seq, kind, data FROM events WHERE stream = ? AND seq > ? ORDER BY seq",
            f"database:{DATABASE}",
            seq,
        )
        self._seen_to = rows[-1][0] if rows else seq
        events = [decode(kind, data) for _, kind, data in rows]
        return [event for event in events if isinstance(event, VersionCommitted)]

    def trace_disk(self) -> None:
        """Put into the trace what lies on the server's disk."""
        for row in self.repo.read("SELECT stream, seq, kind, data FROM events ORDER BY position"):
            self.trace.bytes(repr(tuple(row)).encode())
        for key, data in sorted(self.store.objects.items()):
            self.trace.bytes(key.encode())
            self.trace.bytes(data)

    def close(self) -> None:
        """Take back what was written."""
        self.repo.rewind()


async def _unrevoked(claims: VerifiedClaims) -> VerifiedClaims:
    """There are no accounts in this world, so nothing is ever revoked."""
    return claims
