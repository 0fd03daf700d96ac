"""Power lost under a server in a push: its whole data directory, the log and the objects.

Whatever was acknowledged before is there, byte for byte; what was not is there wholly or not at
all; the next push succeeds. One of the recorded pushes is broken off when the server has some of
its pages: on an image that knows of them the same content is pushed once more and builds upon them.
"""

import asyncio
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from tests.helpers_server import START_SECONDS_MAX

from edgereplica.adapters.websocket_client import connect
from edgereplica.app.logs import configure_logs
from edgereplica.app.serve import running_server
from edgereplica.app.settings import load_settings
from edgereplica.events.errors import NetworkError
from edgereplica.events.limits import PAGE_SIZE_BYTES_MAX
from proof.running import Counts, Job

from .disks import Disk
from .power import LOST, RESUMED, STAGED, Recording, bounded, checked, restore
from .syscalls import Recorder
from .world import SCRATCH, UNHURRIED, Server, Violation, World, edit, snapshot

IMAGES = 50
"""Of one recording, at most."""
PUSHES = 6
BROKEN_OFF_BATCHES_MAX = 2
"""Of four or more: a batch has `PAGE_SIZE_BYTES_MAX`, the least a server may be set to take."""
FRAME_KIND_BYTES_MAX = 40
"""Of a frame, in which its kind stands."""


def page_storage(job: Job) -> Counts:
    """Images of the whole data directory, SQLite log and objects, in the midst of pushes."""
    configure_logs("error", stream="stderr")
    found = Counts({"images": 0, LOST: 0, STAGED: 0, RESUMED: 0})
    found["pages resumed on images"] = 0
    barren = 0
    while found["images"] < job.count:
        number = found["images"]
        root = job.root / str(number)
        root.mkdir()
        world, recording = _record_server(root, job.dice)
        for moment, image in recording.images(min(IMAGES, job.count - number), job.dice):
            place = root / f"image-{moment}-{found['images']}"
            restore(image, place)
            found[LOST] += recording.disk.has_lost(image)
            found.update(asyncio.run(_check_server(place, world, recording, moment)))
            found["images"] += 1
            shutil.rmtree(place)
            job.step()
        shutil.rmtree(root)
        barren = bounded(barren, found["images"] > number)
    found.update({"torn": 0, "acknowledged losses": 0, "pushes that failed afterwards": 0})
    return found


def _record_server(root: Path, dice: Random) -> tuple["_Pushed", Recording]:
    with Server(root / "data", batch_decoded_bytes_max=PAGE_SIZE_BYTES_MAX) as server:
        world = World(root, server, dice, rows=300, changes=100)
        pushed = _Pushed(world, [world.content[1]], root / "broken-off.db")
        recorder = Recorder(server.data_dir)
        disk = Disk.of(server.data_dir, recorder.files)
        acknowledged: list[tuple[int, Any]] = [(0, 1)]
        with recorder.attached(server.process.pid):
            broken_off = dice.randrange(PUSHES - 1)
            for number in range(PUSHES):
                if number == broken_off:
                    _break_off(world, pushed.broken_off)
                world.edit()
                version = world.push().version
                acknowledged.append((len(recorder.notes), version))
                pushed.contents.append(world.content[version])
            server.kill()
    return pushed, checked(server.data_dir, recorder, disk, acknowledged)


@dataclass
class _Pushed:
    """The contents that were pushed, version 1 first; and a file of which a push was broken off."""

    world: World
    contents: list[list[bytes]]
    broken_off: Path


def _break_off(world: World, path: Path) -> None:
    """Push another content of the database, and lose the connection before all its pages are sent.

    The server keeps what has come. No later push of the recording has any of it.
    """
    shutil.copyfile(world.origin, path)
    with closing(sqlite3.connect(path)) as app:
        app.execute("UPDATE t SET x = randomblob(400)")
        app.executemany("INSERT INTO t (x) VALUES (randomblob(?))", [(400,)] * 200)
        app.commit()
    batches = world.dice.randint(1, BROKEN_OFF_BATCHES_MAX)
    replica = world.replica(path, "push")

    async def failing(url: str, bearer: str) -> Any:
        return _BreaksOff(await connect(url, bearer, "push"), batches)

    replica.options = replace(replica.options, connector=failing)
    try:
        asyncio.run(replica.push(force=True))
    except NetworkError:
        _wait_for_staged(world.server.data_dir)
        return
    raise Violation("a push whose connection broke off succeeded")


