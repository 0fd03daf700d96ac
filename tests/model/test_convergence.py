"""Clients converge, whatever happens: the model of `tests.model.convergence`, in short, and the
flaws that it must find.

`make prove` runs the same for tens of thousands of steps (`proof.prove`), each time others. Here
every run takes the same steps: what is found by chance is not for a test to depend on.
"""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.helpers_postgres import Postgres
from tests.helpers_s3 import S3
from tests.model import flaws
from tests.model.convergence import Convergence, EmbeddedConvergence, ScaledOutConvergence
from tests.model.judge import Kind
from tests.model.server import PROCESSES
from tests.model.wire import FRAMES_OF_A_PUSH

from edgereplica.adapters import local_fresh
from edgereplica.app.push_client import PushClientEnd
from edgereplica.events.errors import StorageError

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

FRAMES_WITHIN_THE_PAGES = [30, 35]
"""Of a push of forty rows: its announcement takes about twenty."""


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
    flaws.conflicts_are_not_seen(monkeypatch)
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
    flaws.acknowledged_too_soon(monkeypatch)
    with pytest.raises(AssertionError, match="told of version 1, and the head was 0"):
        model.push(number=0, wire_version=2, force=False, cut_at=None)


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_finds_a_push_that_is_answered_from_a_stale_history(
    model: Convergence, monkeypatch: pytest.MonkeyPatch, force: bool, dry_run: bool
) -> None:
    """Old content is not in sync because it once was: it is a conflict, or the next version."""
    flaws.pushes_are_answered_from_a_stale_history(monkeypatch)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.pull_change_and_push(number=1, rows=3, wire_version=2)
    with pytest.raises(AssertionError, match="told of version 1, and the head was 2 to 2"):
        model._run(0, "push", force=force, dry_run=dry_run)


