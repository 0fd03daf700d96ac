"""What the model knows, and what it says to how a command ended.

The model is a list of versions (whole contents) and, per client, the base it last synced. Whatever
a command came to, the product must then stand where the model says that it may.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis.stateful import RuleBasedStateMachine
from tests.model.client import ClientFile, ClientKilled, Pages, masked
from tests.model.server import Server
from tests.model.storages import InMemory, Storage
from tests.model.wire import Wire

from edgereplica.adapters.clock import ManualClock
from edgereplica.adapters.hashing import hash_pages, root_of
from edgereplica.app import local_content
from edgereplica.app.results import PullResult, PushResult
from edgereplica.events import errors
from edgereplica.events.domain import VersionCommitted

CLIENTS = 3
WINDOW_PAGES = 4
"""Page hashes that a client announces at once, so that small databases need many frames."""
Kind = Literal["push", "pull"]
_SAID_BY_THE_SERVER = {
    errors.LimitExceeded,
    errors.NotFound,
    errors.ServerShuttingDown,
    errors.SessionTooSlow,
}


@dataclass(slots=True)
class Base:
    """What a client last synced, as the server has it; `version` is None where wire v1 could not
    say it."""

    database: str
    version: int | None
    pages: Pages


@dataclass(slots=True)
class Client:
    file: ClientFile
    base: Base | None = None
    pages: Pages = ()
    """The file's content as the model has it."""
    pending: Base | None = None
    """What a sync had installed when it was killed: the next one finds out, if it is still so."""
    unheard: Base | None = None
    """The version that a push has made and not heard of: what the next one builds on, too."""
    attempted: list[Pages] = field(default_factory=list)
    """What pushes were about to make since; another's version may be just that."""
    busy: bool = False

    def adopt_pending(self) -> None:
        if self.pending is not None and masked(self.pages) == masked(self.pending.pages):
            self.synced(self.pending)
        self.pending = None

    @property
    def bases(self) -> tuple[Base, ...]:
        return tuple(base for base in (self.base, self.unheard) if base is not None)

    def synced(self, base: Base) -> None:
        self.base, self.unheard = base, None
        self.attempted.clear()

    def start_anew(self) -> None:
        self.base = self.unheard = None
        self.attempted.clear()

    def differs_from(self, database: str) -> bool:
        """Whether the file holds what may be in no version of `database`."""
        return self.base not in self.alike(database)

    def alike(self, database: str) -> list[Base]:
        """What it came from of `database`, as far as the file is that."""
        here = [base for base in self.bases if base.database == database]
        return [base for base in here if masked(base.pages) == masked(self.pages)]


@dataclass(slots=True)
class Session:
    """One command of a client, from its start to its outcome."""

    client: Client
    kind: Kind
    wire_version: int
    force: bool
    message: str
    at_begin: Pages
    changed_at_begin: bool
    head_at_begin: int
    alone: bool
    at: int | None = None
    newest: int | None = None
    """The last version that the token lets it pull."""
    dry_run: bool = False
    backup: bool = False
    wire: Wire | None = None
    task: "asyncio.Task[Any] | None" = None
    written: bool = False
    touched: bool = False
    """Written to, or given another journal mode."""
    alike: tuple[Pages, ...] = ()
    """Versions that it came from and has not changed."""
    bases_at_begin: tuple[Base, ...] = ()
    """What it remembers, if anything, and what it finds out that it made."""
    made_by_others: tuple[Pages, ...] = ()
    """What it may take for its own."""
    meanwhile: list[Pages] = field(default_factory=list)
    """What the application made of a file since its push began."""
    later: list[Pages] = field(default_factory=list)
    """What of that a push may have read: it knows an unchanged file without reading it, and where
    its sidecar proves stale, it begins anew with the file as it is then."""
    excused: set[type[BaseException]] = field(default_factory=set)
    """What else may end it: the faults that the rule brought about."""

    @property
    def may_push(self) -> tuple[Pages, ...]:
        """What the file holds, byte for byte. Where nothing was changed that counts (design §7),
        it is the version that it came from, as long as the server takes that."""
        return *self.alike, self.at_begin, *self.later


