"""Accounts: signup, login, logout, whoami, password. Logins with a provider are `oauth`'s."""

from typing import TYPE_CHECKING, Annotated

import typer

from ..events.errors import EdgeReplicaError, Unauthenticated
from .client import Client, open_client, read_password
from .console import emit, emit_json, note
from .root import JsonOption, ServerOption

if TYPE_CHECKING:
    from ..app.admin_client import Session, Whoami

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
    """End the cached session and forget it.

    Sync tokens that it issued stay valid; `token revoke --all` ends those too.

    \b
    Examples:
      edgereplica logout
      edgereplica logout --server https://sync.example.org
    """
    client = open_client(ctx, server)
    revoked = _revoked(client) if client.config.session(client.server) else False
    forgotten = client.file.forget_session(client.server)
    if as_json:
        emit_json({"server": client.server, "logged_out": forgotten, "revoked": revoked})
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


def password(ctx: typer.Context, server: ServerOption = None, as_json: JsonOption = False) -> None:
    """Change the password; ends all sessions and tokens of the account but this one.

    The old one comes from EDGEREPLICA_PASSWORD, the new one from EDGEREPLICA_NEW_PASSWORD, else
    from hidden prompts.

    \b
    Examples:
      edgereplica password
    """
    client = open_client(ctx, server)
    account = client.own_account()
    old = read_password(twice=False, prompt="Old password: ")
    new = read_password(twice=True, variable="EDGEREPLICA_NEW_PASSWORD", prompt="New password: ")
    _remember(client, account.change_password(old, new), "changed the password", as_json=as_json)


def _revoked(client: Client) -> bool:
    """Whether the server ended the session. Its failure must not keep it from being forgotten."""
    try:
        client.accounts().logout()
    except Unauthenticated:
        return True  # it had ended before
    except EdgeReplicaError as error:
        note(f"warning: the session is forgotten here, but the server did not end it: {error}")
        return False
    return True


def _remember(client: Client, session: "Session", what: str, *, as_json: bool) -> None:
    who = session.whoami
    client.remember(session)
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
