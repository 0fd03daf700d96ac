"""`edgereplica oauth`: logging in through GitHub or Google, and linking such an identity.

The secret of a login that was begun lies in the configuration file under its public state, which is
what the browser shows: `app.oauth_state` says why.
"""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from ..events.errors import EdgeReplicaError
from ..events.limits import LOGIN_WAIT_SECONDS_MAX
from .client import Client, open_client
from .console import emit, emit_json, note, printable
from .root import JsonOption, ServerOption

if TYPE_CHECKING:
    from ..app.admin_client import OAuthStart
    from ..app.config import PendingLogin

oauth = typer.Typer(help="Log in through GitHub or Google.", no_args_is_help=True)

ProviderArgument = Annotated[str, typer.Argument(metavar="PROVIDER", help="github or google.")]
OpenOption = Annotated[
    bool, typer.Option("--open/--no-open", help="Open the address in a browser.")
]


@oauth.command("login")
def login(
    ctx: typer.Context,
    provider: ProviderArgument,
    open_browser: OpenOption = True,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Log in with a browser on this machine; nothing has to be copied.

    Prints the address too, for a browser that does not open by itself. On a machine without a
    browser use `oauth start`.

    \b
    Examples:
      edgereplica oauth login github
      edgereplica oauth login google --server https://sync.example.org
    """
    client = open_client(ctx, server)
    state, code = _wait_for_browser(client, provider, "login", open_browser=open_browser)
    session = client.anonymous().complete_oauth(state, code)
    client.remember(session)
    if as_json:
        emit_json({**session.whoami.to_dict(), "server": client.server})
    else:
        emit(f"logged in as {session.whoami.email} at {client.server}")


@oauth.command("link")
def link(
    ctx: typer.Context,
    provider: ProviderArgument,
    open_browser: OpenOption = True,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the account you are logged in to be opened through a provider too.

    \b
    Examples:
      edgereplica oauth link github
    """
    client = open_client(ctx, server)
    account = client.own_account()
    state, code = _wait_for_browser(client, provider, "link", open_browser=open_browser)
    _report_link(*account.complete_link(state, code), as_json=as_json)


@oauth.command("start")
def start(
    ctx: typer.Context,
    provider: ProviderArgument,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the address in a browser too.")
    ] = False,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the address where the provider asks for your consent.

    Open it in any browser, on any machine; its last page shows the command to finish with, which
    works on this machine only.

    \b
    Examples:
      edgereplica oauth start github
      edgereplica oauth start google --open
    """
    client = open_client(ctx, server)
    begun = client.anonymous().start_oauth(provider)
    _remember(client, begun, "login")
    if as_json:
        emit_json(begun.to_dict())
    else:
        emit(begun.redirect_url)
        note("hint: open the address; the page at its end shows the command to finish with")
    if open_browser:
        _open(begun.redirect_url)


@oauth.command("complete")
def complete(
    ctx: typer.Context,
    state: Annotated[str, typer.Option("--state", metavar="S", help="As the page shows it.")],
    code: Annotated[str, typer.Option("--code", metavar="C", help="As the page shows it.")],
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Finish a login that `oauth start` began on this machine.

    \b
    Examples:
      edgereplica oauth complete --state STATE --code CODE
    """
    client = open_client(ctx, server)
    public_state, pending = _pending(client, state)
    if pending is not None and pending.server != client.server:
        client = open_client(ctx, pending.server)
    session = client.anonymous().complete_oauth(pending.state if pending else state, code)
    client.remember(session)
    if pending is not None:
        client.file.forget_login(public_state)
    if as_json:
        emit_json({**session.whoami.to_dict(), "server": client.server})
    else:
        emit(f"logged in as {session.whoami.email} at {client.server}")


def _wait_for_browser(
    client: Client, provider: str, purpose: str, *, open_browser: bool
) -> tuple[str, str]:
    """The secret state and the code, when the browser has been there and back."""
    from ..app.oauth_loopback import LoopbackListener
    from ..app.oauth_state import public_state

    with LoopbackListener() as listener:
        begun = client.accounts().begin_oauth(provider, purpose, listener.port)
        note(f"open this address in a browser: {begun.redirect_url}")
        if open_browser:
            _open(begun.redirect_url)
        return begun.state, listener.wait(public_state(begun.state), LOGIN_WAIT_SECONDS_MAX)


def _open(url: str) -> None:
    """Not more than an offer: the address was printed."""
    import webbrowser

    if not url.startswith(("https://", "http://")) or not webbrowser.open(url):
        note("hint: no browser was opened; open the address yourself")


def _remember(client: Client, begun: "OAuthStart", purpose: str) -> None:
    from ..app.config import PendingLogin
    from ..app.oauth_state import public_state

    login = PendingLogin(client.server, begun.state, purpose, int(time.time()))
    try:
        warnings = client.file.save_login(public_state(begun.state), login)
    except EdgeReplicaError as error:
        note(f"warning: {error.message}")
        note(f"hint: finish with `edgereplica oauth complete --state {printable(begun.state)} …`")
        return
    for warning in warnings:
        note(f"warning: {warning}")


def _pending(client: Client, state: str) -> tuple[str, "PendingLogin | None"]:
    """The login that `state` means: as the browser shows it, or the secret itself."""
    from ..app.oauth_state import public_state

    for key in (state, public_state(state)):
        if key in client.config.logins:
            return key, client.config.logins[key]
    return state, None


def _report_link(provider: str, email: str, *, as_json: bool) -> None:
    if as_json:
        emit_json({"provider": provider, "email": email, "linked": True})
    else:
        emit(f"linked {provider} ({email})")
