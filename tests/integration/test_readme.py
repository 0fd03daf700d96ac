"""The README's commands are run and their outputs compared; its tables agree with the code.

A block to run stands after `<!-- test: NAME -->`. In a console block `$ ` starts a command, `> `
continues it, and every other line is output, where `…` stands for anything. All blocks of one name
run in one shell, in order.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.helpers_server import Account, ServerProcess, clean_environment

from edgereplica.app.settings import Settings
from edgereplica.events.errors import EdgeReplicaError

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEFAULT = "localhost:8787"
_BLOCK = re.compile(r"<!-- test: (\w+) -->\n```\w+\n(.*?)```", re.DOTALL)


@dataclass
class Step:
    command: str
    output: list[str] = field(default_factory=list)


def blocks(name: str) -> list[str]:
    return [content for found, content in _BLOCK.findall(README) if found == name]


def steps(block: str) -> Iterator[Step]:
    step: Step | None = None
    for line in block.splitlines():
        if line.startswith("$ "):
            if step:
                yield step
            step = Step(line[2:])
        elif step and line.startswith("> "):
            step.command += "\n" + line[2:]
        elif step:
            step.output.append(line)
    if step:
        yield step


def matches(expected: list[str], actual: list[str]) -> bool:
    pattern = re.escape("\n".join(expected)).replace("…", ".*")
    return re.fullmatch(pattern, "\n".join(actual)) is not None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("readme") / "server-data") as running:
        yield running


def port_of(server: ServerProcess) -> str:
    return server.base.rpartition(":")[2]


def test_the_serve_block_is_what_a_server_says(server: ServerProcess) -> None:
    (step,) = steps("".join(blocks("serve")))
    assert step.command == "edgereplica serve --data-dir server-data"
    assert step.output == [f"listening on {server.base}".replace(port_of(server), "8787")]


def test_the_quickstart_runs_line_by_line(server: ServerProcess, tmp_path: Path) -> None:
    here = f"localhost:{port_of(server)}"
    wanted = [step for block in blocks("quickstart") for step in steps(block)]
    assert len(wanted) > 10
    mark = "--- end of a step"
    lines = ["exec 2>&1"]
    for step in wanted:
        lines += [step.command, f'echo "{mark} $?"']
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean_environment(tmp_path, PATH=path, EDGEREPLICA_SERVER=f"http://{here}"),
    )
    outputs: list[list[str]] = [[]]
    for line in done.stdout.splitlines():
        if line.startswith(mark):
            assert line == f"{mark} 0", f"{wanted[len(outputs) - 1]} failed: {outputs[-1]}"
            outputs.append([])
        else:
            outputs[-1].append(line)
    for step, actual in zip(wanted, outputs[:-1], strict=True):
        expected = [line.replace(DEFAULT, here) for line in step.output]
        assert matches(expected, actual), f"$ {step.command}\n" + "\n".join(actual)


def test_the_python_example_runs(server: ServerProcess, tmp_path: Path) -> None:
    account = Account.signup(server.base, "python@example.org")
    token = account.token(account.create_database("main"), "push")
    (code,) = blocks("python")
    setup = "import sqlite3; sqlite3.connect('app.db').execute('CREATE TABLE t (x)')"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{setup}\npush_token = {token!r}\n" + code.replace(f"http://{DEFAULT}", server.base),
        ],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean_environment(tmp_path),
    )
    assert done.stdout == "pushed 1 2\n"


def table_after(marker: str) -> dict[str, tuple[str, ...]]:
    """The Markdown table that follows `marker`, as first cell → the other cells."""
    rows = {}
    for line in README.split(marker, 1)[1].lstrip().splitlines():
        if not line.startswith("|"):
            break
        first, *others = (cell.strip() for cell in line.strip("|").split("|"))
        rows[first] = tuple(others)
    return rows


def test_every_setting_of_the_server_is_in_the_table_with_its_default() -> None:
    documented = {}
    for names, (default, *_) in table_after("<!-- settings -->\n").items():
        for name in re.findall(r"`(\w+)`", names):
            documented[name] = default.strip("`")
    defaults = {}
    for name, setting in Settings.model_fields.items():
        value = setting.default
        text = value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
        key = (
            setting.validation_alias if isinstance(setting.validation_alias, str) else name.upper()
        )
        defaults[key] = text.lower() if isinstance(value, bool) else text
    assert documented == defaults


def test_every_exit_code_of_an_error_is_in_the_table() -> None:
    documented = {int(code) for code in table_after("## Exit codes\n") if code.isdecimal()}
    found = {0, 130}

    def collect(kind: type[EdgeReplicaError]) -> None:
        found.add(kind.exit_code)
        for child in kind.__subclasses__():
            collect(child)

    collect(EdgeReplicaError)
    assert documented == found


def test_links_to_files_of_the_repository_are_not_dead() -> None:
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "docs/architecture.md",
        "docs/operations.md",
        "docs/observability.md",
        "SECURITY.md",
    ):
        document = ROOT / name
        for target in re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8")):
            if not target.startswith("https://"):
                assert (document.parent / target).exists(), f"{name} links to {target}"


def test_a_wrong_output_would_be_noticed() -> None:
    assert matches(["a … c", "d"], ["a b c", "d"])
    assert not matches(["a … c", "d"], ["a b c", "e"])
    assert not matches(["a"], ["a", "unexpected"])
