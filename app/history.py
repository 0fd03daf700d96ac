"""A database's versions, folded from its stream, and the compare-and-swap that adds one.

A `History` is an immutable value: what a session opened stays what it saw, whatever is committed
meanwhile. `DatabaseHistory` keeps folded histories in a bounded cache and reads only the events
that came after; it is the only way a version is added. It knows nothing of pages: where a version's
content lies is for the reader of `map_key` and `segments`.

Versions stay in their stored form until somebody asks for one: of ten thousand, a session looks at
a few dozen.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import msgspec

from ..adapters.event_log import EventLog, Stored
from ..adapters.ports import Statement
from ..events import domain
from ..events.domain import (
    DatabaseCreated,
    DatabaseDeleted,
    DomainEvent,
    MapsRewritten,
    RetentionSet,
    RewrittenMap,
    VersionCommitted,
    VersionsExpired,
    database_stream,
)
from ..events.errors import (
    ConcurrentAppend,
    Conflict,
    NotFound,
    ProtocolViolation,
    StorageError,
)
from ..events.limits import (
    APPEND_ATTEMPTS_MAX,
    HISTORIES_CACHED_MAX,
    HISTORY_SNAPSHOT_EVENTS,
    VERSIONS_CACHED_MAX,
)
from ..fsm.database_lifecycle import DatabaseLifecycle, RefuseConflict, RefuseEvent
from . import history_snapshot
from .stored_versions import StoredVersions


class Outline(msgspec.Struct, frozen=True):
    """The fields of a version that tell where it lies and how old it is, decoded without checks."""

    version: int
    committed_at: float
    map_key: str
    map_is_snapshot: bool
    segments: tuple[str, ...]


_OUTLINE = msgspec.json.Decoder(Outline)
_E = TypeVar("_E", bound=DomainEvent)


@dataclass(frozen=True)
class History:
    """A database as of the `seq`-th event of its stream; version 0 is empty.

    `stored` holds the versions from number `first` on, ascending and without gaps. Those up to
    `expired` are not readable any more; a few of them remain because the map of the oldest kept
    version is written relative to theirs. `rewritten` says where maps lie that were moved.
    """

    database_id: str
    org_id: str = ""
    name: str = ""
    first: int = 1
    stored: StoredVersions = field(default_factory=StoredVersions, repr=False)
    rewritten: Mapping[int, RewrittenMap] = field(default_factory=dict, repr=False)
    expired: int = 0
    retention: RetentionSet | None = None
    deleted: bool = False
    seq: int = 0

    @cached_property
    def head(self) -> VersionCommitted | None:
        """The newest version, or None if nothing was ever pushed."""
        return self.ancestor(self.head_version) if self.stored else None

    @property
    def head_version(self) -> int:
        return self.first + len(self.stored) - 1 if self.stored else 0

    @property
    def oldest(self) -> int:
        """The number of the oldest version that can be read; 1 if there is none yet."""
        return max(self.first, self.expired + 1)

    @property
    def versions(self) -> tuple[VersionCommitted, ...]:
        """All versions that can be read, decoded: not for long histories."""
        return tuple(map(self.ancestor, range(self.oldest, self.head_version + 1)))

    def at(self, version: int) -> VersionCommitted:
        """Version number `version`; `NotFound` if there is none (any more)."""
        if not self.oldest <= version <= self.head_version:
            if 0 < version <= self.expired:
                raise NotFound(
                    f"version {version} is no longer kept; the oldest is {self.oldest}",
                    version=version,
                    oldest=self.oldest,
                )
            raise NotFound(f"there is no version {version}", version=version)
        return self.ancestor(version)

    def ancestor(self, version: int) -> VersionCommitted:
        """`at`, also for an expired version that the map of a kept one is relative to."""
        if not self.first <= version <= self.head_version:
            raise NotFound(f"there is no version {version}", version=version)
        event = domain.decode(VersionCommitted.kind, self.stored[version - self.first])
        assert isinstance(event, VersionCommitted)
        moved = self.rewritten.get(version)
        return event if moved is None else event.model_copy(update=_where(moved))

    def at_time(self, unix: float) -> VersionCommitted:
        """The newest version committed at or before `unix` seconds; `NotFound` if there is none."""
        for number in range(self.head_version, self.oldest - 1, -1):
            if self.outline(number).committed_at <= unix:
                return self.at(number)
        if self.expired:
            raise NotFound(
                f"versions that old are no longer kept; the oldest is {self.oldest}",
                oldest=self.oldest,
            )
        raise NotFound("there is no version that old")

    def outline(self, version: int) -> Outline:
        """The outline of any version from `first` on, quickly."""
        try:
            outline = _OUTLINE.decode(self.stored[version - self.first])
        except msgspec.MsgspecError as error:
            raise StorageError(f"the log holds a version that cannot be read: {error}") from error
        moved = self.rewritten.get(version)
        if moved is None:
            return outline
        return Outline(
            outline.version,
            outline.committed_at,
            moved.map_key,
            moved.map_is_snapshot,
            moved.segments,
        )

    def outlines(self) -> Iterator[Outline]:
        """Every version whose map object is needed: the kept ones, and those beneath them."""
        return map(self.outline, range(self.first, self.head_version + 1))


def _where(moved: RewrittenMap) -> dict[str, Any]:
    return {
        "map_key": moved.map_key,
        "map_is_snapshot": moved.map_is_snapshot,
        "segments": moved.segments,
    }


def fold(history: History, events: Iterable[Stored]) -> History:
    """`history` after `events`, which follow it in its stream."""
    added: list[str] = []
    moved: dict[int, RewrittenMap] = {}
    kinds = {DatabaseCreated.kind, DatabaseDeleted.kind, RetentionSet.kind, VersionsExpired.kind}
    first, changes = history.first, dict[str, Any]()
    for entry in events:
        changes["seq"] = entry.seq
        if entry.kind == VersionCommitted.kind:
            if not history.stored and not added:
                first = _OUTLINE.decode(entry.data).version
            added.append(entry.data)
        elif entry.kind == MapsRewritten.kind:
            event = domain.decode(entry.kind, entry.data)
            assert isinstance(event, MapsRewritten)
            moved.update((one.version, one) for one in event.maps)
        elif entry.kind in kinds:
            changes.update(_changes(domain.decode(entry.kind, entry.data)))
        else:  # what a later kind of event means is for its own fold, but it must be known
            domain.decode(entry.kind, entry.data)
    if added:
        changes.update(first=first, stored=history.stored.with_added(added))
    if moved:
        changes["rewritten"] = {**history.rewritten, **moved}
    if not changes:
        return history
    changed = replace(history, **changes)
    return _without_needless(changed) if moved or "expired" in changes else changed


def _changes(event: DomainEvent) -> dict[str, Any]:
    match event:
        case DatabaseCreated(org_id=org_id, name=name):
            return {"org_id": org_id, "name": name}
        case DatabaseDeleted():
            return {"deleted": True}
        case RetentionSet():
            return {"retention": event}
        case VersionsExpired(through=through):
            return {"expired": through}
    return {}


def _without_needless(history: History) -> History:
    """Forget expired versions on whose maps no kept one stands."""
    needed = history.oldest
    if history.expired < history.first or not history.stored:
        needed = history.first
    while needed > history.first and not history.outline(needed).map_is_snapshot:
        needed -= 1
    rewritten = {v: one for v, one in history.rewritten.items() if v >= needed}
    stored = history.stored.without_first(needed - history.first)
    return replace(history, first=needed, stored=stored, rewritten=rewritten)


class DatabaseHistory:
    """Opens histories and commits versions to them."""

    def __init__(
        self,
        log: EventLog,
        histories_max: int = HISTORIES_CACHED_MAX,
        versions_max: int = VERSIONS_CACHED_MAX,
        committed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._log = log
        self._committed = committed
        self._cache: OrderedDict[str, History] = OrderedDict()
        self._versions_cached = 0
        self._histories_max = histories_max
        self._versions_max = versions_max

    async def open(self, database_id: str, org_id: str) -> History:
        """The history as it stands now.

        `NotFound` if there is no such database, it was deleted, or it is another organization's:
        the three answer alike.
        """
        history = await self._read(database_id)
        if not history.org_id or history.deleted or history.org_id != org_id:
            raise NotFound(f"there is no database {database_id}")
        return history

    def cached(self, database_id: str) -> History | None:
        """The history as it stood when it was last read, if it still lies in the cache."""
        return self._cache.get(database_id)

    async def peek(self, database_id: str) -> History:
        """The history as it stands, deleted or not, without a place in the cache."""
        known = self._cache.get(database_id)
        if known is None:
            known = await self._from_snapshot(database_id)
        return fold(known, await self._log.stored(database_stream(database_id), known.seq))

    async def _from_snapshot(self, database_id: str) -> History:
        snapshot = await self._log.snapshot(database_stream(database_id))
        if snapshot is None:
            return History(database_id)
        state, stored, retention = history_snapshot.decode(snapshot)
        return History(
            database_id=database_id,
            org_id=state.org_id,
            name=state.name,
            first=state.first,
            stored=stored,
            expired=state.expired,
            retention=retention,
            deleted=state.deleted,
            seq=snapshot.seq,
        )

    async def write_snapshot(self, database_id: str) -> bool:
        """Write the history down if it is long and the last time is long ago."""
        stream = database_stream(database_id)
        history = await self.peek(database_id)
        before = await self._log.snapshot(stream)
        if history.seq - (before.seq if before else 0) < HISTORY_SNAPSHOT_EVENTS:
            return False
        state = history_snapshot.State(
            org_id=history.org_id,
            name=history.name,
            first=history.first,
            expired=history.expired,
            deleted=history.deleted,
            retention=history.retention.model_dump_json() if history.retention else None,
            tail=(),
        )
        versions = list(history.stored)
        for number in history.rewritten:
            if history.first <= number <= history.head_version:
                text = history.ancestor(number).model_dump_json()
                versions[number - history.first] = text
        await self._log.write_snapshot(
            stream, history_snapshot.encode(history.seq, state, versions)
        )
        return True

    async def commit(
        self, history: History, version: VersionCommitted, also: Sequence[Statement] = ()
    ) -> History:
        """Append `version` to the database of `history`; the history that ends with it.

        Raises `Conflict` (base, head, author, committed_at) if the head is not `version.parent`,
        and `NotFound` if the database was deleted meanwhile; then nothing was changed. Other events
        in the stream do not hinder a commit. `also` runs in the same transaction.
        """
        appended = await self.append_decided(history, lambda _: version, also)
        assert appended is not None
        history, _ = appended
        committed = fold(history, [Stored(history.seq + 1, *domain.encode(version))])
        self._keep(committed)
        self._committed(history.database_id)
        return committed

    def forget(self, database_id: str) -> None:
        """Drop what is cached of a database; costs the next reader time, nothing else."""
        dropped = self._cache.pop(database_id, None)
        if dropped is not None:
            self._versions_cached -= len(dropped.stored)

    async def delete(self, history: History, deleted_by: str) -> None:
        """Append `DatabaseDeleted`, whatever is committed meanwhile; `NotFound` if it was gone."""
        await self.append(
            history, DatabaseDeleted(database_id=history.database_id, deleted_by=deleted_by)
        )

    async def append(
        self, history: History, event: DomainEvent, also: Sequence[Statement] = ()
    ) -> None:
        """Append an `event` that holds whatever was committed meanwhile; `NotFound` if the
        database is gone."""
        await self.append_decided(history, lambda _: event, also)

    async def append_decided(
        self,
        history: History,
        decide: Callable[[History], _E | None],
        also: Sequence[Statement] = (),
    ) -> tuple[History, _E] | None:
        """Append what `decide` makes of the history, asked again if something came in between; the
        history it was appended to, and the event. None if there is nothing to append.

        Raises `NotFound` if the database is gone, `ConcurrentAppend` if its log never stands still.
        """
        stream = database_stream(history.database_id)
        for _ in range(APPEND_ATTEMPTS_MAX):
            event = decide(history)
            if event is None:
                return None
            _admit(history, event)
            try:
                await self._log.append([(stream, history.seq, [event])], also)
            except ConcurrentAppend:
                history = await self.open(history.database_id, history.org_id)
                continue
            return history, event
        raise ConcurrentAppend(f"the log of database {history.database_id} does not stand still")

    async def _read(self, database_id: str) -> History:
        history = await self.peek(database_id)
        if history.seq:
            self._keep(history)
        return history

    def _keep(self, history: History) -> None:
        """Cache `history` unless a newer one is there, and drop the least recently used."""
        old = self._cache.get(history.database_id)
        if old is not None:
            self._cache.move_to_end(history.database_id)
            if old.seq >= history.seq:
                return
            self._versions_cached -= len(old.stored)
        self._cache[history.database_id] = history
        self._versions_cached += len(history.stored)
        while self._cache and (
            len(self._cache) > self._histories_max or self._versions_cached > self._versions_max
        ):
            _, dropped = self._cache.popitem(last=False)
            self._versions_cached -= len(dropped.stored)


def _admit(history: History, event: DomainEvent) -> None:
    """Ask the lifecycle whether `event` may follow; `Conflict` if its version is not on the head.

    Whatever else it refuses would be a mistake of this program: `StorageError`.
    """
    machine = DatabaseLifecycle.of(
        created=bool(history.org_id),
        deleted=history.deleted,
        head=history.head_version,
        expired=history.expired,
    )
    try:
        (effect,) = machine.handle(event)
    except ProtocolViolation as error:
        raise StorageError(f"database {history.database_id}: {error.message}") from error
    match effect:
        case RefuseConflict(parent=parent):
            raise _conflict(history, parent)
        case RefuseEvent(reason=reason):
            raise StorageError(f"database {history.database_id}: {reason}")


def _conflict(history: History, parent: int) -> Conflict:
    head = history.head
    return Conflict(
        f"the push is based on version {parent}, but the head is version {history.head_version}"
        + (f" by {head.author_email}" if head else ""),
        base=parent,
        head=history.head_version,
        author=head.author_email if head else "",
        committed_at=head.committed_at if head else 0.0,
    )
