"""Clients, a server and everything that happens to them, against a model of a few lines.

The rules are in `rules_application` (SQL, VACUUM, page size, journal mode), `rules_commands` (push,
pull, forced, dry, cut, with tokens of every kind), `rules_sessions` (step by step, deaths of client
and server) and `rules_stories` (several of these, one after the other). Here is what must hold
after each of them and at the end.
"""

import asyncio
import shutil
from typing import ClassVar

from hypothesis.stateful import invariant
from tests.model.client import masked
from tests.model.rules_stories import StoryRules
from tests.model.storages import Embedded, ScaledOut, Storage

from edgereplica.events import errors


class Convergence(StoryRules):
    """On a repository and a store in memory."""

    # What holds after every step

    @invariant()
    def holds(self) -> None:
        if self.acted is not None:
            self._count("steps" if self.acted else "steps with nothing to do")
        self.acted = False
        assert not self.server.defects, self.server.defects
        assert not self.complaints, self.complaints
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
        self._await(self._abandon())
        self.patch.undo()
        self.loop.close()
        shutil.rmtree(self.folder)

    async def _abandon(self) -> None:
        tasks = [session.task for session in self.sessions if session.task is not None]
        for task in tasks:
            task.cancel()
        await self.server.kill()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _converge(self) -> None:
        """When all stop and pull, all are equal; and every version ever made is still whole."""
        self._await(self.server.kill())
        self._await(self.server.start())
        head = self._content(len(self.versions))
        for number, client in enumerate(self.clients):
            self._run(number, "pull", force=True)
            assert masked(client.file.pages()) == masked(head), "not all are equal"
            client.file.check_length()
        for version, pages in enumerate(self.versions, 1):
            assert self._await(self.server.read_version(version)) == pages, "an old version broke"
        assert not self.complaints, self.complaints


class EmbeddedConvergence(Convergence):
    """The same on an embedded server's storage: SQLite and a local directory."""

    def make_storage(self) -> Storage:
        return Embedded(self.folder / "data")


class ScaledOutConvergence(Convergence):
    """The same on PostgreSQL and S3, at the two URLs."""

    ground: ClassVar[tuple[str, str]]

    def make_storage(self) -> Storage:
        return ScaledOut(*self.ground)
