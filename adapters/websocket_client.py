"""A client's WebSocket (picows), as a transport.

picows calls back for each frame; whole messages go into a bounded queue, and while it is full the
socket is not read. `send` waits while the socket's write buffer is over its mark. What the other
end said last, its close code included, is part of the error that `receive` raises at the end.
"""

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any, Final

import picows

from ..events.errors import (
    EdgeReplicaError,
    FrameUndecodable,
    NetworkError,
    TextFrameReceived,
    Unauthenticated,
    error_from_wire,
)
from ..events.limits import (
    CLIENT_FRAME_BYTES_MAX,
    CONNECT_SECONDS_MAX,
    PING_IDLE_SECONDS,
    PING_REPLY_SECONDS_MAX,
    RETRY_AFTER_DIGITS_MAX,
)
from .frame_queue import FrameQueue
from .ports import Buffer

DIRECTION_HEADER: Final = "X-EdgeReplica-Direction"
"""What the client means to do, so that a token for the other direction is refused at once."""

_LOGGER: Final = logging.getLogger("edgereplica.websocket")
_LOGGER.addHandler(logging.NullHandler())
"""picows' words about a broken connection are for a log, if there is one, not for the terminal."""


class WebSocketTransport(picows.WSListener):
    """One connection; made by `connect`."""

    def __init__(self) -> None:
        super().__init__()
        self._inbox = FrameQueue()
        self._writable = asyncio.Event()
        self._writable.set()
        self._ws: picows.WSTransport | None = None
        self._partial: bytearray | None = None
        """The fragments so far of a message that is not whole (RFC 6455 §5.4)."""
        self._reading_paused = False
        self._reading_stopped = False
        self._gone = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self.bytes_sent = 0
        self.bytes_received = 0
        self.blocked_seconds = 0.0
        self.first_byte: int | None = None
        """What the server's first frame began with: its wire version."""

    # picows' callbacks

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self._ws = transport
        self._watch = asyncio.create_task(_ended(transport))

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        kind = frame.msg_type
        if kind == picows.WSMsgType.CLOSE:
            code = frame.get_close_code()
            reason = bytes(frame.get_close_message() or b"").decode("utf-8", "replace")
            self._inbox.end(
                NetworkError(f"the server closed the connection ({code or 1005} {reason})")
            )
            transport.send_close(code or picows.WSCloseCode.OK)
            transport.disconnect()
            return
        if kind == picows.WSMsgType.TEXT:
            self._inbox.end(TextFrameReceived("the server sent a text frame"))
            return
        if kind not in (picows.WSMsgType.BINARY, picows.WSMsgType.CONTINUATION):
            return
        payload = frame.get_payload_as_bytes()
        self.bytes_received += len(payload)
        if self.first_byte is None and payload:
            self.first_byte = payload[0]
        if not frame.fin or self._partial is not None:
            self._partial = bytearray() if self._partial is None else self._partial
            self._partial += payload
            if len(self._partial) > CLIENT_FRAME_BYTES_MAX:
                self._partial = bytearray()
                self._inbox.end(FrameUndecodable("a fragmented message over the frame limit"))
                transport.disconnect()
                return
            if not frame.fin:
                return
            payload, self._partial = bytes(self._partial), None
        self._inbox.put(payload)
        if self._inbox.full and not self._reading_paused:
            self._reading_paused = True
            transport.underlying_transport.pause_reading()

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        self._inbox.end(NetworkError("the connection to the server was lost"))
        self._gone.set()
        self._writable.set()

    def stop_reading(self) -> None:
        """For good: what comes is not wanted any more."""
        self._reading_stopped = True
        if self._ws is not None:
            self._ws.underlying_transport.pause_reading()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # The Transport port

    async def send(self, frame: Buffer) -> None:
        if not self._writable.is_set():
            loop = asyncio.get_running_loop()
            since = loop.time()
            await self._writable.wait()
            self.blocked_seconds += loop.time() - since
        if self._gone.is_set() or self._ws is None or self._ws.underlying_transport.is_closing():
            raise self._inbox.lost or NetworkError("the connection to the server was lost")
        self._ws.send(picows.WSMsgType.BINARY, frame)
        self.bytes_sent += len(frame)

    async def receive(self) -> bytes:
        frame = await self._inbox.receive()
        self._resume_reading()
        return frame

    def receive_nowait(self) -> bytes | None:
        frame = self._inbox.receive_nowait()
        self._resume_reading()
        return frame

    def push_back(self, frame: bytes) -> None:
        self._inbox.push_back(frame)

    def _resume_reading(self) -> None:
        if self._reading_stopped:
            return
        if self._reading_paused and not self._inbox.full and not self._gone.is_set():
            self._reading_paused = False
            assert self._ws is not None
            self._ws.underlying_transport.resume_reading()

    async def close(self, code: int, reason: str) -> None:
        if self._gone.is_set() or self._ws is None:
            return
        self._ws.send_close(picows.WSCloseCode(code), reason.encode())
        # To a peer that does not read, the rest would wait for good, and the socket with it.
        self._ws.disconnect(graceful=self._writable.is_set())


