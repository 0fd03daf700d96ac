"""Connections that delay, cut, stall and are half open; what is sent is hashed into the trace.

Each direction keeps its order; the directions, and the connections among each other, do not. A
fault strikes when the connection's n-th frame is sent:

- `cut`: both ends lose the connection, each when it notices; frames on their way are lost.
- `client_gone`: the client has lost it at once. What it had sent still arrives, and the server
  goes on alone for a while: a retry then runs beside the old session.
- `server_gone`: the same from the server's side.
- `stall`: the frame and all behind it take minutes.
"""

import asyncio
import struct
from dataclasses import dataclass
from random import Random
from typing import Literal

from xxhash import xxh3_64

from edgereplica.adapters.frame_queue import FrameQueue
from edgereplica.adapters.ports import Buffer
from edgereplica.events.errors import EdgeReplicaError, NetworkError

FaultKind = Literal["cut", "client_gone", "server_gone", "stall"]
STALL_SECONDS = 120.0
NOTICE_SECONDS_MAX = 20.0
STEP_SECONDS = 0.0001


class Trace:
    """A running hash of everything that happened, in order, with its time."""

    def __init__(self) -> None:
        self._hash = xxh3_64()
        self.notes: list[str] | None = None
        """Set to a list to keep the words too."""

    def frame(self, now: float, name: str, frame: Buffer) -> None:
        self._hash.update(struct.pack("<d", now))
        self._hash.update(name.encode())
        self._hash.update(frame)
        if self.notes is not None:
            self.notes.append(f"{now:10.3f} {name} {bytes(frame[:60])!r}")

    def note(self, now: float, words: str) -> None:
        self._hash.update(struct.pack("<d", now))
        self._hash.update(words.encode())
        if self.notes is not None:
            self.notes.append(f"{now:10.3f} {words}")

    def digest(self) -> str:
        return str(self._hash.hexdigest())


@dataclass(slots=True)
class Fault:
    kind: FaultKind
    at_frame: int


class Connection:
    """Two ends and what lies between them."""

    def __init__(self, rng: Random, trace: Trace, name: str, fault: Fault | None) -> None:
        self._rng = rng
        self._trace = trace
        self._fault = fault
        self._frames = 0
        self._loop = asyncio.get_running_loop()
        self.client = End(self, f"{name}>")
        self.server = End(self, f"{name}<")
        self.client.peer, self.server.peer = self.server, self.client

    def carry(self, sender: "End", frame: bytes) -> None:
        now = self._loop.time()
        self._trace.frame(now, sender.name, frame)
        delay = 0.001 + self._rng.random() * 0.05
        self._frames += 1
        fault = self._fault
        if fault is not None and self._frames == fault.at_frame:
            if fault.kind == "stall":
                delay += STALL_SECONDS * self._rng.random()
            else:
                self.strike(fault.kind)
                if fault.kind == "cut":
                    return
        # Two timers of the same moment would ring in any order.
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


class End:
    """One end, as a transport; `deaf` takes nothing that arrives from now on."""

    peer: "End"

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self.name = name
        self._inbox = FrameQueue()
        self._ended: NetworkError | None = None
        self.due = 0.0
        self.deaf = False
        self.bytes_sent = 0
        self.bytes_received = 0
        self.blocked_seconds = 0.0
        self.first_byte: int | None = None

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

    async def send(self, frame: Buffer) -> None:
        if self._ended is not None:
            raise self._ended
        interruption = self._inbox.take_interruption()
        if interruption is not None:
            raise interruption
        self.bytes_sent += len(frame)
        self._connection.carry(self, bytes(frame))

    async def receive(self) -> bytes:
        return await self._inbox.receive()

    def receive_nowait(self) -> bytes | None:
        return self._inbox.receive_nowait()

    def push_back(self, frame: bytes) -> None:
        self._inbox.push_back(frame)

    def interrupt(self, error: EdgeReplicaError) -> None:
        self._inbox.interrupt(error)

    async def close(self, code: int, reason: str) -> None:
        """What was sent before still arrives; then the peer hears the end."""
        if self._ended is not None:
            return
        self.lose("closed")
        loop = asyncio.get_running_loop()
        self.due = max(self.due, loop.time()) + STEP_SECONDS
        loop.call_at(self.due, self.peer.lose, f"closed by the peer ({code} {reason})")
