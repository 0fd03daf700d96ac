"""Waiting on this machine for the browser at the end of a login with a provider (RFC 8252 §7.3).

Listens on 127.0.0.1 alone, on a port that nobody knew before, for one GET with the login's public
state. Everything else is answered 400 and waited over: another program of this machine, or a page
in the browser, can neither end the wait nor slip in a code of its own login.
"""

import hmac
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from ..events.errors import NetworkError, Unauthenticated
from ..events.limits import OAUTH_PARAMETER_CHARS_MAX

_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Connection": "close",
}
_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>{0}</title>'
    "<h1>{0}</h1><p>{1}</p></html>"
)
_DONE = _PAGE.format("You can close this page", "The login goes on in your terminal.")
_WRONG = _PAGE.format("This is not the login that is waited for", "Nothing was done.")


@dataclass(slots=True)
class _Waiting:
    public_state: str = ""
    code: str = field(default="", repr=False)
    error: str = ""


class LoopbackListener:
    """`with LoopbackListener() as listener: … listener.port … listener.wait(…)`"""

    def __init__(self) -> None:
        waiting = self._waiting = _Waiting()

        class Handler(BaseHTTPRequestHandler):
            timeout = 5  # a connection that says nothing must not hold up the browser's

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {k: v[0] for k, v in parse_qs(parts.query, max_num_fields=8).items()}
                state = query.get("state", "").encode()
                ours = parts.path == "/callback" and hmac.compare_digest(
                    state, waiting.public_state.encode()
                )
                code, error = query.get("code", ""), query.get("error", "")
                ours = ours and bool(code or error) and len(code) <= OAUTH_PARAMETER_CHARS_MAX
                if ours:
                    waiting.code, waiting.error = code, error
                self._send(200 if ours else 400, _DONE if ours else _WRONG)

            def _send(self, status: int, text: str) -> None:
                body = text.encode()
                self.send_response(status)
                for name, value in (_HEADERS | {"Content-Length": str(len(body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        try:
            self._server = HTTPServer(("127.0.0.1", 0), Handler)
        except OSError as error:
            raise NetworkError(f"cannot listen on 127.0.0.1: {error.strerror}") from error
        self.port: int = self._server.server_port

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.server_close()

    def wait(self, public_state: str, seconds_max: float) -> str:
        """The code that the browser brought.

        `Unauthenticated` if the provider refused, `NetworkError` if nobody came in time.
        """
        self._waiting.public_state = public_state
        deadline = time.monotonic() + seconds_max
        while not (self._waiting.code or self._waiting.error):
            left = deadline - time.monotonic()
            if left <= 0:
                raise NetworkError(
                    "the browser did not come back in time", hint="run the command again"
                )
            self._server.timeout = min(left, 1.0)
            self._server.handle_request()
        if self._waiting.error:
            raise Unauthenticated(
                f"the provider did not let you in: {self._waiting.error}",
                hint="run the command again, and allow it",
            )
        return self._waiting.code
