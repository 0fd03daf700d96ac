"""A fresh file appears whole under its name, or not at all, and never in place of another."""

import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest
from tests.helpers_local import build, line, masked, pages_by_sqlite, python

from edgereplica.adapters import local_fresh
from edgereplica.adapters.local_files import remove_leftovers
from edgereplica.adapters.local_fresh import FreshFile
from edgereplica.adapters.local_state import unchanged
from edgereplica.events.errors import (
    AlreadyExists,
    DiskFull,
    FileBusy,
    FileReplaced,
    InvalidArgument,
    LocalFileError,
)
from edgereplica.events.pages import lock_byte_page


@pytest.fixture
def version(tmp_path: Path) -> list[bytes]:
    (tmp_path / "elsewhere").mkdir()
    return pages_by_sqlite(build(tmp_path / "elsewhere" / "b.db", seed=2))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here" / "a.db"


def filled(path: Path, version: list[bytes]) -> FreshFile:
    fresh = FreshFile(path, 4096, len(version))
    numbers = list(range(1, len(version) + 1))
    random.Random(1).shuffle(numbers)
    for n in numbers:
        fresh.write(n, version[n - 1])
    return fresh


def names(path: Path) -> list[str]:
    return sorted(f.name for f in path.parent.iterdir())


def test_pages_written_in_any_order(path: Path, version: list[bytes]) -> None:
    fresh = filled(path, version)
    assert names(path) == ["a.db-edgereplica-tmp"]
    assert bytes(fresh.read(2, 4)) == b"".join(version[1:4])
    state = fresh.install()
    assert path.read_bytes() == b"".join(version)
    assert names(path) == ["a.db"]
    assert unchanged(path, state)
    fresh.abandon()
    assert names(path) == ["a.db"]


def test_its_permissions_are_those_of_any_new_file(path: Path, version: list[bytes]) -> None:
    filled(path, version).install()
    plain = path.with_name("plain")
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


def test_what_replaces_a_private_file_is_private_from_the_start(
    path: Path, version: list[bytes]
) -> None:
    build(path)
    path.chmod(0o600)
    fresh = filled(path, version)
    (temporary,) = (f for f in path.parent.iterdir() if f.name.endswith("-edgereplica-tmp"))
    assert temporary.stat().st_mode & 0o777 == 0o600
    fresh.install(replace=True)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_a_copy_is_for_those_who_may_read_the_file(
    path: Path, version: list[bytes], mode: int
) -> None:
    original = build(path.with_name("original.db"))
    original.chmod(mode)
    copy = FreshFile(path, 4096, len(version), like=original)
    (temporary,) = (f for f in path.parent.iterdir() if f.name.endswith("-edgereplica-kept"))
    assert temporary.stat().st_mode & 0o777 == mode
    copy.write(1, b"".join(version))
    copy.install()
    assert path.stat().st_mode & 0o777 == mode


def test_a_copy_of_a_pull_that_was_killed_is_removed_by_the_next_sync(
    path: Path, version: list[bytes]
) -> None:
    build(path)
    killed = FreshFile(path.with_name("a.db.backup"), 4096, len(version), like=path)
    assert names(path) == ["a.db", "a.db-edgereplica-kept"]
    remove_leftovers(path)
    assert names(path) == ["a.db"]
    killed.abandon()


def test_abandoned(path: Path, version: list[bytes]) -> None:
    fresh = filled(path, version)
    fresh.abandon()
    fresh.abandon()
    assert names(path) == []


def test_an_empty_database(path: Path) -> None:
    state = FreshFile(path, 4096, 0).install()
    assert path.read_bytes() == b""
    assert unchanged(path, state)


def test_pages_outside(path: Path) -> None:
    fresh = FreshFile(path, 4096, 3)
    for first, data in ((0, bytes(4096)), (3, bytes(8192)), (1, bytes(100))):
        with pytest.raises(InvalidArgument):
            fresh.write(first, data)
    fresh.abandon()


def test_the_lock_byte_page_is_not_written(path: Path) -> None:
    lock = lock_byte_page(65536)
    fresh = FreshFile(path, 65536, lock + 1)
    fresh.write(lock - 1, b"K" * 65536 + b"L" * 65536 + b"M" * 65536)
    assert bytes(fresh.read(lock - 1, lock + 1)) == b"K" * 65536 + bytes(65536) + b"M" * 65536
    fresh.abandon()


def test_a_file_that_appeared_meanwhile_is_left(path: Path, version: list[bytes]) -> None:
    fresh = filled(path, version)
    path.write_bytes(b"somebody's")
    with pytest.raises(AlreadyExists):
        fresh.install()
    assert path.read_bytes() == b"somebody's"
    assert names(path) == ["a.db"]


