"""The root of the command tree: how every command ends.

Whatever a command raises becomes one exit code and one or two lines on standard error here, in the
same way for Typer's own usage errors, this project's errors, Ctrl-C and a closed pipe. Commands
therefore raise and never exit.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ..events.errors import EdgeReplicaError, InvalidArgument
from .console import EXIT_INTERRUPTED, EXIT_OUTPUT_CLOSED, Interrupted, OutputClosed, note, report

ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        show_default=False,
        help="The server. Else EDGEREPLICA_SERVER, the config file, http://localhost:8787.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON, errors too (those on standard error).")
]


class Root(TyperGroup):
    """A command group that turns every outcome into an exit code."""

    def invoke(self, ctx: Any) -> Any:
        # Typer would turn Ctrl-C into a silent 130, and a pipe that broke into a 1.
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None
        except BrokenPipeError as error:
            raise OutputClosed from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run, and leave with the exit code. `standalone_mode` makes no difference here."""
        words = _root_options_first(list(sys.argv[1:] if args is None else args))
        try:
            code = super().main(words, prog_name, complete_var, False, windows_expand_args, **extra)
            sys.stdout.flush()
        except EdgeReplicaError as error:
            code = report(error, as_json="--json" in words)
        except typer.TyperException as error:
            code = _report_usage(error, as_json="--json" in words)
        except typer.Abort:
            note("error: stopped at the question; nothing was changed")
            code = 1
        except Interrupted as interruption:
            note(str(interruption))
            code = EXIT_INTERRUPTED
        except SystemExit as stop:  # Typer's own answer to a closed pipe while it prints help
            if not isinstance(stop.__context__, BrokenPipeError):
                raise
            code = EXIT_OUTPUT_CLOSED
        except (OutputClosed, BrokenPipeError):
            code = EXIT_OUTPUT_CLOSED
            _discard_output()
        sys.exit(code if isinstance(code, int) else 0)


def _root_options_first(words: list[str]) -> list[str]:
    """`--insecure` belongs to the root, but people write it where the address stands."""
    end = words.index("--") if "--" in words else len(words)
    if "--insecure" not in words[:end]:
        return words
    return ["--insecure", *(w for w in words[:end] if w != "--insecure"), *words[end:]]


def _report_usage(error: typer.TyperException, *, as_json: bool) -> int:
    message = error.format_message()
    if message.startswith("Usage:"):  # a group without a command: its help is the answer
        note(message)
        return error.exit_code
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "edgereplica"
    words = " ".join(message.split()).rstrip(".")
    usage = InvalidArgument(words, hint=f"`{command} --help` shows the usage")
    return report(usage, as_json=as_json)


def _discard_output() -> None:
    # The interpreter flushes standard output once more when it ends.
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = None
