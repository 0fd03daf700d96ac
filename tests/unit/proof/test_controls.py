"""The controls themselves: each flaw can be planted today, and what is wrong with one is said."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from proof.controls import __main__ as controls
from proof.controls import copies
from proof.controls.copies import NEVER_ENDED, Copy
from proof.controls.flaw import DESIGN, Flaw
from proof.controls.flaws import FLAWS
from proof.evidence import ROOT

QUICK = ("torn-any-root", "lock-byte-page", "token-file", "expired-token")


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.name)
def test_a_flaw_has_its_place_and_its_check(flaw: Flaw) -> None:
    assert (ROOT / flaw.file).read_text().count(flaw.old) == 1
    assert flaw.new != flaw.old
    for selection in flaw.check:
        if selection.startswith("tests/"):
            assert (ROOT / selection.split("::")[0]).exists()


@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.name)
def test_a_red_names_a_test_of_the_check_and_its_message(flaw: Flaw) -> None:
    named = re.search(r"\btest_\w+", flaw.red)
    assert named is not None
    assert " - " in flaw.red
    files = [ROOT / word.split("::")[0] for word in flaw.check if word.startswith("tests/")]
    assert any(f"def {named[0]}" in file.read_text() for file in files)


def test_names_are_unique_and_words() -> None:
    assert len({flaw.name for flaw in FLAWS}) == len(FLAWS)
    for flaw in FLAWS:
        assert flaw.name.replace("-", "").isalnum(), "make passes names unquoted"
        assert flaw.name not in DESIGN


def test_every_item_of_the_design_has_its_flaw() -> None:
    assert {flaw.item for flaw in FLAWS} - {""} == set(DESIGN)


def test_an_unknown_name_is_refused_and_nothing_is_planted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(controls, "run", lambda *_: pytest.fail("something was planted"))
    for words in (["nonsense"], ["no-history", "nonsense"], [""], ["--nonsense"]):
        with pytest.raises(SystemExit) as ended:
            controls.main(words)
        assert ended.value.code == 2
    assert "nonsense" in capsys.readouterr().err


def test_help_and_list_plant_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(controls, "run", lambda *_: pytest.fail("something was planted"))
    with pytest.raises(SystemExit) as ended:
        controls.main(["--help"])
    assert ended.value.code == 0
    assert controls.main(["--list", "PKCE"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert sum("PKCE" in line and not line.startswith(" ") for line in listed) >= 3


def test_a_part_writes_no_row_of_its_own_accord(monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[Path | None] = []
    monkeypatch.setattr(controls, "run", lambda _flaws, _jobs, page: pages.append(page) or {})
    for words in ([], ["no-history"], ["no-history", "--page", "x.md"]):
        assert controls.main(words) == 0
    assert pages == [ROOT / "specs/evidence.md", None, Path("x.md")]


class TestOnACopy:
    """A tree of one module and one test of it."""

    @pytest.fixture
    def copy(self, tmp_path: Path) -> Copy:
        (tmp_path / "two.py").write_text("def two():\n    return 2\n")
        (tmp_path / "test_two.py").write_text(
            "import sys\nsys.path.insert(0, '.')\n"
            "from two import two\ndef test_two():\n    assert two() == 2\n"
        )
        (tmp_path / "test_red.py").write_text("def test_red():\n    assert False\n")
        return Copy(tmp_path)

    @staticmethod
    def tried(
        copy: Copy,
        old: str,
        new: str,
        check: str = "test_two.py",
        red: str = r"test_two.py::test_two - assert 3 == 2",
    ) -> str:
        flaw = Flaw("flaw", "", "", "two.py", old, new, (check,), red)
        before = (copy.root / "two.py").read_text()
        (what,) = controls.tried(copy, [flaw]).values()
        assert (copy.root / "two.py").read_text() == before
        return what

    def test_a_flaw_that_turns_its_check_red_is_seen(self, copy: Copy) -> None:
        assert self.tried(copy, "return 2", "return 3") == "seen"

    def test_one_that_lets_nothing_work_at_all_is_not(self, copy: Copy) -> None:
        said = self.tried(copy, "return 2", "raise OSError('the disk is gone')")
        assert said.startswith("RED FOR ANOTHER CAUSE: test_two.py::test_two - OSError: the disk")

    def test_a_long_message_is_not_cut(self, copy: Copy) -> None:
        red = r"OSError: (long ){60}word"
        assert (
            self.tried(copy, "return 2", "raise OSError('long ' * 60 + 'word')", red=red) == "seen"
        )

    def test_a_check_that_never_ends_has_seen_nothing(
        self, copy: Copy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def patient(copy: Copy, flaw: Flaw) -> str:
            with monkeypatch.context() as patch:
                patch.setattr(copies, "TEST_SECONDS_MAX", 0.01)
                return controls.seen(copy, flaw)

        flaw = Flaw("flaw", "", "", "two.py", "return 2", "return 3", ("test_two.py",), "3 == 2")
        assert patient(copy, flaw) == "NEVER ENDED"
        assert patient(copy, replace(flaw, red=NEVER_ENDED)) == "seen"

    def test_one_that_does_not_is_said(self, copy: Copy) -> None:
        assert self.tried(copy, "return 2", "return 2  ") == "NOT SEEN"

    def test_a_check_that_is_red_anyway_proves_nothing(self, copy: Copy) -> None:
        said = self.tried(copy, "return 2", "return 3", "test_red.py")
        assert said.startswith("its check is not green without a flaw")

    def test_a_check_that_does_not_run_proves_nothing(self, copy: Copy) -> None:
        said = self.tried(copy, "return 2", "return 3", "test_none.py")
        assert said.startswith("its check is not green without a flaw")
        assert self.tried(copy, "def two", "def three").startswith("the check did not run")

    def test_a_place_that_is_gone_is_said(self, copy: Copy) -> None:
        assert self.tried(copy, "return 4", "return 3").startswith("not planted")


def test_flaws_of_the_product_are_planted_and_seen(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way, for those whose checks take a second."""
    assert controls.main(["--jobs", "1", *QUICK]) == 0
    said = capsys.readouterr().out
    assert all(re.search(rf"^seen +{name}$", said, re.MULTILINE) for name in QUICK)
    assert f"{len(QUICK)} of {len(QUICK)} flaws were seen" in said


def test_ctrl_c_ends_it_and_leaves_nothing_behind(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    program = [sys.executable, "-m", "proof.controls", "--jobs", "2", "--page", str(page), *QUICK]
    with subprocess.Popen(
        program,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("seen ")
        running.send_signal(signal.SIGINT)
        said, complaint = running.communicate(timeout=60)
    assert (running.returncode, complaint) == (130, "interrupted\n")
    assert len(said.splitlines()) < len(QUICK) - 1
    assert not page.exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("edge")] == []
