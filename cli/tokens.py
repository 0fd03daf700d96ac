"""`edgereplica token`: what a token says, a narrower copy of it, and its end.

A token on the command line can be seen by other users of the machine while the command runs, so
every command also reads it from a file or standard input.
"""

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ..events.errors import InvalidArgument
from .client import open_client, read_token
from .console import emit, emit_json, human_bytes, local_time, note
from .root import JsonOption, ServerOption

if TYPE_CHECKING:
    from ..app.token_view import UnverifiedToken

token = typer.Typer(help="Inspect, narrow and revoke tokens.", no_args_is_help=True)

TokenArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[TOKEN]",
        show_default=False,
        help="The token. Else --token-file, else EDGEREPLICA_SYNC_TOKEN.",
    ),
]
TokenFileOption = Annotated[
    str | None,
    typer.Option("--token-file", metavar="FILE", help="Read it from a file; - is standard input."),
]


class Direction(StrEnum):
    push = "push"
    pull = "pull"


@token.command("inspect")
def inspect(
    token: TokenArgument = None,
    token_file: TokenFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a token allows, and until when. Works offline.

    Whether the token is genuine, or was revoked, only the server can tell.

    \b
    Examples:
      edgereplica token inspect --token-file push.token
      edgereplica token inspect "$TOKEN" --json
    """
    from ..app.token_view import inspect as inspect_token

    view = inspect_token(_given(token, token_file))
    if as_json:
        expired = view.exp_unix <= time.time()
        emit_json({**view.to_dict(), "expired": expired})
        return
    for line in _described(view):
        emit(line)


@token.command("attenuate")
def attenuate(
    token: TokenArgument = None,
    *,
    token_file: TokenFileOption = None,
    direction: Annotated[
        Direction | None, typer.Option("--direction", help="Only this direction.")
    ] = None,
    expires_in: Annotated[
        str | None,
        typer.Option("--expires-in", metavar="TIME", help="From now on: 90s, 5m, 2h, 7d."),
    ] = None,
    database: Annotated[
        str | None, typer.Option("--database", metavar="ID", help="Only this database, by its id.")
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option("--max-bytes", metavar="N", min=0, help="Bytes of pages a session may move."),
    ] = None,
    max_version: Annotated[
        int | None,
        typer.Option("--max-version", metavar="N", min=0, help="No version above this one."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print a narrower copy of a token. Works offline; the copy can never be widened again.

    The narrower copy ends with the token that it was made of: revoking either revokes both.

    \b
    Examples:
      edgereplica token attenuate --token-file session.token --direction pull --expires-in 5m
      edgereplica token attenuate "$TOKEN" --max-version 3 > narrow.token
    """
    from ..app.token_view import attenuate as attenuate_token
    from ..app.token_view import inspect as inspect_token
    from ..app.token_view import seconds_of

    caveats = []
    if direction is not None:
        caveats.append(f"direction={direction.value}")
    if database is not None:
        caveats.append(f"database={database}")
    if expires_in is not None:
        caveats.append(f"exp={int(time.time()) + seconds_of(expires_in)}")
    if max_bytes is not None:
        caveats.append(f"max_bytes={max_bytes}")
    if max_version is not None:
        caveats.append(f"max_version={max_version}")
    narrowed = attenuate_token(_given(token, token_file), caveats)
    view = inspect_token(narrowed)
    if as_json:
        emit_json({"token": narrowed, **view.to_dict()})
        return
    emit(narrowed)
    note(f"valid until {local_time(view.exp_unix)}")


@token.command("revoke")
def revoke(
    ctx: typer.Context,
    token: TokenArgument = None,
    token_file: TokenFileOption = None,
    revoke_all: Annotated[
        bool, typer.Option("--all", help="Every session and token of yours, this login too.")
    ] = False,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a token before its time, with every narrowed copy of it.

    Of a session, the sync tokens that it issued end too. Pushes under way are refused at their
    commit.

    \b
    Examples:
      edgereplica token revoke --token-file push.token
      edgereplica token revoke --all
    """
    client = open_client(ctx, server)
    if revoke_all:
        if token is not None or token_file is not None:
            raise InvalidArgument("--all was given with a token", hint="give one of them")
        client.own_account().revoke_all_tokens()
        client.file.forget_session(client.server)
        purpose, said = "all", "revoked all your sessions and tokens; log in again"
    else:
        purpose = client.own_account().revoke_token(_given(token, token_file))
        said = f"revoked the {purpose} token and every narrowed copy of it"
    if as_json:
        emit_json({"revoked": purpose})
    else:
        emit(said)


def _given(token: str | None, token_file: str | None) -> str:
    found = read_token(token, token_file)
    if found is None:
        raise InvalidArgument("no token was given", hint="name it, or use --token-file FILE")
    return found


def _described(view: "UnverifiedToken") -> list[str]:
    left = view.exp_unix - time.time()
    lines = [
        f"purpose   {_purpose(view)}",
        f"user      {view.email} ({view.user_id})",
        f"org       {view.org_id}" + (f", role {view.role}" if view.purpose != "sync" else ""),
    ]
    if view.database:
        lines.append(f"database  {view.database}")
    if view.direction:
        lines.append(f"allows    {view.direction} only")
    if view.max_bytes is not None:
        lines.append(f"moves     at most {human_bytes(view.max_bytes)} of pages a session")
    if view.max_version is not None:
        lines.append(f"versions  none above {view.max_version}")
    lines += [
        f"issued    {local_time(view.issued_at_unix)}",
        f"expires   {local_time(view.exp_unix)} ({_left(left)})",
        f"nonce     {view.nonce} (revocation), key {view.key_id}",
        f"caveats   {', '.join(view.caveats)}",
        "genuine?  only the server can tell; this is what the token claims",
    ]
    return lines


def _purpose(view: "UnverifiedToken") -> str:
    return {
        "session": "session: administration in the name of its user",
        "sync": f"sync: {view.direction} one database",
        "invite": "invitation: join the organization",
    }[view.purpose]


def _left(seconds: float) -> str:
    if seconds <= 0:
        return "expired"
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"in {count} {unit}{'s' if count > 1 else ''}"
    return f"in {int(seconds)} seconds"
