"""`edgereplica serve --workers N`: one supervisor and N servers on one machine, one address.

The supervisor opens the listening sockets and holds the place; the workers inherit both. On Linux
every worker has a socket of its own on the one address and the kernel spreads connections over
them: of one socket shared by all, whoever wakes first takes a whole burst. The sockets stay the
supervisor's, so what waits in a dead worker's queue is served by its successor.

A worker is a whole server in a process of its own. What they share is the log, whose
compare-and-swap bears any number of writers, in the SQLite database of a data directory (WAL) as
well as in PostgreSQL.

A worker that dies is started again. When the supervisor is told to stop it tells the workers; when
it dies without a word the workers see the end of a pipe, the lifeline, and stop by themselves;
until the last of them is gone nobody else can take the data directory.

A channel carries lines: `ready`, `failed JSON`, and notifications, which go to all other workers
(`adapters.notifier.RelayNotifier`). Run as a program, this module is a worker.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from ..events.errors import EdgeReplicaError, StorageError, error_from_wire
from ..events.limits import (
    NOTIFICATION_BYTES_MAX,
    WORKER_PROVEN_SECONDS,
    WORKER_RESTART_SECONDS,
    WORKER_RESTART_SECONDS_MAX,
    WORKER_STOP_SECONDS_MAX,
)
from .leaving import leave
from .logs import LogFormat, configure_logs
from .places import Place
from .serve import WorkerEnds, listen, loop_factory, serve_on, url_of
from .settings import Settings, environment_of, load_settings

_FAILED = b"failed "


def run_workers(
    settings: Settings,
    workers: int,
    host: str = "127.0.0.1",
    port: int = 8787,
    log_format: LogFormat = "console",
) -> None:
    """Serve with `workers` processes until SIGTERM or SIGINT; returns when all have ended.

    Says `listening on http://HOST:PORT` on standard error when every worker answers. Raises what
    keeps a worker from starting the first time.
    """
    configure_logs(settings.log_level, log_format)
    place = Place.of(settings)
    place.prepare()
    with place.held() as held, contextlib.ExitStack() as closing:
        sockets = _sockets(workers, host, port)
        for opened in itertools.chain(*sockets):
            closing.callback(opened.close)
        lifeline, held_end = os.pipe()
        closing.callback(os.close, lifeline)
        closing.callback(os.close, held_end)
        command = [sys.executable, "-m", __name__, "--log-format", log_format]
        command += ["--lifeline", str(lifeline)]
        environment = os.environ | environment_of(settings)
        supervisor = Supervisor(sockets, command, (*held, lifeline), environment)

        def announce() -> None:
            sys.stderr.write(f"listening on {url_of(host, sockets[0])}\n")
            sys.stderr.flush()

        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(supervisor.run(announce))


def _sockets(workers: int, host: str, port: int) -> list[list[socket.socket]]:
    """The listening sockets of each worker. `NetworkError` if the port is taken."""
    if sys.platform != "linux":  # elsewhere a shared port does not spread connections
        return [listen(host, port)] * workers
    if port:
        for opened in listen(host, port):  # a shared port would be shared with another server, too
            opened.close()
    sockets = [listen(host, port, shared=True)]
    port = sockets[0][0].getsockname()[1]
    return sockets + [listen(host, port, shared=True) for _ in range(workers - 1)]


@dataclass(slots=True)
class _Worker:
    """One process, and this side's end of its channel."""

    process: asyncio.subprocess.Process
    channel: socket.socket
    unread: bytes = b""
    ready: bool = False
    failure: EdgeReplicaError | None = field(default=None)


