"""`make torture` in its shortest form: every check, with the least of its counts."""

from pathlib import Path

import pytest
from proof.running import run_here
from proof.torture.checks import CHECKS


@pytest.mark.parametrize("name", CHECKS)
def test_torture(name: str, tmp_path: Path) -> None:
    page = tmp_path / "evidence.md"
    run_here("torture", CHECKS, name, scale=0, seed=7, page=page)
    assert f"| torture {name} | passed |" in page.read_text()
