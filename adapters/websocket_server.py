"""A WebSocket accepted by an ASGI server, as a transport.

A reader task keeps taking frames into a bounded queue, so that frames which have already arrived
can be taken together; a writer task sends from a bounded queue, so that a peer which announces a
lot before it reads does not stop this end from reading. Frame size is bounded by the server
(`FRAME_BYTES_MAX` → close 1009).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from ..events.errors import EdgeReplicaError, NetworkError, TextFrameReceived
from ..events.limits import CLOSE_SECONDS_MAX, OUTBOUND_BYTES_MAX
from .frame_queue import FrameQueue
from .ports import Buffer

AsgiReceive = Callable[[], Awaitable[MutableMapping[str, Any]]]
AsgiSend = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class AsgiTransport:
    """An accepted ASGI WebSocket. `async with` runs its two tasks."""

    def __init__(self, receive: AsgiReceive, send: AsgiSend) -> None:
        self._asgi_receive = receive
        self._asgi_send = send
        self._inbox = FrameQueue()
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._room = asyncio.Event()
        self._lost: NetworkError | None = None
        self._interrupted = False
        self._tasks: list[asyncio.Task[None]] = []
        self._waits = 0
        self._waiting = False
        self.frames_received = 0
        self.bytes_received = 0
        self.bytes_sent = 0

    @property
    def wait_number(self) -> int | None:
        """Which wait for the peer is going on, counted from 1; None while this end works."""
        return self._waits if self._waiting else None

    @contextmanager
    def _waits_for_peer(self) -> Iterator[None]:
        self._waits += 1
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    async def __aenter__(self) -> "AsgiTransport":
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self) -> None:
        while True:
            event = await self._asgi_receive()
            if event["type"] == "websocket.disconnect":
                self._lose(NetworkError(f"the peer disconnected ({event.get('code', 1005)})"))
                return
            frame = event.get("bytes")
            if frame is None:
                self._inbox.end(TextFrameReceived("a text frame; this protocol is binary"))
                return
            self.frames_received += 1
            self.bytes_received += len(frame)
            self._inbox.put(frame)
            await self._inbox.wait_room()

    async def _write(self) -> None:
        while True:
            while not self._outbox:
                self._drained.set()
                self._changed.clear()
                await self._changed.wait()
            frame = self._outbox.popleft()
            self._outbox_bytes -= len(frame)
            try:
                await self._asgi_send({"type": "websocket.send", "bytes": frame})
            except (OSError, RuntimeError) as error:
                self._lose(NetworkError(f"the connection is lost: {error}"))
                return
            if self._outbox_bytes < OUTBOUND_BYTES_MAX:
                self._room.set()

    def _lose(self, error: NetworkError) -> None:
        self._lost = error
        self._inbox.end(error)
        self._drained.set()
        self._room.set()

    @property
    def room_bytes(self) -> int:
        """What can be sent now without waiting for the peer to read."""
        return OUTBOUND_BYTES_MAX - self._outbox_bytes

    async def send(self, frame: Buffer) -> None:
        # Once interrupted, only the last words are sent: they do not wait for a peer that stalls.
        while (
            self._outbox_bytes >= OUTBOUND_BYTES_MAX
            and self._lost is None
            and not self._interrupted
        ):
            self._room.clear()
            with self._waits_for_peer():
                await self._room.wait()
        if self._lost is not None:
            raise self._lost
        interruption = self._inbox.take_interruption()
        if interruption is not None:
            raise interruption
        self._outbox.append(bytes(frame))
        self._outbox_bytes += len(frame)
        self.bytes_sent += len(frame)
        self._drained.clear()
        self._changed.set()

    async def receive(self) -> bytes:
        with self._waits_for_peer():
            return await self._inbox.receive()

    def receive_nowait(self) -> bytes | None:
        return self._inbox.receive_nowait()

    def push_back(self, frame: bytes) -> None:
        self._inbox.push_back(frame)

    def interrupt(self, error: EdgeReplicaError) -> None:
        """End the session with `error` at its next step (shutdown, database deleted)."""
        self._interrupted = True
        self._inbox.interrupt(error)
        self._room.set()

    async def close(self, code: int, reason: str) -> None:
        """Send what is queued, then the close frame; a peer that does not read is not waited for
        longer than `CLOSE_SECONDS_MAX`."""
        if self._lost is not None:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await self._drained.wait()
                await self._asgi_send({"type": "websocket.close", "code": code, "reason": reason})
        except (TimeoutError, OSError, RuntimeError):
            self._lose(NetworkError("the peer did not read the end of the session"))
