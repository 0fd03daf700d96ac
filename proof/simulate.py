"""Play many seeds of the simulation (proof/sim), each twice, and compare the traces.

One seed is one run of a whole deployment in one thread: a server, clients, their network and their
disks, and everything that befalls them. A seed that violates anything, or whose two runs differ, is
printed, and played once more with a recording of every session.

examples:
  python -m proof.simulate                                         all, into specs/evidence.md
  python -m proof.simulate --seeds 5000 --page /tmp/x.md           fewer, which that page refuses
  python -m proof.simulate --first 4711 --seeds 1 --page /tmp/x.md one seed again
"""

import argparse
import gc
import multiprocessing
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from .evidence import PAGE, ROOT, measured, require_whole
from .running import interrupt
from .sim.counted import DONE, INJECTED
from .sim.scenario import Result, run

SEEDS = 100_000
CHUNK = 100
FAILURES_SHOWN_MAX = 10
SHOW_SECONDS = 10.0
"""Between two lines of progress where it is no terminal that reads them."""
ALL_INJECTED_SEEDS = 2_000
"""So many seeds bring about everything that is counted; or something is wrong with the check."""
RECORDINGS = ROOT / "build" / "simulate"
INTERRUPTED = 130


class ProcessDied(Exception):
    """A process that played seeds is gone, and with it what it had played."""


@dataclass(slots=True)
class Summary:
    """What a range of seeds did. `failures` maps a seed to what went wrong."""

    seeds: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)

    def add(self, other: "Summary") -> None:
        self.seeds += other.seeds
        self.counts.update(other.counts)
        self.failures.update(other.failures)

    def figures(self, names: Sequence[str]) -> dict[str, int]:
        return {name: self.counts[name] for name in names}

    @property
    def never_happened(self) -> list[str]:
        return [name for name in (*DONE, *INJECTED) if not self.counts[name]]


def play(seed: int, real_every: int) -> Result:
    """Play `seed` twice. Raises what it violates; `AssertionError` if the runs differ."""
    first = run(seed, real=seed % real_every == 0)
    second = run(seed, real=False, judged=False)
    if first.trace != second.trace:
        raise AssertionError(f"two runs of seed {seed} differ: {first.trace}, {second.trace}")
    return first


def play_range(job: tuple[int, int, int]) -> Summary:
    first, last, real_every = job
    summary = Summary()
    # The runs leave cycles behind, but few: collecting once a chunk is enough.
    gc.disable()
    for seed in range(first, last + 1):
        summary.seeds += 1
        try:
            result = play(seed, real_every)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the finding
            summary.failures[seed] = f"{type(error).__name__}: {error}"
        else:
            summary.counts.update(result.counts)
            summary.counts["runs"] += 2
    gc.enable()
    gc.collect()
    return summary


