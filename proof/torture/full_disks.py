"""Disks that fill up: a limit on the size of files, of the server or of the client, in mid-sync.

RLIMIT_FSIZE stops a write where it would pass the limit, in the middle of a transaction, an object
or a page, as a full disk does; it is set for one process and taken back. The limits are drawn near
what the sync is about to write. One that stopped nothing has shown nothing: it is drawn again,
lower each time, and what is counted as a limit has hurt.
"""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from edgereplica.events.errors import DiskFull, EdgeReplicaError, StorageError
from proof.running import Counts, Job

from .client import start_sync
from .world import Server, Violation, World, journal_mode, require_tidy, resize, snapshot

ROWS, CHANGES = 1500, 200
"""0.7 MiB, of which a sync moves up to all."""
SERVER_SIDES = ("server's database, push", "server's objects, push", "server's database, pull")
CLIENT_SIDES = ("client, push", "client, pull into wal", "client, pull into rollback",
                "client, pull into nothing")  # fmt: skip
RESIZED = 0.2
"""How often a pull meets another page size, and replaces the file as a whole."""
TRIES_MAX = 8
"""A limit that stops nothing is drawn again; the last of so many is next to nothing."""
RESTART = 0.2
"""How often a server is killed while its disk is full."""


def disk_full(job: Job) -> Counts:
    """`job.count` limits for the server and as many for clients, in turn in every kind of sync."""
    found = Counts({"limits": 0, "limits that stopped nothing": 0})
    found.update({_stopped(side): 0 for side in (*SERVER_SIDES, *CLIENT_SIDES)})
    with Server(job.root / "data") as server:
        world = World(job.root, server, job.dice, ROWS, CHANGES)
        replicas = _replicas(job.root, world)
        for number in job.rounds():
            for sides in (SERVER_SIDES, CLIENT_SIDES):
                side = sides[number % len(sides)]
                for failed in range(TRIES_MAX):
                    if _is_stopped(world, side, replicas, 1 - failed / TRIES_MAX):
                        found["limits"] += 1
                        found[_stopped(side)] += 1
                        break
                    found["limits that stopped nothing"] += 1
    found.update({"torn": 0, "acknowledged losses": 0, "retries that failed": 0})
    return found


def _stopped(side: str) -> str:
    return f"stopped by a full disk: {side}"


def lacks(counts: Counts) -> list[str]:
    return [
        f"nothing was {_stopped(side)}"
        for side in (*SERVER_SIDES, *CLIENT_SIDES)
        if not counts[_stopped(side)]
    ]


def _is_stopped(world: World, side: str, replicas: dict[str, Path], share: float) -> bool:
    """Whether the limit stopped anything. `share`: of the usual limits, up to which it is drawn."""
    if side.startswith("server"):
        return _full_server(world, side, replicas["wal"], share)
    if side.endswith("push"):
        return _full_push(world, share)
    return _full_pull(world, replicas[side.rsplit(maxsplit=1)[-1]], share)


def _replicas(root: Path, world: World) -> dict[str, Path]:
    found = {}
    for kind in ("wal", "rollback", "nothing"):
        path = found[kind] = root / kind / "replica.db"
        path.parent.mkdir()
        if kind != "nothing":
            asyncio.run(world.replica(path, "pull").pull())
    with closing(sqlite3.connect(found["wal"])) as app:
        app.execute("PRAGMA journal_mode = wal")
    return found


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _database_bytes(server: Server) -> int:
    """The size of its write-ahead log, which grows by a few pages with each transaction."""
    return max((_size(path) for path in server.data_dir.glob("*.db-wal")), default=0)


def _full_server(world: World, side: str, replica: Path, share: float) -> bool:
    """Whether the limit stopped anything."""
    server, dice = world.server, world.dice
    pushes = side.endswith("push")
    world.edit()
    if not pushes:
        world.push()
    old, mode = snapshot(replica), journal_mode(replica)
    if "objects" in side:
        limit = round(dice.randrange(512, CHANGES * 4096) * share)
    elif share == 1:
        limit = max(0, _database_bytes(server) + dice.randrange(-8192, 8192))
    else:
        # The log is written again from its start when it has been emptied: where it is, unknown.
        limit = round(dice.randrange(_database_bytes(server) + 1) * share)
    server.limit_file_size(limit)
    told = _attempt(world, "push", world.origin) if pushes else _attempt(world, "pull", replica)
    if dice.random() < RESTART:
        server.kill()
        server.start()
    else:
        server.limit_file_size(None)
    refused = isinstance(told, EdgeReplicaError)
    if refused and told.code != StorageError.code:
        raise Violation(f"{side}: a disk full at {limit} bytes was called {told!r} ({told.code})")
    if pushes:
        world.check(None if refused else told.version)
        world.retry()
    else:
        _check_pull(world, replica, old, mode, None if refused else told)
    return refused


def _attempt(world: World, way: str, path: Path) -> Any:
    try:
        return asyncio.run(getattr(world.replica(path, way), way)())
    except EdgeReplicaError as error:
        return error


def _full_push(world: World, share: float) -> bool:
    """The client's disk in a push: it only writes what it remembers of it."""
    world.edit()
    before = snapshot(world.origin)
    limit = round(world.dice.randrange(16, 12_000) * share)
    sync = start_sync(
        "push", world.origin, world.server.base, world.tokens["push"], file_bytes_max=limit
    )
    told = _told(sync.end(), limit)
    if snapshot(world.origin) != before:
        raise Violation("a push changed the file")
    world.check(told[1].version if told[0] == "done" else None)
    world.retry()
    return told[0] == "failed"


def _full_pull(world: World, path: Path, share: float) -> bool:
    world.edit()
    if world.dice.random() < RESIZED:
        resize(world.origin)
    world.push()
    if path.parent.name == "nothing":
        for left in path.parent.iterdir():
            left.unlink()
    old, mode = snapshot(path) if path.exists() else None, journal_mode(path)
    largest = world.dice.choice((65_536, _size(world.origin) * 5 // 4))
    limit = round(world.dice.randrange(4096, largest) * share)
    sync = start_sync("pull", path, world.server.base, world.tokens["pull"], file_bytes_max=limit)
    told = _told(sync.end(), limit)
    _check_pull(world, path, old, mode, None if told[0] == "failed" else told[1])
    return told[0] == "failed"


def _told(told: tuple[str, Any] | None, limit: int) -> tuple[str, Any]:
    if told is None:
        raise Violation(f"the client died of a limit of {limit} bytes")
    if told[0] == "failed" and told[1] != DiskFull.code:
        raise Violation(f"a disk full at {limit} bytes was called {told[1]}")
    return told


def _check_pull(
    world: World, path: Path, old: list[bytes] | None, mode: bytes | None, told: Any
) -> None:
    new = world.content[world.known]
    found = snapshot(path) if path.exists() else None
    if found not in (old, new) or (told is not None and found != new):
        raise Violation("a replica is torn by a full disk")
    _require_mode(path, mode)
    asyncio.run(world.replica(path, "pull").pull())
    if snapshot(path) != new:
        raise Violation("the retry did not bring the new version")
    _require_mode(path, mode)
    require_tidy(path)


def _require_mode(path: Path, mode: bytes | None) -> None:
    if mode not in (None, journal_mode(path)):
        raise Violation("a replica lost its journal mode")
