"""Many at once: pushers of one database, databases, a writer that never stops."""

import asyncio
import dataclasses
import shutil
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

from tests.helpers_local import python
from tests.helpers_server import START_SECONDS_MAX

from edgereplica.adapters.websocket_client import connect
from edgereplica.app.replica import AsyncReplica
from edgereplica.app.results import PullResult, PushResult
from edgereplica.events.errors import Conflict, EdgeReplicaError
from proof.evidence import ROOT
from proof.running import Counts, Job

from .world import Server, Violation, World, edit, make, snapshot

CLIENTS = 32
DATABASES = 64


class _Abreast:
    """Pushes that begin to send pages together: by then the server has greeted every one of them,
    and nobody has won."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._all_here = asyncio.Event()

    def count_in(self) -> None:
        """One of them is there, or will never be."""
        self._missing -= 1
        if self._missing == 0:
            self._all_here.set()

    async def wait(self) -> None:
        self.count_in()
        await self._all_here.wait()


class _Pusher:
    """The transport of one push; it waits for the others before its first page, if it shall."""

    def __init__(self, inner: Any, abreast: _Abreast | None) -> None:
        self._inner = inner
        self._abreast = abreast
        self.has_sent_pages = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def send(self, frame: Any) -> None:
        if not self.has_sent_pages and b"page_data" in bytes(frame[:40]):
            self.has_sent_pages = True
            if self._abreast is not None:
                await self._abreast.wait()
        await self._inner.send(frame)


async def _push_all(replicas: list[AsyncReplica], together: bool) -> list[tuple[Any, bool]]:
    """(what became of it, whether it had sent pages) of each push."""
    abreast = _Abreast(len(replicas)) if together else None

    async def push(replica: AsyncReplica) -> tuple[Any, bool]:
        pushers: list[_Pusher] = []

        async def listened(url: str, bearer: str) -> Any:
            pushers.append(_Pusher(await connect(url, bearer, "push"), abreast))
            return pushers[-1]

        replica.options = dataclasses.replace(replica.options, connector=listened)
        result: Any
        try:
            result = await replica.push()
        except EdgeReplicaError as error:
            result = error
        has_sent = any(pusher.has_sent_pages for pusher in pushers)
        if abreast is not None and not has_sent:
            abreast.count_in()
        return result, has_sent

    return await asyncio.gather(*map(push, replicas))


def one_database(job: Job) -> Counts:
    """Rounds of 32 clients that push changes of the same version at once.

    In every other round all of them are greeted before any sends its pages: then nobody loses but
    at the compare-and-swap. In the others they run as they like, and the slow lose at hello.
    """
    found = Counts({"rounds": 0, "pushes": 0, "winners": 0, "conflicts": 0})
    with Server(job.root / "data") as server:
        world = World(job.root, server, job.dice)
        for number in job.rounds():
            together = number % 2 == 0
            base = world.known
            paths = [job.root / f"client-{n}.db" for n in range(CLIENTS)]
            for path in paths:
                _copy(world.origin, path)
                edit(path, job.dice)
            replicas = [world.replica(path, "push") for path in paths]
            ended = asyncio.run(_push_all(replicas, together))
            results = [result for result, _ in ended]
            winners = [n for n, r in enumerate(results) if isinstance(r, PushResult)]
            losers = [r for r in results if isinstance(r, Conflict)]
            if len(winners) != 1 or len(losers) != CLIENTS - 1:
                raise Violation(f"{len(winners)} winners, {len(losers)} conflicts: {results}")
            if any(loser.details.get("head") != base + 1 for loser in losers):
                raise Violation("a conflict does not name the head")
            late = sum(sent for result, sent in ended if isinstance(result, Conflict))
            if together and late != len(losers):
                raise Violation(f"{len(losers) - late} of {len(losers)} lost before they could")
            _copy(paths[winners[0]], world.origin)
            world.check(results[winners[0]].version, must_be_new=True)
            found.update(rounds=1, pushes=CLIENTS, winners=1, conflicts=len(losers))
            found["lost at the compare-and-swap"] += late
            found["lost at hello"] += len(losers) - late
    found.update({"torn": 0, "acknowledged losses": 0})
    return found


def _copy(source: Path, to: Path) -> None:
    """A database that is closed, with its sidecar."""
    for suffix in ("", "-edgereplica"):
        shutil.copy(f"{source}{suffix}", f"{to}{suffix}")


async def _all(work: list[Any]) -> list[Any]:
    return await asyncio.gather(*work, return_exceptions=True)


def many_databases(job: Job) -> Counts:
    """Rounds of 64 databases pushed at once, then pulled at once."""
    found = Counts({"rounds": 0, "pushes": 0, "pulls": 0})
    with Server(job.root / "data") as server:
        first = World(job.root, server, job.dice, rows=50)
        worlds = []
        for n in range(DATABASES):
            place = job.root / str(n)
            place.mkdir()
            worlds.append(first.beside(place, f"database-{n}", rows=50 + 10 * n))
        for _ in job.rounds():
            for world in worlds:
                world.edit()
            pushes = asyncio.run(_all([w.replica(w.origin, "push").push() for w in worlds]))
            copies = [world.root / "copy.db" for world in worlds]
            pulls = asyncio.run(
                _all([w.replica(c, "pull").pull() for w, c in zip(worlds, copies, strict=True)])
            )
            for world, copy, pushed, pulled in zip(worlds, copies, pushes, pulls, strict=True):
                if not isinstance(pushed, PushResult) or not isinstance(pulled, PullResult):
                    raise Violation(f"a push or pull failed: {pushed!r}, {pulled!r}")
                if snapshot(copy) != snapshot(world.origin):
                    raise Violation("a database is torn, or got another's content")
            found.update(rounds=1, pushes=DATABASES, pulls=DATABASES)
    found.update({"torn": 0, "mixed up": 0})
    return found


_WRITER = """
import os, sqlite3, struct, sys
sys.path.insert(0, sys.argv[4])
from proof.torture.crowds import transact
app = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
app.execute("PRAGMA synchronous = off")
app.execute("PRAGMA wal_autocheckpoint = %s" % sys.argv[2])
progress = os.open(sys.argv[3], os.O_RDWR | os.O_CREAT)
number = 0
while True:
    number += 1
    transact(app, number)
    os.pwrite(progress, struct.pack("<Q", number), 0)
