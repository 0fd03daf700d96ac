"""Rules: what several clients do in an order that chance would seldom bring about."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from tests.model.commands import clients, wires
from tests.model.judge import CLIENTS
from tests.model.rules_application import page_sizes
from tests.model.rules_commands import CommandRules
from tests.model.rules_sessions import SessionRules


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
    )
    def write_under_a_pull(
        self, reader: int, other: int, frames: int, page_size: int, wire_version: int
    ) -> None:
        """The application commits after the pull has read the file, and goes before it."""
        self.pull_change_and_push(number=(reader + other) % CLIENTS, rows=3, wire_version=2)
        self.begin(number=reader, kind="pull", wire_version=wire_version, force=True)
        self.step(which=0, from_client=True, steps=frames)
        self.change_page_size(number=reader, page_size=page_size)
        self.write(number=reader, rows=3, size=10, killed=False)
        if self.sessions:
            self.finish(which=0, from_client=True)
