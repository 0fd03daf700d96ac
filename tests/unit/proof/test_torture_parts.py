"""What the checks of `make torture` demand: each demand is seen to be made."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from proof.evidence import ROOT
from proof.running import Counts
from proof.torture import cuts, full_disks, idlers, kills
from proof.torture.client import ENDED, PHASES, Sync
from proof.torture.world import Violation, journal_mode, snapshot
from tests.helpers_cutting import Action, Fault

from edgereplica.events.errors import (
    Conflict,
    EdgeReplicaError,
    NetworkError,
    ProtocolViolation,
)


def database(path: Path, journal: str = "delete") -> Path:
    with closing(sqlite3.connect(path)) as app:
        app.execute(f"PRAGMA journal_mode = {journal}")
        app.execute("CREATE TABLE t (x)")
        app.commit()
    return path


def test_a_file_that_was_not_truncated_is_no_snapshot(tmp_path: Path) -> None:
    """SQLite reads as many pages as page 1 says, and passes over what lies behind them."""
    path = database(tmp_path / "a.db")
    pages = snapshot(path)
    with path.open("ab") as file:
        file.write(bytes(4096))
    with closing(sqlite3.connect(path)) as app:
        assert app.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with pytest.raises(Violation, match=f"its {len(pages)} pages"):
        snapshot(path)


def test_pages_that_are_still_in_the_log_are_in_a_snapshot(tmp_path: Path) -> None:
    path = database(tmp_path / "a.db", "wal")
    with closing(sqlite3.connect(path)) as app:
        app.execute("INSERT INTO t VALUES (zeroblob(20000))")
        app.commit()
        assert path.stat().st_size < 20_000 < sum(map(len, snapshot(path)))


def test_a_journal_mode_is_read_from_the_file(tmp_path: Path) -> None:
    assert journal_mode(database(tmp_path / "wal.db", "wal")) == b"\2\2"
    assert journal_mode(database(tmp_path / "rollback.db")) == b"\1\1"
    assert journal_mode(tmp_path / "none.db") is None


def test_a_few_kills_are_aimed_at_every_phase() -> None:
    phases = range(len(PHASES["push"]))
    assert len(PHASES["pull"]) == len(phases)
    assert [kills.phase_of(shot) for shot in phases] == list(phases)
    assert {kills.phase_of(shot, kinds=3) for shot in phases} == set(phases)
    met = {(shot % 3, kills.phase_of(shot, kinds=3)) for shot in range(18)}
    assert met == {(kind, phase) for kind in range(3) for phase in phases}


def test_a_phase_that_no_kill_fell_in_is_missed() -> None:
    phases = {"before hello": 9, **{f"in {phase}": 9 for phase in PHASES["pull"][1:]}}
    counts = Counts({"kills": 54, "shots after the end": 7, **phases})
    assert kills.lacks("pull", counts) == []
    counts["kills"] = 56
    assert kills.lacks("pull", counts) == ["2 of the kills fell in no phase"]
    counts["kills"], counts["in applying"] = 45, 0
    assert kills.lacks("pull", counts) == ["no kill in applying"]


def test_a_shot_after_the_end_is_fired_again_but_not_for_ever() -> None:
    shares: list[float] = []

    def shoot(share: float) -> bool:
        shares.append(share)
        return len(shares) == 3

    kills.until_one_hits(shoot)
    assert len(shares) == 3
    assert shares[0] == 1 > shares[1] > shares[2]
    with pytest.raises(Violation, match="after the end"):
        kills.until_one_hits(lambda _: False)


@pytest.mark.parametrize("phase", [*PHASES["push"], ENDED])
def test_only_a_session_that_goes_on_can_be_hit(phase: str) -> None:
    marksman = kills.Marksman("push", Random(1), [])
    process: Any = Ended(0)
    sync = Sync(process, process, phase=phase)
    assert marksman.shoot(sync, 0, lambda: None) is (phase != ENDED)
    assert marksman.hits["shots after the end"] == (phase == ENDED)


class Ended:
    """A process that has ended, and the pipe on which it told how."""

    closed = True

    def __init__(self, exitcode: int) -> None:
        self.exitcode = exitcode

    def join(self) -> None:
        """It has ended."""

    def kill(self) -> None:
        """It is too late."""

    def close(self) -> None:
        """Nothing is open."""


def ended(exitcode: int, ending: tuple[str, Any] | None) -> Sync:
    process: Any = Ended(exitcode)
    return Sync(process, process, phase=ENDED, ending=ending)


def test_a_client_whose_server_was_killed_says_that_the_network_failed() -> None:
    told = ("failed", NetworkError.code)
    assert kills._acknowledged(ended(0, told), may_fail=True) is None
    for exitcode, ending in ((1, None), (0, None), (1, told), (0, ("failed", Conflict.code))):
        with pytest.raises(Violation):
            kills._acknowledged(ended(exitcode, ending), may_fail=True)


def test_a_client_that_was_killed_has_not_failed_by_itself() -> None:
    assert kills._acknowledged(ended(-signal.SIGKILL, None), may_fail=False) is None
    for exitcode, ending in ((1, None), (0, ("failed", NetworkError.code))):
        with pytest.raises(Violation):
            kills._acknowledged(ended(exitcode, ending), may_fail=False)


@pytest.mark.parametrize("told", [(900, 0), (1000, 60), (0, 1000)])
def test_a_crowd_that_was_thinned_out_is_no_crowd(told: tuple[int, int]) -> None:
    crowd = idlers._Crowd()
    crowd.fewest, crowd.again = told
    crowd.seconds = 3.0
    with pytest.raises(Violation, match="of a crowd of 1000"):
        idlers._require_crowd(crowd, 1000)
    crowd.seconds = idlers.PATIENCE_SECONDS
    idlers._require_crowd(crowd, 1000)


def test_a_run_that_could_judge_no_crowd_lacks_one() -> None:
    outlasted = "turns that outlasted the server's patience"
    assert idlers.lacks(Counts({outlasted: idlers.TURNS - 1})) == []
    assert idlers.lacks(Counts({outlasted: idlers.TURNS})) != []


def test_every_disk_must_have_been_full() -> None:
    sides = (*full_disks.SERVER_SIDES, *full_disks.CLIENT_SIDES)
    counts = Counts({f"stopped by a full disk: {side}": 1 for side in sides})
    assert full_disks.lacks(counts) == []
    counts["stopped by a full disk: server's database, pull"] = 0
    assert full_disks.lacks(counts) == [
        "nothing was stopped by a full disk: server's database, pull"
    ]


def test_cuts_that_missed_their_sessions_are_bounded() -> None:
    counts = Counts({"cuts between frames": 1100, "random bytes": 2000})
    counts["frames that did not come again"] = 9
    assert cuts.lacks(counts) == []
    counts["frames that did not come again"] = 100
    counts["random bytes that did not come again"] = 600
    assert cuts.lacks(counts) == [
        "100 frames that did not come again, of 1,100",
        "600 random bytes that did not come again, of 10,000",
    ]


async def _cancelled() -> None:
    raise asyncio.CancelledError


async def _endless() -> None:
    await asyncio.Event().wait()


def test_only_a_sync_that_is_given_up_may_be_cancelled() -> None:
    stalling: Any = SimpleNamespace(reached=SimpleNamespace(is_set=lambda: True))
    assert asyncio.run(cuts._given_up(_endless(), stalling)) is None
    with pytest.raises(Violation, match="nobody has given up"):
        asyncio.run(cuts._given_up(_cancelled(), None))


def attempt(fault: Fault | None, error: EdgeReplicaError) -> Any:
    """What the bench makes of a session that ends with `error`."""

    async def push() -> None:
        raise error

    bench = object.__new__(cuts._Bench)
    world: Any = SimpleNamespace(replica=lambda *_, **__: SimpleNamespace(push=push))
    proxy: Any = SimpleNamespace(expect=lambda _: None, base="", reached=asyncio.Event())
    bench.world, bench.proxy = world, proxy
    return bench._attempt(cuts.Kind("push", 2), Path("a.db"), fault)


@pytest.mark.parametrize("action", ["cut", "reset", "half_close", "stall"])
def test_only_the_network_fails_a_session_that_is_cut(action: Action) -> None:
    assert attempt(Fault(action, 1), NetworkError("lost")) is None
    with pytest.raises(Violation, match="protocol_violation"):
        attempt(Fault(action, 1), ProtocolViolation("what is this?"))


@pytest.mark.parametrize("fault", [Fault("dribble", 1), None])
def test_a_session_of_which_nothing_is_lost_goes_through(fault: Fault | None) -> None:
    with pytest.raises(Violation, match="network"):
        attempt(fault, NetworkError("lost"))


FILES = """
import resource, sys
from proof.torture.world import need_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
need_open_files(1256)
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def with_files(soft: int, hard: int) -> "subprocess.CompletedProcess[str]":
    """A process with these limits, which needs 1,256 open files."""
    return subprocess.run(
        [sys.executable, "-c", FILES, str(soft), str(hard)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_check_that_needs_many_files_takes_what_it_may_have() -> None:
    assert with_files(1024, 2000).stdout == "(1256, 2000)\n"
    assert with_files(1500, 2000).stdout == "(1500, 2000)\n"


def test_a_check_that_may_not_have_its_files_says_how_to_raise_the_limit() -> None:
    said = with_files(500, 1024).stderr
    assert "TooFewFiles" in said
    assert "`ulimit -n 1256`" in said
