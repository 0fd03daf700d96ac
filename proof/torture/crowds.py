"""Many at once: pushers of one database, databases, a writer that never stops, idle connections."""

import asyncio
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

from tests.helpers_local import line, python

from edgereplica.app.results import PushResult
from edgereplica.events.errors import Conflict

from .world import Server, Violation, World, edit, make, median_seconds, snapshot

Counts = dict[str, int | float | str]
CLIENTS = 32
DATABASES = 64
CROWD_ADDRESSES = 10


def one_database(root: Path, count: int, dice: Random) -> Counts:
    """`count` rounds of 32 clients that push changes of the same version at once."""
    conflicts = 0
    with Server(root / "data") as server:
        world = World(root, server, dice)
        for _ in range(count):
            base = max(world.content)
            paths = [root / f"client-{n}.db" for n in range(CLIENTS)]
            for path in paths:
                for suffix in ("", "-edgereplica"):
                    shutil.copy(f"{world.origin}{suffix}", f"{path}{suffix}")
                edit(path, dice)
            replicas = [world.replica(path, "push") for path in paths]
            results = asyncio.run(_all([replica.push() for replica in replicas]))
            winners = [n for n, r in enumerate(results) if isinstance(r, PushResult)]
            losers = [r for r in results if isinstance(r, Conflict)]
            if len(winners) != 1 or len(losers) != CLIENTS - 1:
                raise Violation(f"{len(winners)} winners, {len(losers)} conflicts: {results}")
            if results[winners[0]].version != base + 1:
                raise Violation("the winner's version is not the next")
            shutil.copy(paths[winners[0]], world.origin)
            shutil.copy(f"{paths[winners[0]]}-edgereplica", f"{world.origin}-edgereplica")
            world.check(base + 1)
            conflicts += len(losers)
    return {"rounds": count, "clients": CLIENTS, "winners": count, "conflicts": conflicts}


async def _all(work: list[Any]) -> list[Any]:
    return await asyncio.gather(*work, return_exceptions=True)


def many_databases(root: Path, count: int, dice: Random) -> Counts:
    """`count` rounds of 64 databases pushed at once, then pulled at once."""
    with Server(root / "data") as server:
        worlds = []
        first = World(root, server, dice, rows=50)
        for n in range(DATABASES):
            place = root / str(n)
            place.mkdir()
            world = object.__new__(World)
            world.root, world.server, world.dice = place, server, dice
            world.database = first.account.create_database(f"database-{n}")
            world.tokens = {
                way: first.account.token(world.database, way) for way in ("push", "pull")
            }
            world.origin = place / "origin.db"
            make(world.origin, 50 + 10 * n, dice)
            worlds.append(world)
        for _ in range(count):
            for world in worlds:
                edit(world.origin, dice)
            pushes = asyncio.run(_all([w.replica(w.origin, "push").push() for w in worlds]))
            pulls = asyncio.run(
                _all([w.replica(w.root / "copy.db", "pull").pull() for w in worlds])
            )
            for world, pushed, pulled in zip(worlds, pushes, pulls, strict=True):
                if not isinstance(pushed, PushResult) or isinstance(pulled, BaseException):
                    raise Violation(f"a push or pull failed: {pushed!r}, {pulled!r}")
                if snapshot(world.root / "copy.db") != snapshot(world.origin):
                    raise Violation("a database got another's content")
    return {"rounds": count, "databases": DATABASES, "mixed up": 0}


_WRITER = """
import sqlite3, sys
app = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
app.execute("PRAGMA synchronous = off")
app.execute("PRAGMA wal_autocheckpoint = %s" % sys.argv[2])
stamp = 0
while True:
    stamp += 1
    app.execute("BEGIN IMMEDIATE")
    app.execute("UPDATE t SET stamp = ?", (stamp,))
    app.execute("COMMIT")
    if stamp % 10 == 0:
        print(stamp)
"""


