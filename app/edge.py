"""The outermost ASGI layer: what holds for every request, whatever answers it.

It names the request (`X-Request-Id`) and says whom it comes from (`app.client_address`), keeps the
request's secrets out of the logs, writes one access line, bounds what an exception may say, and
refuses what the Connect library would answer badly.
"""

import contextlib
import itertools
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qsl

import structlog

from ..adapters.ports import Ids
from ..events.limits import REQUEST_ID_CHARS_MAX
from .client_address import ClientAddresses
from .logs import hold_secret, holding_no_secrets

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_REQUEST_ID: Final = re.compile(rf"[A-Za-z0-9._-]{{1,{REQUEST_ID_CHARS_MAX}}}")
_STARTS: Final = {"http.response.start", "websocket.accept", "websocket.http.response.start"}
_CREDENTIALS: Final = {b"authorization", b"proxy-authorization", b"cookie"}
_PLAIN_GRPC: Final = re.compile(rb"application/grpc(?!-web)", re.IGNORECASE)
_QUIET: Final = {"/healthz", "/readyz"}


class Edge:
    """Wraps an ASGI application; see the module's docstring."""

    def __init__(self, app: ASGIApp, ids: Ids, addresses: ClientAddresses | None = None) -> None:
        self._app = app
        self._ids = ids
        self._addresses = addresses or ClientAddresses()
        self._log = structlog.get_logger("edgereplica.http")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers, path = dict(scope["headers"]), scope["path"]
        scope["client"] = self._addresses.of(scope)
        request_id = self._request_id(headers.get(b"x-request-id", b""))
        with holding_no_secrets():
            hold_secret(*_secrets_of(scope))
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                answer = _Answer(send, request_id)
                began = time.perf_counter()
                try:
                    await self._answer(scope, receive, answer)
                finally:
                    # The path as it came: Litestar rewrites it in the scope.
                    self._write_access_line(scope, path, answer, time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        if scope["type"] == "http" and (refusal := _refusal(scope)):
            await answer.http_error(*refusal)
            return
        try:
            await self._app(scope, receive, answer)
        except Exception:  # noqa: BLE001 - nothing stands outside of this but the socket
            self._log.exception("request failed")
            if scope["type"] == "websocket":
                await answer.close_websocket(1011)
            elif answer.status is None:
                await answer.http_error(500, "internal", "internal error")
            # Otherwise the server closes what was begun and not ended.

    def _request_id(self, untrusted: bytes) -> str:
        text = untrusted.decode("latin-1")
        return text if _REQUEST_ID.fullmatch(text) else self._ids.new_id()

    def _write_access_line(
        self, scope: Scope, path: str, answer: "_Answer", seconds: float
    ) -> None:
        quiet = path in _QUIET and answer.status == 200
        client = scope.get("client")
        (self._log.debug if quiet else self._log.info)(
            "request",
            method=scope.get("method", "WEBSOCKET"),
            path=path,
            status=answer.status,
            duration_ms=round(seconds * 1000, 1),
            client=client[0] if client else None,
        )


class _Answer:
    """`send` that adds the request id and remembers the status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id.encode("latin-1")
        self.status: int | None = None
        self._closed = False

    async def __call__(self, message: Message) -> None:
        if message["type"] in _STARTS:
            self.status = message.get("status", 101)
            headers: Iterable[tuple[bytes, bytes]] = message.get("headers") or ()
            message["headers"] = [*headers, (b"x-request-id", self._request_id)]
        elif message["type"] == "websocket.close":
            self._closed = True
            self.status = self.status or 403
        await self._send(message)

    async def close_websocket(self, code: int) -> None:
        if not self._closed:
            with contextlib.suppress(OSError, RuntimeError):  # the peer may be gone already
                await self({"type": "websocket.close", "code": code})

    async def http_error(self, status: int, code: str, text: str) -> None:
        """An answer in the form of a Connect error."""
        body = json.dumps({"code": code, "message": text}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


# Of two headers of one name Connect takes the first, others the last: both are looked at.
def _secrets_of(scope: Scope) -> list[str]:
    """What a request may carry that must not be logged: credentials and the whole query."""
    secrets = []
    for name, header in scope["headers"]:
        if name in _CREDENTIALS:
            value = header.decode("latin-1")
            secrets += [value, value.partition(" ")[2].strip()]
    query = scope.get("query_string", b"").decode("latin-1")
    return [*secrets, query, *(value for _, value in parse_qsl(query, max_num_fields=None))]


def _refusal(scope: Scope) -> tuple[int, str, str] | None:
    """What is refused before any application sees it, as (status, Connect code, text)."""
    headers = scope["headers"]
    for name, value in headers:
        if name == b"content-type" and _PLAIN_GRPC.match(value):
            return 415, "unimplemented", "plain gRPC needs HTTP/2 trailers: use Connect or gRPC-Web"
    try:
        for text in (scope.get("query_string", b""), *itertools.chain.from_iterable(headers)):
            text.decode("utf-8")
    except UnicodeDecodeError:
        return 400, "invalid_argument", "the query or a header is not valid UTF-8"
    return None