class Judge(RuleBasedStateMachine):
    """`happened` counts, over all histories, what they came to: for whoever reads the figures."""

    happened: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="model-"))
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.complaints: list[dict[str, Any]] = []
        """Of the event loop: what failed with nobody to hear of it."""
        self.moved = asyncio.Event()
        self.clock = ManualClock()
        self.server = Server(self.make_storage(), self.clock)
        self.clients = [Client(ClientFile(self.folder / f"c{i}")) for i in range(CLIENTS)]
        self.sessions: list[Session] = []
        self.versions: list[Pages] = []
        self.events: list[VersionCommitted] = []
        self.acknowledged: list[tuple[int, Pages]] = []
        self.pushed: set[Pages] = set()
        self.been_versions: set[Pages] = set()
        """What counts of the database's versions, as far as they were taken in."""
        self.pushes = 0
        self.acted: bool | None = None
        """Whether the step that was just made did anything; None before the first."""
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(local_content, "HASH_WINDOW_PAGES", WINDOW_PAGES)
        self._await(self.server.start())
        self._await(self.server.sign_up())
        self._await(self.server.create_database())

    def make_storage(self) -> Storage:
        return InMemory(self.clock)

    def _count(self, what: str, times: int = 1) -> None:
        type(self).happened[what] += times

    def _await(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def _end(self, session: Session) -> None:
        """The session is over: judge it."""
        assert session.task is not None
        session.client.busy = False
        if session.wire is not None:
            self._await(self.server.finish(session.wire))
            self._count("connections cut", session.wire.was_cut)
            if session.wire.was_cut:
                session.excused.add(errors.NetworkError)
        for number, where in self.server.deaths.items():
            self._count(f"server deaths {where}")
            self._cut_off(self._await(self.server.kill(number)), session)
            self._await(self.server.start(number))
        self._adopt()
        if session.task.cancelled():
            self._note_unheard(session)
            self._file_untouched(session.client)
            return
        error = session.task.exception()
        if error is not None:
            self._note_unheard(session)
        if error is None:
            self._succeeded(session, session.task.result())
        elif isinstance(error, errors.EdgeReplicaError):
            self._count(f"ended by {error.code}")
            self._refused(session, error)
        elif not isinstance(error, ClientKilled):
            raise error

    def _cut_off(self, wires: list[Wire], *ended: Session) -> None:
        """The server's ends of `wires` are no more: whoever was on one may lose the connection."""
        for session in (*self.sessions, *ended):
            if session.wire in wires:
                session.excused.add(errors.NetworkError)

    def _succeeded(self, session: Session, result: Any) -> None:
        self._count(f"{session.kind} {result.outcome} (wire v{session.wire_version})")
        self._told_of_the_head(session, result)
        if session.dry_run:
            assert result.outcome == "dry_run" or result.outcome == "unchanged", result
            self._file_untouched(session.client)
        elif isinstance(result, PushResult):
            self._pushed(session, result)
        else:
            self._pulled(session, result)

    def _told_of_the_head(self, session: Session, result: PushResult | PullResult) -> None:
        """In sync, committed, pulled or a dry run: what a command is told of is the head as it
        stood at some moment between its begin and its end, never a version that was it once."""
        first, last = session.head_at_begin, len(self.versions)
        if session.at is not None:
            first = last = session.at
        elif session.newest is not None:
            first, last = min(first, session.newest), min(last, session.newest)
        before = result.head_before if isinstance(result, PushResult) else None
        for told in (before, result.version):
            as_head = told is None or first <= told <= last
            assert as_head, f"told of version {told}, and the head was {first} to {last}"

    def _pushed(self, session: Session, result: PushResult) -> None:
        client, version = session.client, result.version
        self._file_untouched(client)
        if session.wire_version == 1:
            self._pushed_in_v1(session)
            return
        assert version is not None
        content = self._content(version)
        if result.outcome == "pushed":
            assert content in session.may_push, "the version is not what was pushed"
            if self.events[version - 1].message == session.message:
                self._made_by(session, version)
                self._count_frames(session, self.events[version - 1], result)
        else:
            may_be = map(masked, (session.at_begin, *session.later))
            assert masked(content) in may_be, "it is not what the head is"
        self.acknowledged.append((version, content))
        client.synced(Base(self.server.database, version, content))

    def _pushed_in_v1(self, session: Session) -> None:
        """The answer names no version: one of those since the push began has to be it."""
        content: Pages = ()
        if session.at_begin:
            first = len(self.versions) if session.alone else max(1, session.head_at_begin)
            since = range(len(self.versions), first - 1, -1)
            version = next((n for n in since if self._content(n) in session.may_push), None)
            assert version, "an acknowledged push is in no version"
            content = self._content(version)
            self.acknowledged.append((version, content))
        session.client.synced(Base(self.server.database, None, content))

    def _made_by(self, session: Session, version: int) -> None:
        """`version` may be what `session` committed, acknowledged or unheard."""
        assert self._content(version) in session.may_push, "the version is not what was pushed"
        if not session.force:
            replaced = self._content(version - 1)
            bases = (*(base.pages for base in session.bases_at_begin), *session.made_by_others)
            same = any(masked(pages) == masked(replaced) for pages in bases)
            assert same or not replaced, "an unforced push replaced unseen changes"

    def _count_frames(self, session: Session, event: VersionCommitted, result: PushResult) -> None:
        assert session.wire is not None
        said = session.wire.client.said
        self._count("pushes in several batches", said["page_data_batch"] > 1)
        self._count("pushes announced in several windows", said["page_hashes"] > 1)
        # A session stages what it sends in one segment: databases are small here.
        resumed = len(event.segments) - (result.pages_sent > 0)
        self._count("pushes resumed from a segment", resumed == 1)
        self._count("pushes resumed from several segments", resumed > 1)

    def _pulled(self, session: Session, result: PullResult) -> None:
        client = session.client
        now = client.file.pages()
        if session.wire_version == 1:
            candidates = self.versions[max(0, session.head_at_begin - 1) :] or [()]
            if session.head_at_begin == 0:
                candidates = [*candidates, ()]
            assert masked(now) in map(masked, candidates), "a pull gave no version"
        elif result.outcome == "pulled":
            assert result.version is not None
            assert masked(now) == masked(self._content(result.version)), "a pull gave no version"
        if result.outcome == "pulled":
            assert not session.written, "a pull overwrote a change made meanwhile"
            if not session.force and session.at_begin:
                # What is a version already is not lost, whether or not the file knows.
                kept = masked(session.at_begin) in {masked(now), *self.been_versions}
                assert not session.changed_at_begin or kept, "a pull overwrote local changes"
            self._count(f"pulls of pages (wire v{session.wire_version})", result.pages_received > 0)
            client.file.check_length()
            self._backup_kept(session, result)
            client.pages = now
            client.synced(self._base_pulled(result, now))
        else:
            self._file_untouched(client)
            unknown = client.base is None and not client.attempted
            compared = session.force or not session.changed_at_begin or unknown
            if compared and not session.written:
                assert masked(now) == masked(self._content(result.version or 0))
                client.synced(self._base_pulled(result, now))

    def _base_pulled(self, result: PullResult, now: Pages) -> Base:
        """A connection rewrites what does not count in page 1; the client remembers the version."""
        version = result.version
        pages = self._version_like(now) if version is None else self._content(version)
        return Base(self.server.database, version, pages)

    def _version_like(self, pages: Pages) -> Pages:
        alike = (one for one in reversed(self.versions) if masked(one) == masked(pages))
        return next(alike, pages)

    def _backup_kept(self, session: Session, result: PullResult) -> None:
        if session.backup and session.force and session.changed_at_begin and session.at_begin:
            assert result.backup_path is not None
            kept = ClientFile.pages_at(Path(result.backup_path))
            assert kept == session.at_begin, "the backup is not what was overwritten"
            Path(result.backup_path).unlink()

    def _refused(self, session: Session, error: errors.EdgeReplicaError) -> None:
        """A refusal changes nothing, and has a reason."""
        client = session.client
        self._left_alone(client, error)
        for event in self.events:
            if event.message == session.message:
                # It was committed, and the word of it was lost on the way.
                assert type(error) in session.excused, f"{error!r} after a commit"
                self._made_by(session, event.version)
                self._count("pushes committed unheard")
        if type(error) in session.excused:
            return
        if session.wire_version == 1 and isinstance(error, errors.RemoteError):
            # Wire v1 has words for an error, and no code.
            assert session.excused & _SAID_BY_THE_SERVER, error
            return
        if session.alone:
            assert len(self.versions) == session.head_at_begin, "a refused command made a version"
        if isinstance(error, errors.Conflict):
            assert session.kind == "push"
            assert not session.force
            assert session.wire_version == 2
            assert self.versions, "a conflict with nothing"
            if session.alone:
                head = (self.server.database, len(self.versions))
                at_head = any((b.database, b.version) == head for b in session.bases_at_begin)
                assert not at_head, "a conflict with the push's own base"
                assert session.may_push[0] != self.versions[-1], "a conflict with its own content"
            return
        if isinstance(error, errors.UnpushedChanges | errors.NoSharedHistory):
            assert session.kind == "pull"
            assert not session.force
            assert session.changed_at_begin, "nothing was changed"
            wanted = self._content(session.at if session.at is not None else len(self.versions))
            assert session.wire_version == 1 or not session.alone or session.at_begin != wanted
            return
        if isinstance(error, errors.FileReplaced | errors.AlreadyExists) and session.touched:
            return
        raise AssertionError(f"refused for no reason: {error!r}") from error

    def _note_unheard(self, session: Session) -> None:
        """What a push that heard of no end may have made, and what it was about to make."""
        if session.kind == "pull" or session.wire_version == 1 or session.dry_run:
            return
        session.client.attempted += session.may_push
        for event in self.events:
            if event.message == session.message:
                content = self._content(event.version)
                session.client.unheard = Base(self.server.database, event.version, content)

    def _left_alone(self, client: Client, error: errors.EdgeReplicaError) -> None:
        """An error left the file as it was. Where it was to be replaced as a whole, its journal
        mode went there and back, which moves the change counter."""
        now = client.file.pages()
        moved = errors.FileReplaced | errors.FileBusy | errors.DiskFull
        if now != client.pages and isinstance(error, moved):
            assert now[0][18:20] == client.pages[0][18:20], "another journal mode"
            assert masked(now) == masked(client.pages), error
            client.pages = now
        assert now == client.pages, f"the file is not what it was: {error!r}"

    def _file_untouched(self, client: Client) -> None:
        assert client.file.pages() == client.pages, "the file is not what it was"

    def _content(self, version: int) -> Pages:
        assert version <= len(self.versions), f"there is no version {version}"
        return self.versions[version - 1] if version else ()

    def _adopt(self) -> None:
        """Take new versions into the model, if they are what the model allows."""
        events = self._await(self.server.versions())
        assert events[: len(self.events)] == self.events, "history is not what it was"
        for event in events[len(self.events) :]:
            number = len(self.versions) + 1
            assert (event.version, event.parent) == (number, number - 1), "not linear"
            pages = self._await(self.server.read_version(number))
            assert pages in self.pushed, f"version {number} is nothing that was pushed"
            root = root_of(hash_pages(b"".join(pages), event.page_size, 1))
            assert root == event.root, f"version {number} has a wrong root"
            self.versions.append(pages)
            self.been_versions.add(masked(pages))
            self.events.append(event)
