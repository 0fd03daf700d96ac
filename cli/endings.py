"""How every command ends: whatever it raises becomes an exit code and a word on standard error.

Commands therefore raise and never exit. Typer's own errors are translated by `root`.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..events.errors import EdgeReplicaError
from .console import (
    EXIT_INTERRUPTED,
    EXIT_OUTPUT_CLOSED,
    Interrupted,
    OutputClosed,
    note,
    note_error,
    report,
)


@contextmanager
def interruptions() -> Iterator[None]:
    """Ctrl-C and a pipe that broke, as this program's own exceptions."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted") from None
    except BrokenPipeError as error:
        raise OutputClosed from error


def exit_code_of(command: Callable[[], Any], *, as_json: bool) -> int:
    """Run `command` to its end; what it returns is the exit code if it is a number."""
    try:
        code = command()
        sys.stdout.flush()
    except EdgeReplicaError as error:
        return report(error, as_json=as_json)
    except Interrupted as interruption:
        if as_json:
            note_error("interrupted", str(interruption))
        else:
            note(str(interruption))
        return EXIT_INTERRUPTED
    except (OutputClosed, BrokenPipeError):
        _discard_output()
        return EXIT_OUTPUT_CLOSED
    return code if isinstance(code, int) else 0


def root_options_first(words: list[str]) -> list[str]:
    """`--insecure` belongs to the root, but people write it where the address stands."""
    end = words.index("--") if "--" in words else len(words)
    if "--insecure" not in words[:end]:
        return words
    return ["--insecure", *(w for w in words[:end] if w != "--insecure"), *words[end:]]


def allow_insecure() -> None:
    """What `--insecure` does."""
    os.environ["EDGEREPLICA_INSECURE"] = "1"


def _discard_output() -> None:
    # The interpreter flushes standard output once more when it ends.
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = None
