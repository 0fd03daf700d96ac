"""`/sync`: one WebSocket, one session (design §5).

`admission` verifies the token, whose direction picks the machine; from there on the driver runs,
within the bounds of `session_limits`.
The registry knows the running sessions, so that a deleted database or a server that stops can end
them with a word instead of a cut.
"""

import asyncio
import contextlib
import json
from collections.abc import Mapping, MutableMapping
from types import MappingProxyType
from typing import Any

import structlog

from ..adapters.websocket_server import AsgiReceive, AsgiSend, AsgiTransport
from ..events.errors import (
    Conflict,
    EdgeReplicaError,
    NotFound,
    ServerShuttingDown,
)
from ..events.limits import LARGE_SESSION_BYTES
from ..fsm.server_pull import ServerPull
from ..fsm.server_push import ServerPush
from .driver import Driver
from .edge_settings import EdgeSettings
from .guards import SyncBounds, sync_bounds
from .measures import RunningSession
from .memory import give_back
from .pull_server import PullServerEnd
from .push_server import PushServerEnd
from .session_limits import watch
from .sync_services import SyncServices
from .tokens import Keyring, VerifiedClaims

Scope = MutableMapping[str, Any]

HTTP_STATUS = {
    "unauthenticated": 401,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "unavailable": 503,
}


class SyncServer:
    """The ASGI application behind `/sync`; without `bounds`, those of the default settings."""

    def __init__(
        self,
        services: SyncServices,
        keyring: Keyring,
        bounds: SyncBounds | None = None,
    ) -> None:
        self._services = services
        self._bounds = bounds or sync_bounds(EdgeSettings(), keyring, services.clock)
        self._running: dict[AsgiTransport, tuple[str, asyncio.Future[None]]] = {}
        self._stopping = False
        self._log = structlog.get_logger("edgereplica.sync")

    async def __call__(self, scope: Scope, receive: AsgiReceive, send: AsgiSend) -> None:
        if scope["type"] != "websocket":
            await _answer_http(send, "http", 426, "upgrade_required", "this is a WebSocket")
            return
        await receive()  # websocket.connect
        address = (scope.get("client") or ("", 0))[0]
        with contextlib.ExitStack() as place:
            try:
                claims = await self._admit(dict(scope["headers"]), address)
                place.enter_context(self._bounds.slots.held(claims.database_id or "", address))
            except EdgeReplicaError as error:
                self._services.measures.refused("handshake", error.code)
                await _refuse(send, error)
                return
            await send({"type": "websocket.accept"})
            await self._run(claims, receive, send)

    async def _admit(self, headers: dict[bytes, bytes], address: str) -> VerifiedClaims:
        if self._stopping:
            raise ServerShuttingDown("the server is shutting down")
        claims = self._bounds.admission.admit(headers, address)
        return await self._services.still_good(claims)

    async def _run(self, claims: VerifiedClaims, receive: AsgiReceive, send: AsgiSend) -> None:
        machine: ServerPush | ServerPull
        hands: PushServerEnd | PullServerEnd
        told = self._services.quotas.told()
        log = self._log.bind(database=claims.database_id, direction=claims.direction)
        ended = asyncio.get_running_loop().create_future()
        async with AsgiTransport(receive, send) as transport:
            if claims.direction == "push":
                machine, hands = ServerPush(told), PushServerEnd(self._services, claims)
            else:
                hands = PullServerEnd(self._services, claims, lambda: transport.room_bytes)
                machine = ServerPull(told)
            self._running[transport] = (claims.database_id or "", ended)
            session = RunningSession(claims.direction or "", machine, transport)
            self._services.measures.session_started(session)
            driver = Driver(machine, hands, transport)
            log.info("sync started")
            watching = asyncio.create_task(
                watch(transport, self._bounds.deadlines, self._services.clock)
            )
            try:
                with self._services.tracing.span(f"sync {claims.direction}"):
                    await driver.run()
            finally:
                watching.cancel()
                with contextlib.suppress(EdgeReplicaError):  # else the pin expires by itself
                    await hands.close()
                del self._running[transport]
                if transport.bytes_received + transport.bytes_sent > LARGE_SESSION_BYTES:
                    give_back()
                ended.set_result(None)
                code = driver.failure.code if driver.failure else None
                self._services.measures.session_ended(
                    session, code=code, conflict=_is_conflict(machine, code)
                )
                log.info(
                    "sync ended",
                    state=machine.state_id,
                    wire_version=driver.wire_version,
                    code=code,
                    bytes_received=transport.bytes_received,
                    bytes_sent=transport.bytes_sent,
                )

    def databases(self) -> set[str]:
        return {database for database, _ in self._running.values()}

    def end_database(self, database_id: str) -> None:
        """End the sessions of a database that was deleted."""
        for transport, (database, _) in self._running.items():
            if database == database_id:
                transport.interrupt(NotFound("the database was deleted"))

    async def shutdown(self, grace_seconds: float) -> None:
        """Tell every session, and wait until they have ended or the grace is over."""
        self._stopping = True
        endings = [ended for _, ended in self._running.values()]
        for transport in self._running:
            transport.interrupt(ServerShuttingDown("the server is shutting down; try again"))
        if endings:
            await asyncio.wait(endings, timeout=grace_seconds)


def _is_conflict(machine: ServerPush | ServerPull, code: str | None) -> bool:
    """Whether a push found a head that is not its base, when it opened or when it would commit.

    A client that had no base sees the head in the greeting, and leaves by itself.
    """
    opened_so = isinstance(machine, ServerPush) and machine.conflict is not None
    return opened_so or code == Conflict.code


async def _refuse(send: AsgiSend, error: EdgeReplicaError) -> None:
    """Answer a handshake with an HTTP error instead of a WebSocket."""
    status = HTTP_STATUS.get(error.rpc_code, 400)
    await _answer_http(send, "websocket.http", status, error.code, error.message, error.details)


async def _answer_http(
    send: AsgiSend,
    kind: str,
    status: int,
    code: str,
    message: str,
    details: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    body = json.dumps({"code": code, "message": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if seconds := details.get("retry_after_seconds"):
        headers.append((b"retry-after", b"%d" % seconds))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": f"{kind}.response.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": body})
