"""`edgereplica fsm`: where drawings go, and what a replay's verdict becomes."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner, Result

from edgereplica.app.replay import ReplayReport
from edgereplica.cli.tree import app

SAME = ReplayReport("client_push", 2, 3, same=True)


@pytest.fixture(autouse=True)
def machines(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    calls: list[tuple[str, str | None]] = []

    def export(style: str, machine: str | None = None) -> dict[str, str]:
        calls.append((style, machine))
        return {"client_push": "drawing one\n", "server_push": "drawing two\n"}

    drawing, replaying = ModuleType("machines"), ModuleType("replay")
    drawing.__dict__["export"] = export
    replaying.__dict__["replay"] = lambda path: (
        SAME if path.read_text() == "good" else replace(SAME, same=False, difference="event 2")
    )
    monkeypatch.setitem(sys.modules, "edgereplica.app.machines", drawing)
    monkeypatch.setitem(sys.modules, "edgereplica.app.replay", replaying)
    return calls


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["fsm", *words])


def test_printed_one_after_the_other(machines: list[tuple[str, str | None]]) -> None:
    result = run("export")
    assert (result.exit_code, result.stdout) == (0, "drawing one\ndrawing two\n")
    run("export", "--format", "table", "--machine", "client_push")
    assert machines == [("mermaid", None), ("table", "client_push")]


def test_written_one_file_a_machine(tmp_path: Path) -> None:
    where = tmp_path / "new" / "directory"
    result = run("export", "--format", "svg", "--output", str(where))
    assert result.exit_code == 0
    names = ["client_push.svg", "server_push.svg"]
    assert result.stdout.splitlines() == [str(where / name) for name in names]
    assert (where / "client_push.svg").read_text() == "drawing one\n"


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("export", "--output", str(tmp_path / "file"))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: cannot write to ")


@pytest.mark.parametrize(("content", "code"), [("good", 0), ("other effects", 1)])
def test_a_replay_fails_when_the_effects_differ(tmp_path: Path, content: str, code: int) -> None:
    recording = tmp_path / "session.rec"
    recording.write_text(content)
    result = run("replay", str(recording))
    assert result.exit_code == code
    assert result.stdout == "client_push, wire v2: 3 events run again\n"
    assert ("event 2" in result.stderr) is (code == 1)
    as_json = run("replay", str(recording), "--json")
    assert as_json.exit_code == code
    assert json.loads(as_json.stdout)["same"] is (code == 0)


def test_a_recording_that_is_not_there(tmp_path: Path) -> None:
    result = run("replay", str(tmp_path / "missing"))
    assert result.exit_code == 2
    assert "missing" in result.stderr
