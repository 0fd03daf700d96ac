"""The checks by name, and how one is run: in two fresh processes, with seeds of their own.

A module of its own because a spawned process cannot load a `__main__`.
"""

import multiprocessing
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random

from proof.evidence import PAGE, measured

from . import frames, images, tokens

PROCESSES = 2
Check = Callable[[int, Random], Counter[str]]
CHECKS: dict[str, tuple[Check, int, int]] = {
    # name: (check, full count, least count)
    "frames": (frames.damaged, 1_000_000, 10_000),
    "messages": (frames.messages, 100_000, 4_000),
    "bombs": (frames.bombs, 10_000, 400),
    "images": (images.images, 5_000, 20),
    "macaroons": (tokens.altered, 1_000_000, 20_000),
    "caveats": (tokens.chains, 100_000, 3_000),
}


def _work(name: str, count: int, seed: str) -> Counter[str]:
    return CHECKS[name][0](count, Random(seed))


def run(name: str, scale: float, seed: int, page: Path = PAGE) -> None:
    """One check at `scale` of its full count, in two processes; its row goes to `page`."""
    _, full, least = CHECKS[name]
    share = -(-max(least, round(full * scale)) // PROCESSES)
    # Fresh processes: what bombs cost in memory must not hide behind an earlier peak.
    context = multiprocessing.get_context("spawn")
    with (
        measured(f"hostile {name}", seed=seed, page=page) as evidence,
        ProcessPoolExecutor(PROCESSES, context) as pool,
    ):
        seeds = [f"{seed}/{part}" for part in range(PROCESSES)]
        total: Counter[str] = Counter()
        for part in pool.map(_work, [name] * PROCESSES, [share] * PROCESSES, seeds):
            total.update(part)
        evidence.counts |= dict(total)
