"""Changes told from server to server: within one process, and between the workers of one machine.

Between machines it is `postgres_notifier`. What a change means is for the subscribers to say.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ..events.limits import NOTIFICATION_BYTES_MAX
from .ports import Change

_ENTRY: Final = re.compile(r"(head|deleted):([A-Za-z0-9_-]{1,64})")


class LocalNotifier:
    """A `Notifier` for a server that is alone; the others build on it."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[Change], None]] = []

    def subscribe(self, heard: Callable[[Change], None]) -> None:
        self._subscribers.append(heard)

    def publish(self, change: Change) -> None:
        self.deliver(change)

    def deliver(self, change: Change) -> None:
        """Tell the subscribers of this process."""
        for heard in self._subscribers:
            heard(change)

    async def start(self) -> None:
        """Nobody else is heard."""

    async def close(self) -> None:
        self._subscribers.clear()


class RelayNotifier(LocalNotifier):
    """Between the worker processes of one `edgereplica serve`, by way of their supervisor.

    `channel` is this worker's end of a pair of stream sockets, which carry lines. The supervisor
    passes every line on to the other workers (`app.workers`); what finds a full buffer is dropped.
    """

    def __init__(self, channel: socket.socket) -> None:
        super().__init__()
        channel.setblocking(False)
        self._channel = channel
        self._unread = b""

    def publish(self, change: Change) -> None:
        super().publish(change)
        for payload in encode([change]):
            with contextlib.suppress(OSError):  # the supervisor is busy or gone
                self._channel.send(payload.encode() + b"\n")

    async def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._channel, self._read)

    async def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._channel)
        await super().close()

    def _read(self) -> None:
        try:
            data = self._channel.recv(NOTIFICATION_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # the supervisor is gone
            asyncio.get_running_loop().remove_reader(self._channel)
            return
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            for change in decode(line.decode("ascii", "replace")):
                self.deliver(change)


def encode(changes: Iterable[Change]) -> Iterator[str]:
    """Changes as texts of at most `NOTIFICATION_BYTES_MAX`, none said twice."""
    line = ""
    for topic, database_id in dict.fromkeys(changes):
        entry = f"{topic}:{database_id}"
        if line and len(line) + len(entry) >= NOTIFICATION_BYTES_MAX:
            yield line
            line = ""
        line += f" {entry}" if line else entry
    if line:
        yield line


def decode(untrusted: str) -> Iterator[Change]:
    """The changes in a text that `encode` made; what is not one is passed over."""
    for entry in untrusted.split():
        match = _ENTRY.fullmatch(entry)
        if match:
            yield Change("head" if match[1] == "head" else "deleted", match[2])
