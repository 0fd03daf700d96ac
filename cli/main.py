"""The program `edgereplica`.

A sync's command line is read by `fast` where it can be; all others, and every mistake, go to the
command tree. The two must not be told apart but by their start-up.
"""

import gc
import os
import sys
from io import TextIOWrapper
from types import TracebackType
from typing import Any

from ..app.leaving import leave
from .console import note
from .endings import exit_code_of, interruptions

_UNCOLLECTED_OBJECTS_MAX = 50_000
"""A sync imports and allocates less than that; the usual 700 costs it a tenth of its start-up."""


def _report_crash(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> Any:
    if os.environ.get("EDGEREPLICA_DEBUG"):
        return sys.__excepthook__(kind, error, traceback)
    note(f"error: unexpected {kind.__name__}: {error}")
    note("hint: this is a bug; EDGEREPLICA_DEBUG=1 shows where, --record FILE keeps a session")
    return None


def main() -> None:
    """The console script."""
    sys.excepthook = _report_crash
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a narrow locale must not stop a sync
            stream.reconfigure(errors="backslashreplace")
    words, thresholds = sys.argv[1:], gc.get_threshold()
    gc.set_threshold(_UNCOLLECTED_OBJECTS_MAX)
    try:
        from .fast import fast_command

        command = fast_command(words, os.environ)
        if command is not None:
            sys.exit(exit_code_of(interruptions()(command), as_json="--json" in words))
        run_tree(thresholds)
    except SystemExit as stop:
        if isinstance(stop.code, int):
            leave(stop.code)
        raise
    finally:
        # The interpreter collects garbage several times while it ends, over all that was imported:
        # an eighth of a small sync's time, for memory that is given back anyway.
        gc.freeze()


def run_tree(thresholds: tuple[int, int, int]) -> None:
    """The command line by way of Typer, with these thresholds of the collector again."""
    from typer.main import get_command

    from .tree import app

    program = get_command(app)
    gc.set_threshold(*thresholds)
    program(prog_name="edgereplica")


if __name__ == "__main__":
    main()
