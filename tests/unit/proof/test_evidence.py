"""The evidence page: one row a check, sorted, replaced by the next run."""

import argparse
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from proof import evidence as evidence_module
from proof.evidence import PAGE, Evidence, measured, record, require_whole


def rows(page: Path) -> list[str]:
    return [line for line in page.read_text().splitlines() if line.startswith("| ")][1:]


def test_rows_are_sorted_and_replaced(tmp_path: Path) -> None:
    page = tmp_path / "specs" / "evidence.md"
    record(Evidence("simulate", "1..9", {"seeds": 9_000}), page)
    record(Evidence("controls", counts={"flaws": 3}), page)
    record(Evidence("simulate", "1..10", {"seeds": 10_000, "torn": 0}), page)

    first, second = rows(page)
    assert first.startswith("| controls | passed | ")
    assert "| 1..10 | seeds 10,000, torn 0 |" in second
    assert "9,000" not in page.read_text()


def test_a_check_that_raises_is_recorded_as_failed(tmp_path: Path) -> None:
    page = tmp_path / "evidence.md"
    with pytest.raises(ZeroDivisionError), measured("division", page=page) as evidence:
        evidence.counts["runs"] = 4
        1 / 0  # noqa: B018 - the failure
    assert "| division | **FAILED** |" in rows(page)[0]
    assert "runs 4" in rows(page)[0]


def test_an_interrupted_check_leaves_the_old_row(tmp_path: Path) -> None:
    page = tmp_path / "evidence.md"
    with measured("division", page=page):
        pass
    before = page.read_text()
    with pytest.raises(KeyboardInterrupt), measured("division", page=page):
        raise KeyboardInterrupt
    assert page.read_text() == before


class TestTheCommit:
    """Of a tree with one file under version control."""

    @pytest.fixture
    def tree(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        tree = tmp_path / "tree"
        tree.mkdir()
        git(tree, "init", "--quiet")
        changed(tree, "one")
        committed(tree)
        monkeypatch.setattr(evidence_module, "ROOT", tree)
        return tree

    @staticmethod
    def named(tmp_path: Path, during: Callable[[], object] = lambda: None) -> str:
        page = tmp_path / "evidence.md"
        with measured("check", page=page):
            during()
        return rows(page)[0].split(" | ")[3]

    def test_of_a_clean_tree_is_named(self, tree: Path, tmp_path: Path) -> None:
        assert self.named(tmp_path) == head(tree)

    def test_of_a_changed_tree_is_marked_even_if_it_is_committed_meanwhile(
        self, tree: Path, tmp_path: Path
    ) -> None:
        before = head(tree)
        changed(tree, "two")
        assert self.named(tmp_path, lambda: committed(tree)) == f"{before}+"

    def test_is_the_one_at_the_start_and_marked_if_there_is_another_at_the_end(
        self, tree: Path, tmp_path: Path
    ) -> None:
        before = head(tree)

        def work_goes_on() -> None:
            changed(tree, "two")
            committed(tree)

        assert self.named(tmp_path, work_goes_on) == f"{before}+"
        assert head(tree) != before

    def test_is_marked_if_the_tree_is_changed_meanwhile(self, tree: Path, tmp_path: Path) -> None:
        assert self.named(tmp_path, lambda: changed(tree, "two")) == f"{head(tree)}+"

    def test_of_no_repository_is_unknown(self, tree: Path, tmp_path: Path) -> None:
        shutil.rmtree(tree / ".git")
        assert self.named(tmp_path) == "unknown"


def git(tree: Path, *words: str) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *author, *words], cwd=tree, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def changed(tree: Path, text: str) -> None:
    (tree / "file").write_text(text)


def committed(tree: Path) -> None:
    git(tree, "add", "file")
    git(tree, "commit", "--quiet", "-m", "another")


def head(tree: Path) -> str:
    return git(tree, "rev-parse", "--short=10", "HEAD")


@pytest.mark.parametrize("page", [PAGE, Path(os.path.relpath(PAGE))], ids=["whole", "relative"])
def test_less_than_the_whole_does_not_replace_its_row(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    require_whole(parser, page, "")
    require_whole(parser, Path("elsewhere.md"), "--scale 0.1")
    with pytest.raises(SystemExit) as ended:
        require_whole(parser, page, "--scale 0.1")
    assert ended.value.code == 2
    assert "--scale 0.1 proves less than the page says" in capsys.readouterr().err
