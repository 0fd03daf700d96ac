"""Running a server: sockets, uvicorn, signals and the end.

The end is told before it happens: the server stops accepting, the sync side tells its sessions and
waits for them within a grace, then uvicorn closes what is left.
"""

import asyncio
import contextlib
import importlib.util
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
import uvicorn

from ..events.errors import NetworkError
from ..events.limits import (
    KEEP_ALIVE_SECONDS,
    LISTEN_BACKLOG_MAX,
    METRICS_PORTS_MAX,
    PING_INTERVAL_SECONDS,
    PING_TIMEOUT_SECONDS,
    SHUTDOWN_GRACE_SECONDS,
)
from . import memory
from .bootstrap import MakeSync, Server, build, sync_of
from .connections import protocols_of
from .guards import connections
from .logs import LogFormat, configure_logs
from .settings import Settings


class _Uvicorn(uvicorn.Server):
    """uvicorn, except for who handles signals and what comes first at the end."""

    def __init__(self, config: uvicorn.Config, before_end: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._before_end = before_end

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Left to `run_server`: uvicorn would raise the signal again and so spoil the exit code."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self.servers:
            listener.close()
        await self._before_end()
        await super().shutdown(sockets)

    def stop(self) -> None:
        """End in order; asked twice, end at once."""
        self.force_exit = self.should_exit
        self.should_exit = True


@dataclass(frozen=True, slots=True)
class WorkerEnds:
    """What a worker of `app.workers` has from its supervisor: the channel, and a descriptor that
    becomes readable when the supervisor is gone."""

    channel: socket.socket
    lifeline: int


def run_server(
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 8787,
    log_format: LogFormat = "console",
) -> None:
    """Serve until SIGTERM or SIGINT; returns when everything is closed.

    Logs go to standard output; `listening on http://HOST:PORT` goes to standard error as soon as
    the server answers.
    """

    def announce(sockets: list[socket.socket]) -> None:
        sys.stderr.write(f"listening on {url_of(host, sockets)}\n")
        sys.stderr.flush()

    serve_on(settings, lambda: listen(host, port), announce, log_format)


def serve_on(
    settings: Settings,
    open_sockets: Callable[[], list[socket.socket]],
    ready: Callable[[list[socket.socket]], None],
    log_format: LogFormat,
    worker: WorkerEnds | None = None,
) -> None:
    """Serve on sockets opened when everything else stands; `ready` is called when it answers."""
    memory.bound_arenas()
    memory.keep_freed()
    configure_logs(settings.log_level, log_format)

    async def main() -> None:
        async with build(settings, channel=worker.channel if worker else None) as server:
            sockets = open_sockets()
            running = _uvicorn(server)
            loop = asyncio.get_running_loop()
            for signum in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(signum, running.stop)
            if worker is not None:
                loop.add_reader(worker.lifeline, _stop_once, loop, worker.lifeline, running)
            serving = asyncio.create_task(running.serve(sockets))
            await _started(running, serving)
            async with metrics_served(server):
                memory.settle()
                ready(sockets)
                await serving

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())


def _stop_once(loop: asyncio.AbstractEventLoop, lifeline: int, running: _Uvicorn) -> None:
    loop.remove_reader(lifeline)
    running.stop()


@asynccontextmanager
async def running_server(
    settings: Settings,
    port: int = 0,
    *,
    host: str = "127.0.0.1",
    make_sync: MakeSync = sync_of,
    **parts: Any,
) -> AsyncIterator[str]:
    """A server in this process and loop, for tests and the demo; yields its `http://` URL.

    Unless the program has configured structlog, warnings and worse go to standard error:
    structlog's own default would print local variables, and so secrets.
    """
    if not structlog.is_configured():
        configure_logs("warning", stream="stderr")
    async with build(settings, make_sync=make_sync, **parts) as server:
        sockets = listen(host, port)
        running = _uvicorn(server)
        serving = asyncio.create_task(running.serve(sockets))
        await _started(running, serving)
        try:
            async with metrics_served(server):
                yield url_of(host, sockets)
        finally:
            running.stop()
            await serving


@asynccontextmanager
async def metrics_served(server: Server) -> AsyncIterator[None]:
    """`/metrics` on a port of its own inside of the block, if the settings say so.

    Of several workers each takes the next port that is free.
    """
    settings = server.core.settings
    if server.metrics is None or not settings.metrics_port:
        yield
        return
    sockets = _listen_from(settings.metrics_host, settings.metrics_port)
    log = structlog.get_logger("edgereplica")
    log.info("metrics", url=url_of(settings.metrics_host, sockets) + "/metrics")
    config = uvicorn.Config(
        server.metrics,
        loop="none",
        http="h11",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    running = _Uvicorn(config, _nothing_before_the_end)
    serving = asyncio.create_task(running.serve(sockets))
    await _started(running, serving)
    try:
        yield
    finally:
        running.stop()
        await serving


async def _nothing_before_the_end() -> None:
    return


def _listen_from(host: str, port: int) -> list[socket.socket]:
    candidates = range(port, min(port + METRICS_PORTS_MAX, 65_536))
    for candidate in candidates:
        with contextlib.suppress(NetworkError):
            return listen(host, candidate)
    raise NetworkError(f"cannot listen on {host}:{candidates[0]} to {candidates[-1]} for metrics")


def listen(host: str, port: int, *, shared: bool = False) -> list[socket.socket]:
    """Sockets on every address of `host`; port 0 is one free port. `NetworkError` if taken.

    `shared`: other sockets of this user may listen there too, and connections are spread over them.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise NetworkError(f"cannot listen on {host}: {error.strerror}") from None
    sockets: list[socket.socket] = []
    for family, _, _, _, address in dict.fromkeys(found):
        at = (address[0], port, *address[2:])
        # asyncio turns Nagle's delay off only for sockets that name their protocol; with it on,
        # every answer in two writes takes 40 ms more.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind(at)
            bound.listen(LISTEN_BACKLOG_MAX)
        except OSError as error:
            bound.close()
            if sockets:
                continue  # `localhost` on a machine without IPv6
            raise NetworkError(f"cannot listen on {host}:{port}: {error.strerror}") from None
        bound.setblocking(False)
        port = bound.getsockname()[1]
        sockets.append(bound)
    return sockets


def url_of(host: str, sockets: list[socket.socket]) -> str:
    port = sockets[0].getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _uvicorn(server: Server) -> _Uvicorn:
    http, websocket = protocols_of(connections(server.core.settings))
    config = uvicorn.Config(
        server.app,
        loop="none",
        http=http,
        ws=websocket,
        # Whom a request comes from is for `app.edge` to say; uvicorn would believe loopback peers.
        proxy_headers=False,
        ws_max_size=server.core.settings.frame_bytes_max,
        ws_per_message_deflate=False,
        ws_ping_interval=PING_INTERVAL_SECONDS,
        ws_ping_timeout=PING_TIMEOUT_SECONDS,
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=LISTEN_BACKLOG_MAX,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(SHUTDOWN_GRACE_SECONDS),
    )
    return _Uvicorn(config, lambda: server.sync.shutdown(SHUTDOWN_GRACE_SECONDS))


async def _started(running: _Uvicorn, serving: "asyncio.Task[None]") -> None:
    while not running.started:
        if serving.done():
            await serving
            raise NetworkError("the server did not start")
        await asyncio.sleep(0)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one (pyproject.toml says where)."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    new_event_loop: Callable[[], asyncio.AbstractEventLoop]
    new_event_loop = importlib.import_module("uvloop").new_event_loop
    return new_event_loop
