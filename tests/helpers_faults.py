"""An HTTP proxy that fails as a store behind a network fails, at requests that a test chooses."""

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Self
from urllib.parse import urlsplit

Fault = Literal["none", "refused", "cut", "failed", "answer_lost", "held"]
"""What happens to a request: forwarded; 503 without forwarding; the connection closed without
forwarding; 500 without forwarding; forwarded and then answered with 500; forwarded once `release`
is called."""
Plan = Callable[[int, str, str], Fault]
"""(number of the request from 1, method, path) → what happens to it."""


class FaultyProxy:
    """Forwards to `target`; change `plan` at any time."""

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target).netloc
        self.plan: Plan = lambda *_: "none"
        self.requests: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._released = threading.Event()
        self.holding = threading.Event()
        """Set when a request is held."""

    def release(self) -> None:
        self._released.set()

    def fail_all(self, fault: Fault) -> None:
        self.plan = lambda *_: fault

    def fail_nth(self, fault: Fault, *numbers: int, method: str = "PUT") -> None:
        """From now on, fail the n-th request with `method`."""
        with self._lock:
            before = sum(seen == method for seen, _ in self.requests)

        def plan(_: int, seen: str, __: str) -> Fault:
            count = sum(m == method for m, _ in self.requests) - before
            return fault if seen == method and count in numbers else "none"

        self.plan = plan

    def __enter__(self) -> Self:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy._handle(self)

            do_GET = do_PUT = do_DELETE = do_HEAD = do_POST = handle_any

            def log_message(self, *_: object) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        with self._lock:
            self.requests.append((handler.command, handler.path))
            number = len(self.requests)
        fault = self.plan(number, handler.command, handler.path)
        if fault == "cut":
            handler.close_connection = True
            return
        if fault in {"refused", "failed"}:
            _answer(handler, 503 if fault == "refused" else 500, [], b"")
            return
        if fault == "held":
            self.holding.set()
            self._released.wait()
        connection = http.client.HTTPConnection(self.target, timeout=60)
        try:
            # The Host header is part of the signature: it goes on as it came.
            connection.putrequest(handler.command, handler.path, True, True)
            for name, value in handler.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if fault == "answer_lost":
            _answer(handler, 500, [], b"")
        else:
            _answer(handler, answer.status, answer.getheaders(), data)


def _answer(
    handler: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], data: bytes
) -> None:
    handler.send_response(status)
    for name, value in headers:
        if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
            handler.send_header(name, value)
    length = dict(headers).get("Content-Length") if handler.command == "HEAD" else None
    handler.send_header("Content-Length", length or str(len(data)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(data)
