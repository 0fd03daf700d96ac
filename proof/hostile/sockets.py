"""A whole server over raw connections: one that is spoken to by hand, and that must end each.

A `Line` is a connection on which anything may be sent, also what no client sends. A session begins
with hello, so that what follows meets a machine that listens; and it is the server that closes.
"""

import socket
from dataclasses import dataclass
from typing import Any, Final, Self

import msgpack

from proof.torture.idlers import upgrade_request
from proof.torture.world import World

from .victims import Violation

ANSWER_SECONDS_MAX = 60
CONTINUED, BINARY, CLOSE, PING, PONG = 0x0, 0x2, 0x8, 0x9, 0xA
FINAL = 0x80

_SMALL = 64 * 1024
_ERROR: Final = b"\x82\xa4kind\xa5error"
HELLO: Final = {
    version: bytes([version]) + bytes(msgpack.packb({"kind": "hello", "data": data}))
    for version, data in (
        (1, {"protocol_version": 1, "page_size": 512, "max_page": 2048}),
        (2, {"page_size": 512, "page_count": 2048, "force": True}),
    )
}


def said(version: int, kind: str, data: dict[str, Any] | None = None) -> bytes:
    """A frame of the protocol."""
    body = {"kind": kind} if data is None else {"kind": kind, "data": data}
    return bytes([version]) + bytes(msgpack.packb(body))


def framed(payload: bytes, head: int = FINAL | BINARY) -> bytes:
    """A frame of a client (RFC 6455 §5.2), under a mask of zeros."""
    size = len(payload)
    if size < 126:
        return bytes([head, 0x80 | size]) + bytes(4) + payload
    return bytes([head, 0xFF]) + size.to_bytes(8, "big") + bytes(4) + payload


TEXT: Final = framed(b"", FINAL | 0x1)
"""What a server ends any session at, with a code of its own: 1003."""


@dataclass
class Ending:
    """How a server ended a connection, and what came before that."""

    code: int | None
    error: bytes | None = None
    frames: int = 0
    bytes_read: int = 0


class Line:
    """A connection to a server, upgraded to a WebSocket if `head` asks for that."""

    def __init__(self, port: int, head: bytes, receive_bytes: int | None = None) -> None:
        self._socket = socket.socket()
        self._socket.settimeout(ANSWER_SECONDS_MAX)
        if receive_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.connect(("127.0.0.1", port))
        self._received = bytearray()
        self.bytes_read = 0
        self.send(head)
        if head.startswith(b"GET"):
            # Frames are sent when the handshake is done, as RFC 6455 §4.1 has it.
            while b"\r\n\r\n" not in self._received and self._more():
                pass
            answer, _, rest = bytes(self._received).partition(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 101"):
                raise Violation(f"no WebSocket: {answer[:100]!r}")
            self._received = bytearray(rest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return  # it hung up on what came before

    def _more(self) -> bool:
        try:
            piece = self._socket.recv(1 << 20)
        except ConnectionResetError:
            return False
        except TimeoutError:
            raise Violation("the server neither answers nor hangs up") from None
        self._received += piece
        self.bytes_read += len(piece)
        return bool(piece)

    def _take(self, count: int) -> bytes | None:
        while len(self._received) < count:
            if not self._more():
                return None
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    def everything(self) -> bytes:
        """What comes until the server hangs up (HTTP)."""
        while self._more():
            pass
        return bytes(self._received)

    def frame(self) -> tuple[int, bytes] | None:
        """Opcode and payload of the next frame; None when the server has hung up."""
        head = self._take(2)
        if head is None:
            return None
        size: int = head[1]
        if size >= 126:
            length = self._take(2 if size == 126 else 8)
            if length is None:
                return None
            size = int.from_bytes(length, "big")
        payload = self._take(size)
        return None if payload is None else (head[0] & 0x0F, payload)

    def wait_for_pong(self) -> None:
        """Until the server has taken in all that was sent: it answers pings in turn."""
        self.send(framed(b"all?", FINAL | PING))
        while (frame := self.frame()) != (PONG, b"all?"):
            if frame is None or frame[0] == CLOSE:
                raise Violation(f"the server hung up: {frame!r}")

    def greet(self, version: int) -> None:
        """Say hello, and read the reply."""
        self.send(framed(HELLO[version]))
        reply = self.frame()
        if reply is None or b"hello_reply" not in reply[1]:
            raise Violation(f"hello was answered with {reply!r}")

    def ending(self) -> Ending:
        """Read until the server closes, and let it."""
        found = Ending(None)
        while frame := self.frame():
            opcode, payload = frame
            found.frames += 1
            if opcode == CLOSE:
                found.code = int.from_bytes(payload[:2], "big") if payload else 1005
                self.send(framed(payload, FINAL | CLOSE))
            elif payload[1:].startswith(_ERROR):
                found.error = payload
        found.bytes_read = self.bytes_read
        return found

    def refusal(self) -> Ending:
        """The ending, which must be an error that the server has told."""
        found = self.ending()
        if found.error is None or found.code in (None, 1000, 1003):
            raise Violation(f"what is hostile was answered with {found!r}")
        return found


class Target:
    """The server, and the database whose content nothing may change."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.process_id: int = world.server.process.pid
        # What a server needs for its first sessions is not what is hostile about the next.
        for way in ("push", "pull"):
            for version in (1, 2):
                with self.session(way, version) as line:
                    line.send(framed(b""))
                    line.refusal()
        self.require_untouched()

    def http(self, head: bytes) -> Line:
        return Line(self._world.server.port, head)

    def line(self, way: str, receive_bytes: int | None = None) -> Line:
        head = upgrade_request(self._world.tokens[way])
        return Line(self._world.server.port, head, receive_bytes)

    def session(self, way: str, version: int, receive_bytes: int | None = None) -> Line:
        """A connection on which hello has been said, and answered."""
        line = self.line(way, receive_bytes)
        line.greet(version)
        return line

    def slow_session(self, way: str, version: int) -> Line:
        """Of a client that has little room for what it does not read."""
        return self.session(way, version, _SMALL)

    def require_untouched(self) -> None:
        """The head, and every page of it, are what they were."""
        self._world.check(acknowledged=self._world.known)
