"""The instruments of the power-loss checks: what is recorded, and what an image may have lost."""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from proof.running import Counts
from proof.torture import power, power_server
from proof.torture.disks import Disk
from proof.torture.syscalls import Note, Recorder, RecordingFailed

from edgereplica.events.errors import NetworkError

PROGRAM = """
import os, sqlite3, sys, threading
sys.stdin.readline()
root = sys.argv[1]
def write():
    with open(f"{root}/a", "wb") as file:
        file.write(b"x" * 1000)
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{root}/a", f"{root}/b")
    folder = os.open(root, os.O_RDONLY)
    os.fsync(folder)
    os.link(f"{root}/b", f"{root}/c")
    os.unlink(f"{root}/b")
    os.mkdir(f"{root}/sub")
    os.writev(os.open(f"{root}/sub/d", os.O_RDWR | os.O_CREAT), [b"one", b"two"])
    os.truncate(os.open(f"{root}/old", os.O_RDWR), 3)
thread = threading.Thread(target=write)
thread.start()
thread.join()
app = sqlite3.connect(f"{root}/app.db")
app.execute("CREATE TABLE t (x)")
app.commit()
"""


def record(root: Path, program: str) -> tuple[Recorder, Disk]:
    recorder = Recorder(root)
    disk = Disk.of(root, recorder.files)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with recorder.attached(process.pid):
            process.stdin.write(b"\n")
            process.stdin.close()
            process.stdout.read()
    for note in recorder.notes:
        disk.follow(note)
    return recorder, disk


def test_everything_a_process_writes_is_recorded(tmp_path: Path) -> None:
    """By a thread of its own and by a library, and what it leads to is what stands there."""
    (tmp_path / "old").write_bytes(b"older")
    recorder, disk = record(tmp_path, PROGRAM)
    disk.require(tmp_path)
    assert sorted(disk.names) == ["app.db", "c", "old", "sub", "sub/d"]
    whats = [note.what for note in recorder.notes]
    assert whats[:7] == ["create", "write", "sync", "rename", "sync_directory", "link", "unlink"]
    assert [note.path for note in recorder.notes if note.what == "unlink"] == [
        "b",
        "app.db-journal",
    ]


def test_a_write_that_passes_unseen_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(bytes(4096))
    program = """
import mmap, os, sys
sys.stdin.readline()
with mmap.mmap(os.open(sys.argv[1] + "/old", os.O_RDWR), 4096) as mapped:
    mapped[0] = 1
"""
    _, disk = record(tmp_path, program)
    with pytest.raises(RecordingFailed, match="old"):
        disk.require(tmp_path)


def images(*notes: Note, count: int = 300) -> list[dict[str, bytes]]:
    """Images at the end of the notes, which begin with an empty folder."""
    disk, dice = Disk(), Random(1)
    for note in notes:
        disk.follow(note)
    return [disk.image(dice).files for _ in range(count)]


def test_what_is_synced_with_its_name_is_never_lost() -> None:
    found = images(
        Note("create", "a", file=0),
        Note("write", file=0, data=b"x" * 3000),
        Note("sync", file=0),
        Note("sync_directory", ""),
    )
    assert all(image == {"a": b"x" * 3000} for image in found)


def test_content_that_is_not_synced_may_be_lost_in_part() -> None:
    found = images(
        Note("create", "a", file=0),
        Note("sync_directory", ""),
        Note("write", file=0, data=b"x" * 3000),
        Note("write", file=0, offset=3000, data=b"y" * 10),
    )
    contents = {image["a"] for image in found}
    assert {b"", b"x" * 3000 + b"y" * 10, bytes(3000) + b"y" * 10, b"x" * 3000} <= contents
    torn = b"x" * 512 + bytes(512)
    assert any(content.startswith(torn) for content in contents)


