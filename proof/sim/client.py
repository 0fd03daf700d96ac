"""A client whose database is a list of pages and whose sidecar is a second one.

It runs the real machines, driver and push end over the simulated wire; only the file is replaced,
by `Replica`, which keeps the promises that `local_snapshot` and `local_apply` make (each tested
with its own crash tests): a push reads one state, an installation happens at one moment, and is
refused if the file was written to meanwhile. What `push_session` and `pull_session` decide from
plan and sidecar is done here in the same way.
"""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Protocol

from edgereplica.adapters.hashing import NO_DIGEST, hash_pages, root_of
from edgereplica.app.client_session import Options, run_session
from edgereplica.app.compression import CompressMode, Compressor, decode
from edgereplica.app.driver import Handler
from edgereplica.app.local_content import DrillDown, LocalContent, StaleSidecar
from edgereplica.app.pull_client import PullClientEnd
from edgereplica.app.push_client import PushClientEnd
from edgereplica.events.errors import (
    EdgeReplicaError,
    FileReplaced,
    NoSharedHistory,
    RootMismatch,
    UnpushedChanges,
)
from edgereplica.events.limits import DIGEST_BYTES
from edgereplica.events.messages import At, HelloReply
from edgereplica.events.pages import Runs, count_pages, runs_of
from edgereplica.events.session import (
    DrilledDown,
    PagesStored,
    PullPlanned,
    PushPlanned,
    ReplicaPrepared,
    VersionApplied,
    WindowHashed,
)
from edgereplica.events.wire import V1
from edgereplica.fsm.effects import ApplyVersion, HashWindow, PrepareReplica, StorePages
from edgereplica.fsm.effects import DrillDown as DrillDownEffect

from .tables import Machines

Pages = tuple[bytes, ...]


def digests_of(content: "Content") -> bytearray:
    return bytearray(hash_pages(b"".join(content.pages), content.page_size, 1))


@dataclass(frozen=True, slots=True)
class Content:
    """A database: pages of `page_size` bytes, immutable; the same content is the same value."""

    page_size: int
    pages: Pages

    def root(self) -> bytes:
        return root_of(digests_of(self))


@dataclass(frozen=True, slots=True)
class Synced:
    """The sidecar. `version` is None where the server named none (wire v1)."""

    version: int | None
    content: Content
    root: bytes


@dataclass(slots=True)
class Replica:
    """A file and its sidecar: what a client's disk holds through its crashes."""

    content: Content | None = None
    synced: Synced | None = None
    writes: int = 0
    """Counts the application's commits, so that an installation notices one under its feet."""

    @property
    def changed(self) -> bool:
        return self.synced is None or self.content != self.synced.content

    def write(self, content: Content) -> None:
        self.content = content
        self.writes += 1


class _Snapshot:
    """What `LocalContent` wants of a `LocalSnapshot`."""

    def __init__(self, content: Content) -> None:
        self._content = content

    def read(self, first: int, last: int) -> memoryview:
        return memoryview(b"".join(self._content.pages[first - 1 : last]))

    def read_runs(self, runs: Runs) -> bytes:
        return b"".join(bytes(self.read(first, last)) for first, last in runs)

    def check_not_replaced(self) -> None:
        pass

    def close(self) -> None:
        pass


def local_content(content: Content, synced: Synced | None) -> LocalContent:
    """As `local_plan` does: relative to the synced version where page sizes allow it."""
    changed: Runs | None = None
    digests: bytearray | None = None
    if synced is not None and synced.content.page_size == content.page_size:
        old = synced.content.pages
        changed = runs_of(
            number
            for number, page in enumerate(content.pages, 1)
            if number > len(old) or (page is not old[number - 1] and page != old[number - 1])
        )
        digests = digests_of(content)
    return LocalContent(
        _Snapshot(content),  # type: ignore[arg-type]
        content.page_size,
        len(content.pages),
        digests=digests,
        changed=changed,
    )