class _ErrorHandler(logging.Handler):
    """Stops the reading of a connection about which picows logs an error.

    picows goes on for some milliseconds, into a buffer for the very frame that it found too large,
    and calls nobody else back.
    """

    def __init__(self, listener: WebSocketTransport) -> None:
        super().__init__(logging.ERROR)
        self._listener = listener

    def emit(self, record: logging.LogRecord) -> None:
        self._listener.stop_reading()


def _logger_of(listener: WebSocketTransport) -> logging.Logger:
    """A logger for one connection, which is not kept in logging's tree."""
    logger = logging.Logger(_LOGGER.name)
    logger.parent = _LOGGER
    logger.addHandler(_ErrorHandler(listener))
    return logger


async def _ended(transport: picows.WSTransport) -> None:
    """Take the exception of a connection that ended over a frame which picows could not read, or
    asyncio would print it on the terminal; the caller is told by `receive`."""
    with suppress(picows.WSError):
        await transport.wait_disconnected()


async def connect(url: str, token: str, direction: str | None = None) -> WebSocketTransport:
    """Open `url` (ws:// or wss://) with `token` as the bearer.

    `direction`, "push" or "pull", is what the caller means to do. The token alone decides what
    happens; a server that finds the two differ refuses (`PermissionDenied`).

    Raises `NetworkError` if nobody answers or what answers is no EdgeReplica server, and the
    server's own refusal (`Unauthenticated`, `LimitExceeded`, …) if it gives one.
    """
    headers = {"Authorization": f"Bearer {token}"}
    if direction is not None:
        headers[DIRECTION_HEADER] = direction
    transport = WebSocketTransport()
    try:
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            _, listener = await picows.ws_connect(
                lambda: transport,
                url,
                extra_headers=headers,
                max_frame_size=CLIENT_FRAME_BYTES_MAX,
                enable_auto_ping=True,
                auto_ping_idle_timeout=PING_IDLE_SECONDS,
                auto_ping_reply_timeout=PING_REPLY_SECONDS_MAX,
                websocket_handshake_timeout=CONNECT_SECONDS_MAX,
                logger_name=_logger_of(transport),
                max_redirects=0,
                read_buffer_init_size=256 * 1024,
            )
    except picows.WSHandshakeError as error:
        raise _refusal(url, error) from error
    except (TimeoutError, OSError, picows.WSError) as error:
        raise NetworkError(
            f"cannot reach {url}: {str(error) or 'timed out'}",
            hint="check the server's address (--server) and that it is running",
        ) from error
    if not isinstance(listener, WebSocketTransport):
        # picows has no listener where the connection broke between the handshake's bytes.
        raise NetworkError(f"cannot reach {url}: the connection was lost")
    return listener


def _refusal(url: str, error: picows.WSHandshakeError) -> EdgeReplicaError:
    """The server's answer to the handshake: a Connect-style JSON error, or something else."""
    status = int(error.response.status) if error.response is not None else 0
    retry_after = str(error.response.headers.get("Retry-After", "")) if error.response else ""
    said = retry_after.isdecimal() and len(retry_after) <= RETRY_AFTER_DIGITS_MAX
    seconds = int(retry_after) if said else None
    try:
        body: Any = json.loads(error.raw_body or b"")
        details = {} if seconds is None else {"retry_after_seconds": seconds}
        return error_from_wire(str(body["code"]), str(body["message"]), details)
    except (ValueError, KeyError, TypeError, RecursionError):
        if status == 401:  # an original server, whose answer has no body of ours
            return Unauthenticated("the server does not accept this token")
        return NetworkError(
            f"{url} refused the connection (HTTP {status or 'error'}): "
            "is this an EdgeReplica server?"
        )
