"""`python -m proof.hostile [--scale F] [--seed N] [CHECK…]`: all checks, or those named."""

import argparse
import sys

from .checks import CHECKS, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("checks", nargs="*", metavar="CHECK")
    arguments = parser.parse_args()
    failed = []
    for name in arguments.checks or CHECKS:
        try:
            run(name, arguments.scale, arguments.seed)
        except Exception as error:  # noqa: BLE001 - the next check is worth running all the same
            failed.append(name)
            sys.stderr.write(f"{name}: {type(error).__name__}: {error}\n")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
