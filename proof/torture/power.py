"""Power loss: what was written and not synced may be gone, in any combination.

The system calls of a real server in a push, and of a real client in a pull, are recorded
(`syscalls`); at random moments of a recording, the disk that a power loss may leave is made
(`disks`) and looked at as its owner would: the server starts on it, the client goes on with it.
Whatever was acknowledged before that moment is there, byte for byte; what was not is there wholly
or not at all; the next push or pull succeeds.
"""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.helpers_local import line, python

from edgereplica.adapters.sidecar import Sidecar, SidecarHeader
from edgereplica.app.logs import configure_logs
from edgereplica.app.serve import running_server
from edgereplica.app.settings import load_settings
from edgereplica.events.errors import EdgeReplicaError
from proof.running import Counts, Job

from .client import start_sync
from .disks import Disk, Image
from .syscalls import Note, Recorder
from .world import (
    GROW,
    SHRINK,
    UNHURRIED,
    Server,
    Violation,
    World,
    edit,
    require_tidy,
    resize,
    snapshot,
)

SERVER_IMAGES, CLIENT_IMAGES = 50, 25
"""Images of one recording, at most."""
PUSHES = 6
NAMING = ("create", "link", "rename", "unlink")
"""Steps that a commit often consists of: the power fails behind one of them every third time; every
sixth time when all is done, because what was acknowledged must be durable by then."""


@dataclass
class Recording:
    """What stood in the folder, and what was then done to it. `acknowledged`: after so many notes,
    the value is known to be durable."""

    disk: Disk
    notes: list[Note]
    acknowledged: list[tuple[int, Any]]

    def images(self, count: int, dice: Random) -> Iterator[tuple[int, Image, bool]]:
        """(notes until the power failed, what is left, whether anything is lost)."""
        end = len(self.notes)
        named = [at for at, note in enumerate(self.notes, 1) if note.what in NAMING] or [end]
        moments = sorted(
            dice.choice(
                (end, dice.choice(named), dice.choice(named), *dice.choices(range(end), k=3))
            )
            for _ in range(count)
        )
        at = 0
        for moment in moments:
            while at < moment:
                self.disk.follow(self.notes[at])
                at += 1
            image = self.disk.image(dice)
            yield moment, image, self.disk.has_lost(image)


def _checked(
    root: Path, recorder: Recorder, disk: Disk, acknowledged: list[tuple[int, Any]]
) -> Recording:
    """The recording, if no write has passed it unseen."""
    played = deepcopy(disk)
    for note in recorder.notes:
        played.follow(note)
    played.require(root)
    return Recording(disk, recorder.notes, acknowledged)


