"""A v1 server written from design §5 alone, in memory: what a v1 client of ours must work with.

It also keeps the tests of v1 honest: each runs against this server and against the real one.
Accounts, history and durability are left out; a token is `push:<database>` or `pull:<database>`.
"""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import msgpack
from tests.interop.v1_peer import combined_hash, encode, page_hash
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

FRAME_BYTES_MAX = 16 * 1024 * 1024
RANGE_PAGES_MAX = 65_536


class Refused(Exception):
    """The session ends with an error frame and this close code."""

    def __init__(self, message: str, close_code: int = 1002) -> None:
        super().__init__(message)
        self.close_code = close_code


@dataclass
class Database:
    """The head, as pages; replaced as a whole."""

    page_size: int = 0
    pages: list[bytes] = field(default_factory=list)


class V1Server:
    """Serves on a thread of its own; `url` is where.

    `batch` > 1 asks for and sends so many pages in one frame; `late` keeps every request until
    `complete` has arrived; `cut_after` drops every session once that many frames have come.
    `requested` counts the pages asked for since it was last set.
    """

    def __init__(self, *, batch: int = 1, late: bool = False, cut_after: int = 0) -> None:
        self.batch = batch
        self.late = late
        self.cut_after = cut_after
        self.requested = 0
        self.databases: dict[str, Database] = {}
        self.url = ""
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stop = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        async with serve(
            self._session,
            "127.0.0.1",
            0,
            compression=None,
            max_size=FRAME_BYTES_MAX,
            process_request=self._authorize,
        ) as server:
            self.url = f"ws://127.0.0.1:{_port(server)}/sync"
            self._ready.set()
            await self._stop.wait()

    def _authorize(self, _: ServerConnection, request: Request) -> Response | None:
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        direction, _colon, name = bearer.partition(":")
        if direction not in ("push", "pull") or name not in self.databases:
            return Response(401, "Unauthorized", Headers())
        return None

    async def _session(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        bearer = connection.request.headers["Authorization"].removeprefix("Bearer ")
        direction, _, name = bearer.partition(":")
        session = _Session(connection, self, name, pushing=direction == "push")
        try:
            await session.run()
            await connection.close(1000)
        except Refused as refused:
            await connection.send(encode("error", {"message": str(refused)}))
            await connection.close(refused.close_code)
        except ConnectionClosed:
            return


def _port(server: Server) -> int:
    return int(next(iter(server.sockets)).getsockname()[1])


class _Session:
    """One push or pull. Nothing reaches the database before the very end."""

    def __init__(
        self,
        connection: ServerConnection,
        server: V1Server,
        name: str,
        *,
        pushing: bool,
    ) -> None:
        self._connection = connection
        self._server = server
        self._name = name
        self._head = server.databases[name]
        self._pushing = pushing
        self._page_size = 0
        self._frames = 0
        self._wanted: list[int] = []
        self._announced: dict[int, bytes] = {}
        self._seen_ranges: set[int] = set()
        self._outstanding: set[int] = set()
        self._staged: dict[int, bytes] = {}
        self._sent: set[int] = set()

    async def run(self) -> None:
        kind, data = await self._receive()
        if kind != "hello":
            raise Refused("the first frame must be hello")
        await self._hello(data)
        completed = False
        while not (completed and not self._outstanding):
            kind, data = await self._receive()
            if kind in ("page_data", "page_data_batch"):
                self._take(data["pages"] if kind == "page_data_batch" else [data])
            elif kind == "page_hash" and (not completed or data["page_no"] in self._outstanding):
                await self._page_hash(data)
            elif completed:
                raise Refused(f"{kind} after complete")
            elif kind == "page_hash_batch":
                await self._page_hash_batch(data)
            elif kind == "complete":
                completed = True
                await self._request()
            else:
                raise Refused(f"{kind} is not allowed now")
        await (self._commit() if self._pushing else self._stream())

    async def _receive(self) -> tuple[str, Any]:
        frame = await self._connection.recv()
        self._frames += 1
        if self._frames == self._server.cut_after:
            self._connection.transport.abort()
        if isinstance(frame, str):
            raise Refused("text frame", 1003)
        if not frame or frame[0] != 1:
            raise Refused("version byte")
        try:
            body = msgpack.unpackb(frame[1:], raw=False)
        except (ValueError, RecursionError) as failure:
            raise Refused(f"not a frame: {failure!r}") from None
        if not isinstance(body, dict) or not isinstance(body.get("kind"), str):
            raise Refused("not a frame: no kind")
        _check(body["kind"], body.get("data"))
        return body["kind"], body.get("data")

    async def _send(self, kind: str, **data: Any) -> None:
        await self._connection.send(encode(kind, data))

    async def _hello(self, data: Mapping[str, Any]) -> None:
        self._page_size = data["page_size"]
        if data["protocol_version"] != 1:
            raise Refused("protocol version")
        if not 512 <= self._page_size <= 65_536 or self._page_size & (self._page_size - 1):
            raise Refused("page size")
        await self._send(
            "hello_reply",
            protocol_version=1,
            page_size=self._head.page_size or self._page_size,
            max_page=len(self._head.pages),
        )

    def _held(self, number: int) -> bytes | None:
        """The head's page, if the head has it and in this page size."""
        if self._page_size == self._head.page_size and number <= len(self._head.pages):
            return self._head.pages[number - 1]
        return None

    async def _page_hash(self, data: Mapping[str, Any]) -> None:
        number, digest = data["page_no"], data["hash"]
        held = self._held(number)
        self._announced[number] = digest
        if held is not None and page_hash(held) == digest:
            self._staged[number] = held
            self._outstanding.discard(number)
        elif self._pushing:
            self._outstanding.add(number)
            self._wanted.append(number)
            if not self._server.late and len(self._wanted) >= self._server.batch:
                await self._request()
        elif held is not None:
            self._sent.add(number)
            await self._send("page_data", page_no=number, data=held)

    async def _request(self) -> None:
        """Ask for every wanted page."""
        wanted, self._wanted = self._wanted, []
        batch = self._server.batch
        self._server.requested += len(wanted)
        for start in range(0, len(wanted), batch):
            if batch == 1:
                await self._send("request_page", page_no=wanted[start])
            else:
                await self._send("request_pages", page_numbers=wanted[start : start + batch])

    async def _page_hash_batch(self, data: Mapping[str, Any]) -> None:
        first, last = data["start_page"], data["end_page"]
        if not 0 < first <= last < first + RANGE_PAGES_MAX:
            raise Refused("range")
        numbers = list(range(first, last + 1))
        held = [page for page in map(self._held, numbers) if page is not None]
        if len(held) == len(numbers) and combined_hash(held) == data["combined_hash"]:
            self._staged.update(zip(numbers, held, strict=True))
            self._seen_ranges.update(numbers)
            return
        if self._pushing:
            self._outstanding.update(numbers)
        await self._send("hash_mismatch_batch", page_numbers=numbers)

    def _take(self, entries: list[Mapping[str, Any]]) -> None:
        if not self._pushing:
            raise Refused("a pull token cannot write", 1008)
        for entry in entries:
            number, page = entry["page_no"], entry["data"]
            if number not in self._outstanding:
                raise Refused(f"page {number} was not asked for")
            if len(page) != self._page_size:
                raise Refused(f"page {number} has {len(page)} bytes")
            if page_hash(page) != self._announced.get(number, page_hash(page)):
                raise Refused(f"page {number} is not what was announced")
            self._outstanding.discard(number)
            self._staged[number] = page
            self._sent.add(number)

    async def _commit(self) -> None:
        if self._staged:
            count = max(self._staged)
            if len(self._staged) != count:
                raise Refused("a page was never announced")
            pages = [self._staged[number] for number in range(1, count + 1)]
            self._server.databases[self._name] = Database(self._page_size, pages)
        await self._finish()

    async def _stream(self) -> None:
        missing = [
            number
            for number in range(1, len(self._head.pages) + 1)
            if self._held(number) is None
            or (number not in self._announced and number not in self._seen_ranges)
        ]
        self._sent.update(missing)
        batch = self._server.batch
        for start in range(0, len(missing), batch):
            entries = [
                {"page_no": number, "data": self._head.pages[number - 1]}
                for number in missing[start : start + batch]
            ]
            if batch == 1:
                await self._send("page_data", **entries[0])
            else:
                await self._send("page_data_batch", pages=entries)
        await self._finish()

    async def _finish(self) -> None:
        size = self._page_size if self._pushing else self._head.page_size
        await self._send(
            "sync_complete",
            pages_transferred=len(self._sent),
            bytes_transferred=len(self._sent) * size,
        )


_FIELDS: dict[str, dict[str, type]] = {
    "hello": {"protocol_version": int, "page_size": int, "max_page": int},
    "page_hash": {"page_no": int, "hash": bytes},
    "page_hash_batch": {"start_page": int, "end_page": int, "combined_hash": bytes},
    "page_data": {"page_no": int, "data": bytes},
    "page_data_batch": {"pages": list},
}


def _check(kind: str, data: Any) -> None:
    if kind == "complete":
        return
    fields = _FIELDS.get(kind)
    if fields is None or not isinstance(data, dict):
        raise Refused(f"unknown or malformed {kind}")
    for name, wanted in fields.items():
        value = data.get(name)
        if type(value) is not wanted:
            raise Refused(f"{kind}.{name}")
        if isinstance(value, int) and not 0 <= value <= 0xFFFF_FFFF:
            raise Refused(f"{kind}.{name}")
        if name in ("hash", "combined_hash") and len(data[name]) != 32:
            raise Refused(f"{kind}.{name}")
    if not 1 <= data.get("page_no", 1) <= 0xFFFF_FFFE:
        raise Refused("SQLite has no such page")
    for entry in data.get("pages", []):
        _check("page_data", entry)
