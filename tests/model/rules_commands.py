"""Rules: whole commands that nothing interleaves with, with good tokens and with others."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from pymacaroons import Macaroon
from tests.model.client import full_disk, masked
from tests.model.commands import clients, cuts, kinds, rarely, wires
from tests.model.judge import Base, Kind
from tests.model.rules_application import ApplicationRules, journal_modes, page_sizes

from edgereplica.events import errors

_REFUSALS = (errors.UnpushedChanges, errors.NoSharedHistory)
_NOT_ITS_DIRECTION = (errors.ProtocolViolation, errors.Conflict)
"""What a push ends with that a pull's end answers: it knows no base, or sends unasked."""


class CommandRules(ApplicationRules):
    @rule(number=clients, wire_version=wires, force=rarely, cut_at=cuts)
    def push(self, number: int, wire_version: int, force: bool, cut_at: int | None) -> None:
        if self._free(number) and not self._has_no_file(number):
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

    @rule(number=clients, rows=st.integers(1, 40), wire_version=wires)
    def pull_change_and_push(self, number: int, rows: int, wire_version: int) -> None:
        """What users do all day; with nobody else at it, it works."""
        if not self._free(number):
            return
        self._run(number, "pull", force=True)
        self.write(number=number, rows=rows, size=100, killed=False)
        pushed = self._run(number, "push", wire_version=wire_version)
        assert pushed.task is not None
        if pushed.alone:
            assert pushed.task.result().outcome == "pushed"

    @rule(
        number=clients,
        rows=st.integers(10, 40),
        frames=st.lists(st.integers(8, 40), min_size=2, max_size=3),
        force=st.booleans(),
    )
    def push_that_is_cut_again_and_again(
        self, number: int, rows: int, frames: list[int], force: bool
    ) -> None:
        """Each time it stages more, and the last one sends the rest."""
        if not self._free(number):
            return
        self._run(number, "pull", force=True)
        self.write(number=number, rows=rows, size=3000, killed=False)
        for cut_at in frames:
            self._run(number, "push", force=force, cut_at=cut_at)
        self._run(number, "push", force=force)

    @rule(number=clients, page_size=page_sizes, mode=journal_modes)
    def pull_to_a_full_disk(self, number: int, page_size: int, mode: str) -> None:
        """A file that was to be replaced as a whole stays what it was, its journal mode too."""
        if self._free(number):
            self.change_page_size(number=number, page_size=page_size)
            self.change_journal_mode(number=number, mode=mode)
            with full_disk():
                self._run(number, "pull", force=True, may_be=errors.DiskFull)

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

    @rule(number=clients, kind=kinds, force=rarely, then_do_it=st.booleans())
    def dry_run(self, number: int, kind: Kind, force: bool, then_do_it: bool) -> None:
        """It changes nothing, and says what would happen."""
        if not self._free(number) or (kind == "push" and self._has_no_file(number)):
            return
        before = len(self.versions)
        dry = self._run(number, kind, force=force, dry_run=True)
        assert len(self.versions) == before
        if then_do_it and dry.alone:
            assert dry.task is not None
            said = dry.task.result()
            done = self._run(number, kind, force=force)
            assert done.task is not None
            error = done.task.exception()
            if kind == "push":
                assert said.would_conflict == isinstance(error, errors.Conflict), (said, error)
            else:
                code = error.code if isinstance(error, _REFUSALS) else None
                assert said.would_refuse == code, (said, error)

    @rule(number=clients, kind=kinds)
    def use_an_expired_token(self, number: int, kind: Kind) -> None:
        if self._free(number) and not self._has_no_file(number):
            token = self.server.token(kind, ttl_seconds=30)
            self.server.clock.advance(31)
            self._must_be_refused(number, kind, token, errors.Unauthenticated)

    @rule(
        number=clients,
        kind=kinds,
        caveat=st.sampled_from(("direction", "database=other", "exp=1", "colour=blue")),
    )
    def use_a_token_narrowed_to_nothing(self, number: int, kind: Kind, caveat: str) -> None:
        if caveat == "direction":
            caveat = f"direction={'pull' if kind == 'push' else 'push'}"
        if self._free(number) and not self._has_no_file(number):
            token = narrowed(self.server.token(kind), caveat)
            self._must_be_refused(number, kind, token, errors.Unauthenticated)

    @rule(number=clients, force=rarely)
    def push_with_a_token_for_pulling(self, number: int, force: bool) -> None:
        """The direction is the token's: the bytes of a push meet the machine of a pull."""
        if self._free(number) and not self._has_no_file(number):
            before = len(self.versions)
            client = self.clients[number]
            base = client.base
            session = self._begin(number, "push", force=force, token=self.server.token("pull"))
            session.client.busy = False
            assert session.task is not None
            assert session.wire is not None
            if not session.task.done():
                # It waits for an answer that a pull does not give; a server's deadline ends that.
                session.wire.was_cut = True
                session.wire.cut()
                self._await(self._settle(session))
            self._adopt()
            assert len(self.versions) == before, "a token for pulling wrote"
            self._file_untouched(client)
            error = session.task.exception()
            self._count("pushes with a token for pulling", error is not None)
            if error is None:
                # Nothing to push: the greeting alone told so, and that is no secret.
                self._told_of_the_head(session, session.task.result())
                version = session.task.result().version
                assert masked(self._content(version)) == masked(client.pages)
                client.synced(Base(self.server.database, version, self._content(version)))
            else:
                expected = errors.NetworkError if session.wire.was_cut else _NOT_ITS_DIRECTION
                assert isinstance(error, expected), error
                client.base = base

    @rule(
        number=clients,
        kind=kinds,
        bytes_max=st.sampled_from((0, 600, 5000, 70_000)),
        in_need=st.booleans(),
    )
    def use_a_token_for_few_bytes(
        self, number: int, kind: Kind, bytes_max: int, in_need: bool
    ) -> None:
        """More pages than it allows are refused, and then nothing has changed."""
        if not self._free(number):
            return
        if in_need and kind == "pull":
            self.start_anew(number=number, gone=True)
        elif in_need:
            self._run(number, "pull", force=True)
            self.write(number=number, rows=3, size=10, killed=False)
        if kind == "pull" or not self._has_no_file(number):
            token = narrowed(self.server.token(kind), f"max_bytes={bytes_max}")
            session = self._run(number, kind, token=token, may_be=errors.LimitExceeded)
            assert session.task is not None
            if session.task.exception() is None:
                result = session.task.result()
                pages = result.pages_sent if kind == "push" else result.pages_received
                self._count(f"pages within a token's bytes ({kind})", pages > 0)
                assert pages * result.page_size <= bytes_max, "more than the token allows"

    @precondition(lambda self: self.versions)
    @rule(number=clients, which=st.integers(0, 1 << 20))
    def pull_up_to_a_version(self, number: int, which: int) -> None:
        if self._free(number):
            newest = which % (len(self.versions) + 2)
            token = narrowed(self.server.token("pull"), f"max_version={newest}")
            self._run(number, "pull", force=True, token=token, newest=newest)


def narrowed(token: str, caveat: str) -> str:
    """`token` with a caveat that its holder appended."""
    macaroon = Macaroon.deserialize(token)
    macaroon.add_first_party_caveat(caveat)
    return str(macaroon.serialize())
