"""The client's WebSocket against a server that is made of bytes."""

import asyncio
import base64
import gc
import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edgereplica.adapters.websocket_client import connect
from edgereplica.events.errors import EdgeReplicaError, NetworkError
from edgereplica.events.limits import CLIENT_FRAME_BYTES_MAX

SECONDS_MAX = 10
BLOCKED_SECONDS = 0.5
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The server's side of a handshake (RFC 6455 §4.2.2)."""
    head = await reader.readuntil(b"\r\n\r\n")
    key = next(
        line.split(b":", 1)[1].strip()
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key:")
    )
    accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    await writer.drain()


@pytest.mark.parametrize(
    ("header", "body", "said"),
    [
        (b"", b"[" * 100_000, "does not accept this token"),
        (
            b"Retry-After: " + b"9" * 5000 + b"\r\n",
            b'{"code": "resource_exhausted", "message": "later"}',
            "later",
        ),
    ],
    ids=["deep", "late"],
)
def test_a_refusal_that_cannot_be_read_is_still_a_refusal(
    header: bytes, body: bytes, said: str
) -> None:
    async def scenario() -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 401 Unauthorized\r\n" + header)
            writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(EdgeReplicaError, match=said) as caught:
                await connect(f"ws://127.0.0.1:{port}/sync", "token")
        assert "retry_after_seconds" not in caught.value.details

    asyncio.run(scenario())


def test_whoever_sends_into_a_lost_connection_is_told_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And not with a frame that goes nowhere."""
    caplog.set_level(logging.WARNING)

    async def scenario() -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _greet(reader, writer)
            await reader.readexactly(1)
            writer.transport.abort()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            transport = await connect(f"ws://127.0.0.1:{port}/sync", "token")
            await transport.send(b"first")
            with pytest.raises(NetworkError):
                await transport.receive()
            with pytest.raises(NetworkError):
                await transport.send(b"second")
            await transport.close(1000, "")

    asyncio.run(scenario())
    assert not caplog.records


def test_frames_sent_in_a_row_stop_where_the_connection_broke(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They once went on into it, and the library wrote a warning for each to the terminal."""
    caplog.set_level(logging.WARNING)

    async def scenario() -> None:
        aborted = asyncio.Event()

        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _greet(reader, writer)
            writer.transport.abort()
            aborted.set()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            transport = await connect(f"ws://127.0.0.1:{port}/sync", "token")
            await aborted.wait()
            with pytest.raises(NetworkError):
                for _ in range(50):
                    await transport.send(b"x" * 1000)  # does not yield: the buffer has room

    asyncio.run(scenario())
    assert not caplog.records


def test_a_connection_whose_peer_does_not_read_is_closed_all_the_same() -> None:
    """What waits to be sent once kept the socket open for good, when a sync was given up."""

    async def scenario() -> None:
        ended = asyncio.Event()

        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _greet(reader, writer)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await ended.wait()
            writer.transport.abort()

        server = await asyncio.start_server(stall, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            transport = await connect(f"ws://127.0.0.1:{port}/sync", "token")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(BLOCKED_SECONDS):
                    while True:
                        await transport.send(bytes(1 << 20))
            await transport.close(1000, "")
            async with asyncio.timeout(SECONDS_MAX):
                with pytest.raises(NetworkError):
                    await transport.receive()
            ended.set()

    asyncio.run(scenario())


def test_a_message_in_many_fragments_is_put_together() -> None:
    """Empty ones among them: each once stayed in memory, and made the next one dearer."""
    first, more, last = b"\x02", b"\x00", b"\x80"  # RFC 6455 §5.2: binary, continuation, the end
    empty = 50_000

    async def scenario() -> bytes:
        async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _greet(reader, writer)
            writer.write(first + b"\x00" + (more + b"\x00") * empty)
            writer.write((more + b"\x01x") * 3 + last + b"\x01y" + b"\x82\x01z")
            await writer.drain()
            await reader.read()
            writer.close()

        server = await asyncio.start_server(dribble, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            transport = await connect(f"ws://127.0.0.1:{port}/sync", "token")
            async with asyncio.timeout(SECONDS_MAX):
                whole = await transport.receive() + b"," + await transport.receive()
            await transport.close(1000, "")
            return whole

    assert asyncio.run(scenario()) == b"xxxy,z"


@pytest.mark.parametrize("length", [CLIENT_FRAME_BYTES_MAX + 1, 1 << 40])
def test_a_frame_that_cannot_be_read_says_nothing_on_the_terminal(
    capfd: pytest.CaptureFixture[str], length: int
) -> None:
    """Its error once stood there with a traceback, after whatever the command had to say."""

    async def scenario() -> None:
        async def claim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _greet(reader, writer)
            writer.write(b"\x82\x7f" + length.to_bytes(8, "big"))
            await reader.read()
            writer.close()

        server = await asyncio.start_server(claim, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            transport = await connect(f"ws://127.0.0.1:{port}/sync", "token")
            async with asyncio.timeout(SECONDS_MAX):
                with pytest.raises(NetworkError):
                    await transport.receive()

    with closed_to_pytest(logging.getLogger()):
        asyncio.run(scenario())
        gc.collect()
    assert capfd.readouterr() == ("", "")


@contextmanager
def closed_to_pytest(logger: logging.Logger) -> Iterator[None]:
    """Without pytest's handlers, what no handler takes goes to standard error, as in a command."""
    handlers, logger.handlers = logger.handlers, []
    try:
        yield
    finally:
        logger.handlers = handlers