class SimPullEnd:
    """`PullClientEnd` on a `Replica`."""

    def __init__(
        self,
        replica: Replica,
        refusal: EdgeReplicaError | None,
        wire_version: int,
        hash_again: bool,
        rng: Random,
    ) -> None:
        self._replica = replica
        self._held = replica.content
        self._writes = replica.writes
        self._refusal = refusal
        self._wire_version = wire_version
        self._local = (
            local_content(self._held, None if hash_again else replica.synced)
            if self._held is not None
            else None
        )
        self._rng = rng
        self._windows: Iterator[WindowHashed] | None = None
        self._drill: DrillDown | None = None
        self._reply: HelloReply | None = None
        self._pages: list[bytes] = []
        self._digests = bytearray()
        self.installed: Content | None = None

    @property
    def handlers(self) -> Mapping[type, Handler]:
        return {
            PrepareReplica: self.prepare,
            HashWindow: self.hash_window,
            DrillDownEffect: self.drill_down,
            StorePages: self.store,
            ApplyVersion: self.apply,
        }

    @property
    def _content(self) -> LocalContent:
        assert self._local is not None
        return self._local

    @property
    def _version(self) -> HelloReply:
        assert self._reply is not None
        return self._reply

    async def prepare(self, effect: PrepareReplica) -> ReplicaPrepared:
        reply = self._reply = effect.reply
        is_known = PullClientEnd.is_known_version(self._local, reply)
        if self._refusal is not None and not is_known:
            raise self._refusal
        self._digests = bytearray(reply.page_count * DIGEST_BYTES)
        self._pages = [b""] * reply.page_count
        if self._held is None or self._held.page_size != reply.page_size:
            return ReplicaPrepared("nothing")
        kept = self._held.pages[: reply.page_count]
        self._pages[: len(kept)] = kept
        digests = self._content.digests[: reply.page_count * DIGEST_BYTES]
        self._digests[: len(digests)] = digests
        if reply.base_known:
            return ReplicaPrepared("windows" if self._content.changed else "nothing")
        return ReplicaPrepared("windows" if self._wire_version == V1 else "ranges")

    async def hash_window(self, effect: HashWindow) -> WindowHashed:
        if self._windows is None:
            runs = self._content.everything
            if self._drill is not None:
                runs = self._drill.differing
            elif self._version.base_known and self._content.changed is not None:
                runs = self._content.changed
            self._windows = self._content.windows(runs)
        return next(self._windows)

    async def drill_down(self, effect: DrillDownEffect) -> DrilledDown:
        if self._drill is None:
            self._drill = DrillDown(self._content)
        return DrilledDown(self._drill.next_round(effect.runs))

    async def store(self, effect: StorePages) -> PagesStored:
        size, count = self._version.page_size, count_pages(effect.runs)
        data = decode(effect.codec, effect.data, count * size)
        at = 0
        for first, last in effect.runs:
            for page in range(first, last + 1):
                self._pages[page - 1] = data[at : at + size]
                at += size
            piece = b"".join(self._pages[first - 1 : last])
            self._digests[(first - 1) * DIGEST_BYTES : last * DIGEST_BYTES] = hash_pages(
                piece, size, first
            )
        return PagesStored(count, len(effect.data))

    async def apply(self, effect: ApplyVersion) -> VersionApplied:
        for announced in (self._version.root, effect.root):
            if announced is not None and announced != root_of(self._digests):
                raise RootMismatch("the pulled pages do not have the version's root")
        for at in range(0, len(self._digests), DIGEST_BYTES):
            if self._digests[at : at + DIGEST_BYTES] == NO_DIGEST:
                raise RootMismatch(f"page {at // DIGEST_BYTES + 1} never came")
        await asyncio.sleep(self._rng.random() * 0.2)
        if self._replica.writes != self._writes:
            raise FileReplaced("the file was changed in the meantime")
        self.installed = Content(self._version.page_size, tuple(self._pages))
        self._replica.content = self.installed
        await asyncio.sleep(self._rng.random() * 0.2)
        return VersionApplied(effect.version or self._version.head or 0)


class Watcher(Protocol):
    """Who is told what a client does: the oracle (`world`)."""

    def push_begins(self, name: str, content: Content, base: Synced | None, force: bool) -> str:
        """The message that this push shall carry."""
        ...

    def pushed(self, message: str, version: int | None, content: Content) -> None: ...

    def push_refused(self, message: str, error: EdgeReplicaError) -> None: ...

    def pulled(self, name: str, version: int | None, content: Content) -> None: ...


