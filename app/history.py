"""A database's versions, folded from its stream, and the compare-and-swap that adds one.

A `History` is an immutable value: what a session opened stays what it saw, whatever is committed
meanwhile. `DatabaseHistory` keeps folded histories in a bounded cache and reads only the events
that came after; it is the only way a version is added. It knows nothing of pages: where a version's
content lies is for the reader of `map_key` and `segments`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ..adapters.event_log import EventLog, Recorded
from ..events.domain import DatabaseCreated, DatabaseDeleted, VersionCommitted, database_stream
from ..events.errors import ConcurrentAppend, Conflict, NotFound
from ..events.limits import APPEND_ATTEMPTS_MAX, HISTORIES_CACHED_MAX, VERSIONS_CACHED_MAX


@dataclass(frozen=True, slots=True)
class History:
    """A database as of the `seq`-th event of its stream. `versions` ascend; version 0 is empty."""

    database_id: str
    org_id: str = ""
    name: str = ""
    versions: tuple[VersionCommitted, ...] = ()
    deleted: bool = False
    seq: int = 0

    @property
    def head(self) -> VersionCommitted | None:
        """The newest version, or None if nothing was ever pushed."""
        return self.versions[-1] if self.versions else None

    @property
    def head_version(self) -> int:
        return self.versions[-1].version if self.versions else 0

    def at(self, version: int) -> VersionCommitted:
        """Version number `version`; `NotFound` if there is none."""
        # Versions are numbered without gaps, but a history need not begin with 1 (a branch).
        index = version - self.versions[0].version if self.versions else -1
        if not 0 <= index < len(self.versions):
            raise NotFound(f"there is no version {version}", version=version)
        return self.versions[index]

    def at_time(self, unix: float) -> VersionCommitted:
        """The newest version committed at or before `unix` seconds; `NotFound` if there is none."""
        for version in reversed(self.versions):
            if version.committed_at <= unix:
                return version
        raise NotFound("there is no version that old")


def fold(history: History, recorded: Iterable[Recorded]) -> History:
    """`history` after the events `recorded`, which follow it in its stream."""
    added: list[VersionCommitted] = []
    for entry in recorded:
        match entry.event:
            case DatabaseCreated(org_id=org_id, name=name):
                history = replace(history, org_id=org_id, name=name)
            case VersionCommitted() as version:
                added.append(version)
            case DatabaseDeleted():
                history = replace(history, deleted=True)
            case _:
                pass  # what a later kind of event means is for its own fold
        history = replace(history, seq=entry.seq)
    return replace(history, versions=history.versions + tuple(added)) if added else history


class DatabaseHistory:
    """Opens histories and commits versions to them. `committed` is told the id of a database that
    has a new head."""

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

    async def commit(self, history: History, version: VersionCommitted) -> History:
        """Append `version` to the database of `history`; the history that ends with it.

        Raises `Conflict` (base, head, author, committed_at) if the head is not `version.parent`,
        and `NotFound` if the database was deleted meanwhile; then nothing was changed. Other events
        in the stream do not hinder a commit.
        """
        for _ in range(APPEND_ATTEMPTS_MAX):
            _check_follows(history, version)
            stream = database_stream(history.database_id)
            try:
                at = await self._log.append([(stream, history.seq, [version])])
            except ConcurrentAppend:
                history = await self.open(history.database_id, history.org_id)
                continue
            committed = fold(history, [Recorded(0, stream, history.seq + 1, at, version)])
            self._keep(committed)
            self._committed(history.database_id)
            return committed
        raise ConcurrentAppend(f"the log of database {history.database_id} does not stand still")

    async def delete(self, history: History, deleted_by: str) -> None:
        """Append `DatabaseDeleted`, whatever is committed meanwhile; `NotFound` if it was gone."""
        event = DatabaseDeleted(database_id=history.database_id, deleted_by=deleted_by)
        for _ in range(APPEND_ATTEMPTS_MAX):
            try:
                await self._log.append([(event.stream, history.seq, [event])])
            except ConcurrentAppend:
                history = await self.open(history.database_id, history.org_id)
                continue
            return
        raise ConcurrentAppend(f"the log of database {history.database_id} does not stand still")

    def forget(self, database_id: str) -> None:
        """Drop what is cached of a database; costs the next reader time, nothing else."""
        dropped = self._cache.pop(database_id, None)
        if dropped is not None:
            self._versions_cached -= len(dropped.versions)

    async def _read(self, database_id: str) -> History:
        known = self._cache.get(database_id, History(database_id))
        recorded = await self._log.read(database_stream(database_id), known.seq)
        history = fold(known, recorded)
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
            self._versions_cached -= len(old.versions)
        self._cache[history.database_id] = history
        self._versions_cached += len(history.versions)
        while self._cache and (
            len(self._cache) > self._histories_max or self._versions_cached > self._versions_max
        ):
            _, dropped = self._cache.popitem(last=False)
            self._versions_cached -= len(dropped.versions)


def _check_follows(history: History, version: VersionCommitted) -> None:
    head = history.head
    if version.parent != history.head_version:
        raise Conflict(
            f"the push is based on version {version.parent}, "
            f"but the head is version {history.head_version}"
            + (f" by {head.author_email}" if head else ""),
            base=version.parent,
            head=history.head_version,
            author=head.author_email if head else "",
            committed_at=head.committed_at if head else 0.0,
        )
    if version.version != version.parent + 1:
        raise ValueError(f"version {version.version} does not follow {version.parent}")
