"""`python -m proof.simulate` as somebody uses it."""

import asyncio
import multiprocessing
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from proof import simulate
from proof.evidence import ROOT
from proof.sim.counted import DONE, INJECTED
from proof.simulate import Summary


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        simulate.main(["--help"])
    assert ended.value.code == 0
    assert "python -m proof.simulate --first 4711 --seeds 1" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--seeds", "0"], ["--seeds", "many"], ["--real-every", "0"]])
def test_wrong_usage_is_said(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        simulate.main(wrong)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_run_shows_progress_and_what_was_injected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    arguments = ["--seeds", "6", "--first", "3", "--processes", "1", "--page", str(page)]
    assert simulate.main(arguments) == 0
    said = capsys.readouterr()
    assert "6 of 6 seeds, 0 s to go" in said.err
    assert all(re.search(rf"[\d,]+  {re.escape(name)}\n", said.out) for name in (*DONE, *INJECTED))
    assert "| simulate | passed |" in page.read_text()
    assert "| 3..8 | seeds 6, runs 12, sessions" in page.read_text()


def given(summary: Summary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "simulate", lambda *_: iter([summary]))


def test_a_failing_seed_is_printed_with_its_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(Summary(9, failures={7: "Violation: torn"}), monkeypatch)
    monkeypatch.setattr(simulate, "record_failure", lambda seed: f"recorded {seed}\n")
    page = tmp_path / "page.md"
    assert simulate.main(["--seeds", "9", "--page", str(page)]) == 1
    assert "seed 7: Violation: torn\nrecorded 7\n" in capsys.readouterr().err
    assert "**FAILED**" in page.read_text()


def test_a_long_run_in_which_something_never_happened_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    happened = Summary(simulate.ALL_INJECTED_SEEDS)
    happened.counts.update(dict.fromkeys((*DONE, *INJECTED), 1))
    page = ["--seeds", str(happened.seeds), "--page", str(tmp_path / "page.md")]
    given(happened, monkeypatch)
    assert simulate.main(page) == 0
    for name in ("stalls", "pushes resumed from several segments"):
        happened.counts[name] = 0
        given(happened, monkeypatch)
        assert simulate.main(page) == 1
        assert f"never happened: {name}\n" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [asyncio.CancelledError, SystemExit, GeneratorExit])
def test_a_seed_that_ends_by_no_ordinary_error_is_a_failure_too(
    ending: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(seed: int, **_: object) -> NoReturn:
        raise ending("of this seed")

    monkeypatch.setattr(simulate, "run", ends)
    summary = simulate.play_range((1, 2, 64))
    assert summary.failures == dict.fromkeys((1, 2), f"{ending.__name__}: of this seed")
    assert ending.__name__ in simulate.record_failure(1, tmp_path)


def test_a_process_that_dies_ends_the_run() -> None:
    before = set(multiprocessing.active_children())
    playing = simulate.simulate(0, 1_000_000, 2, 64)
    next(playing)
    (set(multiprocessing.active_children()) - before).pop().kill()
    with pytest.raises(simulate.ProcessDied):
        for _ in playing:
            pass
    assert not set(multiprocessing.active_children()) - before


def started(page: Path) -> "subprocess.Popen[str]":
    """A long run that has begun to play."""
    running = subprocess.Popen(
        [sys.executable, "-m", "proof.simulate", "--seeds", "1000000", "--page", str(page)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    assert "to go" in running.stderr.readline()
    return running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_with_what_it_knows_and_leaves_the_page_alone(
    tmp_path: Path, number: signal.Signals
) -> None:
    page = tmp_path / "page.md"
    running = started(page)
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert running.returncode == simulate.INTERRUPTED
    assert re.fullmatch(r"interrupted after [\d,]+ of 1,000,000 seeds", err.splitlines()[-1]), err
    assert "Traceback" not in err
    assert "sessions" in out
    assert not page.exists()


def test_its_processes_end_with_it_if_it_is_killed(tmp_path: Path) -> None:
    """They have its standard output: that ends when the last of them has."""
    running = started(tmp_path / "page.md")
    running.kill()
    running.communicate(timeout=60)
    assert running.returncode == -signal.SIGKILL
