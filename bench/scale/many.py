"""Many databases in the log: how a server starts and what opening one of them costs.

The events are those that pushes would have left, appended database by database; map objects and
segments they name are not there, since nothing here reads them. They are written by one SQLite
connection that does not sync; PostgreSQL gets a copy of its tables.
"""

import asyncio
import contextlib
import json
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.helpers_server import ServerProcess

from edgereplica.adapters import migrations
from edgereplica.adapters.event_log import Append, EventLog
from edgereplica.adapters.memory_repo import MemoryRepo
from edgereplica.adapters.memory_store import MemoryStore
from edgereplica.adapters.object_store import MeteredStore
from edgereplica.adapters.ports import Repo
from edgereplica.app.data_dir import database_path, prepare
from edgereplica.app.history import DatabaseHistory
from edgereplica.app.places import Place
from edgereplica.app.settings import load_settings
from edgereplica.events.domain import DatabaseCreated, VersionCommitted, database_stream
from edgereplica.events.pages import digest, page_size

from .places import NAMES
from .world import World

_ORGANIZATIONS = 100
_OPENED = 200


class _Unsynced(MemoryRepo):
    """SQLite on a file, called synchronously and never synced: for filling it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = OFF")


async def _fill(repo: Repo, databases: int, versions: int) -> list[tuple[str, str]]:
    await migrations.migrate(repo)
    made: list[tuple[str, str]] = []
    for _ in range(_ORGANIZATIONS):
        world = World(repo, MeteredStore(MemoryStore()))
        await world.organization()
        for _ in range(databases // _ORGANIZATIONS):
            made.append((await _one(world, versions), world.org_id))
    return made


async def _one(world: World, versions: int) -> str:
    database_id = world.ids.new_id()
    created = DatabaseCreated(
        database_id=database_id,
        org_id=world.org_id,
        name=database_id,
        created_by=world.user_id,
    )
    events: list[DatabaseCreated | VersionCommitted] = [created]
    for number in range(1, versions + 1):
        events.append(
            VersionCommitted(
                database_id=database_id,
                version=number,
                parent=number - 1,
                page_size=page_size(4096),
                page_count=1000,
                root=digest(random.randbytes(32)),
                author_id=world.user_id,
                author_email="somebody@example.org",
                message="",
                committed_at=1.8e9 + number,
                map_key=f"databases/{database_id}/maps/{number}-{world.ids.new_id()}",
                map_is_snapshot=number % 33 == 1,
                segments=(world.ids.new_id(),),
                pages_changed=3,
                stored_bytes=8000,
            )
        )
    await world.log.append([Append(database_stream(database_id), 0, events)])
    return database_id


async def _fill_place(data_dir: Path, databases: int, versions: int) -> list[tuple[str, str]]:
    prepare(data_dir)
    filled = _Unsynced(database_path(data_dir))
    try:
        made = await _fill(filled, databases, versions)
    finally:
        await filled.close()
    place = Place.of(load_settings(data_dir=data_dir))
    if not place.embedded:
        async with place.repo() as repo:
            await migrations.migrate(repo)
        _copy_tables(database_path(data_dir), place.database_url)
        shutil.rmtree(data_dir)
        data_dir.mkdir()
    return made


def _copy_tables(source: Path, url: str) -> None:
    """The log and what the events of `_fill` make, as PostgreSQL's bulk load takes them."""
    import psycopg
    from psycopg import sql

    with closing(sqlite3.connect(source)) as theirs, psycopg.connect(url) as ours:
        for table in ("events", "users", "identities", "organizations", "databases"):
            rows = theirs.execute(f"SELECT * FROM {table} ORDER BY rowid")
            names = [column[0] for column in rows.description]
            kept = [number for number, name in enumerate(names) if name != "position"]
            copy = sql.SQL("COPY {} ({}) FROM STDIN").format(
                sql.Identifier(table),
                sql.SQL(", ").join(sql.Identifier(names[number]) for number in kept),
            )
            with ours.cursor() as cursor, cursor.copy(copy) as sink:
                for row in rows:
                    sink.write_row([row[number] for number in kept])
        ours.commit()
        ours.autocommit = True
        ours.execute("VACUUM ANALYZE")


async def _log_bytes(place: Place) -> int:
    if place.embedded:
        return database_path(place.directory).stat().st_size
    async with place.repo() as repo:
        row = await repo.first("SELECT pg_database_size(current_database()) AS size")
        return int(row["size"]) if row else 0


def rss_bytes(pid: int) -> int:
    """Resident memory of a process and its children."""
    total = 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        status = Path(f"/proc/{pid}/status").read_text()
        total += 1024 * int(status.split("VmRSS:")[1].split()[0])
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                total += rss_bytes(int(child))
    return total


def measure(data_dir: Path, databases: int, versions: int) -> dict[str, Any]:
    started = time.perf_counter()
    made = asyncio.run(_fill_place(data_dir, databases, versions))
    found: dict[str, Any] = {
        "databases": len(made),
        "versions": versions,
        "fill_seconds": time.perf_counter() - started,
    }
    found["log_bytes"] = asyncio.run(_log_bytes(Place.of(load_settings(data_dir=data_dir))))
    starts = []
    for _ in range(3):
        started = time.perf_counter()
        with ServerProcess(data_dir, environment=server_environment()) as server:
            starts.append(time.perf_counter() - started)
            found["server_bytes"] = rss_bytes(server.process.pid)
    found["start_seconds"] = statistics.median(starts)
    random.Random(1).shuffle(made)
    opened = subprocess.run(
        [sys.executable, "-m", "bench.scale.many", str(data_dir)],
        input=json.dumps(made[: 5 * _OPENED]),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | server_environment(),
    )
    return found | json.loads(opened.stdout)


def server_environment() -> dict[str, str]:
    """What a server of the benchmark is told: the place, and to leave maintenance to us."""
    kept = {name: os.environ[name] for name in NAMES if name in os.environ}
    return {"GC_INTERVAL_SECONDS": "0"} | kept


async def _open_all(data_dir: Path, wanted: list[tuple[str, str]]) -> dict[str, Any]:
    """In a process of its own: what opening costs, and what a full cache weighs."""
    place = Place.of(load_settings(data_dir=data_dir))
    async with place.repo() as repo:
        histories = DatabaseHistory(EventLog(repo, World(repo, MeteredStore(MemoryStore())).clock))
        before = rss_bytes(os.getpid())
        seconds = []
        for database_id, org_id in wanted:
            started = time.perf_counter()
            await histories.open(database_id, org_id)
            seconds.append(time.perf_counter() - started)
        after = rss_bytes(os.getpid())
    first = sorted(seconds[:_OPENED])
    return {
        "open_seconds": statistics.median(first),
        "open_seconds_p99": first[int(len(first) * 0.99)],
        "opened": len(wanted),
        "opened_bytes": after - before,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_open_all(Path(sys.argv[1]), json.load(sys.stdin)))))
