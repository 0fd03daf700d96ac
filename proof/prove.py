"""The model-based check for tens of thousands of steps, both storages.

python -m proof.prove [--steps N] [--seed N]

A step is one rule of `tests.model.convergence` with the checks behind it. A failure is shrunk and
printed as a program; the seed plays the same run again.
"""

import argparse
import sys

import hypothesis.core
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.model.convergence import Convergence, EmbeddedConvergence

from .evidence import measured

STEPS_PER_EXAMPLE = 50


def prove(machine: type[Convergence], steps: int, seed: int) -> int:
    """Run `machine` until at least `steps` steps are through; how many were."""
    machine.steps_run = 0
    round_number = 0
    while machine.steps_run < steps:
        # What pytest's --hypothesis-seed sets.
        hypothesis.core.global_force_seed = seed + round_number
        round_number += 1
        left = steps - machine.steps_run
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=max(10, min(200, left // STEPS_PER_EXAMPLE)),
                stateful_step_count=STEPS_PER_EXAMPLE,
                deadline=None,
                database=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            ),
        )
    return machine.steps_run


def main() -> int:
    parser = argparse.ArgumentParser(prog="proof.prove", description=__doc__)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    for name, machine in (("memory", Convergence), ("embedded", EmbeddedConvergence)):
        with measured(f"prove: model, {name} storage", seed=chosen.seed) as evidence:
            evidence.counts["steps"] = prove(machine, (chosen.steps + 1) // 2, chosen.seed)
            evidence.counts["failures"] = 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
