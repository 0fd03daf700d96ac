"""One seed, one run: a server, some clients, their work, the faults, and what must hold.

The oracle knows every content that a push began with. What must hold:

- A version is byte for byte one pushed content, the one whose push names it, and each push makes
  at most one version. Versions are linear.
- What a client was told stands: an acknowledged version is in the history with that root.
- A reader gets exactly the version it was told.
- An unforced push replaces only the version it was based on.
- A push is not refused because its own content is the head already.
- When the faults end, every client gets on: it pulls the head, and a change pushed by one reaches
  the others.
- Nobody waits for ever (`Deadlock`).
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from edgereplica.adapters import migrations
from edgereplica.adapters.clock import ManualClock
from edgereplica.adapters.event_log import EventLog
from edgereplica.adapters.ids import SeededIds
from edgereplica.adapters.memory_repo import MemoryRepo
from edgereplica.adapters.memory_store import MemoryStore
from edgereplica.adapters.page_storage import PageStorage
from edgereplica.app.client_session import ClientTransport, Options
from edgereplica.app.driver import Driver
from edgereplica.app.history import DatabaseHistory
from edgereplica.app.pull_server import PullServerEnd
from edgereplica.app.push_server import PushServerEnd
from edgereplica.app.replay import FileRecorder
from edgereplica.app.sync_services import Opened, SyncServices
from edgereplica.app.tokens import Direction, VerifiedClaims
from edgereplica.events.domain import (
    DatabaseCreated,
    OrganizationCreated,
    UserSignedUp,
    VersionCommitted,
)
from edgereplica.events.errors import Conflict, EdgeReplicaError, NetworkError
from edgereplica.events.pages import pages_of
from edgereplica.fsm.machine import Machine

from .client import Content, SimClient, Synced
from .loop import SimLoop
from .storage import Disk, FaultyRepo, FaultyStore, Killed
from .tables import Machines
from .wire import Connection, End, Fault, FaultKind, Trace

DATABASE = "d" * 32
ORG = "o" * 32
START_UNIX = 1_800_000_000.0


class Violation(Exception):
    """Something that must hold did not."""


class SimClock:
    """Unix time as the loop has it."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return START_UNIX + self._loop.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(slots=True)
class Attempt:
    """One push as it began. `version` is what the client was told, once it was."""

    content: Content
    base: Synced | None
    force: bool
    acknowledged: bool = False
    version: int | None = None


@dataclass(slots=True)
class Result:
    """What a run did; `trace` is equal for equal runs."""

    seed: int
    trace: str
    counts: dict[str, int]
    notes: list[str] | None = None


@dataclass(slots=True)
class _Process:
    """One life of the server."""

    disk: Disk
    services: SyncServices
    sessions: dict[asyncio.Task[None], Connection] = field(default_factory=dict)