def beside_writer(root: Path, count: int, dice: Random) -> Counts:
    """`count` pushes of a WAL database that another process commits to without pause."""
    seen: list[int] = []
    with Server(root / "data") as server:
        world = World(root, server, dice, rows=50)
        live, copy = root / "live.db", root / "copy.db"
        make(live, 900, dice, wal=True)
        database = world.account.create_database("live")
        world.tokens = {way: world.account.token(database, way) for way in ("push", "pull")}
        with python(_WRITER, live, dice.choice((20, 300, 1000))) as writer:
            line(writer)
            for _ in range(count):
                asyncio.run(world.replica(live, "push").push())
                asyncio.run(world.replica(copy, "pull").pull())
                with closing(sqlite3.connect(f"file:{copy}?mode=ro", uri=True)) as app:
                    stamps = app.execute("SELECT DISTINCT stamp FROM t").fetchall()
                if len(stamps) != 1:
                    raise Violation(f"a pushed copy shows {len(stamps)} stamps")
                seen.append(stamps[0][0])
                if not line(writer):
                    raise Violation("the writer was blocked")
            last = int(line(writer))
    if seen != sorted(seen):
        raise Violation("the copies went back in time")
    return {"pushes": count, "different states": len(set(seen)), "transactions": last, "torn": 0}


async def _crowd(
    base: str, tokens: list[str], idle: int, dribbling: int, stop: asyncio.Event
) -> int:
    """Open all connections, from as many addresses as there are tokens; dribble until `stop`.

    A third of the idle ones upgrade and say nothing. The server bounds what one address and one
    database may hold, so the crowd comes from several. The number of connections opened.
    """
    host, port = urlsplit(base).hostname, urlsplit(base).port
    opened = [
        await asyncio.open_connection(host, port, local_addr=(f"127.0.1.{n % len(tokens) + 1}", 0))
        for n in range(idle + dribbling)
    ]
    for n, (_, writer) in enumerate(opened[:idle]):
        if n // len(tokens) % 3 == 0:
            writer.write(_upgrade(tokens[n % len(tokens)]))
    head = _upgrade(tokens[0])
    at = 0
    while not stop.is_set():
        for _, writer in opened[idle:]:
            writer.write(head[at % (len(head) - 4) : at % (len(head) - 4) + 1])
        at += 1
        await asyncio.sleep(0.5)
    for _, writer in opened:
        writer.transport.abort()
    return len(opened)


def _upgrade(token: str) -> bytes:
    return (
        "GET /sync HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()


def idle_connections(root: Path, count: int, dice: Random) -> Counts:
    """`count` idle and `count` dribbling connections beside a client that pushes and pulls."""
    rounds = 15
    with Server(root / "data") as server:
        world = World(root, server, dice)
        copy = root / "copy.db"

        tokens = []
        for n in range(CROWD_ADDRESSES):
            crowded_database = world.account.create_database(f"crowded-{n}")
            tokens.append(world.account.token(crowded_database, "pull"))

        async def honest() -> list[float]:
            samples = []
            for _ in range(rounds):
                await asyncio.to_thread(world.edit)
                started = time.monotonic()
                await world.replica(world.origin, "push").push()
                await world.replica(copy, "pull").pull()
                samples.append(time.monotonic() - started)
            return samples

        async def crowded() -> tuple[list[float], int]:
            stop = asyncio.Event()
            crowd = asyncio.create_task(_crowd(server.base, tokens, count, count, stop))
            await asyncio.sleep(1)
            samples = await honest()
            stop.set()
            return samples, await crowd

        alone = median_seconds(asyncio.run(honest()))
        samples, connections = asyncio.run(crowded())
        beside = median_seconds(samples)
        if snapshot(copy) != snapshot(world.origin):
            raise Violation("the copy differs")
    if beside > 2 * alone:
        raise Violation(f"{beside:.3f} s beside the crowd, {alone:.3f} s alone")
    return {
        "connections": connections,
        "alone ms": round(alone * 1e3, 1),
        "beside ms": round(beside * 1e3, 1),
    }
