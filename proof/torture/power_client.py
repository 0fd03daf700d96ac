"""Power lost under a client in a pull: its file with the log or the journal, and its sidecar.

The file holds the old version or the new one, and the new one once the pull was done; it never
stands behind its sidecar; the next pull succeeds.
"""

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import sqlean
from tests.helpers_local import line, python

from edgereplica.adapters.sidecar import Sidecar, SidecarHeader
from edgereplica.events.errors import EdgeReplicaError
from proof.running import Counts, Job

from .client import start_sync
from .disks import Disk
from .power import DONE, LOST, Recording, bounded, checked, restore
from .syscalls import Recorder
from .world import GROW, SHRINK, Server, Violation, World, require_tidy, resize, snapshot

IMAGES = 25
"""Of one recording, at most."""
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
    found = Counts({"images": 0, LOST: 0, "old": 0, "new": 0, DONE: 0})
    with Server(job.root / "data") as server:
        world = World(job.root, server, job.dice, rows=300, changes=100)
        turn = barren = 0
        while found["images"] < job.count:
            kind = kinds[turn % len(kinds)]
            shrinks = turn % 2 == 1
            turn += 1
            folder = job.root / f"pull-{turn}"
            folder.mkdir()
            old, new, recording = _record_pull(world, folder / "replica.db", kind, shrinks)
            number = found["images"]
            for moment, image in recording.images(min(IMAGES, job.count - number), job.dice):
                place = job.root / "image"
                restore(image, place)
                done = moment == len(recording.notes)
                is_new = _check_client(world, place / "replica.db", kind, (old, new), done)
                found["new" if is_new else "old"] += 1
                found[f"images: {kind}"] += 1
                found["images: it shrinks"] += shrinks
                found["images"] += 1
                found[LOST] += recording.disk.has_lost(image)
                found[DONE] += done
                shutil.rmtree(place)
                job.step()
            shutil.rmtree(folder)
            barren = bounded(barren, found["images"] > number)
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
        return old, world.content[world.known], checked(path.parent, recorder, disk, [])


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
    try:
        found = snapshot(path, cut_late) if path.exists() and path.stat().st_size else None
    except sqlean.DatabaseError as error:
        raise Violation(f"a file is torn: {error}") from error
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
