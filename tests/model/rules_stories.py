"""Rules: what several clients do in an order that chance would seldom bring about."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from tests.model.commands import clients, rarely, wires
from tests.model.judge import CLIENTS
from tests.model.rules_application import journal_modes, page_sizes
from tests.model.rules_commands import CommandRules
from tests.model.rules_sessions import SessionRules

from edgereplica.events import errors


class StoryRules(CommandRules, SessionRules):
    @precondition(lambda self: not self.sessions)
    @rule(
        reader=clients,
        other=st.integers(1, CLIENTS - 1),
        rows=st.integers(8, 40),
        frames=st.integers(1, 30),
        wire_version=wires,
    )
    def commit_under_a_v1_pull(
        self, reader: int, other: int, rows: int, frames: int, wire_version: int
    ) -> None:
        """Wire v1 names no root: that what was pulled is a version, nobody else looks. Of the one
        chosen, the reader holds most pages, and the commit changes other pages of them."""
        writer = (reader + other) % CLIENTS
        self._run(writer, "pull", force=True)
        for _ in range(2):
            self._run(reader, "pull", force=True)
            self.write(number=writer, rows=rows, size=1000, killed=False)
            self._run(writer, "push")
        self.change_a_few(number=writer, killed=False)
        self.begin(number=reader, kind="pull", wire_version=1, force=False)
        self.step(which=0, from_client=True, steps=frames)
        self._count("commits under a pull (wire v1)", len(self.sessions))
        self._run(writer, "push", wire_version=wire_version)
        if self.sessions:
            self.finish(which=0, from_client=True)

    @precondition(lambda self: not self.sessions)
    @rule(
        reader=clients,
        other=st.integers(1, CLIENTS - 1),
        frames=st.integers(1, 4),
        page_size=page_sizes,
        wire_version=wires,
        gone=rarely,
    )
    def write_under_a_pull(
        self, reader: int, other: int, frames: int, page_size: int, wire_version: int, gone: bool
    ) -> None:
        """The application commits after the pull has read the file, or found none, and goes before
        it."""
        if gone:
            self.start_anew(number=reader, gone=True)
        self.pull_change_and_push(number=(reader + other) % CLIENTS, rows=3, wire_version=2)
        self.begin(number=reader, kind="pull", wire_version=wire_version, force=True)
        self.step(which=0, from_client=True, steps=frames)
        self.change_page_size(number=reader, page_size=page_size)
        self.write(number=reader, rows=3, size=10, killed=False)
        if self.sessions:
            self.finish(which=0, from_client=True)

    @precondition(lambda self: not self.sessions)
    @rule(reader=clients, other=st.integers(1, CLIENTS - 1), mode=journal_modes)
    def pull_beside_a_reader(self, reader: int, other: int, mode: str) -> None:
        """It keeps its snapshot. In WAL mode it is in nobody's way, unless the file is to be
        replaced as a whole; with a rollback journal it is."""
        self.pull_change_and_push(number=(reader + other) % CLIENTS, rows=3, wire_version=2)
        self.change_journal_mode(number=reader, mode=mode)
        client = self.clients[reader]
        page_size = len(client.pages[0]) if client.pages else 0
        if not page_size:
            return
        in_place = page_size == len(self.versions[-1][0])
        with client.file.reading():
            session = self._begin(reader, "pull", force=True, busy_timeout_seconds=0)
            assert session.task is not None
            assert session.task.done(), "both ends wait for each other"
        busy = isinstance(session.task.exception(), errors.FileBusy)
        if busy:
            assert mode != "WAL" or not in_place, "a reader was in the way"
            session.excused.add(errors.FileBusy)
        self._count("pulls beside a reader", not busy)
        self._end(session)
