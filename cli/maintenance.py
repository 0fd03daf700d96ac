"""`edgereplica admin gc`: looking after storage by hand, beside or instead of a server's own."""

from typing import Annotated

import typer

from .console import emit, emit_json, note
from .root import JsonOption
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
