"""What is asked of a TCP connection before it is a request: uvicorn's protocols with more bounds.

An address may have so many connections at once, and a request, head and body, must arrive within a
time: otherwise a client that says nothing, or a byte now and then, would hold a connection for as
long as it likes (uvicorn bounds only the pause between requests). A WebSocket message in fragments
takes the memory of its bytes, and pings take none. Proxies that are trusted speak
for many clients and may have as many connections as they need.

What is inside an accepted WebSocket is bounded by `app.session_limits`.
"""

import asyncio
from collections import Counter
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.protocol import State

from ..events.limits import CONNECTIONS_PER_ADDRESS_MAX, REQUEST_SECONDS_MAX
from .client_address import ClientAddresses, limit_key, parse_address

_TOO_MANY: Final = (
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 5\r\nconnection: close\r\n"
    b"content-length: 0\r\n\r\n"
)
_WAITING: Final = (h11.IDLE, h11.SEND_BODY)


class Connections:
    """Counts open connections for each address."""

    def __init__(
        self,
        per_address_max: int = CONNECTIONS_PER_ADDRESS_MAX,
        proxies: ClientAddresses | None = None,
    ) -> None:
        self._per_address_max = per_address_max
        self._proxies = proxies or ClientAddresses()
        self._keys: dict[asyncio.BaseTransport, str] = {}
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._keys)

    def opened(self, transport: asyncio.BaseTransport) -> bool:
        """Count `transport`; False if its address has too many."""
        peer = transport.get_extra_info("peername")
        address = peer[0] if isinstance(peer, tuple) else ""
        if self._proxies.trusts(parse_address(address)):
            return True
        key = limit_key(address)
        if self._counts[key] >= self._per_address_max:
            return False
        self._keys[transport] = key
        self._counts[key] += 1
        return True

    def closed(self, transport: asyncio.BaseTransport) -> None:
        key = self._keys.pop(transport, None)
        if key is not None:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]


def protocols_of(
    connections: Connections, request_seconds: float = REQUEST_SECONDS_MAX
) -> tuple[type[H11Protocol], type[WebSocketsSansIOProtocol]]:
    """uvicorn's two protocols, counted in `connections`."""

    class Http(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if not connections.opened(transport):
                transport.write(_TOO_MANY)
                transport.close()
                return
            self._expect()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state not in _WAITING or self.transport.get_protocol() is not self:
                self._expect_nothing()
            elif self._deadline is None:
                self._expect()

        def connection_lost(self, exc: Exception | None) -> None:
            self._expect_nothing()
            connections.closed(self.transport)
            super().connection_lost(exc)

        def _expect(self) -> None:
            self._deadline = self.loop.call_later(request_seconds, self.transport.abort)

        def _expect_nothing(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    class WebSocket(WebSocketsSansIOProtocol):
        _joined: bytearray
        _pong = b""

        def handle_cont(self, event: Frame) -> None:
            """Join a message's fragments as they come. One by one they would take thirty times
            their size, and empty ones would be bounded by no size of a message."""
            if self.frames:
                self._joined = bytearray(self.frames.pop())
            self._joined += event.data
            if event.fin:
                self.frames = [bytes(self._joined)]
                self._joined = bytearray()
                self.send_receive_event_to_app()

        def handle_ping(self) -> None:
            """Answer at once; to a peer that does not read, its latest ping when it reads again
            (RFC 6455 §5.5.3), or its pings would pile up as pongs."""
            answers = self.conn.data_to_send()
            if self.writable.is_set() or self.conn.state is not State.OPEN:
                self.transport.write(b"".join(answers))
            elif answers:
                self._pong = answers[-1]

        def resume_writing(self) -> None:
            super().resume_writing()
            self.transport.write(self._pong)
            self._pong = b""

        def connection_lost(self, exc: Exception | None) -> None:
            connections.closed(self.transport)
            super().connection_lost(exc)

    return Http, WebSocket
