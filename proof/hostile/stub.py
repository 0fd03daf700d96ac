"""A server made of bytes: it greets a client's WebSocket, and says what it was given to say.

What it says, and why, is `lies`' business. It runs in a thread of its own, and hears the client
only so that the client is never held up.
"""

import asyncio
import base64
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, Self

import msgpack

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_LINGER_SECONDS: Final = 0.2
"""After everything is said: until the client hangs up, or is hung up on."""
_CLOSE: Final = b"\x88\x02\x03\xe8"

Pieces = Callable[[], Iterable[bytes]]
"""What is written to the connection once the client has said hello, piece by piece."""


def frame(payload: bytes, head: int = 0x82) -> bytes:
    """A server's WebSocket frame (RFC 6455 §5.2); `head` is FIN and the opcode."""
    if len(payload) < 126:
        return bytes((head, len(payload))) + payload
    if len(payload) < 1 << 16:
        return bytes((head, 126)) + len(payload).to_bytes(2, "big") + payload
    return bytes((head, 127)) + len(payload).to_bytes(8, "big") + payload


def message(wire: int, kind: str, /, **data: Any) -> bytes:
    return frame(bytes((wire,)) + bytes(msgpack.packb({"kind": kind, "data": data})))


class Stub:
    """Listens while the `with` block lasts. `pieces` is what the next clients are told."""

    def __init__(self) -> None:
        self.pieces: Pieces = tuple
        self.greets = True
        """Whether the handshake is answered as it should be; else `pieces` is all there is."""
        self.failure: Exception | None = None
        """A mistake of the stub's own."""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            self.base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            self._ready.set()
            await self._ended.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that hangs up in the middle of a lie does well.
        with suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            head = await reader.readuntil(b"\r\n\r\n")
            if self.greets:
                writer.write(_greeting(head))
                await reader.readexactly(1)
            listening = asyncio.create_task(_hear(reader))
            try:
                for piece in self.pieces():
                    writer.write(piece)
                    await writer.drain()
                if self.greets:
                    await asyncio.wait((listening,), timeout=_LINGER_SECONDS)
                    writer.write(_CLOSE)
                    await writer.drain()
                    await asyncio.wait((listening,), timeout=_LINGER_SECONDS)
            except (ConnectionError, TimeoutError):
                raise
            except Exception as error:  # noqa: BLE001 - raised by whoever runs the check
                self.failure = error
            finally:
                listening.cancel()
        writer.transport.abort()


async def _hear(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        while await reader.read(1 << 16):
            pass


def _greeting(head: bytes) -> bytes:
    """The answer to the handshake (RFC 6455 §4.2.2)."""
    keys: Iterator[bytes] = (
        line.split(b":", 1)[1].strip()
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key:")
    )
    accept = base64.b64encode(hashlib.sha1(next(keys) + _GUID).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
