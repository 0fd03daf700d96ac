"""Clients, a server and everything that happens to them, against a model of a few lines.

The model is a list of versions (whole contents) and, per client, the base it last synced. Every
rule runs the product's own code over a wire in memory; afterwards the product must stand where the
model says it may. Rules run alone (a whole command, perhaps cut at a frame or killed) or by hand: a
session is begun and its frames let through one by one, so that several interleave.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pymacaroons import Macaroon
from tests.model.client import (
    ClientFile,
    ClientKilled,
    Death,
    DeathPoint,
    Pages,
    dying,
    make_tables,
    masked,
)
from tests.model.server import CrashPoint, Server, When
from tests.model.wire import Wire

from edgereplica.adapters.hashing import hash_pages, root_of
from edgereplica.app.replica import AsyncReplica
from edgereplica.app.results import PullResult, PushResult
from edgereplica.events import errors
from edgereplica.events.domain import VersionCommitted

CLIENTS = 3
SESSIONS_MAX = 2
Kind = Literal["push", "pull"]

clients = st.integers(0, CLIENTS - 1)
wires = st.sampled_from((2, 2, 2, 1))
rarely = st.sampled_from((False, False, False, True))
cuts = st.one_of(st.none(), st.none(), st.integers(1, 14))


@dataclass(slots=True)
class Base:
    """What a client last synced; `version` is None where wire v1 could not say it."""

    database: str
    version: int | None
    pages: Pages


@dataclass(slots=True)
class Client:
    file: ClientFile
    base: Base | None = None
    pages: Pages = ()
    """The file's content as the model has it."""
    busy: bool = False

    @property
    def changed(self) -> bool:
        return self.base is None or masked(self.pages) != masked(self.base.pages)


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
    dry_run: bool = False
    backup: bool = False
    wire: Wire | None = None
    task: "asyncio.Task[Any] | None" = None
    written: bool = False
    excused: set[type[BaseException]] = field(default_factory=set)
    """What else may end it: the faults that the rule brought about."""


