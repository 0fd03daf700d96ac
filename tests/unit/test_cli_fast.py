"""The two readings of a sync's command line: `cli.fast` says what Typer says, or nothing."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from edgereplica.cli.commands import as_typer_command
from edgereplica.cli.fast import fast_command
from edgereplica.cli.options import declared
from edgereplica.cli.root import Root, ServerOption
from edgereplica.cli.sync import SYNC_COMMANDS

Call = tuple[str, dict[str, Any]]


class Spies:
    """The sync commands without their bodies, as Typer and as `fast` would call them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Call] = []
        spies = {name: self._spy(name, function) for name, function in SYNC_COMMANDS.items()}
        monkeypatch.setattr("edgereplica.cli.fast.SYNC_COMMANDS", spies)
        self.tree = typer.Typer(cls=Root, rich_markup_mode=None)

        @self.tree.callback()
        def root(server: ServerOption = None, insecure: bool = False) -> None:
            if insecure:
                os.environ["EDGEREPLICA_INSECURE"] = "1"

        group = typer.Typer()
        for name, spy in spies.items():
            group.command(name)(as_typer_command(spy))
        self.tree.add_typer(group, name="sync")

    def _spy(self, name: str, function: Callable[..., None]) -> Callable[..., None]:
        def spy(**values: Any) -> None:
            known = {**(function.__kwdefaults__ or {}), **values}
            self.calls.append((name, known))

        spy.__annotations__ = function.__annotations__
        spy.__kwdefaults__ = function.__kwdefaults__
        vars(spy)["__wrapped__"] = function
        return spy

    def by_typer(self, words: list[str]) -> Call | None:
        """What Typer calls; None if it refuses, helps or complains."""
        self.calls.clear()
        CliRunner().invoke(self.tree, words)
        return self.calls[0] if self.calls else None

    def fast(self, words: list[str]) -> Call | None:
        self.calls.clear()
        command = fast_command(words, {})
        if command is not None:
            command()
        return self.calls[0] if self.calls else None


@pytest.fixture
def spies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Spies]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEREPLICA_INSECURE", "0")
    yield Spies(monkeypatch)


VALUES = [
    "app.db", "-", "", "0", "5", "007", "-1", "1.5", ".5", "5.", "1e3", "nan", "inf", "+3", " 4",
    "auto", "never", "NEVER", "x=y", "--db", "@1700000000", "2026-11-22T10:00", "\u0665", "1_000",
    "http://127.0.0.1:1", "a b", ".", "/dev/null", "missing/dir/file",
]  # fmt: skip
KINDS = {
    option.name: kind
    for function in SYNC_COMMANDS.values()
    for name, annotation in function.__annotations__.items()
    if name != "return"
    for kind, option in [declared(annotation)]
}


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A command line, mostly one that means something."""
    words = draw(st.lists(st.sampled_from(["--server=http://r", "--insecure"]), max_size=1))
    words += ["sync", draw(st.sampled_from([*SYNC_COMMANDS, "pus"]))]
    names = st.sampled_from(sorted(KINDS))
    chosen = draw(st.lists(names, max_size=3, unique=draw(st.booleans())))
    for name in draw(st.permutations(list(dict.fromkeys(["--db", *chosen])))):
        flag = (KINDS[name] is bool) != (draw(st.integers(0, 9)) == 0)
        value = draw(st.sampled_from(VALUES))
        words += [name] if flag else draw(st.sampled_from([[name, value], [f"{name}={value}"]]))
    odd = ["--", "--help", "-h", "--forc", "--json=1", "--insecure", "word", "--db=b.db"]
    return words + draw(st.lists(st.sampled_from(odd), max_size=draw(st.integers(0, 1))))


def test_both_readings_agree_wherever_the_fast_one_reads(
    spies: Spies, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0

    @settings(max_examples=400, deadline=None, database=None)
    @given(lines())
    def check(words: list[str]) -> None:
        nonlocal read
        monkeypatch.setenv("EDGEREPLICA_INSECURE", "0")
        quick, insecure = spies.fast(words), os.environ["EDGEREPLICA_INSECURE"]
        if quick is None:
            return
        monkeypatch.setenv("EDGEREPLICA_INSECURE", "0")
        assert quick == spies.by_typer(words), words
        assert insecure == os.environ["EDGEREPLICA_INSECURE"]
        read += 1

    check()
    assert read > 20, "hardly a command line was read: the check says nothing"


USUAL = [
    "sync push --db app.db --token-file push.token",
    "sync push --db app.db --database main --json",
    "sync push --db=app.db --token=t --force --message nightly --compress never",
    "sync pull --db copy.db --token-file - --retries 0 --busy-timeout 2.5",
    "sync pull --db copy.db --database main --at 3 --force --no-backup --record s.rec",
    "--server http://127.0.0.1:1 sync status --db app.db --database main --checksum",
    "sync push --db app.db --token t --insecure --server http://h --dry-run",
]


@pytest.mark.parametrize("words", USUAL)
def test_what_people_write_is_read_fast(spies: Spies, words: str) -> None:
    quick = spies.fast(words.split())
    assert quick is not None
    assert quick == spies.by_typer(words.split())


@pytest.mark.parametrize(
    "words",
    [
        "", "sync", "sync push", "sync push --help", "--version", "db list", "sync push --db",
        "sync push --db a.db --db b.db", "sync push --db a.db extra", "sync push --db a.db --",
        "sync push --db a.db --retries -1", "sync push --db a.db --compress NEVER",
        "sync pull --db a.db --message m", "sync push --dry --db a.db", "--sync push --db a.db",
    ],
)  # fmt: skip
def test_whatever_else_stands_there_is_typer_s(spies: Spies, words: str) -> None:
    assert spies.fast(words.split()) is None


def test_completion_is_typer_s() -> None:
    words = USUAL[0].split()
    assert fast_command(words, {}) is not None
    assert fast_command(words, {"_EDGEREPLICA_COMPLETE": "complete_bash"}) is None


def test_a_file_that_may_not_be_read_is_typer_s_to_refuse(
    spies: Spies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.db").touch()
    words = ["sync", "push", "--db", "secret.db", "--token", "t"]
    assert spies.fast(words) is not None
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read everything
    assert spies.by_typer(words) is None
    assert spies.fast(words) is None
