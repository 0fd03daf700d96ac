"""Two transports joined in memory: what one sends, the other receives, in order."""

from ..events.errors import EdgeReplicaError, NetworkError
from ..events.limits import INBOUND_BYTES_MAX
from .frame_queue import FrameQueue
from .ports import Buffer


class MemoryTransport:
    """One end of a pair; see `memory_pair`. `closed_with` is the code this end closed with."""

    def __init__(self, inbound_bytes_max: int = INBOUND_BYTES_MAX) -> None:
        self._inbox = FrameQueue(inbound_bytes_max)
        self._peer: MemoryTransport | None = None
        self.closed_with: int | None = None
        self.bytes_sent = 0
        self.bytes_received = 0

    def join(self, peer: "MemoryTransport") -> None:
        self._peer = peer

    async def send(self, frame: Buffer) -> None:
        peer = self._peer
        if peer is None or self.closed_with is not None:
            raise self._inbox.lost or NetworkError("the connection is closed")
        await peer._inbox.wait_room()
        if self._peer is None:
            raise NetworkError("the connection is lost")
        self.bytes_sent += len(frame)
        peer._inbox.put(bytes(frame))

    async def receive(self) -> bytes:
        frame = await self._inbox.receive()
        self.bytes_received += len(frame)
        return frame

    def receive_nowait(self) -> bytes | None:
        frame = self._inbox.receive_nowait()
        if frame is not None:
            self.bytes_received += len(frame)
        return frame

    def push_back(self, frame: bytes) -> None:
        self._inbox.push_back(frame)
        self.bytes_received -= len(frame)

    def interrupt(self, error: EdgeReplicaError) -> None:
        self._inbox.interrupt(error)

    async def close(self, code: int, reason: str) -> None:
        if self.closed_with is None:
            self.closed_with = code
            self.cut(f"closed by the peer ({code} {reason})")

    def cut(self, why: str = "the connection was cut") -> None:
        """Both ends lose the connection; frames already delivered are still received."""
        peer, self._peer = self._peer, None
        self._inbox.end(NetworkError(why))
        if peer is not None:
            peer._peer = None
            peer._inbox.end(NetworkError(why))


def memory_pair(
    inbound_bytes_max: int = INBOUND_BYTES_MAX,
) -> tuple[MemoryTransport, MemoryTransport]:
    left, right = MemoryTransport(inbound_bytes_max), MemoryTransport(inbound_bytes_max)
    left.join(right)
    right.join(left)
    return left, right