def record_failure(seed: int, folder: Path = RECORDINGS) -> str:
    """Play `seed` again with everything written down; the words for whoever looks into it."""
    target = folder / f"seed-{seed}"
    target.mkdir(parents=True, exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    said = "it did not fail when it was recorded: its runs differ, or the tables from the machines"
    try:
        run(seed, record=target)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - as above
        said = traceback.format_exc()
    (target / "failure.txt").write_text(said)
    sessions = len(list(target.glob("*.jsonl")))
    at = target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target
    where = shlex.quote(str(at))
    return (
        f"  recorded   {said.strip().splitlines()[-1]}\n"
        f"  again      .venv/bin/python -m proof.simulate --first {seed} --seeds 1 "
        "--page build/evidence.md\n"
        f"  traceback  {where}/failure.txt\n"
        f"  frames     {where}/trace.txt\n"
        f"  sessions   {sessions}; to run them again:\n"
        f'for s in {where}/*.jsonl; do echo "$s"; .venv/bin/edgereplica fsm replay "$s"; done\n'
    )


def _begin_to_play() -> None:
    """In a process of the pool: what is there stays, and the process ends with its parent, which
    may be killed."""
    gc.freeze()
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def simulate(first: int, seeds: int, processes: int, real_every: int) -> Iterator[Summary]:
    """The summary so far, each time a range of seeds is through."""
    jobs = [
        (at, min(at + CHUNK, first + seeds) - 1, real_every)
        for at in range(first, first + seeds, CHUNK)
    ]
    total = Summary()
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin_to_play)
    # A Ctrl-C is for this process: it ends the others.
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        played = [pool.submit(play_range, job) for job in jobs]
    finally:
        signal.signal(signal.SIGINT, heard)
    workers = set(multiprocessing.active_children()) - others
    try:
        for done in as_completed(played):
            total.add(done.result())
            yield total
    except BrokenProcessPool as error:
        raise ProcessDied("a process of the simulation died") from error
    finally:
        for worker in workers:
            worker.kill()
        pool.shutdown(cancel_futures=True)


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _arguments(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    last = chosen.first + chosen.seeds - 1
    show = _Progress(chosen.seeds)
    total = Summary()
    try:
        with measured("simulate", seed=f"{chosen.first}..{last}", page=chosen.page) as evidence:
            for total in simulate(chosen.first, chosen.seeds, chosen.processes, chosen.real_every):
                show(total)
            show.end()
            lacking = total.never_happened if total.seeds >= ALL_INJECTED_SEEDS else []
            evidence.counts = {
                "seeds": total.seeds,
                "runs": total.counts["runs"],
                **total.figures((*DONE, *INJECTED)),
                "failures": len(total.failures),
            }
            evidence.passed = not total.failures and not lacking
    except KeyboardInterrupt:
        show.end()
        sys.stderr.write(f"interrupted after {total.seeds:,} of {chosen.seeds:,} seeds\n")
        _show_figures(total)
        return INTERRUPTED
    _show_figures(total)
    for name in lacking:
        sys.stderr.write(f"never happened: {name}\n")
    for seed in sorted(total.failures)[:FAILURES_SHOWN_MAX]:
        sys.stderr.write(f"\nseed {seed}: {total.failures[seed]}\n{record_failure(seed)}")
    return 0 if evidence.passed else 1


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m proof.simulate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many ({SEEDS})")
    parser.add_argument("--first", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--processes", type=int, default=2, help="that share the work (2)")
    parser.add_argument(
        "--real-every",
        type=int,
        default=64,
        metavar="N",
        help="of N seeds one runs on python-statemachine the first time (64); all else runs the "
        "machines' tables by a faster loop",
    )
    parser.add_argument(
        "--page", type=Path, default=PAGE, help="where the row goes (specs/evidence.md)"
    )
    chosen = parser.parse_args(arguments)
    if min(chosen.seeds, chosen.processes, chosen.real_every) < 1:
        parser.error("--seeds, --processes and --real-every are 1 or more")
    require_whole(parser, chosen.page, f"--seeds {chosen.seeds}" if chosen.seeds < SEEDS else "")
    return chosen


class _Progress:
    """Says how far it is: in place on a terminal, else in a line now and then."""

    def __init__(self, seeds: int) -> None:
        self._seeds = seeds
        self._in_place = sys.stderr.isatty()
        self._began = time.monotonic()
        self._said = -SHOW_SECONDS

    def __call__(self, total: Summary) -> None:
        now = time.monotonic()
        if not self._in_place and now - self._said < SHOW_SECONDS:
            return
        self._said = now
        left = (now - self._began) / total.seeds * (self._seeds - total.seeds)
        failed = f", {len(total.failures)} failed" if total.failures else ""
        line = f"{total.seeds:,} of {self._seeds:,} seeds{failed}, {left:,.0f} s to go"
        sys.stderr.write(f"\r{line}\x1b[K" if self._in_place else f"{line}\n")
        sys.stderr.flush()

    def end(self) -> None:
        if self._in_place:
            sys.stderr.write("\r\x1b[K")


def _show_figures(total: Summary) -> None:
    """What the first runs did; the second ones did the same."""
    for title, names in (("happened", DONE), ("injected", INJECTED)):
        sys.stdout.write(f"{title}\n")
        for name, count in total.figures(names).items():
            sys.stdout.write(f"  {count:>12,}  {name}\n")


if __name__ == "__main__":
    sys.exit(main())
