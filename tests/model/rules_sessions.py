"""Rules: sessions that interleave frame by frame, and what befalls client and server meanwhile."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from tests.model.client import ClientKilled, Death, DeathPoint, dying, masked
from tests.model.commands import SESSIONS_MAX, Commands, clients, kinds, rarely, wires
from tests.model.judge import CLIENTS, Base, Kind
from tests.model.mortal import CrashPoint, When
from tests.model.server import PROCESSES

from edgereplica.events import errors


class SessionRules(Commands):
    @precondition(lambda self: len(self.sessions) < SESSIONS_MAX)
    @rule(number=clients, kind=kinds, wire_version=wires, force=rarely)
    def begin(self, number: int, kind: Kind, wire_version: int, force: bool) -> None:
        if self._free(number) and (kind == "pull" or self.clients[number].file.path.exists()):
            session = self._begin(
                number, kind, wire_version=wire_version, force=force, by_hand=True
            )
            self.sessions.append(session)
            self._reap()

    @precondition(lambda self: len(self.sessions) == 1)
    @rule(first=kinds, second=st.integers(1, CLIENTS - 1))
    def begin_another(self, first: Kind, second: int) -> None:
        """Two at once are where it matters, so that they are not left to chance."""
        (running,) = self.sessions
        number = (self.clients.index(running.client) + second) % CLIENTS
        self.begin(number=number, kind=first, wire_version=2, force=False)

    @precondition(lambda self: not self.sessions)
    @rule(
        first=st.integers(0, CLIENTS - 1),
        other=st.integers(1, CLIENTS - 1),
        two_kinds=st.tuples(kinds, kinds),
        two_wires=st.tuples(wires, wires),
        two_forces=st.tuples(rarely, rarely),
        schedule=st.lists(st.tuples(st.integers(0, 1), st.booleans()), max_size=24),
    )
    def two_at_once(
        self,
        first: int,
        other: int,
        two_kinds: tuple[Kind, Kind],
        two_wires: tuple[int, int],
        two_forces: tuple[bool, bool],
        schedule: list[tuple[int, bool]],
    ) -> None:
        """Whole commands of two clients, frame by frame; what is left of them goes on later."""
        numbers = (first, (first + other) % CLIENTS)
        for begun in zip(numbers, two_kinds, two_wires, two_forces, strict=True):
            self.begin(*begun)
        for which, from_client in schedule:
            if self.sessions:
                self.step(which=which, from_client=from_client, steps=1)

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, SESSIONS_MAX), from_client=st.booleans())
    def finish(self, which: int, from_client: bool) -> None:
        self.step(which=which, from_client=from_client, steps=1000)

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, SESSIONS_MAX), from_client=st.booleans(), steps=st.integers(1, 8))
    def step(self, which: int, from_client: bool, steps: int) -> None:
        session = self.sessions[which % len(self.sessions)]
        assert session.task is not None
        self._count("steps beside another session", len(self.sessions) > 1)
        for _ in range(steps):
            if session.task.done():
                break
            assert session.wire is not None
            assert session.wire.step(from_client), "both ends wait for each other"
            self.acted = True
            self._await(self._settle(session))
        self._reap()

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, SESSIONS_MAX))
    def cut(self, which: int) -> None:
        session = self.sessions[which % len(self.sessions)]
        assert session.wire is not None
        session.excused.add(errors.NetworkError)
        session.wire.was_cut = self.acted = True
        session.wire.cut()
        self._await(self._settle(session))
        self._reap()

    # Rules: the server's life

    @rule(
        number=clients,
        countdown=st.sampled_from((1, 2, 3, None, None)),
        when=st.sampled_from(("before", "during", "after")),
        force=rarely,
        wire_version=wires,
    )
    def server_dies_in_a_push(
        self, number: int, countdown: int | None, when: When, force: bool, wire_version: int
    ) -> None:
        if self._free(number) and self.clients[number].file.path.exists():
            self.server.die_at(CrashPoint(countdown, when))
            self._run(number, "push", force=force, wire_version=wire_version)
            self.server.die_at(None)
            self._settle_all()

    @rule(politely=st.booleans(), which=st.sampled_from((None, *range(PROCESSES))))
    def restart_the_server(self, politely: bool, which: int | None) -> None:
        """One process of it, while the others serve, or all."""
        self.acted = True
        self._count("server restarts" if politely else "server kills")
        self._count("restarts and kills beside another process", which is not None)
        end = self.server.stop if politely else self.server.kill
        wires = self._await(end(which))
        self._cut_off(wires)
        for session in self.sessions:
            if politely and session.wire in wires:
                session.excused.add(errors.ServerShuttingDown)
        self._await(self.server.start(which))
        self._settle_all()

    @rule(
        number=clients,
        point=st.sampled_from(("first_page", "last_page", "installed")),
        force=st.sampled_from((True, True, False)),
    )
    def client_dies_in_a_pull(self, number: int, point: DeathPoint, force: bool) -> None:
        """Killed while a version is installed: the file is the old one or the new one."""
        if not self._free(number):
            return
        client = self.clients[number]
        death = Death(client.file, point)
        with dying(death):
            session = self._begin(number, "pull", force=force)
        assert session.task is not None
        assert session.task.done(), "both ends wait for each other"
        if death.image is None:
            self._end(session)
            return
        client.busy = False
        self._count(f"client deaths in a pull ({point.replace('_', ' ')})")
        assert isinstance(session.task.exception(), ClientKilled), session.task
        client.file.restore(death.image)
        now = client.file.pages()
        new = self._content(len(self.versions))
        assert masked(now) in (masked(client.pages), masked(new)), "the kill tore the file"
        if point == "installed":
            assert masked(now) == masked(new), "an installed version was lost"
        client.pages = now
        if masked(now) == masked(new):
            client.pending = Base(self.server.database, len(self.versions), new)

    @precondition(lambda self: self.sessions)
    @rule(which=st.integers(0, SESSIONS_MAX))
    def client_dies_in_a_session(self, which: int) -> None:
        """Killed while it waits for the server; its system closes the connection."""
        session = self.sessions[which % len(self.sessions)]
        assert session.task is not None
        self.acted = True
        self._count("client deaths in a session")
        session.task.cancel()
        self._settle_all()

    @rule(hours=st.sampled_from((0, 1, 7, 7, 24 * 8)))
    def look_after_storage(self, hours: int) -> None:
        """Garbage collection and compaction, after a time in which pins, too, may have expired."""
        self.acted = True
        self.server.clock.advance(hours * 3600)
        for session in self.sessions:
            session.excused.add(errors.SessionTooSlow)
            if hours:
                # One that has to begin anew, as after a stale sidecar, does so with its token.
                session.excused.add(errors.Unauthenticated)
        deleted = self._await(self.server.look_after_storage())
        self._count("objects collected", deleted)

    @precondition(lambda self: len(self.versions) > 1)
    @rule()
    def delete_and_recreate_the_database(self) -> None:
        for session in self.sessions:
            session.excused |= {errors.NetworkError, errors.NotFound}
        self.acted = True
        self._count("databases deleted")
        self._adopt()
        with pytest.raises(errors.AlreadyExists):
            self._await(self.server.create_database())
        self._await(self.server.delete_database())
        self._settle_all()
        for session in self.sessions:
            # Whoever has not heard of it yet speaks to a database that is no more.
            assert session.wire is not None
            session.wire.cut()
        self._settle_all()
        assert self._await(self.server.versions()) == self.events, "a deleted database has grown"
        self._await(self.server.create_database())
        self.versions, self.events, self.acknowledged = [], [], []
        self.been_versions = set()
