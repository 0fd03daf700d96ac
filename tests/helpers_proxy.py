"""A TCP proxy that stops forwarding in mid-stream: a link that hangs at a known point."""

import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from typing import Self
from urllib.parse import urlsplit


class StallingProxy:
    """Forwards one connection to `target`, until `bytes_max` have gone to the server.

    `stalled` is set then; both sockets stay open until the end of the `with`.
    """

    def __init__(self, target: str, bytes_max: int) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 80)
        self._left = bytes_max
        self._sockets: list[socket.socket] = []
        self._threads: list[Thread] = []
        self.stalled = Event()

    def __enter__(self) -> Self:
        listener = socket.create_server(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._sockets.append(listener)
        self._start(self._accept, listener)
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._sockets:
            with suppress(OSError):  # its peer was first, or it never had one
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()
        for thread in self._threads:
            thread.join()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = socket.create_connection(self._target)
        self._sockets += [client, server]
        self._start(self._pump, server, client, False)
        self._pump(client, server, True)

    def _pump(self, source: socket.socket, sink: socket.socket, upwards: bool) -> None:
        try:
            while data := source.recv(65_536):
                if upwards:
                    data = data[: self._left]
                    self._left -= len(data)
                sink.sendall(data)
                if upwards and not self._left:
                    self.stalled.set()
                    return
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return  # one end went away: so does the other, at the end of the `with`
