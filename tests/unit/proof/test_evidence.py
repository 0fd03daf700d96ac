"""The evidence page: one row a check, sorted, replaced by the next run."""

from pathlib import Path

import pytest
from proof.evidence import Evidence, measured, record


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
