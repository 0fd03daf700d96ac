"""Connections that delay, cut, stall, double and are half open; what is sent goes into the trace.

Each direction keeps its order; the directions, and the connections among each other, do not. A
fault strikes when the connection's n-th frame is sent:

- `cut`: both ends lose the connection, each when it notices; frames on their way are lost.
- `client_gone`: the client has lost it at once. What it had sent still arrives, and the server
  goes on alone for a while: a retry then runs beside the old session.
- `server_gone`: the same from the server's side.
- `stall`: the frame and all behind it take minutes.

A connection may have a twin, which the client knows nothing of: the server hears the client's first
frames there a second time, or nothing at all, and answers into the void.
"""

import asyncio
import struct
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Literal

from xxhash import xxh3_64

from edgereplica.adapters.frame_queue import FrameQueue
from edgereplica.adapters.ports import Buffer
from edgereplica.events.errors import NetworkError

FaultKind = Literal["cut", "client_gone", "server_gone", "stall"]
FAULT_KINDS: tuple[FaultKind, ...] = ("cut", "client_gone", "server_gone", "stall")
COUNTED: dict[FaultKind, str] = {
    "cut": "cuts",
    "client_gone": "connections lost to the client alone",
    "server_gone": "connections lost to the server alone",
    "stall": "stalls",
}
STALL_SECONDS = 120.0
NOTICE_SECONDS_MAX = 20.0
STEP_SECONDS = 0.0001
_now = struct.Struct("<d").pack


class Trace:
    """A running hash of everything that happened, in order, with its time; `notes` are the words,
    if they are wanted."""

    def __init__(self, *, words: bool = False) -> None:
        self._hash = xxh3_64()
        self._words = words
        self.notes: list[str] = []

    def frame(self, now: float, name: str, frame: Buffer) -> None:
        self._hash.update(_now(now))
        self._hash.update(name.encode())
        self._hash.update(frame)
        if self._words:
            self.notes.append(f"{now:10.3f} {name} {bytes(frame[:60])!r}")

    def note(self, now: float, words: str) -> None:
        self._hash.update(_now(now))
        self._hash.update(words.encode())
        if self._words:
            self.notes.append(f"{now:10.3f} {words}")

    def bytes(self, data: Buffer) -> None:
        self._hash.update(data)

    def digest(self) -> str:
        return str(self._hash.hexdigest())


@dataclass(slots=True)
class Fault:
    kind: FaultKind
    at_frame: int


class Connection:
    """Two ends and what lies between them. `pace` stretches stalls."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        rng: Random,
        trace: Trace,
        counts: Counter[str],
        name: str,
        fault: Fault | None = None,
        pace: float = 1.0,
    ) -> None:
        self._rng = rng
        self._trace = trace
        self._counts = counts
        self._fault = fault
        self._pace = pace
        self._frames = 0
        self._loop = loop
        self.client = End(self, loop, f"{name}>")
        self.server = End(self, loop, f"{name}<")
        self.client.peer, self.server.peer = self.server, self.client
        self._twin: Connection | None = None
        self._frames_doubled = 0

    def doubled(self, frames: int) -> "Connection":
        """A twin, on which the client's first `frames` frames arrive too."""
        twin = Connection(self._loop, self._rng, self._trace, self._counts, f"{self.client.name}2")
        twin.client.deaf = True
        self._twin, self._frames_doubled = twin, frames
        return twin

    def carry(self, sender: "End", frame: bytes) -> None:
        now = self._loop.time()
        self._trace.frame(now, sender.name, frame)
        delay = 0.001 + self._rng.random() * 0.05
        self._frames += 1
        if self._twin is not None and sender is self.client and self._frames_doubled:
            self._frames_doubled -= 1
            self._twin.carry(self._twin.client, frame)
        fault = self._fault
        if fault is not None and self._frames == fault.at_frame:
            if fault.kind == "stall":
                self._counts[COUNTED["stall"]] += 1
                delay += STALL_SECONDS * self._pace * self._rng.random()
            else:
                self._counts[COUNTED[fault.kind]] += 1
                self.strike(fault.kind)
                if fault.kind == "cut":
                    return
        # Two timers of the same moment would ring in the order of their making, which is no
        # network's.
        sender.due = max(sender.due + STEP_SECONDS, now + delay)
        self._loop.call_at(sender.due, sender.peer.arrive, frame)

    def strike(self, kind: FaultKind) -> None:
        self._trace.note(self._loop.time(), f"{self.client.name} {kind}")
        later = self._rng.random() * NOTICE_SECONDS_MAX
        client, server = self.client, self.server
        if kind == "cut":
            client.deaf = server.deaf = True
            client.lose()
            self._loop.call_later(later, server.lose)
            return
        gone, left = (client, server) if kind == "client_gone" else (server, client)
        gone.deaf = True
        gone.lose()
        self._loop.call_at(max(gone.due, self._loop.time()) + later, left.lose)

    def left(self, end: "End") -> None:
        """`end` has lost the connection; the server notices on the twin too, in its time."""
        twin = self._twin
        if twin is not None and end is self.client:
            self._twin = None
            later = (
                max(twin.client.due, self._loop.time()) + self._rng.random() * NOTICE_SECONDS_MAX
            )
            self._loop.call_at(later, twin.server.lose)


class End:
    """One end, as a transport; `deaf` takes nothing that arrives from now on."""

    peer: "End"

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._connection = connection
        self._loop = loop
        self.name = name
        self._inbox = FrameQueue()
        self._ended: NetworkError | None = None
        self.due = 0.0
        self.deaf = False
        self.bytes_sent = 0
        self.bytes_received = 0
        self.blocked_seconds = 0.0
        self.first_byte: int | None = None
        self.receive = self._inbox.receive
        self.receive_nowait = self._inbox.receive_nowait
        self.push_back = self._inbox.push_back
        self.interrupt = self._inbox.interrupt

    def arrive(self, frame: bytes) -> None:
        if self.deaf:
            return
        if self.first_byte is None:
            self.first_byte = frame[0]
        self.bytes_received += len(frame)
        self._inbox.put(frame)

    def lose(self, why: str = "the connection was lost") -> None:
        if self._ended is None:
            self._ended = NetworkError(why)
            self._inbox.end(self._ended)
            self._connection.left(self)

    async def send(self, frame: Buffer) -> None:
        if self._ended is not None:
            raise self._ended
        interruption = self._inbox.take_interruption()
        if interruption is not None:
            raise interruption
        self.bytes_sent += len(frame)
        self._connection.carry(self, bytes(frame))

    async def close(self, code: int, reason: str) -> None:
        """What was sent before still arrives; then the peer hears the end."""
        if self._ended is not None:
            return
        self.lose("closed")
        self.due = max(self.due, self._loop.time()) + STEP_SECONDS
        self._loop.call_at(self.due, self.peer.lose, f"closed by the peer ({code} {reason})")