@pytest.mark.parametrize("kind", ["push", "pull"])
def test_finds_a_process_that_does_not_hear_of_what_another_committed(
    model: Convergence, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """One process after the other has opened the database; each commits to it."""
    flaws.histories_are_read_once(monkeypatch)
    with pytest.raises(AssertionError, match=r"told of version \d, and the head was"):
        for _ in range(2 * PROCESSES):
            model.pull_change_and_push(number=0, rows=3, wire_version=2)
            model._run(1, kind, force=True, dry_run=kind == "push")


def test_finds_local_changes_that_a_pull_overwrites(
    model: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaws.local_changes_are_overwritten(monkeypatch)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.write(number=1, rows=3, size=10, killed=False)
    with pytest.raises(AssertionError, match="a pull overwrote local changes"):
        model.pull(number=1, wire_version=2, force=False, backup=False, cut_at=None)


def test_finds_a_token_that_never_expires(
    model: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaws.tokens_never_expire(monkeypatch)
    with pytest.raises(AssertionError):
        model.use_an_expired_token(number=0, kind="push")


@pytest.mark.parametrize("kind", ["push", "pull"])
def test_finds_a_token_whose_allowance_is_not_counted(
    model: Convergence, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    model.pull_change_and_push(number=0, rows=3, wire_version=2)
    model.use_a_token_for_few_bytes(number=1, kind=kind, bytes_max=600, in_need=True)
    flaws.allowances_are_not_counted(monkeypatch)
    with pytest.raises(AssertionError, match="more than the token allows"):
        model.use_a_token_for_few_bytes(number=1, kind=kind, bytes_max=600, in_need=True)


def test_finds_a_lost_connection_that_nobody_cut(
    model: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut that was planned and never came is no excuse."""
    flaws.conflicts_are_called_a_lost_connection(monkeypatch)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.write(number=1, rows=3, size=10, killed=False)
    with pytest.raises(AssertionError, match=r"refused for no reason: .*as planted"):
        model.push(number=1, wire_version=2, force=False, cut_at=50)


def test_finds_a_commit_that_a_crash_tears(
    model: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed lies in a segment that the server had not uploaded when it died."""
    flaws.uploads_come_after_the_commit(monkeypatch)
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
    flaws.last_writer_wins(monkeypatch)
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
    flaws.writes_meanwhile_are_overwritten(monkeypatch)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.pull(number=1, wire_version=2, force=True, backup=False, cut_at=None)
    model.write(number=0, rows=3, size=10, killed=False)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.begin(number=1, kind="pull", wire_version=2, force=False)
    model.write(number=1, rows=3, size=10, killed=False)
    with pytest.raises(AssertionError, match="overwrote a change made meanwhile"):
        model.finish(which=0, from_client=True)


def test_finds_a_v1_push_acknowledged_too_soon(
    model: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer names no version, so nobody missed it."""
    flaws.acknowledged_too_soon(monkeypatch)
    with pytest.raises(AssertionError, match="an acknowledged push is in no version"):
        model.push(number=0, wire_version=1, force=False, cut_at=None)


def test_finds_a_v1_pull_of_two_versions(
    model: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaws.v1_pulls_read_the_newest_head(monkeypatch)
    with pytest.raises(AssertionError, match="a pull gave no version"):
        model.commit_under_a_v1_pull(reader=1, other=1, rows=30, frames=6, wire_version=2)


def test_finds_another_version_than_the_one_asked_for(
    model: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaws.the_version_before_the_head_is_the_head(monkeypatch)
    for _ in range(2):
        model.pull_change_and_push(number=0, rows=3, wire_version=2)
    with pytest.raises(AssertionError):
        model.pull_at(number=1, which=0, force=True)


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_finds_a_file_that_is_not_cut(
    model: Convergence, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    flaws.files_are_not_cut(monkeypatch)
    model.pull_change_and_push(number=0, rows=40, wire_version=2)
    model.change_journal_mode(number=1, mode=mode)
    model.pull(number=1, wire_version=2, force=True, backup=False, cut_at=None)
    model.delete_and_vacuum(number=0, share=4)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    with pytest.raises(AssertionError, match=r"2 pages of 4096 in \d+ bytes"):
        model.pull(number=1, wire_version=2, force=False, backup=False, cut_at=None)


@pytest.mark.parametrize(
    "plant", [flaws.second_segment_is_off_by_one, flaws.two_segments_are_too_many]
)
def test_finds_a_resumed_push_that_takes_what_was_staged_for_something_else(
    model: Convergence,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, StorageError), match=r"another digest|as planted"):
        model.push_that_is_cut_again_and_again(
            number=0, rows=40, frames=FRAMES_WITHIN_THE_PAGES, force=False
        )


def test_a_push_is_resumed_from_several_segments(model: Convergence) -> None:
    """Else the two above would be found by chance alone."""
    model.happened.clear()
    model.push_that_is_cut_again_and_again(
        number=0, rows=40, frames=FRAMES_WITHIN_THE_PAGES, force=False
    )
    assert model.happened["pushes resumed from several segments"] == 1
    assert model.happened["pushes announced in several windows"] == 1
    assert model.happened["pushes in several batches"] == 1


def test_finds_a_file_that_is_not_replaced_and_loses_its_journal_mode(
    model: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_fresh, "_out_of_wal", flaws.left_in_another_mode)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    with pytest.raises(AssertionError, match="another journal mode"):
        model.pull_to_a_full_disk(number=1, page_size=1024, mode="WAL")


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (flaws.pages_are_written_past_sqlite, "a reader's snapshot changed"),
        (flaws.readers_are_waited_for, "a reader was in the way"),
    ],
)
def test_finds_a_pull_that_disturbs_a_reader_or_waits_for_it(
    model: Convergence,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
    found: str,
) -> None:
    model.pull_beside_a_reader(reader=1, other=2, mode="WAL")
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=found):
        model.pull_beside_a_reader(reader=1, other=2, mode="WAL")


def test_finds_a_version_that_is_gone_from_the_log(model: Convergence) -> None:
    for _ in range(2):
        model.pull_change_and_push(number=0, rows=3, wire_version=2)
    model.holds()
    stream = f"database:{model.server.database}"
    deletion = "DELETE FROM events WHERE stream = ? AND kind = ?"
    model._await(model.server.repo.execute(deletion, stream, "version_committed"))
    with pytest.raises(AssertionError, match="history is not what it was"):
        model.holds()


def test_finds_that_a_push_of_which_nobody_heard_replaced_unseen_changes(
    model: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaws.conflicts_are_not_seen(monkeypatch)
    for number in (0, 1):
        model.pull_change_and_push(number=number, rows=3, wire_version=2)
    model.write(number=0, rows=3, size=10, killed=False)
    with pytest.raises(AssertionError, match="an unforced push replaced unseen changes"):
        model.push(number=0, wire_version=2, force=False, cut_at=FRAMES_OF_A_PUSH)


def test_finds_a_client_that_trips_over_a_token_for_pulling(
    model: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def trip(self: PushClientEnd, effect: object) -> None:
        raise TypeError("as planted")

    monkeypatch.setattr(PushClientEnd, "hash_window", trip)
    with pytest.raises(AssertionError, match="as planted"):
        model.push_with_a_token_for_pulling(number=0, force=False)


def test_a_step_in_which_nothing_could_be_done_is_counted_as_such(model: Convergence) -> None:
    model.holds()
    model.happened.clear()
    model.holds()
    assert model.happened == {"steps with nothing to do": 1}
    model.change_a_few(number=0, killed=False)
    model.holds()
    assert model.happened == {"steps with nothing to do": 1, "steps": 1}
