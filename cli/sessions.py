"""`edgereplica sessions`: where one is logged in."""

import sys
from typing import Annotated

import typer

from .client import open_client
from .console import emit, emit_json, is_terminal, local_time, printable, table
from .root import JsonOption, ServerOption

sessions = typer.Typer(help="List and end your sessions.", no_args_is_help=False)


@sessions.callback(invoke_without_command=True)
def default(ctx: typer.Context, server: ServerOption = None, as_json: JsonOption = False) -> None:
    """List your sessions: id, when and from where each was opened; * is this one.

    \b
    Examples:
      edgereplica sessions
      edgereplica sessions revoke ID
    """
    if ctx.invoked_subcommand is None:
        _show(ctx, server, as_json=as_json)


@sessions.command("list")
def list_(ctx: typer.Context, server: ServerOption = None, as_json: JsonOption = False) -> None:
    """List your sessions: id, when and from where each was opened; * is this one.

    \b
    Examples:
      edgereplica sessions list
      edgereplica sessions list --json
    """
    _show(ctx, server, as_json=as_json)


@sessions.command("revoke")
def revoke(
    ctx: typer.Context,
    session_id: Annotated[str, typer.Argument(metavar="ID", help="As `sessions list` shows it.")],
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a session, and the sync tokens that it issued.

    \b
    Examples:
      edgereplica sessions revoke 0f1e2d3c4b5a69788796a5b4c3d2e1f0
    """
    open_client(ctx, server).own_account().revoke_session(session_id)
    if as_json:
        emit_json({"id": session_id, "revoked": True})
    else:
        emit(f"revoked the session {session_id} and the sync tokens that it issued")


def _show(ctx: typer.Context, server: str | None, *, as_json: bool) -> None:
    found = open_client(ctx, server).own_account().list_sessions()
    if as_json:
        emit_json([entry.to_dict() for entry in found])
        return
    rows = [
        (
            printable(entry.id),
            "*" if entry.current else "",
            local_time(entry.opened_at_unix),
            local_time(entry.expires_at_unix),
            printable(entry.method),
            printable(entry.address) or "-",
            printable(entry.agent) or "-",
        )
        for entry in found
    ]
    if is_terminal(sys.stdout):
        for line in table(("ID", "", "OPENED", "EXPIRES", "BY", "FROM", "PROGRAM"), rows):
            emit(line)
    else:
        for row in rows:
            emit("  ".join(cell for cell in row if cell))