class _BreaksOff:
    """A client's transport that is gone behind so many batches of pages."""

    def __init__(self, inner: Any, batches: int) -> None:
        self._inner, self._left = inner, batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def send(self, frame: Any) -> None:
        await self._inner.send(frame)
        if b"page_data" in bytes(frame[:FRAME_KIND_BYTES_MAX]):
            self._left -= 1
            if not self._left:
                raise NetworkError("the connection was broken off")


def _wait_for_staged(data_dir: Path) -> None:
    """Until the server has noted what it was sent."""
    (path,) = data_dir.glob("*.db")
    end = time.monotonic() + START_SECONDS_MAX
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        while not _staged_pages(database):
            if time.monotonic() > end:
                raise Violation("a server kept nothing of a push that was broken off")


def _staged_on(place: Path) -> int:
    """How many pages are staged on an image. It is a copy that is opened."""
    with tempfile.TemporaryDirectory(dir=SCRATCH) as directory:
        for path in place.glob("*.db*"):
            shutil.copyfile(path, Path(directory) / path.name)
        (copy,) = Path(directory).glob("*.db")
        with closing(sqlite3.connect(copy)) as database:
            return _staged_pages(database)


def _staged_pages(database: sqlite3.Connection) -> int:
    (pages,) = database.execute("SELECT COALESCE(SUM(pages), 0) FROM staged_segments").fetchone()
    return int(pages)


async def _check_server(place: Path, pushed: _Pushed, recording: Recording, moment: int) -> Counts:
    """What is to be counted of the image. It must have all that were acknowledged by then."""
    world, contents = pushed.world, pushed.contents
    acknowledged = max(version for at, version in recording.acknowledged if at <= moment)
    copy = place.with_name("copy.db")
    staged_pages = _staged_on(place)
    async with running_server(load_settings(data_dir=place, **UNHURRIED)) as base:
        head, found = await _pull_fresh(world, copy, base)
        if head not in (acknowledged, acknowledged + 1):
            raise Violation(f"version {acknowledged} was acknowledged, the head is {head}")
        if found != contents[head - 1]:
            raise Violation(f"version {head} is torn")
        # Somebody who has the head goes on with it. What an interrupted push left stands in the
        # way of nothing; where it is known to be staged it is whole, for it is built upon.
        if staged_pages:
            _copy_into(copy, pushed.broken_off)
        else:
            edit(copy, world.dice, world.changes)
        again = await world.replica(copy, "push", base).push()
        if staged_pages and not again.pages_resumed:
            raise Violation(f"of {staged_pages} pages that were staged none was found again")
        if again.version != head + 1:
            raise Violation(f"after version {head}, version {again.version} was pushed")
        new = snapshot(copy)
        if await _pull_fresh(world, copy, base) != (head + 1, new):
            raise Violation("what was pushed afterwards is torn")
        old = world.dice.randint(1, acknowledged)
        if await _pull_fresh(world, copy, base, at=old) != (old, contents[old - 1]):
            raise Violation(f"version {old}, which was acknowledged, is torn")
    return Counts(
        {
            STAGED: staged_pages > 0,
            RESUMED: staged_pages > 0 and again.pages_resumed > 0,
            "pages resumed on images": again.pages_resumed if staged_pages else 0,
        }
    )


def _copy_into(copy: Path, origin: Path) -> None:
    """Let the database have the content of another, in a transaction."""
    with closing(sqlite3.connect(origin)) as read, closing(sqlite3.connect(copy)) as written:
        read.backup(written)


async def _pull_fresh(
    world: World, copy: Path, base: str, at: int | None = None
) -> tuple[int, list[bytes]]:
    """(version, its pages) as a reader gets it who has nothing yet."""
    for left in copy.parent.glob(f"{copy.name}*"):
        left.unlink()
    result = await world.replica(copy, "pull", base).pull(at=at)
    return at or result.version or 0, snapshot(copy)
