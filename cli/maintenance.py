"""`edgereplica admin gc` and `edgereplica db retention`: what storage keeps, and what it frees."""

from typing import Annotated

import typer

from ..events.errors import InvalidArgument
from .client import open_client
from .console import emit, emit_json, note
from .databases import DatabaseArgument, db
from .root import JsonOption, ServerOption
from .server import DataDirOption


def collect_garbage(
    data_dir: DataDirOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go now, and change nothing.")
    ] = False,
    compact: Annotated[
        bool, typer.Option("--compact/--no-compact", help="Also put scattered databases in order.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Delete objects that nothing refers to, apply retention, and compact.

    Safe beside running servers, on embedded storage and on PostgreSQL with an object store. An
    object goes only when two runs, GC_GRACE_SECONDS apart, have found it unreferenced; staged pages
    of interrupted pushes go after STAGED_TTL_SECONDS. A server does the same by itself every
    GC_INTERVAL_SECONDS.

    \b
    Examples:
      edgereplica admin gc --dry-run
      edgereplica admin gc --data-dir /var/lib/edgereplica --json
    """
    from ..app.maintenance import maintain_once
    from ..app.settings import load_settings

    report = maintain_once(load_settings(data_dir=data_dir), dry_run=dry_run, compact=compact)
    if as_json:
        emit_json(report.to_dict())
    else:
        gone, compacted = report.collection, report.compaction
        verb = "would delete" if dry_run else "deleted"
        emit(f"looked at {gone.objects:,} objects of {gone.object_bytes:,} bytes")
        emit(f"{verb} {gone.deleted:,} objects of {gone.deleted_bytes:,} bytes")
        emit(f"{gone.candidates:,} more are unreferenced since this run")
        emit(f"versions no longer kept: {gone.versions_expired:,}")
        if compacted is not None:
            emit(
                f"compacted {compacted.databases_compacted:,} databases: "
                f"{compacted.segments_merged:,} segments merged, "
                f"{compacted.heads_rewritten:,} heads written in page order"
            )
        for what, reason in report.failed:
            note(f"{what}: {reason}")
    if report.failed:
        raise typer.Exit(1)


@db.command("retention")
def retention(
    ctx: typer.Context,
    database: DatabaseArgument,
    keep_last: Annotated[
        int | None,
        typer.Option("--keep-last", metavar="N", min=1, help="Keep the newest N versions."),
    ] = None,
    keep_days: Annotated[
        int | None,
        typer.Option("--keep-days", metavar="D", min=1, help="Keep what was the head in D days."),
    ] = None,
    keep_all: Annotated[bool, typer.Option("--keep-all", help="Keep every version.")] = False,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which versions the server keeps; without an option, show it.

    With both rules, a version is kept if either keeps it. What is not kept goes with the server's
    next maintenance, for good; the newest version always stays.

    \b
    Examples:
      edgereplica db retention main
      edgereplica db retention main --keep-last 100 --keep-days 30
      edgereplica db retention main --keep-all
    """
    if keep_all and (keep_last or keep_days):
        raise InvalidArgument("--keep-all stands alone")
    client = open_client(ctx, server)
    found = client.admin().find_database(database)
    if keep_all or keep_last or keep_days:
        kept = client.retention().set_retention(found.id, keep_last, keep_days)
    else:
        kept = client.retention().get_retention(found.id)
    if as_json:
        emit_json({"database": found.id, **kept.to_dict()})
        return
    rules = [f"the last {kept.keep_last:,} versions"] if kept.keep_last else []
    rules += [f"the versions of {kept.keep_days:,} days"] if kept.keep_days else []
    emit(f"keeps {' and '.join(rules) or 'every version'}")
    if kept.head:
        emit(f"now there are versions {kept.oldest:,} to {kept.head:,}")
