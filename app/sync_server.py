"""`/sync`: one WebSocket, one session (design §5).

The edge verifies the token and picks the machine by its direction; from there on the driver runs.
The registry knows the running sessions, so that a deleted database or a server that stops can end
them with a word instead of a cut.
"""

import asyncio
import contextlib
import json
from collections.abc import MutableMapping
from typing import Any

import structlog

from ..adapters.websocket_server import AsgiReceive, AsgiSend, AsgiTransport
from ..events.errors import (
    EdgeReplicaError,
    NotFound,
    PermissionDenied,
    ServerShuttingDown,
    Unauthenticated,
)
from ..fsm.machine import Machine
from ..fsm.server_pull import ServerPull
from ..fsm.server_push import ServerPush
from .driver import Driver
from .pull_server import PullServerEnd
from .push_server import PushServerEnd
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
    """The ASGI application behind `/sync`."""

    def __init__(self, services: SyncServices, keyring: Keyring) -> None:
        self._services = services
        self._keyring = keyring
        self._running: dict[AsgiTransport, tuple[str, asyncio.Future[None]]] = {}
        self._stopping = False
        self._log = structlog.get_logger("edgereplica.sync")

    async def __call__(self, scope: Scope, receive: AsgiReceive, send: AsgiSend) -> None:
        if scope["type"] != "websocket":
            await _answer_http(send, "http", 426, "upgrade_required", "this is a WebSocket")
            return
        await receive()  # websocket.connect
        try:
            claims = await self._admit(dict(scope["headers"]))
        except EdgeReplicaError as error:
            status = HTTP_STATUS.get(error.rpc_code, 400)
            await _answer_http(send, "websocket.http", status, error.code, error.message)
            return
        await send({"type": "websocket.accept"})
        await self._run(claims, receive, send)

    async def _admit(self, headers: dict[bytes, bytes]) -> VerifiedClaims:
        if self._stopping:
            raise ServerShuttingDown("the server is shutting down")
        if b"origin" in headers:
            raise PermissionDenied("pages in a browser may not open a sync session")
        scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("a sync session needs `Authorization: Bearer <sync token>`")
        claims = self._keyring.verify_sync(token.strip(), self._services.clock.now())
        return await self._services.still_good(claims)

    async def _run(self, claims: VerifiedClaims, receive: AsgiReceive, send: AsgiSend) -> None:
        machine: Machine
        hands: PushServerEnd | PullServerEnd
        if claims.direction == "push":
            machine, hands = ServerPush(), PushServerEnd(self._services, claims)
        else:
            machine, hands = ServerPull(), PullServerEnd(self._services, claims)
        log = self._log.bind(database=claims.database_id, direction=claims.direction)
        ended = asyncio.get_running_loop().create_future()
        async with AsgiTransport(receive, send) as transport:
            self._running[transport] = (claims.database_id or "", ended)
            driver = Driver(machine, hands, transport)
            log.info("sync started")
            try:
                await driver.run()
            finally:
                with contextlib.suppress(EdgeReplicaError):  # else the pin expires by itself
                    await hands.close()
                del self._running[transport]
                ended.set_result(None)
                log.info(
                    "sync ended",
                    state=machine.state_id,
                    wire_version=driver.wire_version,
                    code=driver.failure.code if driver.failure else None,
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


async def _answer_http(send: AsgiSend, kind: str, status: int, code: str, message: str) -> None:
    body = json.dumps({"code": code, "message": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": f"{kind}.response.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": body})
