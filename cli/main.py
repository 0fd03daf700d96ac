"""The program `edgereplica`: the command tree put together.

Typer draws its help without rich, and every command imports what it calls when it runs: `--help`
and an unchanged push must start in milliseconds.
"""

import os
import sys
from io import TextIOWrapper
from types import TracebackType
from typing import Annotated, Any

import typer
from typer.main import get_command

from . import accounts
from .console import emit, note
from .databases import db
from .machines import fsm
from .maintenance import collect_garbage
from .oauth import oauth
from .orgs import org
from .reset import reset_password
from .root import Root, ServerOption
from .server import admin, demo, serve
from .sessions import sessions
from .sync import sync
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
        os.environ["EDGEREPLICA_INSECURE"] = "1"


for command in (
    accounts.signup,
    accounts.login,
    accounts.logout,
    accounts.whoami,
    accounts.password,
):
    app.command()(command)
app.add_typer(db, name="db")
app.add_typer(sync, name="sync")
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


def _report_crash(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> Any:
    if os.environ.get("EDGEREPLICA_DEBUG"):
        return sys.__excepthook__(kind, error, traceback)
    note(f"error: unexpected {kind.__name__}: {error}")
    note("hint: this is a bug; EDGEREPLICA_DEBUG=1 shows where, --record FILE keeps a session")
    return None


def main() -> None:
    """The console script."""
    sys.excepthook = _report_crash
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a narrow locale must not stop a sync
            stream.reconfigure(errors="backslashreplace")
    get_command(app)(prog_name="edgereplica")


if __name__ == "__main__":
    main()
