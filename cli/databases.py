"""`edgereplica db`: the databases of the organization, and the tokens that open one of them."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from .client import mint, open_client
from .console import emit, emit_json, is_terminal, local_time, note, printable, table
from .root import JsonOption, ServerOption

db = typer.Typer(help="Databases on the server, and tokens for them.", no_args_is_help=True)

DatabaseArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The database's id, or its name.")
]


class Direction(StrEnum):
    push = "push"
    pull = "pull"


@db.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Letters, digits, _ and -; at most 64.")
    ],
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an empty database; prints its id and name.

    \b
    Examples:
      edgereplica db create main
    """
    database = open_client(ctx, server).admin().create_database(name)
    if as_json:
        emit_json(database.to_dict())
    else:
        emit(f"{database.id}  {database.name}")


@db.command("list")
def list_(ctx: typer.Context, server: ServerOption = None, as_json: JsonOption = False) -> None:
    """List the databases: id, then name.

    \b
    Examples:
      edgereplica db list
      DB_ID=$(edgereplica db list | awk '/main/ {print $1}')
      edgereplica db list --json
    """
    databases = open_client(ctx, server).admin().list_databases()
    if as_json:
        emit_json([database.to_dict() for database in databases])
        return
    rows = [(printable(d.id), printable(d.name), local_time(d.created_at_unix)) for d in databases]
    if not is_terminal(sys.stdout):
        for identity, name, _ in rows:
            emit(f"{identity}  {name}")
    elif rows:
        for line in table(("ID", "NAME", "CREATED"), rows):
            emit(line)
    else:
        note("no databases yet; `edgereplica db create NAME` makes one")


@db.command("delete")
def delete(
    ctx: typer.Context,
    database: DatabaseArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask on a terminal.")] = False,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a database with all its versions.

    Local files stay as they are. Syncs that run are ended. On a terminal it asks first.

    \b
    Examples:
      edgereplica db delete "$DB_ID"
      edgereplica db delete main --yes
    """
    admin = open_client(ctx, server).admin()
    found = admin.find_database(database)
    if not yes and is_terminal(sys.stdin):
        question = f"Delete {printable(found.name)} ({printable(found.id)}) with all its versions?"
        typer.confirm(question, abort=True, err=True)
    admin.delete_database(found.id)
    if as_json:
        emit_json({**found.to_dict(), "deleted": True})
    else:
        emit(f"deleted {found.id}  {found.name}")


@db.command("token")
def token(
    ctx: typer.Context,
    database: DatabaseArgument,
    *,
    direction: Annotated[Direction, typer.Option("--direction", help="What the token allows.")],
    ttl_seconds: Annotated[
        int,
        typer.Option(
            "--ttl-seconds", metavar="N", min=0, help="0: the server's default; capped by it."
        ),
    ] = 0,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Mint a sync token: alone on standard output, its expiry on standard error.

    \b
    Examples:
      edgereplica db token "$DB_ID" --direction push > push.token
      export EDGEREPLICA_SYNC_TOKEN=$(edgereplica db token main --direction pull)
    """
    admin = open_client(ctx, server).admin()
    minted = mint(admin, database, direction.value, ttl_seconds)
    if as_json:
        emit_json(minted.to_dict())
        return
    emit(minted.token)
    note(f"{direction.value} token, valid until {local_time(minted.exp_unix)}")
