"""Run checks by name: in processes of their own, with progress, and stopped cleanly by Ctrl-C.

A `Check` is a function that does `count` rounds with its own dice. `run` spreads the rounds over
the check's processes, adds up what they counted and records it through `proof.evidence`; `main` is
the command line of `proof.torture` and `proof.hostile`. `run_here` runs a check in this process,
as the tests do.

A worker process is `proof.worker` in a session of its own, so that Ctrl-C reaches only the parent.
What is still in its process group when it has ended is killed, and its folder removed.
"""

import argparse
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NoReturn, TypeVar

from .evidence import PAGE, ROOT, measured, require_whole

Item = TypeVar("Item")
Counts = Counter[str]
"""What a check counted, added up over its processes; of what begins with "most" the largest."""

PROCESSES = 2
STOP_SECONDS_MAX = 30
TELL_SECONDS = 0.2
TELL_LOG_SECONDS = 10.0
"""Where standard error is no terminal: a line each so often."""


class CheckFailed(Exception):
    """A check's process found a violation, or died."""


class UnknownCheck(Exception):
    """No check has this name."""


@dataclass
class Job:
    """What a check gets: a directory of its own, how many rounds, dice, and whom to tell."""

    root: Path
    count: int
    dice: Random
    part: int = 0
    parts: int = 1
    share: float = 1.0
    """Of what is not counted in rounds, how much is to be done: 1 is all."""
    tell: Callable[[int], None] = lambda _: None
    done: int = 0

    def mine(self, items: Sequence[Item]) -> list[Item]:
        """Of what is done once in all, this process's; of those, in a smaller run, some."""
        found = items[self.part :: self.parts]
        return self.dice.sample(found, max(1, round(len(found) * min(1.0, self.share))))

    def rounds(self) -> Iterator[int]:
        """0 to `count` - 1; each is told when it is through."""
        for number in range(self.count):
            yield number
            self.step()

    def step(self, rounds: int = 1) -> None:
        self.done += rounds
        self.tell(self.done)


@dataclass(frozen=True)
class Check:
    """`says` is its line in `--help`; `least` the count of the tests; `unit` what is counted.

    A check whose figures are times runs alone, in one process. `lacks` says what figures of a full
    count lack to have shown what the check is for; a smaller run may miss it by its dice.
    """

    work: Callable[[Job], Counts]
    full: int
    unit: str
    says: str
    least: int = 1
    processes: int = PROCESSES
    lacks: Callable[[Counts], list[str]] = lambda _: []


Checks = Mapping[str, Check]


def add(total: Counts, part: Mapping[str, int]) -> None:
    """Add up what two processes counted."""
    for name, count in part.items():
        total[name] = max(total[name], count) if name.startswith("most") else total[name] + count


def count_of(check: Check, scale: float) -> int:
    return max(check.least, round(check.full * scale))


def run_here(suite: str, checks: Checks, name: str, scale: float, seed: int, page: Path) -> None:
    """One check in this process, in a directory that is removed."""
    check = checks[name]
    with (
        measured(f"{suite} {name}", seed=seed, page=page) as evidence,
        tempfile.TemporaryDirectory(prefix=f"edgereplica-{suite}-") as directory,
    ):
        count = count_of(check, scale)
        job = Job(Path(directory), count, Random(f"{seed}/0"), share=count / check.full)
        counts = check.work(job)
        evidence.counts |= _figures(counts, scale)
        _require(check, counts, scale)


def run(suite: str, checks: Checks, name: str, scale: float, seed: int, page: Path) -> None:
    """One check in its processes; its row goes to `page`. `CheckFailed` if one of them failed."""
    check = checks[name]
    count = count_of(check, scale)
    parts = min(check.processes, count)
    with (
        measured(f"{suite} {name}", seed=seed, page=page) as evidence,
        _Told(f"{suite} {name}", count, check.unit) as told,
        _Workers() as workers,
    ):
        module = f"proof.{suite}.checks"
        for part in range(parts):
            share = count // parts + (part < count % parts)
            workers.start(module, name, (share, seed, part, parts, count / check.full))
        counts = workers.result(told.rounds)
        evidence.counts |= _figures(counts, scale)
        _require(check, counts, scale)


def _figures(counts: Counts, scale: float) -> dict[str, int | float | str]:
    figures: dict[str, int | float | str] = dict(counts)
    return figures if scale == 1 else {**figures, "scale": scale}


def _require(check: Check, counts: Counts, scale: float) -> None:
    missing = check.lacks(counts) if scale >= 1 else []
    if missing:
        raise CheckFailed(f"it has not shown enough: {'; '.join(missing)}")