def test_where_there_are_no_hard_links(
    path: Path, version: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(local_fresh.os, "link", refuse)
    filled(path, version).install()
    assert path.read_bytes() == b"".join(version)
    fresh = filled(path.with_name("c.db"), version)
    monkeypatch.setattr(FreshFile, "_stands_empty", lambda _: False)
    path.with_name("c.db").touch()
    with pytest.raises(AlreadyExists):
        fresh.install()


def test_an_empty_file_gives_way(path: Path, version: list[bytes]) -> None:
    path.touch()
    filled(path, version).install()
    assert path.read_bytes() == b"".join(version)


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
@pytest.mark.parametrize("late", [True, False], ids=["at the end", "at once"])
def test_a_stale_journal_is_not_applied(
    path: Path, version: list[bytes], suffix: str, late: bool
) -> None:
    """SQLite would take it for this file's; it may hold what its owner still wants."""
    journal = path.with_name("a.db" + suffix)
    if late:
        fresh = filled(path, version)
        journal.write_bytes(b"x" * 100)
        with pytest.raises(LocalFileError, match=suffix):
            fresh.install()
    else:
        journal.write_bytes(b"x" * 100)
        with pytest.raises(LocalFileError, match=suffix):
            FreshFile(path, 4096, 3)
    assert names(path) == [journal.name]


def test_what_a_killed_pull_left_is_replaced(path: Path, version: list[bytes]) -> None:
    """Even if somebody put a symbolic link there: what it points to is not touched."""
    victim = path.with_name("victim")
    victim.write_bytes(b"precious")
    path.with_name("a.db-edgereplica-tmp").symlink_to(victim)
    filled(path, version).install()
    assert victim.read_bytes() == b"precious"
    assert not path.is_symlink()
    assert path.read_bytes() == b"".join(version)


def test_a_full_disk_is_told_before_anything_moves(path: Path) -> None:
    space = os.statvfs(path.parent)
    pages = space.f_bavail * space.f_frsize // 65536 + 1000
    with pytest.raises(DiskFull, match="needs"):
        FreshFile(path, 65536, pages)
    assert names(path) == []


def test_a_disk_that_fills_up(
    path: Path, version: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = FreshFile(path, 4096, 2)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(local_fresh.os, "pwrite", full)
        with pytest.raises(DiskFull):
            fresh.write(1, version[0])
    with monkeypatch.context() as patch:
        patch.setattr(local_fresh.os, "fsync", full)
        with pytest.raises(DiskFull):
            fresh.install()
    assert names(path) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LocalFileError, match="does not exist"):
        FreshFile(tmp_path / "none" / "a.db", 4096, 1)


class TestReplacing:
    @pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
    def test_keeps_mode_and_permissions(self, path: Path, version: list[bytes], wal: bool) -> None:
        build(path, page_size=512, wal=wal)
        path.chmod(0o600)
        state = filled(path, version).install(replace=True)
        assert masked(pages_by_sqlite(path)) == masked(version)
        assert path.read_bytes()[18:20] == (b"\x02\x02" if wal else b"\x01\x01")
        assert path.stat().st_mode & 0o777 == 0o600
        assert names(path) == ["a.db"]
        assert unchanged(path, state)

    def test_calls_the_check_where_nobody_else_can_write(
        self, path: Path, version: list[bytes]
    ) -> None:
        build(path, wal=False)
        before = path.read_bytes()
        code = """
import sqlite3, sys
try:
    sqlite3.connect(sys.argv[1], timeout=0).execute("BEGIN IMMEDIATE")
    print("written")
except sqlite3.OperationalError as error:
    print(error)
"""

        def check() -> None:
            with python(code, path) as writer:
                assert line(writer) == "database is locked"
            raise FileReplaced("no")

        with pytest.raises(FileReplaced, match="no"):
            filled(path, version).install(replace=True, check=check)
        assert path.read_bytes() == before
        assert names(path) == ["a.db"]

    @pytest.mark.parametrize("wal", [False, True])
    def test_is_refused_after_a_commit_that_came_behind_the_check(
        self, path: Path, version: list[bytes], wal: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        build(path, wal=wal)
        code = """
import sqlite3, sys
app = sqlite3.connect(sys.argv[1])
app.execute("CREATE TABLE late (x)")
app.commit()
app.close()
print("written")
"""
        lock = FreshFile._lock_exclusively

        def late(self: FreshFile, connection: Any, header: Any) -> None:
            with python(code, path) as writer:
                assert line(writer) == "written"
            lock(self, connection, header)

        monkeypatch.setattr(FreshFile, "_lock_exclusively", late)
        with pytest.raises(FileReplaced):
            filled(path, version).install(replace=True, check=lambda: None)
        assert path.read_bytes()[18:20] == (b"\x02\x02" if wal else b"\x01\x01")

    def test_is_refused_beside_an_idle_connection(self, path: Path, version: list[bytes]) -> None:
        build(path, wal=False)
        before = path.read_bytes()
        code = """
import sqlite3, sys
app = sqlite3.connect(sys.argv[1])
print(app.execute("SELECT count(*) FROM t").fetchone()[0])
sys.stdin.readline()
"""
        with python(code, path) as idle:
            assert line(idle) == "200"
            with pytest.raises(FileBusy, match=f"pid {idle.pid} "):
                filled(path, version).install(replace=True)
        assert path.read_bytes() == before

    def test_one_that_is_gone(self, path: Path, version: list[bytes]) -> None:
        with pytest.raises(LocalFileError):
            filled(path, version).install(replace=True)
        assert names(path) == []
