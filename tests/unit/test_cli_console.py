"""What the console writes: units, tables, JSON, the progress bar."""

import io
import sys

import pytest

from edgereplica.app.results import Progress
from edgereplica.cli.console import (
    human_bytes,
    human_seconds,
    jsonable,
    printable,
    table,
)
from edgereplica.cli.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (102_400, "100 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (52_428_800, "50.0 MiB"),
        (1024**3, "1.0 GiB"),
        (1024**4, "1.0 TiB"),
    ],
)
def test_bytes(count: int, words: str) -> None:
    assert human_bytes(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.123, "0.12 s"), (12.3, "12 s"), (83, "1:23 min"), (5400, "1:30 h")]
)
def test_seconds(seconds: float, words: str) -> None:
    assert human_seconds(seconds) == words


def test_table_aligns() -> None:
    assert table(("ID", "NAME"), [("a", "long name"), ("bbb", "x")]) == [
        "ID   NAME",
        "a    long name",
        "bbb  x",
    ]


def test_json_of_anything() -> None:
    value = {"root": b"\x00\xff", "runs": ((1, 2),), 3: None, "flag": True}
    assert jsonable(value) == {"root": "00ff", "runs": [[1, 2]], "3": None, "flag": True}


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[2Jb\rc\u202ed\ne") == "a\ufffd[2Jb\ufffdc\ufffdd\ne"


def test_the_bar_draws_on_a_terminal_and_erases_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    clock = iter([10.0, 10.05, 12.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with ProgressBar() as bar:
        bar(Progress("sending", 0, 1000))
        bar(Progress("sending", 100, 1000))  # too soon after the first: not drawn
        bar(Progress("sending", 500, 1000, bytes_sent=2_048_000))
    drawings = terminal.getvalue().split("\r\x1b[K")
    assert drawings[1] == "sending     [........................]   0%  0/1,000 pages"
    assert drawings[2] == (
        "sending     [############............]  50%  500/1,000 pages  2.0 MiB  250 pages/s"
        "  2.00 s left"
    )
    assert drawings[-1] == ""


def test_the_bar_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "20")
    with ProgressBar() as bar:
        bar(Progress("sending", 1, 3))
    assert all(len(drawn) < 20 for drawn in terminal.getvalue().split("\r\x1b[K"))


def test_no_bar_on_a_dumb_terminal_nor_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with ProgressBar(quiet=True) as bar:
        bar(Progress("sending", 1, 3))
    monkeypatch.setenv("TERM", "dumb")
    with ProgressBar() as bar:
        bar(Progress("sending", 1, 3))
    assert terminal.getvalue() == ""
