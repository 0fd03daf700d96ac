"""The last figures of every long check, in `specs/evidence.md`: written by the checks, not by hand.

    with measured("simulate", seed="1..100000") as evidence:
        evidence.counts["seeds"] = run_them_all()

A check that raises, or that sets `passed` to False, is recorded as failed; what the counts say is
not judged here. Each check has one row, under its name; a new run replaces it, so that a run of
less than the whole check has to name another page (`require_whole`). Several checks may write at
the same time.
"""

import argparse
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
changes in the working tree, or was left for another, when the check began or while it ran.

| check | result | date (UTC) | commit | seed | counts | seconds |
|---|---|---|---|---|---|---|
"""


def _commit() -> str:
    """The commit that is checked out, with `+` if product or checks were changed since.

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


@dataclass
class Evidence:
    """One check's figures. `counts` keep their order; `seed` says what makes the run again.

    `commit` is the one that is checked, and so the one at which the check began.
    """

    name: str
    seed: str = "-"
    counts: dict[str, int | float | str] = field(default_factory=dict)
    seconds: float = 0.0
    passed: bool = True
    commit: str = field(default_factory=_commit)


def require_whole(parser: argparse.ArgumentParser, page: Path, less: str) -> None:
    """Refuse, as wrong usage, that the row of a whole check is replaced by that of a smaller run.

    `less` says what makes the run smaller, in words of its command line; empty if nothing does.
    """
    if less and page.resolve() == PAGE:
        parser.error(f"{less} proves less than the page says: name another with --page")


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
        _checked(evidence.commit),
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


def _checked(began: str) -> str:
    """The commit at which a check began, with `+` if it was not that alone until now."""
    return began if began == _commit() else began.removesuffix("+") + "+"
