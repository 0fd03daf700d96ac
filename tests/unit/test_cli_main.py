"""The command tree: every help has examples, nothing heavy is imported, a bug is said plainly."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from typer.main import get_command, get_group
from typer.testing import CliRunner

from edgereplica.cli import main as program
from edgereplica.cli.root import Root
from edgereplica.cli.tree import app

HEAVY = {
    "asyncio",
    "connectrpc",
    "http.client",
    "importlib.metadata",
    "litestar",
    "msgpack",
    "numpy",
    "obstore",
    "picows",
    "protobuf",
    "pydantic",
    "rich",
    "sqlite3",
    "sqlean",
    "ssl",
    "statemachine",
    "structlog",
    "uvicorn",
    "websockets",
    "zstandard",
}


def leaves(group: typer.Typer, *path: str) -> Iterator[tuple[str, ...]]:
    for command in group.registered_commands:
        assert command.callback is not None
        yield (*path, command.name or command.callback.__name__)
    for below in group.registered_groups:
        assert below.typer_instance is not None
        assert below.name is not None
        yield from leaves(below.typer_instance, *path, below.name)


COMMANDS = sorted(leaves(app))


def test_the_commands_are_those_that_users_know() -> None:
    names = {" ".join(path) for path in COMMANDS}
    assert names >= {
        "signup", "login", "logout", "whoami", "serve", "demo",
        "db create", "db list", "db delete", "db token",
        "sync push", "sync pull", "sync status",
        "oauth start", "oauth complete",
        "fsm export", "fsm replay", "admin migrate", "admin rebuild",
    }  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_has_an_example_of_its_own_command(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0, result.output
    examples = result.stdout.split("Examples:\n", 1)[1].split("\n\n", 1)[0]
    assert f"edgereplica {' '.join(path)}" in examples


def test_the_exit_codes_are_in_the_help() -> None:
    result = CliRunner().invoke(app, ["--help"])
    words = " ".join(result.stdout.split())
    assert "0 ok, 1 failure, 2 wrong usage, 3 conflict" in words
    assert "4 not authorised, 5 network, 130 interrupted" in words


@pytest.mark.parametrize("words", [[], ["db"], ["sync"]])
def test_a_group_alone_shows_its_help_and_is_wrong_usage(words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ")


@pytest.mark.parametrize(
    "words", [["--help"], ["sync", "push", "--help"], ["sync", "push", "--db", "x", "--token", "t"]]
)
def test_what_starts_fast_imports_nothing_heavy(words: list[str]) -> None:
    # A stand-in for the sync engine, whose imports are its own affair.
    code = f"""
import sys, types
replica = types.ModuleType("edgereplica.app.replica")
replica.Replica = None
sys.modules["edgereplica.app.replica"] = replica
sys.argv = ["edgereplica", *{words!r}]
from edgereplica.cli.main import main
try:
    main()
except BaseException:
    pass
print("MODULES", *sys.modules)
"""
    environment = {**os.environ, "EDGEREPLICA_CONFIG": "/nonexistent/config.toml"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    modules = set(done.stdout.rsplit("MODULES ", 1)[1].split())
    assert "edgereplica.cli.main" in modules
    assert modules & HEAVY == set()


def test_a_bug_is_said_plainly_and_shown_on_demand() -> None:
    code = (
        "import sys; from edgereplica.cli import main as m\n"
        "sys.argv = ['edgereplica', '--version']\n"
        "m.run_tree = lambda thresholds: 1 / 0\n"
        "m.main()"
    )
    for debug in ("", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "EDGEREPLICA_DEBUG": debug},
        )
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) is bool(debug)
        assert "ZeroDivisionError" in done.stderr


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("edgereplica ")


def test_the_console_script_is_this_program() -> None:
    assert callable(program.main)
    assert get_command(app).name == "edgereplica"
    assert isinstance(get_group(app), Root)


def test_insecure_may_stand_anywhere_before_a_double_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEREPLICA_INSECURE", "0")
    plain = ["whoami", "--server", "http://sync.invalid"]
    for words in ([*plain], ["--", *plain, "--insecure"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code in (2, 4)
        assert os.environ["EDGEREPLICA_INSECURE"] == "0"
    for words in (["--insecure", *plain], [*plain, "--insecure"]):
        monkeypatch.setenv("EDGEREPLICA_INSECURE", "0")
        CliRunner().invoke(app, words)
        assert os.environ["EDGEREPLICA_INSECURE"] == "1"
