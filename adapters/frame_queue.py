"""What every transport shares: a queue of received frames bounded in bytes, and its ending.

An object in memory for each frame counts too: empty frames would else fill it without end.

The producer asks `full` (or awaits `wait_room`) and stops reading from its socket; the consumer
takes frames in order. `end` is what `receive` raises once the frames that came before are taken;
`interrupt` overtakes them.
"""

import asyncio
from collections import deque
from typing import Final

from ..events.errors import EdgeReplicaError, NetworkError
from ..events.limits import INBOUND_BYTES_MAX

_OBJECT_BYTES: Final = 48
"""What Python needs for a frame, and the queue for its place. A v1 pull's whole announcement still
fits (`V1_ANNOUNCED_PAGES_MAX`)."""


def _cost(frame: bytes) -> int:
    return len(frame) + _OBJECT_BYTES


class FrameQueue:
    def __init__(self, bytes_max: int = INBOUND_BYTES_MAX) -> None:
        self._frames: deque[bytes | EdgeReplicaError] = deque()
        self._bytes = 0
        self._bytes_max = bytes_max
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._interruption: EdgeReplicaError | None = None
        self._ended = False

    @property
    def full(self) -> bool:
        return self._bytes >= self._bytes_max

    def take_interruption(self) -> EdgeReplicaError | None:
        """What `interrupt` left, once: a sender ends by it too, and must then be able to say so."""
        error, self._interruption = self._interruption, None
        return error

    async def wait_room(self) -> None:
        await self._room.wait()

    def put(self, frame: bytes) -> None:
        if self._ended:
            return
        self._frames.append(frame)
        self._bytes += _cost(frame)
        if self.full:
            self._room.clear()
        self._arrived.set()

    def end(self, error: EdgeReplicaError) -> None:
        """After the frames already here, `receive` raises `error`, every time; nothing follows."""
        if not self._ended:
            self._ended = True
            self._frames.append(error)
        self._arrived.set()
        # Nobody waits for room in a queue that takes nothing any more.
        self._room.set()

    def interrupt(self, error: EdgeReplicaError) -> None:
        """`receive` raises `error` once, now, before anything else."""
        self._interruption = error
        self._arrived.set()

    async def receive(self) -> bytes:
        while not self._frames and self._interruption is None:
            self._arrived.clear()
            await self._arrived.wait()
        interruption = self.take_interruption()
        if interruption is not None:
            raise interruption
        if isinstance(self._frames[0], EdgeReplicaError):
            raise self._frames[0]
        return self._take()

    def receive_nowait(self) -> bytes | None:
        if not self._frames or isinstance(self._frames[0], EdgeReplicaError):
            return None
        return self._take()

    def push_back(self, frame: bytes) -> None:
        self._frames.appendleft(frame)
        self._bytes += _cost(frame)

    def _take(self) -> bytes:
        frame = self._frames.popleft()
        assert isinstance(frame, bytes)
        self._bytes -= _cost(frame)
        if not self.full:
            self._room.set()
        return frame

    @property
    def lost(self) -> NetworkError | None:
        """How the connection ended, if it has and the ending is a lost connection."""
        last = self._frames[-1] if self._frames else None
        return last if isinstance(last, NetworkError) else None
