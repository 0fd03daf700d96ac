"""A copy of the tree in which a flaw can be planted, and tests run against it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from proof.evidence import ROOT

_TOP = ("adapters", "app", "cli", "events", "fsm", "proof", "proto", "specs", "src", "tests")
_FILES = ("pyproject.toml", "README.md", "LICENSE", "Makefile", "CHANGELOG.md", "CONTRIBUTING.md")
TEST_SECONDS_MAX = 240
NEVER_ENDED = "it never ended"
_SUMMARY_COLUMNS = "1000"
"""pytest cuts the lines of its summary to the width of the terminal."""


class NotPlanted(Exception):
    """The text that a flaw replaces does not stand in the file exactly once."""


class Stopped(Exception):
    """No more tests are run in this copy."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run of tests ended: pytest's exit code, None if it never did, and what it said."""

    code: int | None
    said: str

    @property
    def failures(self) -> list[str]:
        """Of each failed test "test id - message", as pytest sums up; or that it never ended."""
        if self.code is None:
            return [NEVER_ENDED]
        mark = "FAILED "
        lines = self.said.splitlines()
        return [line.removeprefix(mark) for line in lines if line.startswith(mark)]


class Copy:
    """A copy of the product and its tests, made by `copied`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._running: subprocess.Popen[str] | None = None
        self._starting = threading.Lock()
        self._stopped = False

    @classmethod
    def make(cls, root: Path) -> Self:
        ignored = shutil.ignore_patterns("node_modules", "__pycache__", ".hypothesis")
        for name in _TOP:
            shutil.copytree(ROOT / name, root / name, symlinks=True, ignore=ignored)
        for name in _FILES:
            if (ROOT / name).exists():
                shutil.copy(ROOT / name, root / name)
        return cls(root)

    @contextmanager
    def planted(self, file: str, old: str, new: str) -> Iterator[None]:
        """`new` in place of `old` while the block runs."""
        path = self.root / file
        text = path.read_text()
        if text.count(old) != 1:
            raise NotPlanted(f"{file} holds {text.count(old)} times: {old!r}")
        with self.holding(file, text.replace(old, new)):
            yield

    @contextmanager
    def holding(self, file: str, text: str) -> Iterator[None]:
        path = self.root / file
        original = path.read_text()
        try:
            path.write_text(text)
            yield
        finally:
            path.write_text(original)

    def test(self, tests: Sequence[str], *options: str) -> Outcome:
        """Run a pytest selection, up to the first failure. `Stopped` after `stop`."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.root / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "COLUMNS": _SUMMARY_COLUMNS,
        }
        program = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        with self._starting:
            if self._stopped:
                raise Stopped
            process = self._running = subprocess.Popen(
                [*program, *options, *tests],
                cwd=self.root,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        with process:
            try:
                said, _ = process.communicate(timeout=TEST_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                # With it goes what the tests had started.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                return Outcome(None, NEVER_ENDED)
        if self._stopped:
            raise Stopped
        return Outcome(process.returncode, said)

    def stop(self) -> None:
        """Interrupt the tests that are running, which then tidy up. From another thread."""
        with self._starting:
            self._stopped = True
            if self._running is not None:
                self._running.send_signal(signal.SIGINT)


@contextmanager
def copied() -> Iterator[Copy]:
    with tempfile.TemporaryDirectory(prefix="edgereplica-controls-") as directory:
        yield Copy.make(Path(directory))
