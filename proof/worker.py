"""A process of a check: `python -m proof.worker MODULE NAME ROOT COUNT SEED PART PARTS SHARE`.

It speaks JSON lines on standard output: how many rounds are done, and at the end what was counted.
Its standard input is its lifeline: when that ends (the parent, `proof.running`, was interrupted, or
killed), it interrupts itself, and whatever it had started ends with it.
"""

import importlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import IO

from .running import TELL_SECONDS, Checks, Job


def _interrupt_when_orphaned(stopping: threading.Event) -> None:
    """Wait for the lifeline to end; then end what this worker has started, and the worker.

    The children go first, or they would say on the terminal what they miss. It is all repeated: one
    may just have been started, and a library may swallow an interrupt.
    """
    sys.stdin.read()
    stopping.set()
    while True:
        for child in _group() - {os.getpid()}:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def _group() -> set[int]:
    """The processes of this process's group, which the parent made for this worker."""
    found: set[int] = set()
    if os.getpgrp() != os.getpid():
        return found
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError):
            if os.getpgid(int(process.name)) == os.getpgrp():
                found.add(int(process.name))
    return found


def work(module: str, name: str, root: Path, numbers: Sequence[int], share: float) -> int:
    count, seed, part, parts = numbers
    # A parent that ignored the signal (`make … &`) hands that down.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    said = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what anything else prints must not stand between the JSON lines
    stopping = threading.Event()
    threading.Thread(target=_interrupt_when_orphaned, args=(stopping,), daemon=True).start()
    checks: Checks = importlib.import_module(module).CHECKS
    told = time.monotonic()

    def tell(done: int) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_SECONDS / 2:
            told = time.monotonic()
            _say(said, done=done)

    try:
        dice = Random(f"{seed}/{part}")
        counts = checks[name].work(Job(root, count, dice, part, parts, share, tell))
    except BaseException as error:  # noqa: BLE001 - the parent is told, whatever it is
        if stopping.is_set():
            raise KeyboardInterrupt from None
        sys.stderr.write("".join(traceback.format_exception(error)))
        _say(said, failed=f"{type(error).__name__}: {error} (seed {seed}/{part})")
        return 1
    finally:
        # For a parent that was killed. Any other removes it when nobody is left to write to it.
        shutil.rmtree(root, ignore_errors=True)
    _say(said, counts=dict(counts))
    return 0


def main() -> int:
    module, name, root, *numbers, share = sys.argv[1:]
    try:
        return work(module, name, Path(root), list(map(int, numbers)), float(share))
    except KeyboardInterrupt:
        # It is repeated: also in the midst of what ends the work, and on the way out.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return 130


def _say(to: IO[str], **words: object) -> None:
    with suppress(BrokenPipeError):
        to.write(json.dumps(words) + "\n")


if __name__ == "__main__":
    sys.exit(main())