def _restore(image: Image, root: Path) -> None:
    """Write the image under `root`, with the times that files had."""
    root.mkdir()
    folders = {"", *image.folders}
    for folder in sorted(image.folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, data in image.files.items():
        if name.rpartition("/")[0] in folders:
            (root / name).write_bytes(data)
            (root / name).chmod(0o600)
            os.utime(root / name, ns=(image.mtimes[name], image.mtimes[name]))


# The server


def page_storage(job: Job) -> Counts:
    """Images of the whole data directory, SQLite log and objects, in the midst of pushes."""
    configure_logs("error", stream="stderr")
    found = Counts({"images": 0, "with something lost": 0, "with the last push": 0})
    while found["images"] < job.count:
        number = found["images"]
        root = job.root / str(number)
        root.mkdir()
        world, recording = _record_server(root, job.dice)
        for moment, image, lost in recording.images(
            min(SERVER_IMAGES, job.count - number), job.dice
        ):
            place = root / f"image-{moment}-{found['images']}"
            _restore(image, place)
            found["with the last push"] += asyncio.run(
                _check_server(place, world, recording, moment)
            )
            found["images"] += 1
            found["with something lost"] += lost
            shutil.rmtree(place)
            job.step()
        shutil.rmtree(root)
    found.update({"torn": 0, "acknowledged losses": 0, "pushes that failed afterwards": 0})
    return found


def _record_server(root: Path, dice: Random) -> tuple["_Pushed", Recording]:
    with Server(root / "data") as server:
        world = World(root, server, dice, rows=300, changes=100)
        pushed = _Pushed(world, [world.content[1]])
        recorder = Recorder(server.data_dir)
        disk = Disk.of(server.data_dir, recorder.files)
        acknowledged: list[tuple[int, Any]] = [(0, 1)]
        with recorder.attached(server.process.pid):
            for _ in range(PUSHES):
                world.edit()
                version = world.push().version
                acknowledged.append((len(recorder.notes), version))
                pushed.contents.append(world.content[version])
            server.kill()
    return pushed, _checked(server.data_dir, recorder, disk, acknowledged)


@dataclass
class _Pushed:
    """The contents that were pushed, version 1 first."""

    world: World
    contents: list[list[bytes]]


async def _check_server(place: Path, pushed: _Pushed, recording: Recording, moment: int) -> bool:
    """Whether the server has the newest push. It must have all that were acknowledged by then."""
    world, contents = pushed.world, pushed.contents
    acknowledged = max(version for at, version in recording.acknowledged if at <= moment)
    copy = place.with_name("copy.db")
    async with running_server(load_settings(data_dir=place, **UNHURRIED)) as base:
        head, found = await _pull_fresh(world, copy, base)
        if head not in (acknowledged, acknowledged + 1):
            raise Violation(f"version {acknowledged} was acknowledged, the head is {head}")
        if found != contents[head - 1]:
            raise Violation(f"version {head} is torn")
        # Somebody who has the head goes on with it: what an interrupted push left stands in the
        # way of nothing, and what of it is staged and torn is not built upon.
        edit(copy, world.dice, world.changes)
        again = await world.replica(copy, "push", base).push()
        if again.version != head + 1:
            raise Violation(f"after version {head}, version {again.version} was pushed")
        new = snapshot(copy)
        if await _pull_fresh(world, copy, base) != (head + 1, new):
            raise Violation("what was pushed afterwards is torn")
        old = world.dice.randint(1, acknowledged)
        if await _pull_fresh(world, copy, base, at=old) != (old, contents[old - 1]):
            raise Violation(f"version {old}, which was acknowledged, is torn")
    return head == len(contents)


async def _pull_fresh(
    world: World, copy: Path, base: str, at: int | None = None
) -> tuple[int, list[bytes]]:
    """(version, its pages) as a reader gets it who has nothing yet."""
    for left in copy.parent.glob(f"{copy.name}*"):
        left.unlink()
    result = await world.replica(copy, "pull", base).pull(at=at)
    return at or result.version or 0, snapshot(copy)


# The client

FRESH = ("nothing",)
IN_PLACE = (
    "wal",
    "wal, open elsewhere",
    "rollback",
    "wal, another page size",
    "rollback, another page size",
)


def fresh_pull(job: Job) -> Counts:
    """Images of a folder in which a file is made that was not there."""
    return _pulls(job, FRESH)


def pull_in_place(job: Job) -> Counts:
    """Images of a file that is changed in place, its log or journal and its sidecar with it."""
    return _pulls(job, IN_PLACE)


def _pulls(job: Job, kinds: tuple[str, ...]) -> Counts:
    found = Counts({"images": 0, "with something lost": 0, "old": 0, "new": 0})
    with Server(job.root / "data") as server:
        world = World(job.root, server, job.dice, rows=300, changes=100)
        turn = 0
        while found["images"] < job.count:
            kind = kinds[turn % len(kinds)]
            shrinks = turn % 2 == 1
            turn += 1
            folder = job.root / f"pull-{turn}"
            folder.mkdir()
            old, new, recording = _record_pull(world, folder / "replica.db", kind, shrinks)
            wanted = min(CLIENT_IMAGES, job.count - found["images"])
            for moment, image, lost in recording.images(wanted, job.dice):
                place = job.root / "image"
                _restore(image, place)
                done = moment == len(recording.notes)
                is_new = _check_client(world, place / "replica.db", kind, (old, new), done)
                found["new" if is_new else "old"] += 1
                found[f"images: {kind}"] += 1
                found["images: it shrinks"] += shrinks
                found["images"] += 1
                found["with something lost"] += lost
                shutil.rmtree(place)
                job.step()
            shutil.rmtree(folder)
    found.update({"torn": 0, "retries that failed": 0, "retries that needed --force": 0})
    return found


def _record_pull(
    world: World, path: Path, kind: str, shrinks: bool
) -> tuple[list[bytes] | None, list[bytes], Recording]:
    """(what the file held, what it holds afterwards, how it came to that)."""
    if shrinks:
        world.edit(GROW)
        world.push()
    if kind != "nothing":
        asyncio.run(world.replica(path, "pull").pull())
        with closing(sqlite3.connect(path)) as app:
            app.execute(f"PRAGMA journal_mode = {'wal' if kind.startswith('wal') else 'delete'}")
    world.edit(SHRINK if shrinks else None)
    if kind.endswith("another page size"):
        resize(world.origin)
    world.push()
    with _held_open(path) if kind.endswith("elsewhere") else nullcontext():
        old = snapshot(path) if path.exists() else None
        recorder = Recorder(path.parent)
        disk = Disk.of(path.parent, recorder.files)
        sync = start_sync("pull", path, world.server.base, world.tokens["pull"], held=True)
        with recorder.attached(sync.process.pid):
            sync.release()
            told = sync.end()
        if told is None or told[0] != "done":
            raise Violation(f"an undisturbed pull failed: {told}")
        return old, world.content[world.known], _checked(path.parent, recorder, disk, [])


@contextmanager
def _held_open(path: Path) -> Iterator[None]:
    """An application that has the database open, so that the log is not checkpointed."""
    code = """
import sqlite3, sys
app = sqlite3.connect(sys.argv[1])
print(app.execute("SELECT count(*) FROM t").fetchone()[0])
sys.stdin.readline()
"""
    with python(code, path) as application:
        line(application)
        yield


def _check_client(
    world: World,
    path: Path,
    kind: str,
    contents: tuple[list[bytes] | None, list[bytes]],
    done: bool,
) -> bool:
    """Whether the file is the new version, which it must be if the pull was done."""
    old, new = contents
    cut_late = kind.startswith("rollback")
    found = snapshot(path, cut_late) if path.exists() and path.stat().st_size else None
    if found not in (old, new) or (done and found != new):
        raise Violation("a file is torn, or not what was reported")
    _move_in(path)
    known = Sidecar.load_header(path)
    if known is not None and known.version == world.known and found != new:
        raise Violation("a sidecar is ahead of its file: a push would take the version back")
    if world.dice.random() < 0.3:
        _push_nothing(world, path)
    _pull_again(world, path, new, cut_late)
    return found == new


def _move_in(path: Path) -> None:
    """After a power loss a file keeps its number; the image has others, and its sidecar is told."""
    header, sidecar = Sidecar.load_header(path), Sidecar.load(path)
    if header is None or sidecar is None or not path.exists():
        return
    status = path.stat()
    state = {**header.state.to_dict(), "device": status.st_dev, "inode": status.st_ino}
    moved = SidecarHeader.from_map({**header.to_map(), "state": state})
    Sidecar.save(path, moved, sidecar.hashes, sidecar.fingerprints)


def _push_nothing(world: World, path: Path) -> None:
    """Nobody has changed the file: whatever it holds, a push must not make a version of it."""
    head = world.known
    try:
        asyncio.run(world.replica(path, "push").push())
    except EdgeReplicaError:
        return
    if asyncio.run(world.replica(path, "pull").status()).head != head:
        raise Violation("a push took a version back that a power loss had undone here")


def _pull_again(world: World, path: Path, new: list[bytes], cut_late: bool) -> None:
    asyncio.run(world.replica(path, "pull").pull())
    if snapshot(path, cut_late) != new:
        raise Violation("the retry did not bring the new version")
    require_tidy(path)
