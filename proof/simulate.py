"""Play many seeds of the simulation, each twice, and compare the traces.

python -m proof.simulate [--seeds N] [--first SEED] [--processes N] [--real-every N]

A seed that violates anything, or whose two runs differ, is printed and played once more with a
recording of every session, which `edgereplica fsm replay` runs again. One seed in `real-every` is
played once by python-statemachine and once by the machines' tables (`proof.sim.tables`).
"""

import argparse
import gc
import multiprocessing
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .evidence import ROOT, measured
from .sim.world import Result, run

CHUNK = 250
FAILURES_SHOWN_MAX = 10
RECORDINGS = ROOT / "build" / "simulate"


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


def play(seed: int, real_every: int) -> Result:
    """Play `seed` twice. Raises what it violates; `AssertionError` if the runs differ."""
    first = run(seed, real=seed % real_every == 0)
    second = run(seed, real=False)
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
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
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
    said = "it did not fail when it was recorded: the runs differ"
    try:
        result = run(seed, record=target, words=True)
        (target / "trace.txt").write_text("\n".join(result.notes or ()))
    except Exception:  # noqa: BLE001 - as above
        said = traceback.format_exc()
    (target / "failure.txt").write_text(said)
    sessions = sorted(path.name for path in target.glob("*.jsonl"))
    return (
        f"seed {seed}\n{said}\n"
        f"again:    python -m proof.simulate --first {seed} --seeds 1\n"
        f"sessions: edgereplica fsm replay {target}/{{{','.join(sessions)}}}\n"
    )


def simulate(first: int, seeds: int, processes: int, real_every: int) -> Iterator[Summary]:
    """The summary so far, each time a range of seeds is through."""
    jobs = [
        (at, min(at + CHUNK, first + seeds) - 1, real_every)
        for at in range(first, first + seeds, CHUNK)
    ]
    total = Summary()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for summary in pool.imap_unordered(play_range, jobs):
            total.add(summary)
            yield total


def main() -> int:
    parser = argparse.ArgumentParser(prog="proof.simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--real-every", type=int, default=16)
    chosen = parser.parse_args()
    last = chosen.first + chosen.seeds - 1
    total = Summary()
    with measured("simulate", seed=f"{chosen.first}..{last}") as evidence:
        for total in simulate(chosen.first, chosen.seeds, chosen.processes, chosen.real_every):
            _show(total, chosen.seeds)
        evidence.counts = {
            "seeds": total.seeds,
            **total.counts,
            "failures": len(total.failures),
        }
        evidence.passed = not total.failures
    for seed in sorted(total.failures)[:FAILURES_SHOWN_MAX]:
        sys.stderr.write(f"\n{total.failures[seed]}\n{record_failure(seed)}")
    return 1 if total.failures else 0


def _show(total: Summary, seeds: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{total.seeds:,} of {seeds:,}, {len(total.failures)} failed ")


if __name__ == "__main__":
    sys.exit(main())