class SimClient:
    """Pushes and pulls `replica` as `AsyncReplica` would, retries included."""

    def __init__(
        self,
        name: str,
        options: Options,
        wire_version: int,
        rng: Random,
        watcher: Watcher,
        machines: Machines,
    ) -> None:
        self.name = name
        self.options = options
        self.wire_version = wire_version
        self.replica = Replica()
        self._rng = rng
        self._watcher = watcher
        self._machines = machines
        self._compress: CompressMode = rng.choice(("always", "never"))
        self.sessions = 0

    def _session(self, direction: str) -> Options:
        """The options for one session, which is recorded in a file of its own if any is."""
        self.sessions += 1
        record = self.options.record
        if record is not None:
            record /= f"{self.name}-{self.sessions}.jsonl"
        return replace(self.options, token=direction, record=record)

    async def push(self, force: bool) -> None:
        content = self.replica.content
        assert content is not None
        ignore = False
        failures = 0
        while True:
            # The state is read anew in every attempt, as the real client does.
            content = self.replica.content
            synced = None if ignore else self.replica.synced
            message = self._watcher.push_begins(self.name, content, synced, force)
            try:
                version = await self._push_once(content, synced, force, message)
            except (StaleSidecar, RootMismatch) as error:
                self._watcher.push_refused(message, error)
                if ignore:
                    raise
                ignore = True
            except EdgeReplicaError as error:
                self._watcher.push_refused(message, error)
                failures += 1
                await self._retry(error, failures)
            else:
                self._watcher.pushed(message, version, content)
                self.replica.synced = Synced(version, content, content.root())
                return

    async def _push_once(
        self, content: Content, synced: Synced | None, force: bool, message: str
    ) -> int | None:
        local = local_content(content, synced)
        root = None
        if synced is not None and self.wire_version != V1:
            root = synced.root if content == synced.content else local.root()
        planned = PushPlanned(
            page_size=content.page_size,
            page_count=len(content.pages),
            base=synced.version if synced else None,
            base_root=synced.root if synced and synced.version is not None else None,
            root=root,
            force=force,
            message=message,
        )
        mode: CompressMode = self._compress if self.wire_version != V1 else "never"
        end = PushClientEnd(
            local, Compressor(mode, loopback=False, blocked_share=lambda: 0.0), lambda: None
        )
        machine = self._machines.client_push(self.wire_version)
        options = self._session("push")
        await run_session(options, self.wire_version, "push", lambda _: (machine, end, planned))
        assert machine.reply is not None
        return machine.outcome.version if machine.outcome is not None else machine.reply.head

    async def pull(self, force: bool, at: At = None) -> None:
        ignore = False
        failures = 0
        while True:
            try:
                return await self._pull_once(force, at, ignore)
            except RootMismatch:
                if ignore:
                    raise
                ignore = True
            except EdgeReplicaError as error:
                failures += 1
                await self._retry(error, failures)

    async def _pull_once(self, force: bool, at: At, ignore: bool) -> None:
        replica = self.replica
        held, synced = replica.content, None if ignore else replica.synced
        changed = synced is None or held != synced.content
        refusal: EdgeReplicaError | None = None
        if held is not None and changed and not force:
            refusal = (
                NoSharedHistory("no history with this database")
                if synced is None
                else UnpushedChanges("changes that were never pushed")
            )
        root = None
        if held is not None and self.wire_version != V1:
            root = held.root()
            if synced is not None and not (changed and force):
                root = synced.root
        planned = PullPlanned(
            page_size=held.page_size if held else 4096,
            page_count=len(held.pages) if held else 0,
            base=synced.version if synced and held else None,
            base_root=synced.root if synced and held and synced.version is not None else None,
            root=root,
            at=at,
            fresh=held is None,
        )
        end = SimPullEnd(replica, refusal, self.wire_version, ignore, self._rng)
        machine = self._machines.client_pull(self.wire_version)
        options = self._session("pull")
        await run_session(options, self.wire_version, "pull", lambda _: (machine, end, planned))
        reply = machine.reply
        assert reply is not None
        if machine.state_id == "pulled":
            assert end.installed is not None
            self._watcher.pulled(self.name, reply.head, end.installed)
            replica.synced = Synced(reply.head, end.installed, end.installed.root())
        elif held is not None and (force or synced is None or not changed):
            self._watcher.pulled(self.name, reply.head, held)
            replica.synced = Synced(reply.head, held, held.root())

    async def _retry(self, error: EdgeReplicaError, failures: int) -> None:
        if not error.retryable or failures > self.options.retries:
            raise error
        await asyncio.sleep(min(15.0, 0.25 * 2**failures) * (0.5 + self._rng.random() / 2))