class Supervisor:
    """Keeps a worker running for each of `sockets` until it is told to stop."""

    def __init__(
        self,
        sockets: Sequence[Sequence[socket.socket]],
        command: Sequence[str],
        inherited: Sequence[int],
        environment: dict[str, str],
    ) -> None:
        self._sockets = sockets
        self._count = len(sockets)
        self._command = command
        self._inherited = inherited
        self._environment = environment
        self._workers: dict[int, _Worker] = {}
        self._stopping = asyncio.Event()
        self._all_ready = asyncio.Event()
        self._log = structlog.get_logger("edgereplica.workers")

    async def run(self, announce: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._stop)
        try:
            async with asyncio.TaskGroup() as group:
                for slot in range(self._count):
                    group.create_task(self._keep(slot))
                started = asyncio.create_task(self._all_ready.wait())
                stopped = asyncio.create_task(self._stopping.wait())
                await asyncio.wait({started, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if started.done() and not stopped.done():
                    announce()
                started.cancel()
                stopped.cancel()
        except* EdgeReplicaError as failures:
            raise failures.exceptions[0] from None

    def _stop(self) -> None:
        """End in order; told twice, the workers end at once."""
        self._stopping.set()
        for worker in self._workers.values():
            with contextlib.suppress(ProcessLookupError):
                worker.process.terminate()

    async def _keep(self, slot: int) -> None:
        """Run a worker in `slot`, and another one when it dies."""
        loop = asyncio.get_running_loop()
        pause = WORKER_RESTART_SECONDS
        while not self._stopping.is_set():
            began = loop.time()
            worker = await self._start(slot)
            code = await self._ended(worker)
            del self._workers[slot]
            if self._stopping.is_set():
                return
            if not worker.ready and not self._all_ready.is_set():
                self._stop()
                raise worker.failure or StorageError(
                    f"a worker ended with code {code} before it could answer"
                )
            self._log.error("worker ended, starting another", slot=slot, code=code)
            lived = loop.time() - began
            pause = WORKER_RESTART_SECONDS if lived >= WORKER_PROVEN_SECONDS else pause * 2
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(pause, WORKER_RESTART_SECONDS_MAX)):
                    await self._stopping.wait()

    async def _start(self, slot: int) -> _Worker:
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        with theirs:
            descriptor = theirs.fileno()
            listening = [opened.fileno() for opened in self._sockets[slot]]
            process = await asyncio.create_subprocess_exec(
                *self._command,
                "--channel",
                str(descriptor),
                "--listen",
                *map(str, listening),
                pass_fds=(*self._inherited, descriptor, *listening),
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                # Ctrl-C reaches the supervisor alone, which tells the workers.
                start_new_session=True,
            )
        worker = self._workers[slot] = _Worker(process, mine)
        asyncio.get_running_loop().add_reader(mine, self._read, worker)
        if self._stopping.is_set():
            process.terminate()
        return worker

    async def _ended(self, worker: _Worker) -> int:
        """Wait for the end of a worker, and after `_stop` not for ever; its exit code."""
        waiting = asyncio.create_task(worker.process.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        done, _ = await asyncio.wait({waiting}, timeout=WORKER_STOP_SECONDS_MAX)
        if not done:
            self._log.error("worker does not end, killing it", pid=worker.process.pid)
            worker.process.kill()
        code = await waiting
        self._read(worker)
        asyncio.get_running_loop().remove_reader(worker.channel)
        worker.channel.close()
        return code

    def _read(self, worker: _Worker) -> None:
        with contextlib.suppress(OSError):
            while data := worker.channel.recv(NOTIFICATION_BYTES_MAX):
                *lines, worker.unread = (worker.unread + data).split(b"\n")
                for line in lines:
                    self._take(worker, line)
            asyncio.get_running_loop().remove_reader(worker.channel)

    def _take(self, worker: _Worker, line: bytes) -> None:
        if line == b"ready":
            worker.ready = True
            if len(self._workers) == self._count and all(w.ready for w in self._workers.values()):
                self._all_ready.set()
        elif line.startswith(_FAILED):
            said = json.loads(line.removeprefix(_FAILED))
            worker.failure = error_from_wire(said["code"], said["message"])
        else:
            for other in self._workers.values():
                if other is not worker:
                    with contextlib.suppress(OSError):  # full: lost, as a notification may be
                        other.channel.send(line + b"\n")


def run_worker(arguments: Sequence[str]) -> int:
    """A worker process, to its end; its exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", type=int, nargs="+", required=True)
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--lifeline", type=int, required=True)
    parser.add_argument("--log-format", choices=["console", "json"], required=True)
    given = parser.parse_args(arguments)
    channel = socket.socket(fileno=given.channel)
    sockets = [socket.socket(fileno=descriptor) for descriptor in given.listen]
    for descriptor in (given.channel, given.lifeline, *given.listen):
        os.set_inheritable(descriptor, False)
    try:
        serve_on(
            load_settings(),
            lambda: sockets,
            lambda _: channel.sendall(b"ready\n"),
            given.log_format,
            WorkerEnds(channel, given.lifeline),
        )
    except EdgeReplicaError as error:
        said = json.dumps({"code": error.code, "message": error.message})
        with contextlib.suppress(OSError):
            channel.sendall(_FAILED + said.encode() + b"\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    exit_code = run_worker(sys.argv[1:])
    leave(exit_code)
    sys.exit(exit_code)