"""


def transact(app: sqlite3.Connection, number: int) -> None:
    """The transaction with this number: always the same, so that a state can be made again."""
    dice = Random(number)
    app.execute("BEGIN IMMEDIATE")
    app.execute("UPDATE t SET stamp = ? WHERE id % 5 = ?", (number, number % 5))
    for _ in range(dice.choice((1, 3, 20))):
        app.execute(
            "UPDATE t SET x = ? WHERE id = ?", (dice.randbytes(400), dice.randrange(1, 200))
        )
    kind = dice.randrange(40)
    if kind == 0:
        app.execute("INSERT INTO t (stamp, x) SELECT -1, x FROM t WHERE id <= 60")
    elif kind == 1:
        app.execute("DELETE FROM t WHERE stamp = -1 OR id > 200")
    app.execute("UPDATE head SET number = ?", (number,))
    app.execute("COMMIT")


def beside_writer(job: Job) -> Counts:
    """Pushes of a WAL database that another process commits to without pause.

    The writer waits for no lock: it would die of one. Each pushed version is compared, byte for
    byte, with the database made again up to the transaction that the version ends with.
    """
    pushed: list[tuple[int, list[bytes]]] = []
    with Server(job.root / "data") as server:
        live, twin, copy = (job.root / f"{name}.db" for name in ("live", "twin", "copy"))
        _make_live(live, job.dice)
        shutil.copy(live, twin)
        account = World(job.root, server, job.dice, rows=50)
        world = account.beside(_folder(job.root / "live"), "live", rows=1)
        with _writing(live, job) as progress:
            for number in job.rounds():
                before = progress()
                # The first push replaces what the database was made with.
                asyncio.run(world.replica(live, "push").push(force=number == 0))
                asyncio.run(world.replica(copy, "pull").pull())
                with closing(sqlite3.connect(f"file:{copy}?mode=ro", uri=True)) as app:
                    (newest,) = app.execute("SELECT number FROM head").fetchone()
                if newest < before:
                    raise Violation(f"transaction {newest} was pushed, {before} had been made")
                pushed.append((newest, snapshot(copy)))
            transactions = progress()
    _require_states(twin, pushed)
    return Counts(
        {
            "pushes": len(pushed),
            "different states": len({newest for newest, _ in pushed}),
            "transactions meanwhile": transactions,
            "torn": 0,
            "times the writer waited": 0,
        }
    )


def _require_states(twin: Path, pushed: list[tuple[int, list[bytes]]]) -> None:
    """Make the transactions again, and stop at each that a pushed version ends with."""
    done = 0
    with closing(sqlite3.connect(twin, isolation_level=None)) as app:
        app.execute("PRAGMA synchronous = off")
        for newest, pages in pushed:
            for number in range(done + 1, newest + 1):
                transact(app, number)
            done = newest
            if snapshot(twin) != pages:
                raise Violation(f"what was pushed is not the state after {newest} transactions")


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _make_live(path: Path, dice: Random) -> None:
    make(path, 200, dice, wal=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as app:
        app.execute("CREATE TABLE head (number INTEGER)")
        app.execute("INSERT INTO head VALUES (0)")


@contextmanager
def _writing(live: Path, job: Job) -> Iterator[Any]:
    """A writer at work; what is yielded tells its last transaction, once it has made another."""
    told = job.root / "progress"
    checkpoint = job.dice.choice((20, 300, 1000))
    with python(_WRITER, live, checkpoint, told, ROOT) as writer:
        last = 0

        def progress() -> int:
            nonlocal last
            deadline = time.monotonic() + START_SECONDS_MAX
            while time.monotonic() < deadline and writer.poll() is None:
                data = told.read_bytes() if told.exists() else b""
                now = struct.unpack("<Q", data)[0] if len(data) == 8 else 0
                if now > last:
                    last = now
                    return last
                time.sleep(0.001)
            raise Violation("the writer had to wait, or died")

        yield progress
