"""`edgereplica fsm`: the machines drawn, and a recorded session run again."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..events.errors import InvalidArgument, LocalFileError
from .console import counted, emit, emit_json, note
from .root import JsonOption

fsm = typer.Typer(help="Draw the state machines; replay a recorded session.", no_args_is_help=True)


class Format(StrEnum):
    mermaid = "mermaid"
    dot = "dot"
    svg = "svg"
    table = "table"


_SUFFIXES = {"mermaid": "mmd", "dot": "dot", "svg": "svg", "table": "md"}


@fsm.command("export")
def export(
    style: Annotated[
        Format, typer.Option("--format", help="svg needs the program `dot` (graphviz).")
    ] = Format.mermaid,
    machine: Annotated[
        str | None,
        typer.Option("--machine", metavar="NAME", show_default=False, help="Only this one."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            show_default=False,
            help="Write one file a machine here instead of printing.",
        ),
    ] = None,
) -> None:
    """Draw the protocol's state machines.

    \b
    Examples:
      edgereplica fsm export --format table
      edgereplica fsm export --format svg --machine client_push --output diagrams
    """
    from ..app.machines import export as export_machines

    drawings = export_machines(style.value, machine)
    if output is None:
        emit("\n".join(text.rstrip("\n") for text in drawings.values()))
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, text in drawings.items():
            path = output / f"{name}.{_SUFFIXES[style.value]}"
            path.write_text(text, encoding="utf-8")
            emit(str(path))
    except OSError as error:
        raise LocalFileError(
            f"cannot write to {output}: {error.strerror}", hint="name another directory"
        ) from error


@fsm.command("replay")
def replay(
    recording: Annotated[
        Path, typer.Argument(metavar="FILE", help="What `sync --record FILE` wrote.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Run a recorded session again; exit code 1 when the effects differ.

    \b
    Examples:
      edgereplica sync push --db app.db --database main --record session.rec
      edgereplica fsm replay session.rec
    """
    if not recording.is_file():
        raise InvalidArgument(
            f"there is no recording {recording}", hint="`--record FILE` makes one"
        )
    from ..app.replay import replay as replay_session

    report = replay_session(recording)
    if as_json:
        emit_json(report.to_dict())
    else:
        wire = f", wire v{report.wire_version}" if report.wire_version else ""
        emit(f"{report.machine}{wire}: {counted(report.events, 'event')} run again")
    if not report.same:
        note(f"error: the machine no longer does what was recorded: {report.difference}")
        raise typer.Exit(1)
