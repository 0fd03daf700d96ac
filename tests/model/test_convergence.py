"""Clients converge, whatever happens: the model of `tests.model.convergence`, in short, and the
flaws that it must find.

`make prove` runs the same for tens of thousands of steps (`proof.prove`).
"""

from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.core
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.model.convergence import Convergence, EmbeddedConvergence

from edgereplica.app.history import DatabaseHistory
from edgereplica.app.pull_client import PullClientEnd
from edgereplica.app.push_server import PushServerEnd
from edgereplica.app.tokens import Keyring
from edgereplica.events.messages import Hello
from edgereplica.events.session import PushCommitted
from edgereplica.fsm.effects import OpenPush

CI = settings(
    max_examples=20,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

TestConvergence = Convergence.TestCase
TestConvergence.settings = CI
TestEmbeddedConvergence = EmbeddedConvergence.TestCase
TestEmbeddedConvergence.settings = CI

Plant = Callable[[pytest.MonkeyPatch], None]


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


def tokens_never_expire(patch: pytest.MonkeyPatch) -> None:
    verify = Keyring.verify_sync
    patch.setattr(Keyring, "verify_sync", lambda self, token, now: verify(self, token, 0.0))


@pytest.mark.parametrize(
    "plant",
    [
        conflicts_are_not_seen,
        acknowledged_too_soon,
        local_changes_are_overwritten,
        tokens_never_expire,
    ],
)
def test_finds_a_planted_flaw(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    monkeypatch.setattr(hypothesis.core, "global_force_seed", 1)
    with pytest.raises((AssertionError, BaseExceptionGroup)):  # mostly within 200 examples
        run_state_machine_as_test(
            Convergence,
            settings=settings(CI, max_examples=4_000, database=None, phases=(Phase.generate,)),
        )


@pytest.fixture
def model() -> Iterator[Convergence]:
    model = Convergence()
    model.first_files()
    yield model
    model.abandon()


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
