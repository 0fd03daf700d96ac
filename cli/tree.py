"""The command tree put together.

Typer draws its help without rich, and every command imports what it calls when it runs: `--help`
must start in milliseconds.
"""

from typing import Annotated

import typer

from . import accounts
from .commands import as_typer_command
from .console import emit
from .databases import db
from .endings import allow_insecure
from .machines import fsm
from .maintenance import collect_garbage
from .oauth import oauth
from .orgs import org
from .reset import reset_password
from .root import Root, ServerOption
from .server import admin, demo, serve
from .sessions import sessions
from .sync import SYNC_COMMANDS
from .tokens import token

app = typer.Typer(
    name="edgereplica",
    cls=Root,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 ok, 1 failure, 2 wrong usage, 3 conflict or unpushed changes, "
    "4 not authorised, 5 network, 130 interrupted.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version as installed_version

        emit(f"edgereplica {installed_version('edgereplica')}")
        raise typer.Exit


@app.callback()
def root(
    server: ServerOption = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Allow http:// to another machine (EDGEREPLICA_INSECURE=1)."
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Move SQLite databases between machines, page by page.

    \b
    Examples:
      edgereplica demo
      edgereplica login ada@example.org --server https://sync.example.org
      edgereplica db create main
      edgereplica sync push --db app.db --database main
      edgereplica sync pull --db copy.db --database main
    """
    if insecure:
        allow_insecure()


for command in (
    accounts.signup,
    accounts.login,
    accounts.logout,
    accounts.whoami,
    accounts.password,
):
    app.command()(command)
app.add_typer(db, name="db")
syncing = typer.Typer(help="Move a local SQLite file to the server and back.", no_args_is_help=True)
for name, function in SYNC_COMMANDS.items():
    syncing.command(name)(as_typer_command(function))
app.add_typer(syncing, name="sync")
app.add_typer(oauth, name="oauth")
app.add_typer(token, name="token")
app.add_typer(sessions, name="sessions")
app.add_typer(org, name="org")
app.command()(serve)
app.command()(demo)
app.add_typer(fsm, name="fsm")
admin.command("reset-password")(reset_password)
admin.command("gc")(collect_garbage)
app.add_typer(admin, name="admin")
