"""Clients converge, whatever happens: the model of `tests.model.convergence`, in short, and the
flaws that it must find.

`make prove` runs the same for tens of thousands of steps (`proof.prove`), each time others. Here
every run takes the same steps: what is found by chance is not for a test to depend on.
"""

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.helpers_postgres import Postgres
from tests.helpers_s3 import S3
from tests.model.convergence import Convergence, EmbeddedConvergence, ScaledOutConvergence

from edgereplica.adapters.segment_writer import SegmentWriter
from edgereplica.app.history import DatabaseHistory
from edgereplica.app.pull_client import PullClientEnd
from edgereplica.app.push_server import PushServerEnd
from edgereplica.app.tokens import Keyring
from edgereplica.events.errors import StorageError
from edgereplica.events.messages import Hello
from edgereplica.events.session import PushCommitted
from edgereplica.fsm.effects import OpenPush

CI = settings(
    max_examples=20,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    # Shrinking a failure takes minutes, and is done by whoever looks into it.
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("machine", [Convergence, EmbeddedConvergence])
def test_clients_converge(machine: type[Convergence]) -> None:
    run_state_machine_as_test(machine, settings=CI)


def test_clients_converge_on_postgresql_and_s3(
    postgres: Postgres, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    ground = (postgres.database(), s3.bucket())
    monkeypatch.setattr(ScaledOutConvergence, "ground", ground, raising=False)
    run_state_machine_as_test(
        ScaledOutConvergence, settings=settings(CI, max_examples=4, stateful_step_count=20)
    )


def last_writer_wins(patch: pytest.MonkeyPatch) -> None:
    """No compare-and-swap: a push that lost the race takes the winner's place behind it."""
    commit = DatabaseHistory.commit

    async def late(self: DatabaseHistory, history: Any, version: Any, *rest: Any) -> Any:
        now = await self.open(history.database_id, history.org_id)
        head = now.head_version
        again = version.model_copy(update={"parent": head, "version": head + 1})
        return await commit(self, now, again, *rest)

    patch.setattr(DatabaseHistory, "commit", late)


def conflicts_are_not_seen(patch: pytest.MonkeyPatch) -> None:
    """The base is not compared with the head."""
    open_push = PushServerEnd.open

    async def blind(self: Any, effect: Any) -> Any:
        hello = effect.hello
        forced = Hello(
            hello.page_size, hello.page_count, hello.base, hello.base_root, hello.root, force=True
        )
        return await open_push(self, OpenPush(forced))

    patch.setattr(PushServerEnd, "open", blind)


def acknowledged_too_soon(patch: pytest.MonkeyPatch) -> None:
    """The client is told of a version that is not in the log."""

    async def promise(self: Any, effect: Any) -> PushCommitted:
        return PushCommitted(self._opened.history.head_version + 1, effect.complete.root or b"")

    patch.setattr(PushServerEnd, "commit", promise)


def local_changes_are_overwritten(patch: pytest.MonkeyPatch) -> None:
    """A pull does not ask whether the file was changed."""
    patch.setattr(PullClientEnd, "is_known_version", staticmethod(lambda content, reply: True))


def writes_meanwhile_are_overwritten(patch: pytest.MonkeyPatch) -> None:
    """An installation does not look whether the file was written to since it was compared."""
    patch.setattr(PullClientEnd, "_check_unchanged", lambda self: None)


def uploads_come_after_the_commit(patch: pytest.MonkeyPatch) -> None:
    finish, commit = SegmentWriter.finish, DatabaseHistory.commit
    put_off: list[Callable[[], Coroutine[Any, Any, None]]] = []

    async def later(self: SegmentWriter, needed: Any) -> None:
        self.close()
        put_off.append(lambda: finish(self, needed))

    async def first(self: DatabaseHistory, *given: Any) -> Any:
        committed = await commit(self, *given)
        while put_off:
            await put_off.pop()()
        return committed

    patch.setattr(SegmentWriter, "finish", later)
    patch.setattr(DatabaseHistory, "commit", first)


def tokens_never_expire(patch: pytest.MonkeyPatch) -> None:
    verify = Keyring.verify_sync
    patch.setattr(Keyring, "verify_sync", lambda self, token, now: verify(self, token, 0.0))


@pytest.fixture
def model() -> Iterator[Convergence]:
    model = Convergence()
    model.first_files()
    yield model
    model.abandon()


def test_finds_a_base_that_is_not_compared(
    model: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clients push changes of one version, one after the other."""
    conflicts_are_not_seen(monkeypatch)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.pull(number=1, wire_version=2, force=True, backup=False, cut_at=None)
    for number in (0, 1):
        model.write(number=number, rows=3, size=10, killed=False)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    with pytest.raises(AssertionError, match="an unforced push replaced unseen changes"):
        model.push(number=1, wire_version=2, force=False, cut_at=None)


def test_finds_a_push_acknowledged_too_soon(
    model: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledged_too_soon(monkeypatch)
    with pytest.raises(AssertionError, match="there is no version 1"):
        model.push(number=0, wire_version=2, force=False, cut_at=None)


def test_finds_local_changes_that_a_pull_overwrites(
    model: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_changes_are_overwritten(monkeypatch)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.write(number=1, rows=3, size=10, killed=False)
    with pytest.raises(AssertionError, match="a pull overwrote local changes"):
        model.pull(number=1, wire_version=2, force=False, backup=False, cut_at=None)


def test_finds_a_token_that_never_expires(
    model: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens_never_expire(monkeypatch)
    with pytest.raises(AssertionError):
        model.use_an_expired_token(number=0, kind="push")


def test_finds_a_commit_that_a_crash_tears(
    model: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed lies in a segment that the server had not uploaded when it died."""
    uploads_come_after_the_commit(monkeypatch)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.write(number=0, rows=3, size=10, killed=False)
    with pytest.raises(StorageError, match="missing"):
        model.server_dies_in_a_push(
            number=0, countdown=None, when="after", force=False, wire_version=2
        )


def test_finds_a_compare_and_swap_left_out(
    model: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pushes on one base reach their commit together. (Chance finds it too, in minutes.)"""
    last_writer_wins(monkeypatch)
    model.write(number=1, rows=3, size=10, killed=False)
    model.begin(number=0, kind="push", wire_version=2, force=False)
    model.begin_another(first="push", second=1)
    model.step(which=1, from_client=True, steps=3)  # its base is the head, says the server
    model.finish(which=0, from_client=True)
    with pytest.raises(AssertionError, match=r"not what was pushed|replaced unseen"):
        model.finish(which=0, from_client=True)


def test_finds_a_write_that_an_installation_overwrites(
    model: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application commits while a pull is on its way."""
    writes_meanwhile_are_overwritten(monkeypatch)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.pull(number=1, wire_version=2, force=True, backup=False, cut_at=None)
    model.write(number=0, rows=3, size=10, killed=False)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.begin(number=1, kind="pull", wire_version=2, force=False)
    model.write(number=1, rows=3, size=10, killed=False)
    with pytest.raises(AssertionError, match="overwrote a change made meanwhile"):
        model.finish(which=0, from_client=True)
