"""Measure one command: wall time, CPU of all processes, peak memory of each, bytes on the wire.

Time and CPU come from runs nobody watches (`timed`); memory and wire from other runs of the same
command (`watched`), because looking costs. What is on the wire is counted by a TCP proxy here or
by the peers themselves.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_HERE = Path(__file__).parent
_CHUNK_BYTES = 256 * 1024
_TICKS = os.sysconf("SC_CLK_TCK")
_POLL_SECONDS = 0.005
_SETTLE_SECONDS_MAX = 5


@dataclass
class Measured:
    """One run. `client_bytes` is the peak of each process the command started, largest first."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    client_bytes: list[int] = field(default_factory=list)
    server_bytes: int = 0
    wire_bytes: int = 0


class CommandFailed(Exception):
    """A measured command did not end well; carries its last words."""


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    scratch: Path,
    *,
    server: int | None = None,
    watch: bool = False,
) -> Measured:
    """Run `command` beside the process `server`, whose CPU and memory count too."""
    report = scratch / "run.json"
    os.sync()  # so that no run pays for the writes of another
    before, lasting = 0.0, set[int]()
    if server:
        before, lasting = cpu_seconds(server), set(descendants(server))
        reset_peak(server)
    with (scratch / "run.log").open("w+b") as log:
        process = subprocess.Popen(
            [sys.executable, "-S", str(_HERE / "runner.py"), str(report), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        peaks, server_peak = watch_peaks(process, server) if watch else ([], 0)
        process.wait()
        log.seek(0)
        said = log.read().decode(errors="replace")
    measured = json.loads(report.read_text())
    if measured["status"] != 0:
        raise CommandFailed(f"{' '.join(command)} ended with {measured['status']}: {said[-2000:]}")
    result = Measured(measured["wall_seconds"], measured["cpu_seconds"], peaks)
    if server:
        # What it started for this command is accounted to it once it has been waited for.
        deadline = time.monotonic() + _SETTLE_SECONDS_MAX
        while set(descendants(server)) - lasting and time.monotonic() < deadline:
            os.sched_yield()
        result.cpu_seconds += cpu_seconds(server) - before
        result.server_bytes = max(server_peak, peak_bytes(server))
    return result


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        for task in tasks:
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    except (FileNotFoundError, ProcessLookupError):
        return found
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, its threads, and its ended and running children."""
    total = 0.0
    for each in [pid, *descendants(pid)]:
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        except FileNotFoundError:
            continue
        total += sum(map(int, fields[11:15])) / _TICKS
    return total


def peak_bytes(pid: int) -> int:
    """VmHWM; 0 once the process is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def reset_peak(pid: int) -> None:
    """Let VmHWM start again from what is resident now (proc(5), clear_refs)."""
    for each in [pid, *descendants(pid)]:
        Path(f"/proc/{each}/clear_refs").write_text("5")


def watch_peaks(runner: subprocess.Popen[bytes], server: int | None) -> tuple[list[int], int]:
    """The peaks of the processes below the runner, largest first, and the largest of those below
    the server, watched until the runner ends. The harness's own helpers are left out."""
    clients: dict[int, tuple[bytes, int]] = {}
    servers = [0]
    while True:
        for pid in descendants(runner.pid):
            name, peak = _command(pid), peak_bytes(pid)
            if not name:
                continue  # it has just ended, and its last peak stands
            was_name, was_peak = clients.get(pid, (name, 0))
            # After exec a process is another program, with a peak of its own.
            clients[pid] = (name, max(peak, was_peak) if name == was_name else peak)
        if server:
            servers += map(peak_bytes, descendants(server))
            servers = [max(servers)]
        try:
            runner.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        peaks = [peak for name, peak in clients.values() if peak and not _is_harness(name)]
        return sorted(peaks, reverse=True), servers[0]


def _command(pid: int) -> bytes:
    """The command line; of a process that is gone, the empty one."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _is_harness(command: bytes) -> bool:
    program = command.split(b"\0")[0]
    return (
        not program
        or program.endswith(b"sh")
        or b"pipe_counter" in command
        or (b"runner.py" in command)
    )


class CountingProxy:
    """A TCP proxy on loopback that counts the bytes of both directions."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._count = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def take(self) -> int:
        """The bytes since the last call."""
        with self._lock:
            count, self._count = self._count, 0
        return count

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while chunk := source.recv(_CHUNK_BYTES):
                with self._lock:
                    self._count += len(chunk)
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            source.close()
            sink.close()
