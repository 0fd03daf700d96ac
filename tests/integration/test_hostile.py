"""`make hostile` in its shortest form: every check, with the least of its counts."""

from pathlib import Path

import pytest
from proof.hostile.checks import CHECKS
from proof.running import run_here


@pytest.mark.parametrize("name", CHECKS)
def test_hostile(name: str, tmp_path: Path) -> None:
    page = tmp_path / "evidence.md"
    run_here("hostile", CHECKS, name, scale=0, seed=7, page=page)
    assert f"| hostile {name} | passed |" in page.read_text()
