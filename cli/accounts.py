"""Accounts: signup, login, logout, whoami, and the two halves of an OAuth login."""

from typing import TYPE_CHECKING, Annotated

import typer

from .client import Client, open_client, read_password
from .console import emit, emit_json, note
from .root import JsonOption, ServerOption

if TYPE_CHECKING:
    from ..app.admin_client import Session, Whoami

oauth = typer.Typer(help="Log in through GitHub or Google.", no_args_is_help=True)

EmailArgument = Annotated[str, typer.Argument(metavar="EMAIL", help="The account's e-mail.")]


def signup(
    ctx: typer.Context,
    email: EmailArgument,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an account and log in to it.

    The password comes from EDGEREPLICA_PASSWORD, else from a hidden prompt (asked twice).

    \b
    Examples:
      edgereplica signup ada@example.org
      edgereplica signup ada@example.org --server https://sync.example.org
    """
    client = open_client(ctx, server)
    session = client.anonymous().signup(email, read_password(twice=True))
    _remember(client, session, "signed up", as_json=as_json)


def login(
    ctx: typer.Context,
    email: EmailArgument,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Log in; later commands use the cached session.

    The password comes from EDGEREPLICA_PASSWORD, else from a hidden prompt. The server becomes
    the default of later commands.

    \b
    Examples:
      edgereplica login ada@example.org
      edgereplica login ada@example.org --server https://sync.example.org
    """
    client = open_client(ctx, server)
    session = client.anonymous().login(email, read_password(twice=False))
    _remember(client, session, "logged in", as_json=as_json)


def logout(ctx: typer.Context, server: ServerOption = None, as_json: JsonOption = False) -> None:
    """Forget the cached session of the server.

    \b
    Examples:
      edgereplica logout
      edgereplica logout --server https://sync.example.org
    """
    client = open_client(ctx, server)
    forgotten = client.file.forget_session(client.server)
    if as_json:
        emit_json({"server": client.server, "logged_out": forgotten})
    else:
        emit(f"logged out of {client.server}" if forgotten else f"not logged in to {client.server}")


def whoami(ctx: typer.Context, server: ServerOption = None, as_json: JsonOption = False) -> None:
    """Show whose session is cached.

    \b
    Examples:
      edgereplica whoami
      edgereplica whoami --json
    """
    client = open_client(ctx, server)
    who = client.admin().whoami()
    if as_json:
        emit_json({**who.to_dict(), "server": client.server})
        return
    for line in _described(who, client.server):
        emit(line)


@oauth.command("start")
def oauth_start(
    ctx: typer.Context,
    provider: Annotated[str, typer.Argument(metavar="PROVIDER", help="github or google.")],
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the address where the provider asks for your consent.

    Open it in a browser; then finish with `edgereplica oauth complete`.

    \b
    Examples:
      edgereplica oauth start github
    """
    start = open_client(ctx, server).anonymous().start_oauth(provider)
    if as_json:
        emit_json(start.to_dict())
        return
    emit(start.redirect_url)
    note(f"state: {start.state}")
    note("hint: open the address, then `edgereplica oauth complete --state STATE --code CODE`")


@oauth.command("complete")
def oauth_complete(
    ctx: typer.Context,
    state: Annotated[str, typer.Option("--state", metavar="S", help="From `oauth start`.")],
    code: Annotated[str, typer.Option("--code", metavar="C", help="From the provider's page.")],
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Finish a login that `oauth start` began.

    \b
    Examples:
      edgereplica oauth complete --state STATE --code CODE
    """
    client = open_client(ctx, server)
    session = client.anonymous().complete_oauth(state, code)
    _remember(client, session, "logged in", as_json=as_json)


def _remember(client: Client, session: "Session", what: str, *, as_json: bool) -> None:
    from ..app.config import CachedSession

    who = session.whoami
    for warning in client.file.save_session(client.server, CachedSession(session.token, who.email)):
        note(f"warning: {warning}")
    if as_json:
        emit_json({**who.to_dict(), "server": client.server})
    else:
        emit(f"{what} as {who.email} at {client.server}")


def _described(who: "Whoami", server: str) -> list[str]:
    return [
        f"email   {who.email}",
        f"role    {who.role}",
        f"user    {who.user_id}",
        f"org     {who.org_id}",
        f"server  {server}",
    ]
