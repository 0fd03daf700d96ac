"""`python -m proof.torture [--scale F] [--seed N] [CHECK…]`: all checks, or those named."""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

from proof.evidence import PAGE, measured

from . import crowds, cuts, kills, power

Check = Callable[[Path, int, Random], dict[str, int | float | str]]

CHECKS: dict[str, tuple[Check, int, int]] = {
    # name: (check, full count, least count)
    "kill-server": (kills.kill_server, 500, 3),
    "kill-push": (kills.kill_push, 500, 3),
    "kill-pull": (kills.kill_pull, 500, 3),
    "cut": (cuts.cut, 2000, 5),
    "disk-full": (cuts.disk_full, 300, 4),
    "power-storage": (power.page_storage, 1000, 60),
    "power-fresh": (power.fresh_pull, 1000, 60),
    "one-database": (crowds.one_database, 10, 1),
    "many-databases": (crowds.many_databases, 5, 1),
    "beside-writer": (crowds.beside_writer, 200, 5),
    "idle": (crowds.idle_connections, 500, 25),
}


def run(name: str, scale: float, seed: int, page: Path | None = None) -> None:
    """One check at `scale` of its full count; its row goes to `page`, if there is one."""
    check, full, least = CHECKS[name]
    count = max(least, round(full * scale))
    with tempfile.TemporaryDirectory(prefix="edgereplica-torture-") as directory:
        if page is None:
            check(Path(directory), count, Random(seed))
            return
        with measured(f"torture {name}", seed=seed, page=page) as evidence:
            evidence.counts |= check(Path(directory), count, Random(seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("checks", nargs="*", choices=[*CHECKS, []], metavar="CHECK")
    arguments = parser.parse_args()
    failed = []
    for name in arguments.checks or CHECKS:
        try:
            run(name, arguments.scale, arguments.seed, PAGE)
        except Exception as error:  # noqa: BLE001 - the next check is worth running all the same
            failed.append(name)
            sys.stderr.write(f"{name}: {type(error).__name__}: {error}\n")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
