"""A crowd: clients that push small changes as fast as they are answered, and 1, 2, 4 workers.

Each client has a database and a file of its own, and is the real one: file, sidecar, WebSocket. The
clients run in two processes of this machine and take the larger part of its processors, so the
figures say how workers compare here and are a lower bound of what they could do.
"""

import asyncio
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.helpers_server import ServerProcess

from edgereplica.app.admin_client import AdminClient
from edgereplica.app.replica import AsyncReplica

from .many import rss_bytes, server_environment

_PROCESSES = 2
_UNBOUND = {
    "SYNC_OPENS_PER_TOKEN_PER_MINUTE": "1000000",
    "SYNC_OPENS_PER_ADDRESS_PER_MINUTE": "1000000",
    "CONNECTIONS_PER_ADDRESS_MAX": "1000000",
    "SESSIONS_PER_ADDRESS_MAX": "1000000",
}


def measure(work: Path, workers: list[int], clients: int, seconds: float) -> list[dict[str, Any]]:
    found = []
    for count in workers:
        place = work / f"workers-{count}"
        place.mkdir()
        arguments = ["--workers", str(count)] if count > 1 else []
        environment = server_environment() | _UNBOUND
        with ServerProcess(place / "data", *arguments, environment=environment) as server:
            found.append({"workers": count, **_crowd(server, place, clients, seconds)})
        print(f"  {count} workers: {found[-1]['pushes_per_second']:.0f} pushes/s", flush=True)
    return found


def _crowd(server: ServerProcess, place: Path, clients: int, seconds: float) -> dict[str, Any]:
    email = f"{time.time_ns()}@example.org"
    session = AdminClient(server.base).signup(email, "correct horse battery")
    admin = AdminClient(server.base, session.token)
    members = []
    for number in range(clients):
        database = admin.create_database(f"db{number}")
        token = admin.issue_sync_token(database.id, "push").token
        file = place / f"{number}.db"
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
            rows = [(os.urandom(400),) for _ in range(2000)]
            connection.executemany("INSERT INTO t (body) VALUES (?)", rows)
        members.append([str(file), token])
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.scale.crowd", server.base, str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(_PROCESSES)
    ]
    said = []
    for index, process in enumerate(processes):
        assert process.stdin is not None
        json.dump(members[index::_PROCESSES], process.stdin)
        process.stdin.close()
    for process in processes:
        assert process.stdout is not None
        said.append(json.loads(process.stdout.read()))
        assert process.wait() == 0
    latencies = sorted(latency for one in said for latency in one["latencies"])
    return {
        "clients": clients,
        "pushes": len(latencies),
        "pushes_per_second": sum(len(one["latencies"]) / one["seconds"] for one in said),
        "latency_seconds": statistics.median(latencies),
        "latency_seconds_p99": latencies[int(len(latencies) * 0.99)],
        "client_cpu_seconds": sum(one["cpu_seconds"] for one in said),
        "wall_seconds": max(one["seconds"] for one in said),
        "server_bytes": rss_bytes(server.process.pid),
    }


async def _clients(server: str, members: list[list[str]], seconds: float) -> dict[str, Any]:
    latencies: list[float] = []

    async def one(path: str, token: str) -> None:
        replica = AsyncReplica(path, server=server, token=token)
        await replica.push()
        await everybody.wait()
        while time.perf_counter() < until:
            with closing(sqlite3.connect(path)) as connection, connection:
                row = 1 + int.from_bytes(os.urandom(2)) % 2000
                connection.execute("UPDATE t SET body = ? WHERE id = ?", (os.urandom(400), row))
            started = time.perf_counter()
            await replica.push()
            latencies.append(time.perf_counter() - started)

    everybody = asyncio.Event()
    until = float("inf")
    tasks = [asyncio.create_task(one(path, token)) for path, token in members]
    await asyncio.sleep(2)  # the first pushes, which are whole files
    started = time.perf_counter()
    until = started + seconds
    everybody.set()
    await asyncio.gather(*tasks)
    return {
        "latencies": latencies,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time(),
    }


if __name__ == "__main__":
    given = json.load(sys.stdin)
    print(json.dumps(asyncio.run(_clients(sys.argv[1], given, float(sys.argv[2])))))
