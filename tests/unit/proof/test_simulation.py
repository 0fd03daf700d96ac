"""The simulation finds nothing in the product, the same every time, and it finds planted flaws."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from proof import simulate
from proof.evidence import ROOT
from proof.sim.counted import DONE, INJECTED
from proof.sim.scenario import run
from proof.sim.world import SLOW
from tests.unit.proof import flaws_planted
from tests.unit.proof.flaws_planted import Plant

from edgereplica.app.replay import replay

SEEDS = 200
SEEDS_TO_FIND_A_FLAW_MAX = 2_000
"""All show within a hundred, most within ten (`specs/evidence.md` has many more seeds)."""


def test_seeds_find_nothing_and_everything_happens_in_them() -> None:
    summary = simulate.play_range((1, SEEDS, 64))
    assert not summary.failures, str(summary.failures)
    assert summary.seeds == SEEDS
    assert [name for name in (*DONE, *INJECTED) if not summary.counts[name]] == []


def test_a_seed_is_the_same_run_in_every_process() -> None:
    """The order of a set of texts differs from process to process, and must not matter."""
    program = (
        "from proof.sim.scenario import run; print(*(run(s, real=False).trace for s in SEEDS))"
    )

    def traces(hash_seed: int) -> str:
        return subprocess.run(
            [sys.executable, "-c", program.replace("SEEDS", "range(40)")],
            env=os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout

    assert traces(1) == traces(2)


def test_a_run_that_depends_on_more_than_its_seed_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = iter(range(1_000_000))
    monkeypatch.setattr("proof.sim.beginning.SimIds.new_id", lambda self: f"{next(made):032x}")
    summary = simulate.play_range((0, 5, 64))
    assert len(summary.failures) > 1
    assert all("differ" in failure for failure in summary.failures.values())


def found(seeds: range, pace: float | None = None) -> int | None:
    """The first seed that goes wrong."""
    for seed in seeds:
        try:
            run(seed, real=False, pace=pace)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - whatever it is, it is the finding
            return seed
    return None


@pytest.mark.parametrize("plant", flaws_planted.IN_ANY_WORLD)
def test_a_planted_flaw_is_found(plant: Plant) -> None:
    with flaws_planted.planted(plant):
        assert found(range(SEEDS_TO_FIND_A_FLAW_MAX)) is not None


@pytest.mark.parametrize("plant", flaws_planted.IN_SLOW_WORLDS)
def test_a_flaw_in_looking_after_storage_is_found(plant: Plant) -> None:
    with flaws_planted.planted(plant):
        assert found(range(SEEDS_TO_FIND_A_FLAW_MAX), pace=SLOW) is not None


def test_a_failure_is_recorded_and_its_sessions_run_again(tmp_path: Path) -> None:
    with flaws_planted.planted(flaws_planted.committed_before_the_last_page):
        seed = found(range(SEEDS_TO_FIND_A_FLAW_MAX))
        assert seed is not None
        said = simulate.record_failure(seed, tmp_path)
        folder = tmp_path / f"seed-{seed}"
        sessions = sorted(folder.glob("*.jsonl"))
        assert all(replay(session).same for session in sessions)
    assert f"--first {seed} --seeds 1" in said
    assert "Traceback" in (folder / "failure.txt").read_text()
    assert "hello" in (folder / "trace.txt").read_text()
    # Without the flaw, a server's machine goes another way from where it showed.
    differing = [session.name for session in sessions if not replay(session).same]
    assert differing
    assert all(name.startswith("server-") for name in differing)
    # The words end in a line for a shell.
    for session in sessions[2:]:
        session.unlink()
    ran = subprocess.run(
        ["bash", "-c", said.splitlines()[-1]],
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path.cwd(),
        check=False,
    )
    assert [line.split(" ")[-1] for line in ran.stdout.splitlines()] == [
        str(sessions[0]),
        "again",
        str(sessions[1]),
        "again",
    ]
