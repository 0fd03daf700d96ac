"""The model-based check for tens of thousands of steps, on every storage there is.

A step is one rule of `tests.model.convergence` with the checks behind it, if it did anything: one
that found nothing to do is counted apart. Memory and the embedded
server's storage (SQLite and a directory) take nine tenths of the steps between them, PostgreSQL and
S3, which this starts for itself, the last one. A failure is printed as a program, at once and as
it was found; its seed plays the same histories again, and `--shrink` makes of it the shortest that
fails, which takes minutes.

examples:
  python -m proof.prove                                     all of it, into specs/evidence.md
  python -m proof.prove --storage scaled-out --steps 5000   its share of all, likewise
  python -m proof.prove --steps 3000 --page /tmp/x.md       less, which specs/evidence.md refuses
  python -m proof.prove --storage scaled-out --steps 2000 --seed 7 --shrink --page /tmp/x.md
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import hypothesis.core
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.helpers_postgres import postgres_server
from tests.helpers_s3 import s3_server
from tests.model.convergence import Convergence, EmbeddedConvergence, ScaledOutConvergence

from .evidence import PAGE, measured, require_whole

STEPS = 50_000
STEPS_PER_HISTORY = 50
HISTORIES_MIN, HISTORIES_PER_ROUND = 10, 40
SEEDS_PER_STORAGE = 100_000
"""So that storages play different histories."""
INTERRUPTED = 130
PERCENT = {"memory": 45, "embedded": 45, "scaled-out": 10}
MACHINES: dict[str, type[Convergence]] = {
    "memory": Convergence,
    "embedded": EmbeddedConvergence,
    "scaled-out": ScaledOutConvergence,
}


# What has to happen, in the words of the model, or the run has shown less than it seems to.
ALWAYS_STEPS, RARE_STEPS = 5_000, 20_000
ALWAYS = (
    "client deaths in a pull (first page)",
    "client deaths in a session",
    "commits under a pull (wire v1)",
    "connections cut",
    "databases deleted",
    "ended by conflict",
    "ended by disk_full",
    "ended by file_busy",
    "ended by file_replaced",
    "ended by network",
    "ended by no_shared_history",
    "ended by unpushed_changes",
    "objects collected",
    "pull begun anew",
    "pull dry_run (wire v2)",
    "pull pulled (wire v1)",
    "pull pulled (wire v2)",
    "pull refused for its token",
    "pull unchanged (wire v2)",
    "pulls beside a reader",
    "pulls of pages (wire v1)",
    "pulls of pages (wire v2)",
    "push dry_run (wire v2)",
    "push pushed (wire v1)",
    "push pushed (wire v2)",
    "push refused for its token",
    "push unchanged (wire v2)",
    "pushes announced in several windows",
    "pushes in several batches",
    "pushes resumed from a segment",
    "pushes resumed from several segments",
    "pushes with a token for pulling",
    "restarts and kills beside another process",
    "server kills",
    "server restarts",
    "steps beside another session",
)
RARE = (
    "client deaths in a pull (installed)",
    "client deaths in a pull (last page)",
    "ended by already_exists",
    "ended by limit_exceeded",
    "pages within a token's bytes (pull)",
    "pages within a token's bytes (push)",
    "push begun anew",
    "pushes committed unheard",
    *(
        f"server deaths {when} a {what}"
        for when in ("before", "during", "after")
        for what in ("commit", "write")
    ),
)


class Refuted(Exception):
    """A history broke the model; the seed plays it again."""


def prove(storage: str, steps: int, seed: int, *, shrink: bool = False) -> Counter[str]:
    """Play histories on `storage` until at least `steps` steps are through; what happened."""
    machine = MACHINES[storage]
    machine.happened = Counter()
    began = time.monotonic()
    round_seed = seed
    while machine.happened["steps"] < steps:
        # What pytest's --hypothesis-seed sets.
        hypothesis.core.global_force_seed = round_seed
        left = steps - machine.happened["steps"]
        # Hypothesis begins a round with the simplest history of all.
        histories = max(HISTORIES_MIN, min(HISTORIES_PER_ROUND, left // STEPS_PER_HISTORY))
        try:
            run_state_machine_as_test(machine, settings=_settings(histories, shrink))
        except Exception as error:
            raise Refuted(
                f"again: .venv/bin/python -m proof.prove --storage {storage} --seed {round_seed} "
                f"--steps {histories * STEPS_PER_HISTORY} --shrink --page build/evidence.md"
            ) from error
        round_seed += 1
        _show(storage, machine.happened["steps"], steps, time.monotonic() - began)
    return machine.happened


def never_happened(happened: Counter[str], steps: int) -> list[str]:
    """What a run of so many steps should have come to, and did not."""
    wanted = (*(ALWAYS if steps >= ALWAYS_STEPS else ()), *(RARE if steps >= RARE_STEPS else ()))
    return [what for what in wanted if not happened[what]]


def _settings(histories: int, shrink: bool) -> settings:
    return settings(
        max_examples=histories,
        stateful_step_count=STEPS_PER_HISTORY,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def scaled_out() -> Iterator[None]:
    """PostgreSQL and S3 for `ScaledOutConvergence`, as long as the block runs."""
    with postgres_server() as postgres, s3_server() as s3:
        before = {name: os.environ.get(name) for name in s3.environment}
        os.environ.update(s3.environment)
        ScaledOutConvergence.ground = (postgres.database(), s3.bucket())
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _arguments(arguments)
    passed = True
    for number, storage in enumerate([chosen.storage] if chosen.storage else MACHINES):
        percent = 100 if chosen.storage else PERCENT[storage]
        seed = chosen.seed + number * SEEDS_PER_STORAGE
        steps = max(1, chosen.steps * percent // 100)
        ground = scaled_out() if storage == "scaled-out" else nullcontext()
        name = f"prove: model, {storage} storage"
        try:
            with ground, measured(name, seed=seed, page=chosen.page) as evidence:
                happened = prove(storage, steps, seed, shrink=chosen.shrink)
                evidence.counts["steps"] = happened.pop("steps")
                evidence.counts["percent of all"] = percent
                evidence.counts |= dict(sorted(happened.items()))
                evidence.counts["failures"] = 0
                lacking = never_happened(happened, steps)
                evidence.passed = not lacking
        except KeyboardInterrupt:
            sys.stderr.write(f"interrupted in {storage} storage\n")
            return INTERRUPTED
        for what in lacking:
            sys.stderr.write(f"never happened in {storage} storage: {what}\n")
        passed = passed and not lacking
    return 0 if passed else 1


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m proof.prove",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"in all ({STEPS})")
    parser.add_argument("--seed", type=int, default=1, help="of the first round (1)")
    parser.add_argument("--storage", choices=list(MACHINES), help="this one alone")
    parser.add_argument("--shrink", action="store_true", help="look for the shortest failure")
    parser.add_argument(
        "--page", type=Path, default=PAGE, help="where the rows go (specs/evidence.md)"
    )
    chosen = parser.parse_args(arguments)
    if chosen.steps < 1:
        parser.error("--steps is 1 or more")
    whole = STEPS * PERCENT.get(chosen.storage, 100) // 100
    require_whole(parser, chosen.page, f"--steps {chosen.steps}" if chosen.steps < whole else "")
    return chosen


def _show(storage: str, done: int, steps: int, seconds: float) -> None:
    left = seconds / done * max(0, steps - done)
    sys.stderr.write(f"{storage}: {done:,} of {steps:,} steps, {left:,.0f} s to go\n")


if __name__ == "__main__":
    sys.exit(main())