class World:
    """See the module's docstring. `record` is a folder for the sessions' recordings."""

    def __init__(
        self, seed: int, loop: SimLoop, trace: Trace, machines: Machines, record: Path | None
    ) -> None:
        self.rng = Random(seed)
        self.loop = loop
        self.trace = trace
        self.machines = machines
        self.record = record
        self.clock = SimClock(loop)
        self.ids = SeededIds(seed, self.clock)
        self.repo = _installed().copy()
        self.store = MemoryStore()
        self.process: _Process | None = None
        self.attempts: dict[str, Attempt] = {}
        self.pulls: list[tuple[int, Content]] = []
        self.counts = dict.fromkeys(
            ("sessions", "pushed", "pulled", "refused", "cuts", "crashes", "io_errors"), 0
        )
        self.healing = False
        self.defects: list[BaseException] = []
        """What ended a server session that nothing may end."""
        self._connections = 0
        self.quiet = self.rng.random() < 0.15

    # The server

    def boot(self) -> None:
        rng = self.rng
        fail_before: list[int] = []
        fail_after: list[int] = []
        if not self.quiet and not self.healing and rng.random() < 0.5:
            fail_before = [rng.randrange(1, 60) for _ in range(rng.randrange(3))]
            fail_after = [rng.randrange(1, 60) for _ in range(rng.randrange(3))]
        slow = 0.0 if self.quiet or self.healing else rng.choice((0.0, 0.05, 1.0))
        disk = Disk(rng, frozenset(fail_before), frozenset(fail_after), slow)
        repo, store = FaultyRepo(self.repo, disk), FaultyStore(self.store, disk)
        log = EventLog(repo, self.clock)
        services = SyncServices(
            repo, log, DatabaseHistory(log), PageStorage(store, self.ids), self.clock, _unrevoked
        )
        self.process = _Process(disk, services)

    def crash(self) -> None:
        """Kill the server: what its sessions were doing is done or not, and never heard of."""
        process, self.process = self.process, None
        if process is None:
            return
        self.counts["crashes"] += 1
        self.counts["io_errors"] += process.disk.faults
        self.trace.note(self.loop.now, "crash")
        process.disk.dead = True
        for task, connection in process.sessions.items():
            task.cancel()
            connection.strike("server_gone")

    async def connect(self, client: str, direction: Direction) -> ClientTransport:
        rng = self.rng
        await asyncio.sleep(0.01 + rng.random() * 0.02)
        process = self.process
        if process is None:
            raise NetworkError("connection refused")
        self._connections += 1
        self.counts["sessions"] += 1
        fault = None
        if not self.quiet and not self.healing and rng.random() < 0.35:
            kinds: tuple[FaultKind, ...] = ("cut", "client_gone", "server_gone", "stall")
            fault = Fault(rng.choice(kinds), rng.randrange(1, 12))
            self.counts["cuts"] += 1
        connection = Connection(rng, self.trace, f"{client}.{self._connections}", fault)
        task = self.loop.create_task(self._serve(process, connection.server, client, direction))
        process.sessions[task] = connection
        task.add_done_callback(lambda done: self._ended(process, done))
        return connection.client

    async def _serve(
        self, process: _Process, transport: End, client: str, direction: Direction
    ) -> None:
        claims = VerifiedClaims(
            "sync", client, ORG, f"{client}@example.org", "admin", 1 << 40, b"", "", 0,
            database_id=DATABASE, direction=direction,
        )  # fmt: skip
        machine: Machine
        end: PushServerEnd | PullServerEnd
        if direction == "push":
            machine, end = self.machines.server_push(), PushServerEnd(process.services, claims)
        else:
            machine, end = self.machines.server_pull(), PullServerEnd(process.services, claims)
        recorder = None
        if self.record is not None:
            recorder = FileRecorder(self.record / f"server-{self._connections}.jsonl", machine)
        try:
            await Driver(machine, end, transport, recorder=recorder).run()
        finally:
            with suppress(EdgeReplicaError, Killed):
                await end.close()

    def _ended(self, process: _Process, task: asyncio.Task[None]) -> None:
        del process.sessions[task]
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

    # What clients tell

    def push_begins(self, name: str, content: Content, base: Synced | None, force: bool) -> str:
        message = f"{name}/{len(self.attempts)}"
        self.attempts[message] = Attempt(content, base, force)
        return message

    def pushed(self, message: str, version: int | None, content: Content) -> None:
        attempt = self.attempts[message]
        attempt.acknowledged, attempt.version = True, version
        self.counts["pushed"] += 1
        self.trace.note(self.loop.now, f"{message} pushed {version}")

    def push_refused(self, message: str, error: EdgeReplicaError) -> None:
        self.counts["refused"] += 1
        self.trace.note(self.loop.now, f"{message} {error.code}")
        if isinstance(error, Conflict) and (head := self.versions_now()):
            told = error.details.get("head")
            if told == head[-1].version and head[-1].root == self.attempts[message].content.root():
                raise Violation(f"{message}: refused for a head that is its own content")

    def pulled(self, name: str, version: int | None, content: Content) -> None:
        self.counts["pulled"] += 1
        self.trace.note(self.loop.now, f"{name} pulled {version}")
        if version is not None:
            self.pulls.append((version, content))
        elif not any(content == a.content for a in self.attempts.values()) and content.pages:
            raise Violation(f"{name} pulled what nobody pushed")

    def versions_now(self) -> list[VersionCommitted]:
        """The history as it lies on the disk, past all caches and faults."""
        work = EventLog(self.repo, self.clock).read(f"database:{DATABASE}")
        events = [recorded.event for recorded in _finish(work)]
        return [event for event in events if isinstance(event, VersionCommitted)]

    # The oracle

    async def check(self) -> None:
        if self.defects:
            raise Violation(f"a server session ended by {self.defects[0]!r}") from self.defects[0]
        versions = self.versions_now()
        for number, version in enumerate(versions, 1):
            if (version.version, version.parent) != (number, number - 1):
                raise Violation(f"version {version.version} of {version.parent} is number {number}")
        await self._check_contents(versions)
        self._check_authors(versions)
        for message, attempt in self.attempts.items():
            if attempt.acknowledged and attempt.version is not None:
                self._check_is(attempt.version, attempt.content, versions, f"push {message}")
        for told, content in self.pulls:
            self._check_is(told, content, versions, "a pull")

    def _check_is(
        self, version: int, content: Content, versions: list[VersionCommitted], who: str
    ) -> None:
        if not version:
            if content.pages:
                raise Violation(f"{who} got pages of version 0")
        elif version > len(versions) or versions[version - 1].root != content.root():
            raise Violation(f"{who} was told version {version}, which is something else")

    async def _check_contents(self, versions: list[VersionCommitted]) -> None:
        """Every version, read by a server that has cached nothing, is a pushed content."""
        pushed = {attempt.content.root(): attempt.content for attempt in self.attempts.values()}
        log = EventLog(self.repo, self.clock)
        storage = PageStorage(self.store, self.ids)
        history = await DatabaseHistory(log).open(DATABASE, ORG)
        claims = VerifiedClaims("sync", "", ORG, "", "", 1 << 40, b"", "", 0)
        for version in versions:
            page_map = await Opened(history, claims).open_map(storage, version.version)
            pages: dict[int, bytes] = {}
            runs = ((1, version.page_count),) if version.page_count else ()
            async for batch in storage.reader(page_map, ORG).batches(runs):
                size = version.page_size
                for at, page in enumerate(pages_of(batch.runs)):
                    pages[page] = bytes(batch.data[at * size : (at + 1) * size])
            found = Content(version.page_size, tuple(pages[n] for n in sorted(pages)))
            if pushed.get(version.root) != found:
                raise Violation(f"version {version.version} is torn: nobody pushed it")

    def _check_authors(self, versions: list[VersionCommitted]) -> None:
        """Each version against the push that made it. Wire v1 carries no message, and no base."""
        seen: set[str] = set()
        for version in versions:
            if not version.message:
                continue
            if version.message in seen:
                raise Violation(f"push {version.message} made two versions")
            seen.add(version.message)
            attempt = self.attempts[version.message]
            if attempt.content.root() != version.root:
                raise Violation(f"version {version.version} is not what its push began with")
            base = attempt.base.version if attempt.base else None
            if not attempt.force and version.parent and base != version.parent:
                raise Violation(f"version {version.version} replaced one it was not based on")


