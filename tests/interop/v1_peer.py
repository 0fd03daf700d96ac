"""A v1 client written from design §5 alone: its own codec, pushes, pulls and every rudeness.

It shares no code with the project, so that agreement between the two is evidence. It speaks
through `websockets` and `msgpack` and knows pages only as bytes.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import msgpack
from blake3 import blake3
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

PAGE_SIZE = 4096
PATIENCE_SECONDS = 20

Message = tuple[str, Any]


def encode(kind: str, data: Mapping[str, Any] | None = None, *, version: int = 1) -> bytes:
    """`[u8 version] ++ msgpack({"kind", "data"})`; a kind without data has no `data` key."""
    body: dict[str, Any] = {"kind": kind}
    if data is not None:
        body["data"] = dict(data)
    packed: bytes = msgpack.packb(body, use_bin_type=True)
    return bytes([version]) + packed


def decode(frame: bytes) -> Message:
    assert isinstance(frame, bytes), "only binary frames are allowed"
    assert frame[0] == 1, f"version byte {frame[0]}"
    body = msgpack.unpackb(frame[1:], raw=False)
    assert set(body) <= {"kind", "data"}, body
    return body["kind"], body.get("data")


def page_hash(page: bytes) -> bytes:
    return blake3(page).digest()


def combined_hash(pages: Sequence[bytes]) -> bytes:
    return blake3(b"".join(page_hash(page) for page in pages)).digest()


def named_pages(kind: str, data: Any) -> list[int]:
    """The pages a request or mismatch frame names."""
    if kind in ("request_page", "hash_mismatch"):
        assert set(data) == {"page_no"}, data
        return [data["page_no"]]
    if kind in ("request_pages", "hash_mismatch_batch"):
        assert set(data) == {"page_numbers"}, data
        return list(data["page_numbers"])
    raise AssertionError(f"unexpected {kind}")


@dataclass
class Ending:
    """What came before the connection closed, and how it closed."""

    messages: list[Message]
    close_code: int | None

    @property
    def error(self) -> str | None:
        """The text of the error frame, which §5 wants to be the last frame."""
        if self.messages and self.messages[-1][0] == "error":
            data = self.messages[-1][1]
            assert set(data) == {"message"}, data
            return str(data["message"])
        return None


class Session:
    """One open connection, frame by frame."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, kind: str, **data: Any) -> None:
        await self.send_frame(encode(kind, data or None))

    async def send_frame(self, frame: bytes | str) -> None:
        # A server may refuse while we still talk; the ending tells, not the send.
        with suppress(ConnectionClosed):
            await self._connection.send(frame)

    async def receive(self) -> Message:
        frame = await asyncio.wait_for(self._connection.recv(), PATIENCE_SECONDS)
        assert isinstance(frame, bytes)
        return decode(frame)

    async def hello(self, page_size: int = PAGE_SIZE, max_page: int = 0) -> dict[str, int]:
        await self.send("hello", protocol_version=1, page_size=page_size, max_page=max_page)
        kind, data = await self.receive()
        assert kind == "hello_reply", (kind, data)
        assert set(data) == {"protocol_version", "page_size", "max_page"}, data
        assert data["protocol_version"] == 1
        return dict(data)

    async def announce(self, number: int, page: bytes) -> None:
        await self.send("page_hash", page_no=number, hash=page_hash(page))

    async def announce_range(self, start: int, pages: Sequence[bytes]) -> None:
        await self.send(
            "page_hash_batch",
            start_page=start,
            end_page=start + len(pages) - 1,
            combined_hash=combined_hash(pages),
        )

    async def ending(self) -> Ending:
        """Read until the server closes."""
        messages: list[Message] = []
        with suppress(ConnectionClosed):
            while True:
                messages.append(await self.receive())
        return Ending(messages, self._connection.close_code)

    def cut(self) -> None:
        """Drop the TCP connection without a closing handshake."""
        self._connection.transport.abort()


@asynccontextmanager
async def session(url: str, token: str | None) -> AsyncIterator[Session]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    connection = await connect(
        url, additional_headers=headers, compression=None, max_size=None, proxy=None
    )
    try:
        yield Session(connection)
    finally:
        # A connection that was cut, by either side, has no closing handshake left to make.
        if connection.state is State.OPEN:
            await connection.close()


@dataclass
class Pushed:
    """What a push saw. `sent` are the pages whose data went out, in order."""

    reply: dict[str, int]
    sent: list[int] = field(default_factory=list)
    ending: Ending | None = None

    @property
    def sync_complete(self) -> dict[str, int]:
        assert self.ending is not None
        assert self.ending.messages, self.ending
        kind, data = self.ending.messages[-1]
        assert kind == "sync_complete", self.ending.messages[-1]
        return dict(data)