class _Told:
    """How far a check is: on one line of a terminal, again and again; else a line now and then."""

    def __init__(self, name: str, count: int, unit: str) -> None:
        self._name, self._count, self._unit = name, count, unit
        self._started = self._told = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._every_seconds = TELL_SECONDS if self._terminal else TELL_LOG_SECONDS

    def rounds(self, done: int) -> None:
        now = time.monotonic()
        if now - self._told < self._every_seconds:
            return
        self._told = now
        passed = now - self._started
        left = f", {passed / done * (self._count - done):,.0f} s left" if done else ""
        words = f"{self._name}: {done:,} of {self._count:,} {self._unit}, {passed:,.0f} s{left}"
        sys.stderr.write(f"\r\x1b[K{words}" if self._terminal else f"{words}\n")
        sys.stderr.flush()

    def __enter__(self) -> "_Told":
        if self._terminal:
            self._told = 0.0
            self.rounds(0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@dataclass
class _Worker:
    process: "subprocess.Popen[str]"
    folder: "tempfile.TemporaryDirectory[str]"
    done: int = 0
    counts: dict[str, int] | None = None


@dataclass
class _Workers:
    """The processes of one check; at the end of the `with` block none of them is left."""

    workers: list[_Worker] = field(default_factory=list)

    def start(self, module: str, name: str, numbers: Sequence[float]) -> None:
        """`numbers`: the count, the seed, which part of how many, the share."""
        folder = tempfile.TemporaryDirectory(prefix="edgereplica-proof-")
        root = Path(folder.name, "r")
        root.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-m", "proof.worker", module, name, str(root), *map(str, numbers)],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": folder.name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.workers.append(_Worker(process, folder))

    def result(self, tell: Callable[[int], None]) -> Counts:
        """What all of them counted together."""
        with selectors.DefaultSelector() as selector:
            for worker in self.workers:
                assert worker.process.stdout is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
            while selector.get_map():
                for key, _ in selector.select(TELL_SECONDS):
                    if not self._hear(key.data):
                        selector.unregister(key.fileobj)
                tell(sum(worker.done for worker in self.workers))
        total = Counts()
        for worker in self.workers:
            add(total, worker.counts or {})
        return total

    def _hear(self, worker: _Worker) -> bool:
        """One line of a worker; False when it has said everything."""
        assert worker.process.stdout is not None
        line = worker.process.stdout.readline()
        if line:
            said: dict[str, Any] = json.loads(line)
            worker.done = said.get("done", worker.done)
            worker.counts = said.get("counts", worker.counts)
            if "failed" in said:
                raise CheckFailed(said["failed"])
            return True
        code = worker.process.wait()
        if worker.counts is None:
            raise CheckFailed(f"a process of the check died ({code})")
        return False

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            assert worker.process.stdin is not None
            with suppress(BrokenPipeError):
                worker.process.stdin.close()
        for worker in self.workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(STOP_SECONDS_MAX)
            with suppress(ProcessLookupError):
                os.killpg(worker.process.pid, signal.SIGKILL)
            worker.process.wait()
            assert worker.process.stdout is not None
            worker.process.stdout.close()
            worker.folder.cleanup()


# The command line


def _parser(suite: str, checks: Checks, about: str) -> argparse.ArgumentParser:
    width = max(map(len, checks))
    listed = "\n".join(
        f"  {name:{width}}  {check.full:>9,} {check.unit}: {check.says}"
        for name, check in checks.items()
    )
    some = list(checks)[:2]
    lines = {
        f"make {suite}": "everything, at the full count",
        f'make {suite} CHECKS="{" ".join(some)}"': "two checks",
        f"make {suite} SCALE=0.1 PAGE=build/evidence.md": "everything, at a tenth",
        f"python -m proof.{suite} --scale 0 --page /tmp/x.md {some[0]}": "the least there is",
        f"python -m proof.{suite} --seed 7 --page /tmp/x.md": "other dice",
    }
    examples = "\n".join(f"  {line:{max(map(len, lines))}}  {says}" for line, says in lines.items())
    parser = argparse.ArgumentParser(
        prog=f"python -m proof.{suite}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=about,
        epilog=f"""\
checks, with the full count of each:
{listed}

examples:
{examples}

A failed check says what it saw, and with which seed; Ctrl-C ends at once and leaves nothing behind.
Exit codes: 0 all passed, 1 some failed, 2 wrong usage, 130 interrupted.
""",
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the full counts to do (default 1)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of all dice (default 1)")
    parser.add_argument(
        "--page", type=Path, default=PAGE,
        help=f"where the rows go (default {PAGE.relative_to(ROOT)}, for full counts alone)",
    )  # fmt: skip
    parser.add_argument("checks", nargs="*", metavar="CHECK", help="which of them (default all)")
    return parser


def _known(names: Sequence[str], checks: Checks) -> list[str]:
    unknown = [name for name in names if name not in checks]
    if unknown:
        raise UnknownCheck(
            f"there is no check {', '.join(map(repr, unknown))}; the checks are: "
            f"{', '.join(checks)}"
        )
    return list(names) or list(checks)


def main(suite: str, checks: Checks, about: str, arguments: Sequence[str] | None = None) -> int:
    """The command line; its exit code."""
    parser = _parser(suite, checks, about)
    chosen = parser.parse_args(arguments)
    try:
        names = _known(chosen.checks, checks)
    except UnknownCheck as error:
        parser.error(str(error))
    if not 0 <= chosen.scale <= 100:
        parser.error("--scale is 0 to 100")
    require_whole(parser, chosen.page, f"--scale {chosen.scale:g}" if chosen.scale < 1 else "")
    signal.signal(signal.SIGTERM, interrupt)
    failed = []
    try:
        for name in names:
            try:
                run(suite, checks, name, chosen.scale, chosen.seed, chosen.page)
            except CheckFailed as error:
                failed.append(name)
                sys.stderr.write(f"{name}: {error}\n")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: everything that was started has been ended\n")
        return 130
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}\n")
    return 1 if failed else 0


def interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
