"""Connections that ask for nothing, or never end asking."""

import asyncio
import socket
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from edgereplica.app.client_address import ClientAddresses, parse_networks
from edgereplica.app.connections import Connections, protocols_of
from edgereplica.app.serve import listen

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
PONGS_UNREAD_MAX = 512 * 1024
"""What of pongs the kernel did not take: up to asyncio's mark, and behind one read of pings."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "bytes": event["bytes"]})
        return
    while (await receive()).get("more_body"):
        pass
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


async def until(true: Callable[[], bool]) -> None:
    while True:
        if true():
            return
        await asyncio.sleep(0)


def serving(
    check: Callable[[int], Awaitable[None]], connections: Connections, seconds: float
) -> None:
    async def main() -> None:
        http, websocket = protocols_of(connections, seconds)
        config = uvicorn.Config(app, http=http, ws=websocket, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        sockets = listen("127.0.0.1", 0)
        task = asyncio.create_task(server._serve(sockets))
        await until(lambda: server.started)
        try:
            await check(sockets[0].getsockname()[1])
        finally:
            server.should_exit = True
            await task

    asyncio.run(asyncio.wait_for(main(), 60))


async def talk(port: int, *parts: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    return reader, writer


async def end_of(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def test_a_request_that_never_arrives_whole_is_cut() -> None:
    async def check(port: int) -> None:
        for parts in ([], [b"GET"], [HEAD], [HEAD, b"\r\n", b"abc"]):
            reader, writer = await talk(port, *parts)
            assert await end_of(reader) == b"", parts
            writer.close()
        # Neither does a second one on a connection that was good once.
        reader, writer = await talk(port, HEAD, b"\r\nabcde")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.write(HEAD)
        assert await end_of(reader) == b""
        writer.close()

    serving(check, Connections(), 0.2)


def test_a_long_session_is_not_cut() -> None:
    async def check(port: int) -> None:
        reader, writer = await talk(port, HEAD, b"\r\nabcde")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        socket_reader, socket_writer = await talk(port, HANDSHAKE)
        assert b"101" in await socket_reader.readline()
        for _ in range(3):  # each of these connections takes its deadline to be cut
            other, closing = await talk(port)
            assert await end_of(other) == b""
            closing.close()
        assert not socket_reader.at_eof()
        writer.write(HEAD + b"\r\nabcde")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        for each in (writer, socket_writer):
            each.close()

    serving(check, Connections(), 0.2)


def test_an_address_has_so_many_connections_and_gets_them_back() -> None:
    connections = Connections(3)

    async def check(port: int) -> None:
        held = [await talk(port, HEAD) for _ in range(3)]
        reader, writer = await talk(port)
        assert (await reader.read()).startswith(b"HTTP/1.1 429 ")
        writer.close()
        for _, writer in held:
            writer.close()
        await until(lambda: not len(connections))
        reader, writer = await talk(port, HEAD, b"\r\nabcde")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.close()
        await until(lambda: not len(connections))

    serving(check, connections, 30)


def test_a_trusted_proxy_may_have_as_many_as_it_needs() -> None:
    trusted = ClientAddresses(parse_networks("127.0.0.0/8", "TRUSTED_PROXIES"))

    async def check(port: int) -> None:
        held = [await talk(port, HEAD, b"\r\nabcde") for _ in range(9)]
        for reader, writer in held:
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            writer.close()

    serving(check, Connections(3, trusted), 30)


def framed(head: int, data: bytes) -> bytes:
    """A short frame of a client (RFC 6455 §5.2), under a mask of zeros."""
    return bytes([head, 0x80 | len(data)]) + bytes(4) + data


async def unframed(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The first byte and the payload of a short frame of the server."""
    head, length = await reader.readexactly(2)
    return head, await reader.readexactly(length)


@pytest.mark.parametrize("piece", [b"", b"ab"], ids=["empty", "tiny"])
def test_fragments_take_no_more_memory_than_their_bytes(piece: bytes) -> None:
    """3,000,000 of two bytes took 169 MiB; empty ones could go on for ever."""
    count = 100_000

    async def check(port: int) -> None:
        reader, writer = await talk(port, HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        fragments = framed(0, piece) * (count // 100)
        writer.write(framed(0x02, b"first"))
        tracemalloc.start()
        try:
            for _ in range(100):
                writer.write(fragments)
                await writer.drain()
            writer.write(framed(0x89, b"all?"))
            # A pong comes when everything before the ping is taken in.
            assert await unframed(reader) == (0x8A, b"all?")
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 2 * count * len(piece) + 256 * 1024
        writer.write(framed(0x80, b"last"))
        head, length = await reader.readexactly(2)
        if length == 127:
            length = int.from_bytes(await reader.readexactly(8), "big")
        assert head == 0x82
        assert await reader.readexactly(length) == b"first" + count * piece + b"last"
        # The next message begins anew.
        writer.write(framed(0x02, b"a") + framed(0x80, b"b") + framed(0x82, b"c"))
        assert [await unframed(reader) for _ in range(2)] == [(0x82, b"ab"), (0x82, b"c")]
        writer.close()

    serving(check, Connections(), 30)


def test_pings_of_a_peer_that_does_not_read_are_not_piled_up() -> None:
    connections = Connections()

    async def check(port: int) -> None:
        small = socket.create_connection(("127.0.0.1", port))
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        reader, writer = await asyncio.open_connection(sock=small)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        (server_end,) = connections._keys
        assert isinstance(server_end, asyncio.WriteTransport)
        writer.transport.pause_reading()
        pings, most = framed(0x89, bytes(125)) * 1000, 0
        try:
            for _ in range(100):
                writer.write(pings)
                await until(lambda: not writer.transport.get_write_buffer_size())
                most = max(most, server_end.get_write_buffer_size())
            _, high = server_end.get_write_buffer_limits()
            assert high < most < PONGS_UNREAD_MAX
            # Once it reads again it hears of the latest.
            writer.write(framed(0x89, b"latest"))
            await until(lambda: not writer.transport.get_write_buffer_size())
            writer.transport.resume_reading()
            while (answer := await unframed(reader)) != (0x8A, b"latest"):
                assert answer == (0x8A, bytes(125))
        finally:
            writer.transport.abort()

    serving(check, connections, 30)
