"""`python -m proof.hostile [--scale F] [--seed N] [CHECK…]`: all checks, or those named."""

import sys

from proof.running import main

from . import __doc__ as about
from .checks import CHECKS

if __name__ == "__main__":
    sys.exit(main("hostile", CHECKS, about or ""))
