"""Commands of a client: the product's own push and pull, over a wire in memory.

A command runs alone (perhaps cut at a frame, or killed) or by hand: it is begun, and its frames are
let through one by one, so that several interleave.
"""

from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from tests.model.client import Pages, masked
from tests.model.judge import CLIENTS, Client, Judge, Kind, Session
from tests.model.wire import Wire

from edgereplica.app.replica import AsyncReplica
from edgereplica.app.results import PullResult, PushResult
from edgereplica.events import errors

SESSIONS_MAX = 2

clients = st.integers(0, CLIENTS - 1)
kinds = st.sampled_from(("push", "pull"))
wires = st.sampled_from((2, 2, 1))
rarely = st.sampled_from((False, False, False, True))
cuts = st.one_of(st.none(), st.none(), st.integers(1, 14), st.integers(1, 50))


class Commands(Judge):
    """Begins them and lets them go on."""

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
        newest: int | None = None,
        dry_run: bool = False,
        backup: bool = False,
        may_be: type[errors.EdgeReplicaError] | None = None,
        busy_timeout_seconds: float = 5,
    ) -> Session:
        client = self.clients[number]
        client.busy = True
        client.adopt_pending()
        self.acted = True
        self.pushes += 1
        session = Session(
            client,
            kind,
            wire_version,
            force,
            f"push {self.pushes}",
            client.pages,
            client.differs_from(self.server.database),
            len(self.versions),
            alone=not by_hand and not self.sessions,
            at=at,
            newest=newest,
            dry_run=dry_run,
            backup=backup,
            alike=tuple(base.pages for base in client.alike(self.server.database)),
            bases_at_begin=client.bases,
            made_by_others=self._made_by_others(client),
        )
        if may_be is not None:
            session.excused.add(may_be)
        if kind == "push" and not dry_run:
            self.pushed.add(client.pages)

        async def connector(url: str, given: str) -> Any:
            if session.wire is not None:
                self._begins_anew(session)
            wire = Wire(self.moved, by_hand=by_hand, cut_at=cut_at)
            self._count(f"sessions in wire v{wire_version}")
            self.server.accept(wire, given)
            session.wire = wire
            return wire.client

        replica = AsyncReplica(
            client.file.path,
            server="http://localhost:1",
            token=token or self.server.token(kind),
            busy_timeout_seconds=busy_timeout_seconds,
            retries=0,
            protocol=wire_version,
        )
        replica.options = replace(replica.options, connector=connector)
        call: Coroutine[Any, Any, PushResult | PullResult] = (
            replica.push(force=force, message=session.message, dry_run=dry_run)
            if kind == "push"
            else replica.pull(force=force, at=at, dry_run=dry_run, backup=backup)
        )
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

    def _made_by_others(self, client: Client) -> tuple[Pages, ...]:
        """The head, if the client was about to make the very same."""
        return tuple(pages for pages in self.versions[-1:] if pages in client.attempted)

    def _free(self, number: int) -> bool:
        return not self.clients[number].busy

    def _has_no_file(self, number: int) -> bool:
        return not self.clients[number].file.path.exists()

    def _must_be_refused(
        self, number: int, kind: Kind, token: str, error: type[errors.EdgeReplicaError]
    ) -> None:
        session = self._begin(number, kind, token=token)
        session.client.busy = False
        assert session.task is not None
        assert isinstance(session.task.exception(), error), session.task
        self._count(f"{kind} refused for its token")
        self._file_untouched(session.client)
        if kind == "push":
            assert all(event.message != session.message for event in self.events)

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

    def _begins_anew(self, session: Session) -> None:
        """Its sidecar proved stale: the file was read again, with what was written meanwhile."""
        self._count(f"{session.kind} begun anew")
        self._may_have_read(session)
        if session.kind == "pull":
            session.at_begin = session.client.pages
            session.changed_at_begin = session.client.differs_from(self.server.database)
            session.written = False

    def _may_have_read(self, session: Session) -> None:
        session.later += session.meanwhile
        self.pushed.update(session.meanwhile)
        session.meanwhile.clear()

    def _written(self, client: Client) -> None:
        """The application wrote; whatever runs on the file meanwhile must respect it."""
        now = client.file.pages()
        for session in self.sessions:
            if session.client is not client or now == client.pages:
                continue
            session.touched = True
            session.written = session.written or masked(now) != masked(client.pages)
            if session.kind == "push":
                session.meanwhile.append(now)
                if not session.changed_at_begin:
                    self._may_have_read(session)
        client.pages = now
