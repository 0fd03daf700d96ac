"""`python -m proof.prove` as somebody uses it."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis.stateful import invariant
from proof import prove
from tests.model.convergence import Convergence


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        prove.main(["--help"])
    assert ended.value.code == 0
    assert "python -m proof.prove --storage scaled-out" in capsys.readouterr().out


def test_every_storage_has_its_share() -> None:
    assert prove.PERCENT.keys() == prove.MACHINES.keys()
    assert sum(prove.PERCENT.values()) == 100


class NothingHolds(Convergence):
    @invariant()
    def nothing(self) -> None:
        raise AssertionError("as planted")


class NobodyActs(Convergence):
    """Every history is as short as can be: the program is under test, not the product."""


def test_a_run_shows_progress_and_writes_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(prove.MACHINES, "memory", NobodyActs)
    monkeypatch.setattr(prove, "STEPS_PER_HISTORY", 2)
    page = tmp_path / "page.md"
    arguments = ["--storage", "memory", "--steps", "20", "--seed", "3", "--page", str(page)]
    assert prove.main(arguments) == 0
    assert "of 20 steps, 0 s to go" in capsys.readouterr().err
    row = page.read_text()
    assert "| prove: model, memory storage | passed |" in row
    assert "percent of all 100" in row


def test_a_run_in_which_too_little_happened_has_not_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(prove.MACHINES, "memory", NobodyActs)
    monkeypatch.setattr(prove, "STEPS_PER_HISTORY", 2)
    monkeypatch.setattr(prove, "ALWAYS_STEPS", 20)
    monkeypatch.setattr(prove, "ALWAYS", ("steps", "eclipses"))
    page = tmp_path / "page.md"
    arguments = ["--storage", "memory", "--steps", "20", "--seed", "3", "--page", str(page)]
    assert prove.main(arguments) == 1
    assert "never happened in memory storage: eclipses\n" in capsys.readouterr().err
    assert "**FAILED**" in page.read_text()


def test_what_is_rare_is_not_missed_in_a_short_run() -> None:
    happened = Counter(prove.ALWAYS)
    assert not prove.never_happened(happened, prove.RARE_STEPS - 1)
    assert prove.never_happened(happened, prove.RARE_STEPS) == list(prove.RARE)
    assert not prove.never_happened(Counter(), prove.ALWAYS_STEPS - 1)


def test_a_refuted_model_says_how_to_see_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(prove.MACHINES, "memory", NothingHolds)
    page = tmp_path / "page.md"
    arguments = ["--storage", "memory", "--steps", "20", "--seed", "3", "--page", str(page)]
    with pytest.raises(prove.Refuted, match="--storage memory --seed 3 --steps 500"):
        prove.main(arguments)
    assert "**FAILED**" in page.read_text()
