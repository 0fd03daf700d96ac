"""The page at which a provider's redirect ends: `/oauth/{provider}/callback`.

It shows the ready command, or sends the browser on to the program that waits for it on its own
machine (`oauth login`). It has no effect: nothing is claimed, stored or logged in by looking at it,
and what it shows finishes nothing without the secret of whoever began the login.

What stands in the address is anybody's. It is shown only if it consists of what a state or a code
may consist of, is quoted for a shell, and is escaped for HTML; and the page may run and load
nothing but its own style and script (a nonce for each answer).
"""

import re
import secrets
import shlex
from functools import cache
from html import escape
from importlib import resources
from string import Template
from typing import Any
from urllib.parse import urlencode

from litestar import MediaType, Request, Response, get
from litestar.handlers import HTTPRouteHandler

from ..events.limits import OAUTH_PARAMETER_CHARS_MAX
from .oauth import PROVIDERS, OAuthLogins

# What providers make codes of (RFC 6749 appendix A.11 allows more, but none needs it), without
# anything that a shell or a command line could take for something else.
_SAFE = re.compile(rf"[A-Za-z0-9_.~/+=][A-Za-z0-9_.~/+=-]{{0,{OAUTH_PARAMETER_CHARS_MAX - 1}}}")
_NAMES = {"github": "GitHub", "google": "Google"}
_ERROR_CHARS_MAX = 300


def callback_handler(logins: OAuthLogins) -> HTTPRouteHandler:
    @get("/oauth/{provider:str}/callback", media_type=MediaType.HTML)
    async def callback(request: Request[Any, Any, Any]) -> Response[str]:
        provider, query = request.path_params["provider"], request.query_params
        if provider not in PROVIDERS:
            return page(404, "There is nothing here", "<p>This is no address of a login.</p>")
        state, code = query.get("state", ""), query.get("code", "")
        error = query.get("error", "")
        if error:
            error = f"{error}: {text}" if (text := query.get("error_description", "")) else error
        elif not (_SAFE.fullmatch(state) and _SAFE.fullmatch(code)):
            return page(
                400,
                "This login cannot be finished",
                "<p>The address lacks the state or the code of a login, or they are damaged. Begin "
                "the login again.</p>",
            )
        port = await logins.loopback_port(provider, state) if _SAFE.fullmatch(state) else None
        if port is not None:
            return _to_loopback(port, state, code, query.get("error", ""))
        return _refused(provider, error) if error else _ready(provider, state, code)

    return callback


def _ready(provider: str, state: str, code: str) -> Response[str]:
    command = f"edgereplica oauth complete --state {shlex.quote(state)} --code {shlex.quote(code)}"
    return page(
        200,
        f"{_NAMES[provider]} has confirmed who you are",
        "<p>To finish, run this command where you began the login:</p>"
        f'<pre id="command">{escape(command)}</pre>'
        '<button id="copy" type="button" hidden>Copy the command</button>'
        '<p class="soft">It works once, for a short time, and only for the user who began this '
        "login, on the same machine. If that was not you, close this page: nothing has happened."
        "</p>",
        script=_file("copy.js"),
    )


def _refused(provider: str, untrusted_error: str) -> Response[str]:
    said = untrusted_error[:_ERROR_CHARS_MAX]
    return page(
        400,
        f"{_NAMES[provider]} did not let you in",
        f"<p>{_NAMES[provider]} answered:</p><pre>{escape(said)}</pre>"
        '<p class="soft">Nobody was logged in. You can close this page and begin again.</p>',
    )


def _to_loopback(port: int, state: str, code: str, error: str) -> Response[str]:
    """On to the starter, who waits on the machine of this browser."""
    answer = {"error": error[:_ERROR_CHARS_MAX]} if error else {"code": code}
    address = f"http://127.0.0.1:{port}/callback?{urlencode({'state': state} | answer)}"
    response = page(303, "One moment", "<p>The login goes on in the program that began it.</p>")
    response.headers["location"] = address
    return response


def page(status: int, title: str, body: str, script: str = "") -> Response[str]:
    """`body` is HTML, already escaped; `title` is text."""
    nonce = secrets.token_urlsafe(16)
    text = _template().substitute(
        title=escape(title),
        body=body,
        nonce=nonce,
        script=f'<script nonce="{nonce}">{script}</script>' if script else "",
    )
    return Response(
        text, status_code=status, media_type=MediaType.HTML, headers=security_headers(nonce)
    )


def security_headers(nonce: str) -> dict[str, str]:
    return {
        "content-security-policy": f"default-src 'none'; style-src 'nonce-{nonce}'; "
        f"script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "cross-origin-opener-policy": "same-origin",
        "x-robots-tag": "noindex",
    }


@cache
def _template() -> Template:
    return Template(_file("callback.html"))


def _file(name: str) -> str:
    return (resources.files(__package__) / "pages" / name).read_text(encoding="utf-8")
