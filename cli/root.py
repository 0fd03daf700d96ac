"""The root of the command tree: Typer's ways of ending, translated into this program's.

`endings` says what the others are.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ..events.errors import InvalidArgument
from .commands import as_typer_option
from .console import EXIT_OUTPUT_CLOSED, note, report
from .endings import exit_code_of, interruptions, root_options_first
from .options import JSON, SERVER

ServerOption = Annotated[str | None, as_typer_option(SERVER)]
JsonOption = Annotated[bool, as_typer_option(JSON)]


class Root(TyperGroup):
    """A command group that turns every outcome into an exit code."""

    def invoke(self, ctx: Any) -> Any:
        # Typer would turn Ctrl-C into a silent 130, and a pipe that broke into a 1.
        with interruptions():
            return super().invoke(ctx)

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
        words = root_options_first(list(sys.argv[1:] if args is None else args))
        as_json = "--json" in words
        run = super().main

        def command() -> Any:
            try:
                return run(words, prog_name, complete_var, False, windows_expand_args, **extra)
            except typer.TyperException as error:
                return _report_usage(error, as_json=as_json)
            except typer.Abort:
                note("error: stopped at the question; nothing was changed")
                return 1
            except SystemExit as stop:  # Typer's own answer to a closed pipe while it prints help
                if not isinstance(stop.__context__, BrokenPipeError):
                    raise
                return EXIT_OUTPUT_CLOSED

        sys.exit(exit_code_of(command, as_json=as_json))


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
