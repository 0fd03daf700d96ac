"""A crowd: clients that push small changes as fast as they are answered, and 1, 2, 4 workers.

Each client has a database of its own. They run on this machine, so the server's and the clients'
shares of its processors are measured beside the rate. `program` is the real client (file, sidecar,
machine), in several processes, since each waits for its disk; `wire` is one that does only what the
protocol asks (`wire_client`): with few processors it leaves them to the server, and so shows what
workers are good for.

Several rounds are run by turns, and the best of each counts: whatever else the machine does takes
away from the rate.
"""

import asyncio
import contextlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from tests.helpers_server import ServerProcess

from edgereplica.app.admin_client import AdminClient
from edgereplica.app.replica import AsyncReplica
from edgereplica.app.serve import loop_factory

from .many import rss_bytes, server_environment
from .places import Fresh
from .wire_client import WireClient
from .world import Image

Kind = Literal["program", "wire"]
_PAGES = 250
_PROCESSES: dict[Kind, int] = {"program": 10, "wire": 1}
_UNBOUND = {
    "SYNC_OPENS_PER_TOKEN_PER_MINUTE": "1000000",
    "SYNC_OPENS_PER_ADDRESS_PER_MINUTE": "1000000",
    "CONNECTIONS_PER_ADDRESS_MAX": "1000000",
    "SESSIONS_PER_ADDRESS_MAX": "1000000",
}


def measure(
    work: Path,
    fresh: Fresh,
    runs: list[tuple[Kind, int]],
    clients: int,
    seconds: float,
    rounds: int,
) -> list[dict[str, Any]]:
    """The best of `rounds` crowds for each of `runs`: (kind of client, workers)."""
    found: dict[tuple[Kind, int], list[dict[str, Any]]] = {run: [] for run in runs}
    for number in range(rounds):
        for kind, workers in runs:
            place = work / f"{kind}-{workers}-{number}"
            place.mkdir()
            arguments = ["--workers", str(workers)] if workers > 1 else []
            with fresh(place, False):
                environment = server_environment() | _UNBOUND
                with ServerProcess(place / "data", *arguments, environment=environment) as server:
                    one = _crowd(server, place, kind, clients, seconds)
            found[kind, workers].append({"kind": kind, "workers": workers, "rounds": rounds} | one)
            rate = f"{one['pushes_per_second']:.0f} pushes/s"
            print(f"  {kind}, {workers} workers: {rate}", flush=True)
    return [max(crowds, key=lambda one: one["pushes_per_second"]) for crowds in found.values()]


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its children."""
    ticks = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
        children = (task / "children").read_text().split()
        ticks += round(sum(map(cpu_seconds, map(int, children))) * os.sysconf("SC_CLK_TCK"))
    return ticks / os.sysconf("SC_CLK_TCK")


def _crowd(
    server: ServerProcess, place: Path, kind: Kind, clients: int, seconds: float
) -> dict[str, Any]:
    session = AdminClient(server.base).signup(f"{time.time_ns()}@example.org", "correct horse")
    admin = AdminClient(server.base, session.token)
    members = []
    for number in range(clients):
        database = admin.create_database(f"db{number}")
        token = admin.issue_sync_token(database.id, "push").token
        members.append([str(place / f"{number}.db"), token])
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(_process(kind, server.base, some, seconds))
            for some in (members[n :: _PROCESSES[kind]] for n in range(_PROCESSES[kind]))
            if some
        ]
        for process in processes:
            assert _heard(process) == "ready\n"
        before = cpu_seconds(server.process.pid)
        for process in processes:
            _say(process, "go")
        said = [json.loads(_heard(process)) for process in processes]
        cpu = cpu_seconds(server.process.pid) - before
        memory = rss_bytes(server.process.pid)
    assert {process.returncode for process in processes} == {0}
    latencies = sorted(latency for one in said for latency in one["latencies"])
    return {
        "clients": clients,
        "pushes": len(latencies),
        "pushes_per_second": sum(len(one["latencies"]) / one["seconds"] for one in said),
        "latency_seconds": statistics.median(latencies),
        "latency_seconds_p99": latencies[int(len(latencies) * 0.99)],
        "server_cpu_seconds": cpu / len(latencies),
        "client_cpu_seconds": sum(one["cpu_seconds"] for one in said) / len(latencies),
        "wall_seconds": max(one["seconds"] for one in said),
        "server_bytes": memory,
    }


def _process(
    kind: Kind, server: str, members: list[list[str]], seconds: float
) -> "subprocess.Popen[str]":
    """Clients in a process that says when they are ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.scale.crowd"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    given = {"kind": kind, "server": server, "members": members, "seconds": seconds}
    _say(process, json.dumps(given))
    return process


def _say(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _heard(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


Push = Callable[[], Awaitable[object]]


def _program(path: str, token: str, server: str) -> tuple[Callable[[], None], Push]:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
        rows = [(os.urandom(400),) for _ in range(2000)]
        connection.executemany("INSERT INTO t (body) VALUES (?)", rows)

    def change() -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            row = 1 + int.from_bytes(os.urandom(2)) % 2000
            connection.execute("UPDATE t SET body = ? WHERE id = ?", (os.urandom(400), row))

    return change, AsyncReplica(path, server=server, token=token).push


def _wire(path: str, token: str, server: str) -> tuple[Callable[[], None], Push]:
    client = WireClient(server.replace("http", "ws", 1) + "/sync", token, Image(_PAGES, hash(path)))
    return lambda: client.image.change(1), client.push


async def _clients(given: dict[str, Any]) -> dict[str, Any]:
    make = _program if given["kind"] == "program" else _wire
    members = [make(path, token, given["server"]) for path, token in given["members"]]
    for change, push in members:  # the first push is the whole file, the second a small one
        await push()
        change()
        await push()
    print("ready", flush=True)
    assert sys.stdin.readline() == "go\n"
    latencies: list[float] = []
    began, cpu = time.perf_counter(), time.process_time()
    until = began + given["seconds"]

    async def one(change: Callable[[], None], push: Push) -> None:
        while (now := time.perf_counter()) < until:
            change()
            await push()
            latencies.append(time.perf_counter() - now)

    await asyncio.gather(*(one(*member) for member in members))
    return {
        "latencies": latencies,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
    }


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        print(json.dumps(runner.run(_clients(json.loads(sys.stdin.readline())))))
