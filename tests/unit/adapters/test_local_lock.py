"""One sync of a file at a time; the lock dies with its owner."""

import errno
import os
import signal
from pathlib import Path

import pytest
from tests.helpers_local import line, python

from edgereplica.adapters import local_lock
from edgereplica.adapters.local_lock import SyncLock
from edgereplica.events.errors import DiskFull, FileBusy, LocalFileError

HOLD = """
import sys
from pathlib import Path
from edgereplica.adapters.local_lock import SyncLock
with SyncLock(Path(sys.argv[1])):
    print("held")
    sys.stdin.readline()
"""


def test_a_second_sync_says_so_and_stops(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with SyncLock(path):
        with pytest.raises(FileBusy, match=rf"another sync of .*db is running \(pid {os.getpid()}"):
            SyncLock(path)
        with SyncLock(tmp_path / "b.db"):
            pass
    with SyncLock(path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_sync_is_free(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with python(HOLD, path) as holder:
        assert line(holder) == "held"
        with pytest.raises(FileBusy, match=f"pid {holder.pid}") as refused:
            SyncLock(path)
        assert refused.value.details["pid"] == holder.pid
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with SyncLock(path):
            pass


def test_a_link_to_the_file_has_the_same_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.touch()
    (tmp_path / "link.db").symlink_to(path)
    with SyncLock(path), pytest.raises(FileBusy):
        SyncLock(tmp_path / "link.db")


def test_a_symbolic_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "a.db-edgereplica-lock").symlink_to(victim)
    with pytest.raises(LocalFileError, match="symbolic link"):
        SyncLock(tmp_path / "a.db")
    assert victim.read_bytes() == b"precious"


def test_a_lock_on_a_file_that_lost_its_name_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder removes the file and releases between another's open and flock."""
    path = tmp_path / "a.db"
    first = SyncLock(path)
    real, opened = local_lock.open_private, []

    def open_then_release(name: Path, flags: int) -> int:
        descriptor = real(name, flags)
        opened.append(descriptor)
        first.release()
        return descriptor

    monkeypatch.setattr(local_lock, "open_private", open_then_release)
    second = SyncLock(path)
    monkeypatch.undo()
    assert len(opened) == 2
    with pytest.raises(FileBusy):
        SyncLock(path)
    second.release()


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(LocalFileError, match=r"there is no directory .*none$"):
        SyncLock(tmp_path / "none" / "a.db")


def test_a_disk_that_was_full_leaves_no_lock_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptor stayed open, and the process kept itself out from then on."""

    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(DiskFull):
            SyncLock(tmp_path / "a.db")
    with SyncLock(tmp_path / "a.db"):
        pass
