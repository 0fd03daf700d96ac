"""`edgereplica demo`: it shows equality, and it would show a difference."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers_server import clean_environment

from edgereplica.app import demo

EDGEREPLICA = str(Path(sys.executable).with_name("edgereplica"))

# Becomes the real command, but damages a byte after the pull that DAMAGED_PULL counts in dots.
DAMAGING = """
import os, subprocess, sys
program = [sys.executable, "-m", "edgereplica.cli.main", *sys.argv[1:]]
if sys.argv[1:3] != ["sync", "pull"]:
    os.execv(program[0], program)
subprocess.run(program, check=True)
pulled = sys.argv[sys.argv.index("--db") + 1]
with open(pulled + ".count", "a+") as counter:
    counter.write(".")
    counter.seek(0)
    if counter.read() != os.environ["DAMAGED_PULL"]:
        sys.exit()
with open(pulled, "r+b") as file:
    file.seek(12_345)
    byte = file.read(1)
    file.seek(12_345)
    file.write(bytes([byte[0] ^ 1]))
"""


def test_it_shows_equality_and_cleans_up(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [EDGEREPLICA, "demo", "--size", "4", "--json"],
        check=False,
        capture_output=True,
        text=True,
        env=clean_environment(home, TMPDIR=str(tmp_path), EDGEREPLICA_SYNC_TOKEN="of-the-user"),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["equal"] is True
    assert report["database_bytes"] >= 4 * 1024 * 1024
    first, second, pull, _, _ = report["steps"]
    assert first["pages_moved"] == first["pages"] == pull["pages"]
    assert 0 < second["pages_moved"] < first["pages"] / 4
    assert 0 < second["bytes_on_wire"] < first["bytes_on_wire"] / 4
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["home"]
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (".", "the fresh pull is not the pushed database"),
        ("..", "the updated copy is not the pushed database"),
    ],
)
def test_one_wrong_byte_is_reported_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str, words: str
) -> None:
    monkeypatch.setenv("DAMAGED_PULL", damaged)
    program = tmp_path / "damaging.py"
    program.write_text(DAMAGING)
    monkeypatch.setattr(demo, "_PROGRAM", (sys.executable, str(program)))
    report = demo.run_demo(size_mib=1)
    assert not report.equal
    assert report.differences == (words,)
    assert any(line.startswith("DIFFERENT: ") for line in report.lines())


def test_a_server_that_does_not_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_PROGRAM", (sys.executable, "-c", "import sys; sys.exit('sorry')"))
    with pytest.raises(demo.NetworkError, match="did not start: sorry"):
        demo.run_demo(size_mib=1)