class Convergence(RuleBasedStateMachine):
    """`embedded` chooses SqliteRepo and a local directory; else both are in memory."""

    embedded: ClassVar[bool] = False
    steps_run: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="model-"))
        self.loop = asyncio.new_event_loop()
        self.moved = asyncio.Event()
        self.server = Server(self.folder / "data" if self.embedded else None)
        self.clients = [Client(ClientFile(self.folder / f"c{i}")) for i in range(CLIENTS)]
        self.sessions: list[Session] = []
        self.versions: list[Pages] = []
        self.events: list[VersionCommitted] = []
        self.acknowledged: list[tuple[int, Pages]] = []
        self.pushed: set[Pages] = set()
        self.pushes = 0
        self._await(self.server.start())
        self._await(self.server.sign_up())
        self._await(self.server.create_database())

    def _await(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    # Commands

    def _begin(
        self,
        number: int,
        kind: Kind,
        *,
        wire_version: int = 2,
        force: bool = False,
        by_hand: bool = False,
        cut_at: int | None = None,
        token: str | None = None,
        at: int | None = None,
        dry_run: bool = False,
        backup: bool = False,
    ) -> Session:
        client = self.clients[number]
        client.busy = True
        self.pushes += 1
        session = Session(
            client,
            kind,
            wire_version,
            force,
            f"push {self.pushes}",
            client.pages,
            client.changed,
            len(self.versions),
            alone=not by_hand and not self.sessions,
            at=at,
            dry_run=dry_run,
            backup=backup,
        )
        if cut_at is not None:
            session.excused.add(errors.NetworkError)
        if kind == "push" and not dry_run:
            self.pushed.add(client.pages)

        async def connector(url: str, given: str) -> Any:
            wire = Wire(self.moved, by_hand=by_hand, cut_at=cut_at)
            self.server.accept(wire, given)
            session.wire = wire
            return wire.client

        replica = AsyncReplica(
            client.file.path,
            server="http://localhost:1",
            token=token or self.server.token(kind),
            retries=0,
            protocol=wire_version,
        )
        replica.options = replace(replica.options, connector=connector)
        if kind == "push":
            call = replica.push(force=force, message=session.message, dry_run=dry_run)
        else:
            call = replica.pull(force=force, at=at, dry_run=dry_run, backup=backup)
        session.task = self.loop.create_task(call)
        session.task.add_done_callback(lambda _: self.moved.set())
        self._await(self._settle(session))
        return session

    async def _settle(self, session: Session) -> None:
        """Until the session is over, or both its ends wait for a frame."""
        assert session.task is not None
        while not session.task.done():
            if session.wire is not None and session.wire.idle:
                return
            self.moved.clear()
            await self.moved.wait()

    def _run(self, number: int, kind: Kind, **choices: Any) -> Session:
        """A whole command that nothing interleaves with."""
        session = self._begin(number, kind, **choices)
        assert session.task is not None
        assert session.task.done(), "both ends wait for each other"
        self._end(session)
        return session

    def _end(self, session: Session) -> None:
        """The session is over: judge it."""
        assert session.task is not None
        session.client.busy = False
        if self.server.crashed:
            self._await(self.server.kill())
            self._await(self.server.start())
            session.excused.add(errors.NetworkError)
            for other in self.sessions:
                other.excused.add(errors.NetworkError)
        self._adopt()
        error = session.task.exception()
        if error is None:
            self._succeeded(session, session.task.result())
        elif isinstance(error, errors.EdgeReplicaError):
            self._refused(session, error)
        elif not isinstance(error, ClientKilled):
            raise error

    def _succeeded(self, session: Session, result: Any) -> None:
        if session.dry_run:
            assert result.outcome == "dry_run" or result.outcome == "unchanged", result
            self._file_untouched(session.client)
        elif isinstance(result, PushResult):
            self._pushed(session, result)
        else:
            self._pulled(session, result)

    def _pushed(self, session: Session, result: PushResult) -> None:
        client, version = session.client, result.version
        self._file_untouched(client)
        if session.wire_version == 1:
            client.base = Base(self.server.database, None, session.at_begin)
            return
        assert version is not None
        content = self._content(version)
        if result.outcome == "pushed":
            assert content == session.at_begin, "the version is not what was pushed"
            if self.events[version - 1].message == session.message and not session.force:
                replaced = self._content(version - 1)
                held = client.base.pages if client.base is not None else ()
                same = masked(held) == masked(replaced)
                assert same or not replaced, "an unforced push replaced unseen changes"
        else:
            assert masked(content) == masked(session.at_begin), "it is not what the head is"
        self.acknowledged.append((version, content))
        client.base = Base(self.server.database, version, content)

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
        if session.at is not None:
            assert result.version == session.at
        if result.outcome == "pulled":
            assert not session.written, "a pull overwrote a change made meanwhile"
            if not session.force and session.at_begin:
                kept = masked(now) == masked(session.at_begin)
                assert not session.changed_at_begin or kept, "a pull overwrote local changes"
            self._backup_kept(session, result)
            client.pages = now
            client.base = Base(self.server.database, result.version, now)
        else:
            self._file_untouched(client)
            if session.force or not session.changed_at_begin or client.base is None:
                assert masked(now) == masked(self._content(result.version or 0))
                client.base = Base(self.server.database, result.version, now)

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
        if type(error) in session.excused:
            return
        if isinstance(error, errors.Conflict):
            assert session.kind == "push"
            assert not session.force
            assert session.wire_version == 2
            assert self.versions, "a conflict with nothing"
            if session.alone:
                base, head = client.base, len(self.versions)
                at_head = base is not None and (base.database, base.version) == (
                    self.server.database,
                    head,
                )
                assert not at_head, "a conflict with the push's own base"
                assert session.at_begin != self.versions[-1], "a conflict with its own content"
            return
        if isinstance(error, errors.UnpushedChanges | errors.NoSharedHistory):
            assert session.kind == "pull"
            assert not session.force
            assert session.changed_at_begin, "nothing was changed"
            head = self._content(session.at if session.at is not None else len(self.versions))
            assert session.wire_version == 1 or not session.alone or session.at_begin != head
            return
        if isinstance(error, errors.FileReplaced | errors.AlreadyExists) and session.written:
            return
        raise AssertionError(f"refused for no reason: {error!r}") from error

    def _left_alone(self, client: Client, error: errors.EdgeReplicaError) -> None:
        """An error left the file as it was. Where it was to be replaced as a whole, its journal
        mode went there and back, which moves the change counter."""
        now = client.file.pages()
        if now != client.pages and isinstance(error, errors.FileReplaced | errors.FileBusy):
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
        for event in self._await(self.server.versions(len(self.versions))):
            number = len(self.versions) + 1
            assert (event.version, event.parent) == (number, number - 1), "not linear"
            pages = self._await(self.server.read_version(number))
            assert pages in self.pushed, f"version {number} is nothing that was pushed"
            root = root_of(hash_pages(b"".join(pages), event.page_size, 1))
            assert root == event.root, f"version {number} has a wrong root"
            self.versions.append(pages)
            self.events.append(event)

    def _free(self, number: int) -> bool:
        return not self.clients[number].busy

    # Rules: the application

    @initialize()
    def first_files(self) -> None:
        for client in self.clients[:2]:
            client.file.write(make_tables, killed=False)
            client.pages = client.file.pages()

    def _written(self, client: Client) -> None:
        """The application wrote; whatever runs on the file meanwhile must respect it."""
        now = client.file.pages()
        for session in self.sessions:
            if session.client is client and masked(now) != masked(client.pages):
                session.written = True
        client.pages = now

    @rule(number=clients, rows=st.integers(1, 40), size=st.integers(1, 3000), killed=rarely)
    def write(self, number: int, rows: int, size: int, killed: bool) -> None:
        client = self.clients[number]
        self.pushes += 1

        def work(connection: Any) -> None:
            make_tables(connection)
            connection.execute("BEGIN")
            for row in range(rows):
                value = f"{number}/{self.pushes}/{row}".encode().ljust(size, b".")
                connection.execute("INSERT INTO t (x) VALUES (?)", (value,))
            connection.execute("COMMIT")

        client.file.write(work, killed=killed)
        self._written(client)

    @rule(number=clients, killed=rarely)
    def change_a_few(self, number: int, killed: bool) -> None:
        client = self.clients[number]
        self.pushes += 1

        def work(connection: Any) -> None:
            make_tables(connection)
            value = f"{number}:{self.pushes}"
            connection.execute("UPDATE t SET x = ? WHERE id % 7 = 3 OR id = 1", (value,))
            connection.execute("INSERT OR REPLACE INTO t (id, x) VALUES (1, ?)", (value,))

        client.file.write(work, killed=killed)
        self._written(client)

    @rule(number=clients, share=st.integers(1, 4))
    def delete_and_vacuum(self, number: int, share: int) -> None:
        def work(connection: Any) -> None:
            make_tables(connection)
            connection.execute("DELETE FROM t WHERE id % ? <> 0", (share,))
            connection.execute("VACUUM")

        client = self.clients[number]
        client.file.write(work, killed=False)
        self._written(client)

    @rule(number=clients, page_size=st.sampled_from((512, 1024, 4096, 65536)))
    def change_page_size(self, number: int, page_size: int) -> None:
        def work(connection: Any) -> None:
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute(f"PRAGMA page_size={page_size}")
            connection.execute("VACUUM")
            connection.execute(f"PRAGMA journal_mode={mode}")

        client = self.clients[number]
        client.file.write(work, killed=False)
        self._written(client)

    @rule(number=clients, mode=st.sampled_from(("WAL", "DELETE", "TRUNCATE")))
    def change_journal_mode(self, number: int, mode: str) -> None:
        def work(connection: Any) -> None:
            connection.execute(f"PRAGMA journal_mode={mode}")

        client = self.clients[number]
        client.file.write(work, killed=False)
        self._written(client)

    @rule(number=clients, gone=rarely)
    def start_anew(self, number: int, gone: bool) -> None:
        """Another database in the file's place, or none; the sidecar is gone or does not fit."""
        client = self.clients[number]
        if client.busy:
            return
        client.file.start_anew(keep_file=not gone)
        client.base = None
        client.pages = client.file.pages()

    # Rules: whole commands

    @rule(number=clients, wire_version=wires, force=rarely, cut_at=cuts)
    def push(self, number: int, wire_version: int, force: bool, cut_at: int | None) -> None:
        if self._free(number) and self.clients[number].file.path.exists():
            self._run(number, "push", wire_version=wire_version, force=force, cut_at=cut_at)

    @rule(number=clients, wire_version=wires, force=rarely, backup=rarely, cut_at=cuts)
    def pull(
        self, number: int, wire_version: int, force: bool, backup: bool, cut_at: int | None
    ) -> None:
        if self._free(number):
            self._run(
                number,
                "pull",
                wire_version=wire_version,
                force=force,
                backup=backup,
                cut_at=cut_at,
            )

    @rule(number=clients)
    def pull_twice(self, number: int) -> None:
        """The second pull finds nothing to do."""
        if not self._free(number):
            return
        self._run(number, "pull", force=True)
        before = self.clients[number].pages and self.clients[number].file.image()
        again = self._run(number, "pull")
        assert again.task is not None
        if not self.sessions and before:
            assert again.task.result().outcome == "unchanged"
            assert self.clients[number].file.image() == before, "a pull of nothing wrote"

    @precondition(lambda self: self.versions)
    @rule(number=clients, which=st.integers(0, 1 << 20), force=rarely)
    def pull_at(self, number: int, which: int, force: bool) -> None:
        if self._free(number):
            self._run(number, "pull", force=force, at=1 + which % len(self.versions))

    @rule(number=clients, kind=st.sampled_from(("push", "pull")), force=rarely)
    def dry_run(self, number: int, kind: Kind, force: bool) -> None:
        if self._free(number) and (kind == "pull" or self.clients[number].file.path.exists()):
            before = len(self.versions)
            self._run(number, kind, force=force, dry_run=True)
            assert len(self.versions) == before

    # Rules: tokens

    @rule(number=clients, kind=st.sampled_from(("push", "pull")))
    def use_an_expired_token(self, number: int, kind: Kind) -> None:
        if self._free(number) and self.clients[number].file.path.exists():
            token = self.server.token(kind, ttl_seconds=30)
            self.server.clock.advance(31)
            self._must_be_refused(number, kind, token, errors.Unauthenticated)

    @rule(
        number=clients,
        kind=st.sampled_from(("push", "pull")),
        caveat=st.sampled_from(("direction", "database=other", "exp=1", "colour=blue")),
    )
    def use_a_token_narrowed_to_nothing(self, number: int, kind: Kind, caveat: str) -> None:
        if caveat == "direction":
            caveat = f"direction={'pull' if kind == 'push' else 'push'}"
        if self._free(number) and self.clients[number].file.path.exists():
            token = narrowed(self.server.token(kind), caveat)
            self._must_be_refused(number, kind, token, errors.Unauthenticated)

    @rule(number=clients, force=rarely)
    def push_with_a_token_for_pulling(self, number: int, force: bool) -> None:
        """The direction is the token's: the bytes of a push meet the machine of a pull."""
        if self._free(number) and self.clients[number].file.path.exists():
            before = len(self.versions)
            client = self.clients[number]
            base = client.base
            session = self._begin(number, "push", force=force, token=self.server.token("pull"))
            session.client.busy = False
            assert session.task is not None
            assert session.task.done(), "both ends wait for each other"
            self._adopt()
            assert len(self.versions) == before, "a token for pulling wrote"
            self._file_untouched(client)
            if session.task.exception() is None:
                # Nothing to push: the greeting alone told so, and that is no secret.
                version = session.task.result().version
                assert masked(self._content(version)) == masked(client.pages)
                client.base = Base(self.server.database, version, self._content(version))
            else:
                client.base = base

    @precondition(lambda self: self.versions)
    @rule(number=clients, which=st.integers(0, 1 << 20))
    def pull_up_to_a_version(self, number: int, which: int) -> None:
        if self._free(number):
            newest = which % (len(self.versions) + 2)
            token = narrowed(self.server.token("pull"), f"max_version={newest}")
            session = self._run(number, "pull", force=True, token=token)
            assert session.task is not None
            expected = min(newest, max(len(self.versions), newest if self.sessions else 0))
            assert session.task.result().version <= expected

    def _must_be_refused(
        self, number: int, kind: Kind, token: str, error: type[errors.EdgeReplicaError]
    ) -> None:
        session = self._begin(number, kind, token=token)
        session.client.busy = False
        assert session.task is not None
        assert isinstance(session.task.exception(), error), session.task
        self._file_untouched(session.client)
        if kind == "push":
            assert all(event.message != session.message for event in self.events)

    # Rules: by hand

    @precondition(lambda self: len(self.sessions) < SESSIONS_MAX)
    @rule(number=clients, kind=st.sampled_from(("push", "pull")), wire_version=wires, force=rarely)
    def begin(self, number: int, kind: Kind, wire_version: int, force: bool) -> None:
        if self._free(number) and (kind == "pull" or self.clients[number].file.path.exists()):
            session = self._begin(
                number, kind, wire_version=wire_version, force=force, by_hand=True
            )
            self.sessions.append(session)
            self._reap()

    @precondition(lambda self: len(self.sessions) == 1)
    @rule(first=st.sampled_from(("push", "pull")), second=st.integers(1, CLIENTS - 1))
    def begin_another(self, first: Kind, second: int) -> None:
        """Two at once are where it matters, so that they are not left to chance."""
        (running,) = self.sessions
        number = (self.clients.index(running.client) + second) % CLIENTS
        self.begin(number=number, kind=first, wire_version=2, force=False)

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, SESSIONS_MAX), from_client=st.booleans())
    def finish(self, which: int, from_client: bool) -> None:
        self.step(which=which, from_client=from_client, steps=1000)

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, SESSIONS_MAX), from_client=st.booleans(), steps=st.integers(1, 8))
    def step(self, which: int, from_client: bool, steps: int) -> None:
        session = self.sessions[which % len(self.sessions)]
        assert session.task is not None
        for _ in range(steps):
            if session.task.done():
                break
            assert session.wire is not None
            assert session.wire.step(from_client), "both ends wait for each other"
            self._await(self._settle(session))
        self._reap()

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, SESSIONS_MAX))
    def cut(self, which: int) -> None:
        session = self.sessions[which % len(self.sessions)]
        assert session.wire is not None
        session.excused.add(errors.NetworkError)
        session.wire.cut()
        self._await(self._settle(session))
        self._reap()

    def _reap(self) -> None:
        for session in self.sessions[:]:
            assert session.task is not None
            if session.task.done():
                self.sessions.remove(session)
                self._end(session)

    def _settle_all(self) -> None:
        for session in self.sessions:
            self._await(self._settle(session))
        self._reap()

    # Rules: the server's life

    @rule(
        number=clients,
        countdown=st.integers(1, 3),
        when=st.sampled_from(("before", "during", "after")),
        force=rarely,
        wire_version=wires,
    )
    def server_dies_in_a_push(
        self, number: int, countdown: int, when: When, force: bool, wire_version: int
    ) -> None:
        if self._free(number) and self.clients[number].file.path.exists():
            self.server.die_at(CrashPoint(countdown, when))
            self._run(number, "push", force=force, wire_version=wire_version)
            self.server.die_at(None)
            self._settle_all()

    @rule(politely=st.booleans())
    def restart_the_server(self, politely: bool) -> None:
        for session in self.sessions:
            session.excused |= {errors.NetworkError, errors.ServerShuttingDown}
        self._await(self.server.stop() if politely else self.server.kill())
        self._await(self.server.start())
        self._settle_all()

    @rule(number=clients, point=st.sampled_from(("first_page", "last_page", "installed")))
    def client_dies_in_a_pull(self, number: int, point: DeathPoint) -> None:
        """Killed while a version is installed: the file is the old one or the new one."""
        if not self._free(number):
            return
        client = self.clients[number]
        death = Death(client.file, point)
        with dying(death):
            session = self._begin(number, "pull", force=True)
        assert session.task is not None
        assert session.task.done(), "both ends wait for each other"
        if death.image is None:
            self._end(session)
            return
        client.busy = False
        assert isinstance(session.task.exception(), ClientKilled), session.task
        client.file.restore(death.image)
        now = client.file.pages()
        new = self._content(len(self.versions))
        assert masked(now) in (masked(client.pages), masked(new)), "the kill tore the file"
        if point == "installed":
            assert masked(now) == masked(new), "an installed version was lost"
        client.pages = now

    @rule()
    def delete_and_recreate_the_database(self) -> None:
        for session in self.sessions:
            session.excused |= {errors.NetworkError, errors.NotFound}
        self._adopt()
        self._await(self.server.delete_database())
        self._settle_all()
        for session in self.sessions:
            # Whoever has not heard of it yet speaks to a database that is no more.
            assert session.wire is not None
            session.wire.cut()
        self._settle_all()
        assert not self._await(self.server.versions(len(self.versions)))
        self._await(self.server.create_database())
        self.versions, self.events, self.acknowledged = [], [], []

    # What holds after every step

    @invariant()
    def holds(self) -> None:
        type(self).steps_run += 1
        assert not self.server.defects, self.server.defects
        self._adopt()
        for version, pages in self.acknowledged:
            assert self._content(version) == pages, f"acknowledged version {version} is lost"

    def teardown(self) -> None:
        try:
            for session in self.sessions:
                assert session.wire is not None
                session.excused.add(errors.NetworkError)
                session.wire.cut()
            self._settle_all()
            self._converge()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Take everything down, whatever state it is in."""
        for session in self.sessions:
            assert session.task is not None
            session.task.cancel()
        self._await(self.server.kill())
        self._await(asyncio.sleep(0))
        self.loop.close()
        shutil.rmtree(self.folder)

    def _converge(self) -> None:
        """When all stop and pull, all are equal; and every version ever made is still whole."""
        self._await(self.server.kill())
        self._await(self.server.start())
        head = self._content(len(self.versions))
        for number, client in enumerate(self.clients):
            self._run(number, "pull", force=True)
            assert masked(client.file.pages()) == masked(head), "not all are equal"
        for version, pages in enumerate(self.versions, 1):
            assert self._await(self.server.read_version(version)) == pages, "an old version broke"


class EmbeddedConvergence(Convergence):
    """The same on an embedded server's storage: SQLite and a local directory."""

    embedded = True


def narrowed(token: str, caveat: str) -> str:
    """`token` with a caveat that its holder appended."""
    macaroon = Macaroon.deserialize(token)
    macaroon.add_first_party_caveat(caveat)
    return str(macaroon.serialize())
