"""A client: the real machines, driver and push end over the simulated wire and a `Replica`.

What `push_session` and `pull_session` decide from plan and sidecar is done here in the same way.
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
from edgereplica.events.pages import count_pages
from edgereplica.events.session import (
    DrilledDown,
    PagesLoaded,
    PagesStored,
    PullPlanned,
    PushPlanned,
    ReplicaPrepared,
    VersionApplied,
    WindowHashed,
)
from edgereplica.events.wire import V1
from edgereplica.fsm.effects import (
    ApplyVersion,
    HashWindow,
    LoadPages,
    PrepareReplica,
    StorePages,
)
from edgereplica.fsm.effects import DrillDown as DrillDownEffect

from .replica import Content, LocalDisk, Replica, Synced, local_content
from .tables import Machines


class SimPushEnd(PushClientEnd):
    """`PushClientEnd` with smaller batches."""

    def __init__(self, local: LocalContent, mode: CompressMode, batch_bytes: int) -> None:
        compressor = Compressor(mode, loopback=False, blocked_share=lambda: 0.0)
        super().__init__(local, compressor, lambda: None)
        self._batch_bytes = batch_bytes

    async def load(self, effect: LoadPages) -> PagesLoaded:
        return await super().load(LoadPages(effect.runs, min(effect.bytes_max, self._batch_bytes)))


class SimPullEnd:
    """`PullClientEnd` on a `Replica`."""

    def __init__(
        self,
        replica: Replica,
        refusal: EdgeReplicaError | None,
        wire_version: int,
        hash_again: bool,
        rng: Random,
        disk: LocalDisk,
    ) -> None:
        self._replica = replica
        self._held = replica.content
        self._writes = replica.writes
        self._refusal = refusal
        self._wire_version = wire_version
        self._local = (
            local_content(self._held, None if hash_again else replica.synced, disk)
            if self._held is not None
            else None
        )
        self._rng = rng
        self._disk = disk
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
        refusal = self._refusal
        if refusal is not None and not PullClientEnd.is_known_version(self._content, reply):
            raise refusal
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
        self._disk.call()
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
        self._disk.call()
        if self._replica.writes != self._writes:
            raise FileReplaced("the file was changed in the meantime")
        self.installed = Content(self._version.page_size, tuple(self._pages))
        self._replica.install(self.installed)
        await asyncio.sleep(self._rng.random() * 0.2)
        return VersionApplied(effect.version or self._version.head or 0)


@dataclass(frozen=True, slots=True)
class Asked:
    """A pull as it began: by whom, of which version, and the head's number at that moment."""

    name: str
    wire_version: int
    at: At
    head: int


class Watcher(Protocol):
    """Who is told what a client does (`world`)."""

    def local_disk(self) -> LocalDisk:
        """The disk under one attempt."""
        ...

    def push_begins(self, client: "SimClient", base: Synced | None, force: bool) -> str:
        """The message that this push of what the client holds shall carry."""
        ...

    def pushed(self, message: str, version: int | None, *, in_sync: bool) -> None:
        """`in_sync` if nothing had to be sent, for the server had it as the head."""
        ...

    def push_refused(self, message: str, error: EdgeReplicaError) -> None: ...

    def pull_begins(self, client: "SimClient", at: At) -> Asked: ...

    def pulled(self, asked: Asked, version: int | None, content: Content) -> None:
        """`version` is what the client was told; wire v1 tells none."""
        ...


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
        batch_bytes: int,
    ) -> None:
        self.name = name
        self.options = options
        self.wire_version = wire_version
        self.replica = Replica()
        self._rng = rng
        self._watcher = watcher
        self._machines = machines
        self._batch_bytes = batch_bytes
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
        ignore = False
        failures = 0
        while True:
            # The state is read anew in every attempt, as the real client does.
            content = self.replica.content
            assert content is not None
            synced = None if ignore else self.replica.synced
            message = self._watcher.push_begins(self, synced, force)
            try:
                version, in_sync = await self._push_once(content, synced, force, message)
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
                self._watcher.pushed(message, version, in_sync=in_sync)
                self.replica.remember(Synced(version, content, content.root))
                return

    async def _push_once(
        self, content: Content, synced: Synced | None, force: bool, message: str
    ) -> tuple[int | None, bool]:
        """The version told, and whether it was the head already."""
        local = local_content(content, synced, self._watcher.local_disk())
        local.spool_changes()
        root = None
        if synced is not None and self.wire_version != V1:
            root = content.root
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
        end = SimPushEnd(local, mode, self._batch_bytes)
        machine = self._machines.client_push(self.wire_version)
        options = self._session("push")
        await run_session(options, self.wire_version, "push", lambda _: (machine, end, planned))
        assert machine.reply is not None
        if machine.outcome is None:
            return machine.reply.head, True
        return machine.outcome.version, False

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
            root = held.root
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
        asked = self._watcher.pull_begins(self, at)
        disk = self._watcher.local_disk()
        end = SimPullEnd(replica, refusal, self.wire_version, ignore, self._rng, disk)
        machine = self._machines.client_pull(self.wire_version)
        options = self._session("pull")
        await run_session(options, self.wire_version, "pull", lambda _: (machine, end, planned))
        reply = machine.reply
        assert reply is not None
        if machine.state_id == "pulled":
            assert end.installed is not None
            self._watcher.pulled(asked, reply.head, end.installed)
            replica.remember(Synced(reply.head, end.installed, end.installed.root))
        elif held is not None and (force or synced is None or not changed):
            self._watcher.pulled(asked, reply.head, held)
            replica.remember(Synced(reply.head, held, held.root))

    async def _retry(self, error: EdgeReplicaError, failures: int) -> None:
        if not error.retryable or failures > self.options.retries:
            raise error
        await asyncio.sleep(min(15.0, 0.25 * 2**failures) * (0.5 + self._rng.random() / 2))
