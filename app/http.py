"""The web application: the sync socket beside Litestar, which has the Connect service mounted.

    /edgereplica.admin.v1.AdminService/*   app.rpc
    /edgereplica.admin.v1.AccountService/* app.account_rpc
    /edgereplica.admin.v1.RetentionService/* app.retention_rpc
    /oauth/{provider}/callback             app.oauth_pages
    /sync                                  whatever `sync_app` is (app.sync_server)
    /healthz                               200 "ok" while the process runs
    /metrics                               app.metrics, where it was asked for
    /readyz                                200 while repository and page storage work, else 503

What holds for every request is left to `app.edge`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from connectrpc.server import ConnectASGIApplication
from litestar import Litestar, MediaType, Response, asgi, get
from litestar.exceptions import HTTPException
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive as LitestarReceive
from litestar.types import Scope as LitestarScope
from litestar.types import Send as LitestarSend

from ..adapters.ports import Clock, Ids
from ..events.errors import EdgeReplicaError
from ..events.limits import READY_CACHE_SECONDS, READY_SECONDS_MAX
from .client_address import ClientAddresses
from .edge import ASGIApp, Edge, Receive, Scope, Send
from .oauth import OAuthLogins
from .oauth_pages import callback_handler
from .tracing import NO_TRACING, Tracing

Check = Callable[[], Awaitable[None]]
Service = ConnectASGIApplication[Any]
_NO_STORE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


@dataclass(slots=True)
class Readiness:
    """Runs the named checks, all at once, and keeps the answer for a moment.

    The checks cost writes, and anybody may ask; so at most one round runs in `READY_CACHE_SECONDS`.
    """

    checks: Mapping[str, Check]
    clock: Clock
    _failed: dict[str, str] | None = None
    _checked_at: float = 0.0
    _running: asyncio.Lock | None = None

    async def failed(self) -> dict[str, str]:
        """What does not work, as name → reason; empty when all is well."""
        self._running = self._running or asyncio.Lock()
        async with self._running:
            age = self.clock.now() - self._checked_at
            if self._failed is None or not 0 <= age < READY_CACHE_SECONDS:
                reasons = await asyncio.gather(*map(_reason, self.checks.values()))
                self._failed = {n: r for n, r in zip(self.checks, reasons, strict=True) if r}
                self._checked_at = self.clock.now()
            return self._failed


async def _reason(check: Check) -> str:
    try:
        async with asyncio.timeout(READY_SECONDS_MAX):
            await check()
    except EdgeReplicaError as error:
        return error.code
    except TimeoutError:
        return "timeout"
    return ""


def make_app(
    *,
    services: Sequence[Service],
    oauth: OAuthLogins,
    sync_app: ASGIApp,
    checks: Mapping[str, Check],
    clock: Clock,
    ids: Ids,
    addresses: ClientAddresses,
    metrics: ASGIApp | None = None,
    tracing: Tracing = NO_TRACING,
) -> ASGIApp:
    """The whole application. `checks` are what `/readyz` asks, `metrics` shows `/metrics`."""
    readiness = Readiness(checks, clock)

    @get("/healthz", media_type=MediaType.TEXT, sync_to_thread=False)
    def healthz() -> Response[str]:
        return Response("ok", headers=_NO_STORE)

    @get("/readyz")
    async def readyz() -> Response[dict[str, Any]]:
        failed = await readiness.failed()
        return Response(
            {"ready": not failed, "failed": failed},
            status_code=503 if failed else 200,
            headers=_NO_STORE,
        )

    litestar: Any = Litestar(
        [healthz, readyz, callback_handler(oauth), *map(_mounted, services)],
        openapi_config=None,
        logging_config=None,
        debug=False,
        exception_handlers={HTTPException: _http_error, Exception: _failure},
    )

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        # Not mounted in Litestar, which would answer what the socket raises in words of its own.
        if scope["type"] not in {"http", "websocket"}:
            await litestar(scope, receive, send)
            return
        app = {"/sync": sync_app, "/metrics": metrics}.get(scope["path"]) or litestar
        headers = dict(scope["headers"])
        with tracing.span("sync" if app is sync_app else "request", headers=headers):
            await app(scope, receive, send)

    return Edge(dispatch, ids, addresses)


def _mounted(service: Service) -> ASGIRouteHandler:
    @asgi(service.path, is_mount=True, copy_scope=True)
    async def answer(scope: LitestarScope, receive: LitestarReceive, send: LitestarSend) -> None:
        # Litestar takes the mount's prefix off the path; the generated application wants it whole.
        scope["path"] = scope["raw_path"].decode("ascii", "replace")
        untyped: Any = (scope, receive, send)
        await service(*untyped)

    return answer


def _failure(_: Any, error: Exception) -> Response[dict[str, str]]:
    structlog.get_logger("edgereplica.http").error("request failed", exc_info=error)
    return Response(
        {"code": "internal", "message": "internal error"}, status_code=500, headers=_NO_STORE
    )


def _http_error(_: Any, error: HTTPException) -> Response[dict[str, str]]:
    """Litestar's own refusals (no such path, no such method) in the form of a Connect error."""
    known = {
        404: ("unimplemented", "there is nothing at this path"),
        405: ("unimplemented", "this method is not allowed here"),
        413: ("resource_exhausted", "the request is too large"),
    }
    code, message = known.get(error.status_code, ("unknown", "the request is refused"))
    return Response(
        {"code": code, "message": message},
        status_code=error.status_code,
        headers=dict(error.headers or {}) | _NO_STORE,
    )