def test_a_name_that_is_not_synced_may_be_missing_or_the_old_one() -> None:
    before = (
        Note("create", "old", file=0),
        Note("write", file=0, data=b"old"),
        Note("sync", file=0),
        Note("sync_directory", ""),
        Note("create", "new", file=1),
        Note("write", file=1, data=b"new"),
        Note("sync", file=1),
        Note("rename", "new", to="old"),
    )
    found = images(*before)
    assert {image["old"] for image in found} == {b"old", b"new"}
    assert {"new" in image for image in found} == {True, False}
    assert {image["old"] for image in images(*before, Note("sync_directory", ""))} == {b"new"}


def test_a_removed_name_may_come_back() -> None:
    found = images(Note("create", "a", file=0), Note("sync_directory", ""), Note("unlink", "a"))
    assert {"a" in image for image in found} == {True, False}


def test_a_process_that_cannot_be_recorded_is_an_error(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises(RecordingFailed), Recorder(tmp_path).attached(gone.pid):
        pass


SYNCED = (
    Note("create", "a", file=0),
    Note("write", file=0, data=b"x" * 3000),
    Note("sync", file=0),
    Note("sync_directory", ""),
)
LOCKED = (Note("create", "a-edgereplica-lock", file=1), Note("write", file=1, data=b"1"))


def drawn(*notes: Note) -> list[tuple[int, dict[str, bytes]]]:
    """The images of a recording of `notes`, each with its moment."""
    recording = power.Recording(Disk(), list(notes), [])
    return [(moment, image.files) for moment, image in recording.images(300, Random(1))]


def test_in_every_image_something_is_lost() -> None:
    found = drawn(*SYNCED)
    written = {1: {"a": b""}, 2: {"a": b"x" * 3000}, 3: {"a": b"x" * 3000}}
    assert len(found) == 300
    assert {moment for moment, _ in found} == set(written)
    assert all(image != written[moment] for moment, image in found)


def test_what_was_done_is_judged_when_something_after_it_is_lost() -> None:
    found = drawn(*SYNCED, Note("create", "b", file=1))
    assert sum(moment == 5 for moment, _ in found) > 30
    assert all(image == {"a": b"x" * 3000} for moment, image in found if moment == 5)


def test_a_lock_that_is_lost_is_no_loss() -> None:
    assert max(moment for moment, _ in drawn(*SYNCED, *LOCKED)) == 3


def test_a_recording_of_which_nothing_can_be_lost_gives_no_image() -> None:
    assert drawn(*LOCKED) == []
    barren = 0
    for _ in range(power.BARREN_MAX - 1):
        barren = power.bounded(barren, gave=False)
    assert power.bounded(barren, gave=True) == 0
    with pytest.raises(RecordingFailed, match="nothing can be lost"):
        power.bounded(barren, gave=False)


def test_images_must_have_lost_something_and_met_what_was_staged() -> None:
    counts = Counts({"images": 9, power.LOST: 9, power.STAGED: 3, power.RESUMED: 3})
    assert power.lacks(counts) == []
    counts[power.LOST], counts[power.RESUMED] = 7, 0
    assert power.lacks(counts) == [
        "no image with a push resumed",
        "2 images in which nothing was lost",
    ]
    assert power.lacks(Counts({"images": 9, power.LOST: 9, power.DONE: 0})) == [
        "no image when all was done"
    ]


class Sink:
    """A transport that takes everything."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    async def send(self, frame: bytes) -> None:
        self.frames.append(frame)


def test_a_connection_breaks_off_behind_so_many_batches_of_pages() -> None:
    async def send(frames: list[bytes]) -> int:
        sink = Sink()
        wire = power_server._BreaksOff(sink, 2)
        with pytest.raises(NetworkError):
            for frame in frames:
                await wire.send(frame)
        return len(sink.frames)

    assert asyncio.run(send([b".hello", b".page_data", b".page_hash", b".page_data", b"."])) == 4


def test_what_is_staged_is_read_without_touching_the_image(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "server.db")) as server:
        server.execute("PRAGMA journal_mode = wal")
        server.execute("CREATE TABLE staged_segments (pages)")
        server.commit()
        assert power_server._staged_on(tmp_path) == 0
        server.executemany("INSERT INTO staged_segments VALUES (?)", [(16,), (3,)])
        server.commit()
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        assert power_server._staged_on(tmp_path) == 19
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
