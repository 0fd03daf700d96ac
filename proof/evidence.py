"""The last figures of every long check, in `specs/evidence.md`: written by the checks, not by hand.

    with measured("simulate", seed="1..100000") as evidence:
        evidence.counts["seeds"] = run_them_all()

A check that raises, or whose counts hold a failure, is recorded as failed. Each check has one row,
under its name; a new run replaces it. Several checks may write at the same time.
"""

import fcntl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "specs" / "evidence.md"

_HEAD = """\
# Evidence

The last run of every long check: `make prove`, `make simulate`, `make model-check` and the others
named here. Written by the checks themselves (`proof/evidence.py`); a commit marked `+` had
changes in the working tree.

| check | result | date (UTC) | commit | seed | counts | seconds |
|---|---|---|---|---|---|---|
"""


@dataclass
class Evidence:
    """One check's figures. `counts` keep their order; `seed` says what makes the run again."""

    name: str
    seed: str = "-"
    counts: dict[str, int | float | str] = field(default_factory=dict)
    seconds: float = 0.0
    passed: bool = True


@contextmanager
def measured(name: str, *, seed: object = "-", page: Path = PAGE) -> Iterator[Evidence]:
    """Time a check and write its row when it ends, whether it passed or raised.

    A check that counts failures instead of raising sets `evidence.passed` to False.
    """
    evidence = Evidence(name, str(seed))
    started = time.monotonic()
    try:
        yield evidence
    except BaseException as error:
        evidence.passed = False
        # An interrupted run has shown nothing, good or bad: the old row stays.
        if isinstance(error, KeyboardInterrupt):
            raise
        evidence.seconds = time.monotonic() - started
        record(evidence, page)
        raise
    evidence.seconds = time.monotonic() - started
    record(evidence, page)


def record(evidence: Evidence, page: Path = PAGE) -> str:
    """Put the check's row in its place in `page`, and print it; the row."""
    row = _row(evidence)
    page.parent.mkdir(parents=True, exist_ok=True)
    with page.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        rows = _rows(file.read())
        rows[evidence.name] = row
        text = _HEAD + "".join(f"{rows[name]}\n" for name in sorted(rows))
        file.seek(0)
        file.truncate()
        file.write(text)
    sys.stdout.write(f"{row}\n")
    return row


def _row(evidence: Evidence) -> str:
    cells = [
        evidence.name,
        "passed" if evidence.passed else "**FAILED**",
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        _commit(),
        evidence.seed,
        _counts(evidence.counts),
        f"{evidence.seconds:.1f}",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _counts(counts: Mapping[str, int | float | str]) -> str:
    return ", ".join(
        f"{name} {value:,}" if isinstance(value, int | float) else f"{name} {value}"
        for name, value in counts.items()
    )


def _rows(text: str) -> dict[str, str]:
    """The rows of an existing page by check name."""
    rows = {}
    for line in text.splitlines():
        name = line.removeprefix("| ").split(" | ")[0]
        if line.startswith("| ") and name != "check":
            rows[name] = line
    return rows


def _commit() -> str:
    """The commit that was checked, with `+` if product or checks were changed since.

    The evidence page itself does not count: every check of a series changes it.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        commit = git("rev-parse", "--short=10", "HEAD")
        dirty = git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{_PAGE_PATH}")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if dirty else "")


_PAGE_PATH = PAGE.relative_to(ROOT).as_posix()