async def push(
    url: str,
    token: str,
    pages: Sequence[bytes],
    *,
    page_size: int = PAGE_SIZE,
    max_page: int | None = None,
    span: int = 0,
    on_mismatch: Literal["data", "hash"] = "data",
    data_pages: int = 1,
    sent_before_complete: int = 0,
    cut_after: int | None = None,
) -> Pushed:
    """Push `pages` (page 1 first) and serve the server's requests until it closes.

    `span` > 0 announces ranges of so many pages instead of single pages. A range's mismatch is
    answered with data, or (`on_mismatch="hash"`) with its single hashes. `data_pages` > 1 sends
    batches. `complete` goes out once `sent_before_complete` pages were asked for and sent: 0 means
    at once, so that every request arrives after it. `cut_after` drops the connection after so many
    pages of data.
    """
    async with session(url, token) as peer:
        pushed = Pushed(await peer.hello(page_size, len(pages) if max_page is None else max_page))
        if span:
            for start in range(0, len(pages), span):
                await peer.announce_range(start + 1, pages[start : start + span])
        else:
            for number, page in enumerate(pages, 1):
                await peer.announce(number, page)
        completed = sent_before_complete == 0
        if completed:
            await peer.send("complete")
        messages: list[Message] = []
        with suppress(ConnectionClosed):
            while True:
                kind, data = await peer.receive()
                messages.append((kind, data))
                if kind in ("sync_complete", "error"):
                    continue
                wanted = [n for n in named_pages(kind, data) if n not in pushed.sent]
                if kind.startswith("hash_mismatch") and on_mismatch == "hash":
                    for number in wanted:
                        await peer.announce(number, pages[number - 1])
                    continue
                if cut_after is not None:
                    # However many pages one request names.
                    wanted = wanted[: cut_after - len(pushed.sent)]
                await _send_data(peer, pages, wanted, data_pages)
                pushed.sent += wanted
                if cut_after is not None and len(pushed.sent) >= cut_after:
                    peer.cut()
                    break
                if not completed and len(pushed.sent) >= sent_before_complete:
                    completed = True
                    await peer.send("complete")
        pushed.ending = Ending(messages, peer._connection.close_code)
        return pushed


async def _send_data(
    peer: Session, pages: Sequence[bytes], numbers: Sequence[int], data_pages: int
) -> None:
    if data_pages == 1:
        for number in numbers:
            await peer.send("page_data", page_no=number, data=pages[number - 1])
        return
    for start in range(0, len(numbers), data_pages):
        batch = [{"page_no": n, "data": pages[n - 1]} for n in numbers[start : start + data_pages]]
        await peer.send("page_data_batch", pages=batch)


@dataclass
class Pulled:
    """What a pull got. `pages` is the local copy afterwards, page 1 first."""

    reply: dict[str, int]
    received: list[int]
    pages: list[bytes]
    ending: Ending


async def pull(
    url: str,
    token: str,
    have: Sequence[bytes] = (),
    *,
    page_size: int = PAGE_SIZE,
    max_page: int | None = None,
    span: int = 0,
    mismatches_before_complete: int = 0,
) -> Pulled:
    """Pull into a copy that holds `have`.

    With `span` > 0 ranges are announced, and once `mismatches_before_complete` of their pages were
    named as mismatching, those are announced one by one and `complete` follows.
    """
    async with session(url, token) as peer:
        reply = await peer.hello(page_size, len(have) if max_page is None else max_page)
        copy = dict(enumerate(have, 1))
        if span:
            for start in range(0, len(have), span):
                await peer.announce_range(start + 1, have[start : start + span])
        else:
            for number, page in copy.items():
                await peer.announce(number, page)
        messages: list[Message] = []
        named = 0
        while named < mismatches_before_complete:
            message = await peer.receive()
            numbers = named_pages(*message)
            named += len(numbers)
            for number in numbers:
                await peer.announce(number, copy[number])
        await peer.send("complete")
        received: list[int] = []
        ending = await peer.ending()
        messages += ending.messages
        for kind, data in messages:
            for entry in _data_entries(kind, data):
                copy[entry["page_no"]] = entry["data"]
                received.append(entry["page_no"])
        count = reply["max_page"]
        pages = [copy[number] for number in range(1, count + 1) if number in copy]
        return Pulled(reply, received, pages, Ending(messages, ending.close_code))


def _data_entries(kind: str, data: Any) -> list[dict[str, Any]]:
    if kind == "page_data":
        entries = [data]
    elif kind == "page_data_batch":
        assert set(data) == {"pages"}, data
        entries = data["pages"]
    else:
        return []
    for entry in entries:
        assert set(entry) == {"page_no", "data"}, entry
    return list(entries)
