"""A TCP proxy that cuts, stalls, half-closes or dribbles at a chosen byte of a chosen direction."""

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import Literal, Self
from urllib.parse import urlsplit

Action = Literal["cut", "reset", "stall", "half_close", "dribble"]
DRIBBLED_BYTES_MAX = 300
_ABORT = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Fault:
    """`action` happens when `at` bytes have gone to the server (`upwards`) or to the client.

    cut: both connections are closed; reset: with a TCP reset; stall: nothing more passes this way
    until `release`; half_close: this way ends and the other goes on; dribble: the next bytes pass
    one by one. With `in_frames`, `at` counts frames behind the HTTP head instead of bytes.
    """

    action: Action
    at: int
    upwards: bool = True
    in_frames: bool = False


@dataclass
class Link:
    """One connection through the proxy; `up` and `down` hold its bytes if the proxy records."""

    client: socket.socket
    server: socket.socket
    fault: Fault | None
    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)


class CuttingProxy:
    """Forwards to `target`. `faults` befall the first connections, one each; the rest pass."""

    def __init__(self, target: str, *faults: Fault | None, record: bool = False) -> None:
        self.faults = list(faults)
        self.links: list[Link] = []
        self.reached = Event()
        """Set when a fault has taken hold."""
        self._released = Event()
        self._record = record
        self._lock = Lock()
        self._threads: list[Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        # Little in flight: where the proxy stops, the sender soon stops too.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 512 * 1024)
        self.base = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.aim(target)

    def aim(self, target: str) -> None:
        """Connections made from now on go to `target`."""
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 80)

    def expect(self, *faults: Fault | None) -> None:
        """Forget the connections so far; `faults` befall the next ones."""
        with self._lock:
            self.links = []
            self.faults = list(faults)
            self.reached.clear()
            self._released.clear()
            self._threads = [thread for thread in self._threads if thread.is_alive()]

    @property
    def connections(self) -> int:
        return len(self.links)

    def release(self) -> None:
        """What is stalled goes on."""
        self._released.set()

    def sever(self) -> None:
        """End every connection, and wait until nothing of them is on its way any more."""
        for link in self.links:
            _close(link.client)
            _close(link.server)
        self._released.set()
        self.settle()

    def settle(self, seconds_max: float | None = None) -> None:
        """Wait until the connections so far have ended, or so long for each."""
        with self._lock:
            pumps = self._threads[1:]
        for thread in pumps:
            thread.join(seconds_max)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self.links:
            _close(link.client)
            _close(link.server)
        # Only now: what is stalled must not arrive after all.
        self._released.set()
        for thread in self._threads:
            thread.join()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = Thread(target=work, args=arguments, daemon=True)
        with self._lock:  # whoever sees it there may join it
            thread.start()
            self._threads.append(thread)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                _close(client)
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                fault = self.faults.pop(0) if self.faults else None
                link = Link(client, server, fault)
                self.links.append(link)
            self._start(self._pump, link, True)
            self._start(self._pump, link, False)

    def _pump(self, link: Link, upwards: bool) -> None:
        source, sink = (link.client, link.server) if upwards else (link.server, link.client)
        fault = link.fault if link.fault and link.fault.upwards == upwards else None
        recorded = link.up if upwards else link.down
        passed, seen = 0, bytearray()
        at = fault.at if fault and not fault.in_frames else None
        try:
            while data := source.recv(65_536):
                if self._record:
                    recorded += data
                if fault is not None and at is None:
                    seen += data
                    at = _frame_end(seen, fault.at)
                if fault is not None and at is not None and passed + len(data) >= at:
                    sink.sendall(data[: at - passed])
                    rest, action = data[at - passed :], fault.action
                    fault = None
                    self._befall(link, sink, action, rest)
                    if action in ("cut", "reset"):
                        return
                    if action == "half_close":
                        while source.recv(65_536):
                            pass  # swallowed, so that the sender is not blocked
                        return
                else:
                    sink.sendall(data)
                passed += len(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            _close(link.client)
            _close(link.server)

    def _befall(self, link: Link, sink: socket.socket, action: Action, rest: bytes) -> None:
        self.reached.set()
        if action in ("cut", "reset"):
            for end in (link.client, link.server):
                if action == "reset":
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
                _close(end)
        elif action == "half_close":
            sink.shutdown(socket.SHUT_WR)
        elif action == "stall":
            self._released.wait()
            sink.sendall(rest)
        else:
            for at in range(min(len(rest), DRIBBLED_BYTES_MAX)):
                sink.sendall(rest[at : at + 1])
            sink.sendall(rest[DRIBBLED_BYTES_MAX:])


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


def _frame_end(seen: bytearray, frames: int) -> int | None:
    """Where so many frames behind the HTTP head end, if they have come."""
    if b"\r\n\r\n" not in seen:
        return None
    ends = [end for end in frame_ends(bytes(seen)) if end <= len(seen)]
    return ends[frames] if frames < len(ends) else None


def frame_ends(stream: bytes) -> list[int]:
    """Where the HTTP head and each WebSocket frame (RFC 6455 §5.2) of one direction end."""
    at = stream.index(b"\r\n\r\n") + 4
    ends = [at]
    while at + 2 <= len(stream):
        length, masked = stream[at + 1] & 0x7F, stream[at + 1] & 0x80
        at += 2
        if length >= 126:
            width = 2 if length == 126 else 8
            length = int.from_bytes(stream[at : at + width], "big")
            at += width
        at += length + (4 if masked else 0)
        ends.append(at)
    return ends