@lru_cache
def _installed() -> MemoryRepo:
    """A repository with one empty database."""
    repo = MemoryRepo()
    user = UserSignedUp(user_id="u", email="u@e.org", provider="password", subject="u@e.org")
    org = OrganizationCreated(org_id=ORG, name="o", personal=True)
    created = DatabaseCreated(database_id=DATABASE, org_id=ORG, name="main", created_by="u")
    _finish(migrations.migrate(repo))
    log = EventLog(repo, ManualClock(START_UNIX))
    _finish(log.append([(event.stream, 0, [event]) for event in (user, org, created)]))
    return repo


def _finish(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")


# The work and the faults


def some_page(rng: Random, page_size: int) -> bytes:
    return rng.randbytes(8).ljust(page_size, rng.choice((b"\0", b"x")))


def edited(rng: Random, content: Content | None) -> Content:
    """What an application makes of its database: some pages changed, more of them, or fewer."""
    if content is None or not content.pages or rng.random() < 0.06:
        size = rng.choice((512, 512, 1024))
        return Content(size, tuple(some_page(rng, size) for _ in range(rng.randrange(1, 14))))
    pages = list(content.pages)
    kind = rng.random()
    if kind < 0.2 and len(pages) > 2:
        del pages[rng.randrange(1, len(pages)) :]
    elif kind < 0.4:
        pages += [some_page(rng, content.page_size) for _ in range(rng.randrange(1, 6))]
    elif kind < 0.45:
        rng.shuffle(pages)
    for _ in range(rng.randrange(1, 4)):
        pages[rng.randrange(len(pages))] = some_page(rng, content.page_size)
    return Content(content.page_size, tuple(pages))


async def work(world: World, client: SimClient, steps: int) -> None:
    """A user: edits, pushes, pulls, is refused, forces, and sometimes loses the machine."""
    rng = world.rng
    replica = client.replica
    for _ in range(steps):
        await asyncio.sleep(rng.random() * 3)
        if replica.content is None or rng.random() < 0.6:
            replica.write(edited(rng, replica.content))
        kind = rng.random()
        force = rng.random() < 0.25
        if kind < 0.6:
            call = client.push(force)
        else:
            versions = len(world.versions_now())
            at = rng.randrange(1, versions + 1) if versions and rng.random() < 0.15 else None
            call = client.pull(force, at if client.wire_version > 1 else None)
        await _attempt(world, client, call)


async def _attempt(world: World, client: SimClient, call: Coroutine[Any, Any, None]) -> None:
    """Run one command: it ends well, in a typed error, or with its process killed."""
    rng = world.rng
    task = world.loop.create_task(call)
    dies = not world.quiet and rng.random() < 0.1
    writes = rng.random() < 0.15
    wait = rng.random() * 1.5 if dies or writes else None
    if wait is not None:
        await asyncio.wait([task], timeout=wait)
        if writes and not task.done():
            client.replica.write(edited(rng, client.replica.content))
        if dies and not task.done():
            world.trace.note(world.loop.now, f"{client.name} killed")
            world.counts["crashes"] += 1
            task.cancel()
    try:
        await task
    except EdgeReplicaError as error:
        world.trace.note(world.loop.now, f"{client.name} ends: {error.code}")
    except asyncio.CancelledError:
        if not dies:
            raise


async def trouble(world: World) -> None:
    """Crash the server now and then, and bring it back."""
    rng = world.rng
    if world.quiet:
        return
    for _ in range(rng.randrange(3)):
        await asyncio.sleep(rng.random() * 4)
        world.crash()
        await asyncio.sleep(rng.random() * 2)
        world.boot()


async def scenario(world: World) -> None:
    rng = world.rng
    world.boot()
    clients = [_client(world, f"c{number}") for number in range(rng.choice((2, 2, 3)))]
    steps = rng.randrange(1, 4)
    await asyncio.gather(trouble(world), *(work(world, client, steps) for client in clients))
    await _heal(world, clients)
    await world.check()


async def _heal(world: World, clients: list[SimClient]) -> None:
    """The faults are over: everybody gets on, without a retry."""
    world.healing = True
    if world.process is not None and world.process.sessions:
        await asyncio.wait(world.process.sessions)
    world.crash()
    world.boot()
    for client in clients:
        client.options = _options(world, client.name, retries=0)
        await client.pull(force=True)
    if world.rng.random() < 0.25:
        await _share(world, clients)


async def _share(world: World, clients: list[SimClient]) -> None:
    """A change of one reaches the others, with nobody forcing anything."""
    first = clients[0]
    change = edited(world.rng, first.replica.content)
    first.replica.write(change)
    await first.push(force=first.wire_version == 1)
    for client in clients[1:]:
        await client.pull(force=False)
        if client.replica.content != change:
            raise Violation(f"{client.name} did not get what was pushed")


def _client(world: World, name: str) -> SimClient:
    rng = world.rng
    wire_version = 1 if rng.random() < 0.2 else 2
    retries = rng.choice((0, 2, 5))
    return SimClient(name, _options(world, name, retries), wire_version, rng, world, world.machines)


def _options(world: World, name: str, retries: int) -> Options:
    async def connector(url: str, token: str) -> ClientTransport:
        return await world.connect(name, "push" if token == "push" else "pull")

    return Options(
        server="http://simulated",
        token="",
        retries=retries,
        record=world.record,
        connector=connector,
    )


def run(seed: int, *, real: bool = True, record: Path | None = None, words: bool = False) -> Result:
    """Play `seed`. Raises `Violation`, `Deadlock`, or what a defect raised.

    `real` says whether python-statemachine runs the machines, or their tables do (`tables`).
    `record` is a folder for a recording of every session, `words` keeps the trace's lines.
    """
    loop = SimLoop()
    trace = Trace()
    if words:
        trace.notes = []
    world = World(seed, loop, trace, Machines(real or record is not None), record)
    loop.set_exception_handler(lambda _, context: world.note_defect(context))
    try:
        loop.run_until_complete(scenario(world))
    finally:
        _end(loop, world)
    return Result(seed, trace.digest(), world.counts, trace.notes)


def _end(loop: SimLoop, world: World) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    _finish(world.repo.close())


async def _unrevoked(claims: VerifiedClaims) -> VerifiedClaims:
    """There are no accounts in this world, so nothing is ever revoked."""
    return claims
