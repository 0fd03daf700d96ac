"""A wire that a test holds in its hands: frames wait until they are let through.

An end says when it waits for a frame, so that a test knows when everybody has done what they
could: no sleeping, no polling, whatever threads work underneath.
"""

import asyncio
from collections import Counter, deque

import msgpack

from edgereplica.adapters.frame_queue import FrameQueue
from edgereplica.adapters.ports import Buffer
from edgereplica.events.errors import EdgeReplicaError, NetworkError

FRAMES_OF_A_PUSH = 8
"""The least: hello, its reply, hashes, complete, the request, two pages one by one, the answer."""
HEAD_BYTES = 64
"""Of a frame: its kind is within them."""


class WireEnd:
    """One end, as a transport of the client or the server."""

    def __init__(self, wire: "Wire") -> None:
        self._wire = wire
        self._inbox = FrameQueue()
        self.held: deque[bytes] = deque()
        """What this end sent and nobody let through yet."""
        self.waiting = False
        self.ended: NetworkError | None = None
        self.said: Counter[str] = Counter()
        """The kinds of the frames that were let through."""
        self.bytes_sent = 0
        self.bytes_received = 0
        self.blocked_seconds = 0.0
        self.first_byte: int | None = None

    def take(self, frame: bytes) -> None:
        if self.first_byte is None:
            self.first_byte = frame[0]
        self.bytes_received += len(frame)
        self.waiting = False
        self._inbox.put(frame)

    def lose(self, why: str) -> None:
        if self.ended is None:
            self.ended = NetworkError(why)
            self.waiting = False
            self._inbox.end(self.ended)

    async def send(self, frame: Buffer) -> None:
        if self.ended is not None:
            raise self.ended
        interruption = self._inbox.take_interruption()
        if interruption is not None:
            raise interruption
        self.bytes_sent += len(frame)
        self.held.append(bytes(frame))
        self._wire.pump()

    async def receive(self) -> bytes:
        frame = self._inbox.receive_nowait()
        if frame is not None:
            return frame
        self.waiting = self.ended is None
        self._wire.moved.set()
        try:
            return await self._inbox.receive()
        finally:
            self.waiting = False

    def receive_nowait(self) -> bytes | None:
        return self._inbox.receive_nowait()

    def push_back(self, frame: bytes) -> None:
        self._inbox.push_back(frame)

    def interrupt(self, error: EdgeReplicaError) -> None:
        self.waiting = False
        self._inbox.interrupt(error)

    async def close(self, code: int, reason: str) -> None:
        """What was sent before is let through first; a wire held by hand loses nothing."""
        if self.ended is None:
            self._wire.flush(self)
            self.lose("closed")
            self._wire.peer(self).lose(f"closed by the peer ({code} {reason})")


class Wire:
    """A client's end and a server's. `moved` is set whenever an end stops or starts to wait.

    With `by_hand`, a frame waits for `step`. `cut_at` cuts the wire when its n-th frame is sent.
    """

    def __init__(self, moved: asyncio.Event, *, by_hand: bool, cut_at: int | None) -> None:
        self.moved = moved
        self._by_hand = by_hand
        self._cut_at = cut_at
        self.frames = 0
        self.was_cut = False
        self.client = WireEnd(self)
        self.server = WireEnd(self)

    def peer(self, end: WireEnd) -> WireEnd:
        return self.server if end is self.client else self.client

    @property
    def idle(self) -> bool:
        return self.client.waiting and self.server.waiting

    def pump(self) -> None:
        if not self._by_hand:
            self.flush(self.client)
            self.flush(self.server)

    def flush(self, end: WireEnd) -> None:
        while end.held and self._let_through(end):
            pass

    def step(self, from_client: bool) -> bool:
        """Let one frame through, of the named end if it has one; False if none waits."""
        first, second = (self.client, self.server) if from_client else (self.server, self.client)
        for end in (first, second):
            if end.held:
                self._let_through(end)
                return True
        return False

    def _let_through(self, end: WireEnd) -> bool:
        self.frames += 1
        if self.frames == self._cut_at:
            self.was_cut = True
            self.cut()
            return False
        frame = end.held.popleft()
        end.said[kind_of(frame)] += 1
        self.peer(end).take(frame)
        return True

    def cut(self) -> None:
        for end in (self.client, self.server):
            end.held.clear()
            end.lose("the connection was cut")


def kind_of(frame: bytes) -> str:
    """What a frame of either wire version says it is."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(frame[1:HEAD_BYTES])
    assert unpacker.read_map_header()
    assert unpacker.unpack() == "kind"
    return str(unpacker.unpack())
