"""The server's side of the command line: serve, demo, and looking after a data directory."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..events.errors import FileBusy, NetworkError
from ..events.limits import WORKERS_MAX
from .console import emit, emit_json, human_bytes, note
from .root import JsonOption

admin = typer.Typer(help="Look after a server's data directory.", no_args_is_help=True)


class LogFormat(StrEnum):
    console = "console"
    json = "json"


DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        show_default=False,
        help="Where everything is kept. Else DATA_DIR, else ./edgereplica-data.",
    ),
]


def serve(
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Listen here.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option("--port", metavar="N", min=0, max=65535, help="0: any free port."),
    ] = 8787,
    data_dir: DataDirOption = None,
    dev: Annotated[
        bool,
        typer.Option("--dev", help="A fixed, public session key: for development only."),
    ] = False,
    log_format: Annotated[
        LogFormat, typer.Option("--log-format", help="How log lines look.")
    ] = LogFormat.console,
    workers: Annotated[
        int,
        typer.Option("--workers", metavar="N", min=1, max=WORKERS_MAX, help="Server processes."),
    ] = 1,
) -> None:
    """Run a server until SIGTERM or Ctrl-C.

    Settings come from the environment: SESSION_KEY, SYNC_TOKEN_TTL_SECONDS and others; the
    README lists them.

    \b
    Examples:
      edgereplica serve
      edgereplica serve --host 0.0.0.0 --port 8787 --data-dir /var/lib/edgereplica
      edgereplica serve --workers 4
      edgereplica serve --dev --port 0
    """
    from ..app.settings import load_settings

    settings = load_settings(data_dir=data_dir, dev=dev)
    try:
        if workers > 1:
            from ..app.workers import run_workers

            run_workers(settings, workers, host=host, port=port, log_format=log_format.value)
        else:
            from ..app.serve import run_server

            run_server(settings, host=host, port=port, log_format=log_format.value)
    except NetworkError as error:
        hint = "does another program listen there? --port and --host choose another place"
        raise NetworkError(error.message, hint=hint) from error
    except FileBusy as error:
        hint = "stop the other server, or choose another directory with --data-dir"
        raise FileBusy(error.message, hint=hint) from error


def demo(
    size_mib: Annotated[
        int, typer.Option("--size", metavar="MIB", min=1, help="Size of the demo database.")
    ] = 50,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the files, and say where they are.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """See the whole thing work: serve, push, change, push, pull, compare.

    Everything happens in a temporary directory with a server of its own; exit code 1 when
    anything differs.

    \b
    Examples:
      edgereplica demo
      edgereplica demo --size 200 --keep
    """
    from ..app.demo import run_demo

    report = run_demo(size_mib=size_mib, keep=keep, say=None if as_json else note)
    if as_json:
        emit_json(report.to_dict())
    else:
        for line in report.lines():
            emit(line)
    if not report.equal:
        raise typer.Exit(1)


@admin.command("migrate")
def migrate(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Apply the SQL migrations that the data directory still lacks.

    \b
    Examples:
      edgereplica admin migrate --data-dir /var/lib/edgereplica
    """
    from ..app.bootstrap import migrate as apply_migrations
    from ..app.settings import load_settings

    applied = apply_migrations(load_settings(data_dir=data_dir))
    if as_json:
        emit_json({"applied": applied})
    elif applied:
        for name in applied:
            emit(f"applied {name}")
    else:
        emit("nothing to apply")


@admin.command("copy")
def copy(
    source: Annotated[str, typer.Option("--from", metavar="PLACE", help="Copy what is here.")],
    target: Annotated[str, typer.Option("--to", metavar="PLACE", help="To here.")],
    source_store: Annotated[
        str, typer.Option("--from-store", metavar="URL", help="Page store of --from.")
    ] = "",
    target_store: Annotated[
        str, typer.Option("--to-store", metavar="URL", help="Page store of --to.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Copy everything between data directories and PostgreSQL, both ways, and verify it.

    A place is a data directory, or a postgresql:// URL with its page store (s3://, gs://, az://
    or file://). Stop the servers first. Run again after an interruption, it goes on. The target
    must be empty or such an unfinished copy. Passwords belong in PGPASSWORD or ~/.pgpass.

    \b
    Examples:
      edgereplica admin copy --from edgereplica-data --to postgresql://db.example.org/edge \\
          --to-store s3://bucket/edge
      edgereplica admin copy --from postgresql:///edge --from-store s3://bucket/edge --to data
    """
    from ..app.copying import CopyReport
    from ..app.copying import copy as copy_place
    from ..app.places import Place

    said = ""

    def progress(report: CopyReport) -> None:
        nonlocal said
        if report.phase != said:
            said = report.phase
            note(f"{said} …")

    report = copy_place(
        Place.at(source, source_store), Place.at(target, target_store), progress
    ).to_dict()
    if as_json:
        emit_json(report)
        return
    emit(
        f"{report['events']:,} events, {report['objects']:,} objects and {report['rows']:,} other "
        f"rows; of these {report['events_copied']:,} events and {report['objects_copied']:,} "
        f"objects ({human_bytes(report['bytes_copied'])}) now"
    )
    emit(
        f"verified: {report['versions']:,} versions of {report['databases']:,} databases, "
        f"{report['pages']:,} pages"
    )


@admin.command("rebuild")
def rebuild(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Rebuild the tables of users, organizations and databases from the event log.

    \b
    Examples:
      edgereplica admin rebuild --data-dir /var/lib/edgereplica
    """
    from ..app.bootstrap import rebuild as rebuild_projections
    from ..app.settings import load_settings

    events = rebuild_projections(load_settings(data_dir=data_dir))
    if as_json:
        emit_json({"events": events})
    else:
        emit(f"rebuilt from {events:,} events")
