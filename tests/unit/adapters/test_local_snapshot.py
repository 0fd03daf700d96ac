"""A snapshot is one committed state, byte for byte what SQLite reads, and leaves no trace."""

import os
import random
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import pack

import pytest
import sqlean
from tests.helpers_local import (
    PAGE_SIZES,
    build,
    fill,
    line,
    open_app,
    pages_by_sqlite,
    python,
)

from edgereplica.adapters import local_snapshot
from edgereplica.adapters.local_snapshot import LocalSnapshot
from edgereplica.adapters.local_state import UNKNOWN, peek_state, unchanged
from edgereplica.events.errors import (
    EdgeReplicaError,
    FileBusy,
    FileReplaced,
    InvalidArgument,
    LocalFileError,
    NotADatabase,
)
from edgereplica.events.pages import lock_byte_page


def opened(path: Path) -> LocalSnapshot:
    return LocalSnapshot.open(path, busy_timeout_seconds=0)


def content(snapshot: LocalSnapshot) -> list[bytes]:
    size = snapshot.page_size
    if snapshot.page_count == 0:
        return []
    data = bytes(snapshot.read(1, snapshot.page_count))
    return [data[at : at + size] for at in range(0, len(data), size)]


def side_files(path: Path) -> list[str]:
    return sorted(f.name for f in path.parent.iterdir() if f != path)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
def test_every_page_size_and_journal(tmp_path: Path, page_size: int, wal: bool) -> None:
    path = build(tmp_path / "a.db", page_size=page_size, wal=wal)
    app = open_app(path)
    app.execute("PRAGMA wal_autocheckpoint=0")
    app.execute("UPDATE t SET x=zeroblob(200) WHERE id%7=0")
    with opened(path) as snapshot:
        assert snapshot.page_size == page_size
        assert content(snapshot) == pages_by_sqlite(path)
        assert (snapshot.state.wal_frames > 0) is wal
    app.close()


def test_runs_are_joined_in_their_order(tmp_path: Path) -> None:
    path = build(tmp_path / "a.db")
    with opened(path) as snapshot:
        pages = content(snapshot)
        runs = ((2, 4), (7, 7), (1, 1))
        assert snapshot.read_runs(runs) == b"".join([*pages[1:4], pages[6], pages[0]])
        assert snapshot.read_runs(()) == b""
        for first, last in ((0, 1), (1, len(pages) + 1)):
            with pytest.raises(InvalidArgument):
                snapshot.read(first, last)


def test_an_empty_file_is_an_empty_database(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.touch()
    with opened(path) as snapshot:
        assert (snapshot.page_size, snapshot.page_count) == (4096, 0)
    assert unchanged(path, snapshot.state)
    assert side_files(path) == []


def test_the_lock_byte_page_reads_as_zeros_and_what_follows_is_read(tmp_path: Path) -> None:
    """A sparse file of 64 KiB pages, just past 1 GiB."""
    size = 65536
    path = build(tmp_path / "a.db", page_size=size, wal=False)
    lock_page = lock_byte_page(size)
    with path.open("r+b") as file:
        file.seek(28)
        file.write(pack(">I", lock_page + 2))
        file.seek((lock_page - 1) * size)
        file.write(b"L" * size + b"M" * size + b"N" * size)
    with opened(path) as snapshot:
        assert snapshot.page_count == lock_page + 2
        assert bytes(snapshot.read(lock_page, lock_page)) == bytes(size)
        expected = bytes(2 * size) + b"M" * size + b"N" * size
        assert bytes(snapshot.read(lock_page - 1, lock_page + 2)) == expected


class TestBesideAWriter:
    """The writer is a second connection of the same library in this process."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return build(tmp_path / "a.db")

    def test_what_is_committed_later_is_not_seen(self, path: Path) -> None:
        app = open_app(path)
        app.execute("UPDATE t SET x=zeroblob(300) WHERE id<50")
        before = pages_by_sqlite(path)
        with opened(path) as snapshot:
            fill(app, 100, seed=2)
            app.execute("DELETE FROM t WHERE id%2=0")
            app.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
            app.execute("UPDATE t SET x=zeroblob(299) WHERE id<50")
            assert content(snapshot) == before != pages_by_sqlite(path)
        app.close()

    def test_a_log_restarted_after_its_checkpoint_is_not_read(self, path: Path) -> None:
        """All frames are in the file, so a writer may write over the log under the snapshot."""
        app = open_app(path)
        app.execute("UPDATE t SET x=zeroblob(300) WHERE id<50")
        app.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        before = pages_by_sqlite(path)
        with opened(path) as snapshot:
            assert snapshot.state.wal_backfilled == snapshot.state.wal_frames > 0
            app.execute("UPDATE t SET x=zeroblob(298)")
            assert peek_state(path).wal_salts != snapshot.state.wal_salts
            assert content(snapshot) == before
        app.close()

    def test_an_uncommitted_tail_of_the_log_is_not_seen(self, path: Path) -> None:
        app = open_app(path)
        app.execute("PRAGMA cache_size=5")
        app.execute("UPDATE t SET x=zeroblob(300) WHERE id<20")
        before, log_bytes = pages_by_sqlite(path), path.with_name("a.db-wal").stat().st_size
        app.execute("BEGIN")
        app.execute("UPDATE t SET x=zeroblob(297)")
        assert path.with_name("a.db-wal").stat().st_size > log_bytes, "nothing was spilled"
        with opened(path) as snapshot:
            assert content(snapshot) == before
        app.execute("ROLLBACK")
        with opened(path) as again:
            assert content(again) == before
            assert again.changed_since(snapshot.state) == ()
        app.close()

    def test_a_rollback_writer_waits_for_the_snapshot(self, tmp_path: Path) -> None:
        path = build(tmp_path / "r.db", wal=False)
        before = pages_by_sqlite(path)
        app = open_app(path)
        with opened(path) as snapshot:
            with pytest.raises(sqlean.OperationalError, match="locked"):
                app.execute("UPDATE t SET x=zeroblob(300)")
            assert content(snapshot) == before
        app.execute("UPDATE t SET x=zeroblob(300)")
        app.close()

    def test_a_rollback_writer_is_waited_for_no_longer_than_told(self, tmp_path: Path) -> None:
        path = build(tmp_path / "r.db", wal=False)
        code = """
import sqlite3, sys
app = sqlite3.connect(sys.argv[1], isolation_level=None)
app.execute("BEGIN EXCLUSIVE")
print("locked")
sys.stdin.readline()
"""
        with python(code, path) as holder:
            assert line(holder) == "locked"
            with pytest.raises(FileBusy, match=f"pid {holder.pid} ") as refused:
                LocalSnapshot.open(path, busy_timeout_seconds=0.01)
            assert str(holder.pid) in refused.value.details["holders"]

    def test_an_application_in_exclusive_mode_is_named(self, path: Path) -> None:
        code = """
import sqlite3, sys
app = sqlite3.connect(sys.argv[1], isolation_level=None)
app.execute("PRAGMA locking_mode=EXCLUSIVE")
app.execute("UPDATE t SET x=1 WHERE id=1")
print("locked")
sys.stdin.readline()
"""
        with python(code, path) as holder:
            assert line(holder) == "locked"
            with pytest.raises(FileBusy, match=f"pid {holder.pid} "):
                opened(path)

    def test_closing_another_descriptor_does_not_drop_the_locks(self, path: Path) -> None:
        """POSIX locks go with *any* descriptor of the file that a process closes."""
        app = open_app(path)
        app.execute("UPDATE t SET x=zeroblob(300) WHERE id<50")
        probe = """
import sys
from pathlib import Path
from edgereplica.adapters.local_files import database_descriptor
from edgereplica.adapters.local_holders import locking_pid
with database_descriptor(Path(sys.argv[1])) as file:
    print(locking_pid(file))
"""
        with opened(path):
            opened(path).close()
            peek_state(path)
            with python(probe, path) as other:
                assert line(other) == str(os.getpid())
        app.close()


@pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
def test_a_snapshot_leaves_a_file_at_rest_as_it_was(tmp_path: Path, wal: bool) -> None:
    path = build(tmp_path / "a.db", wal=wal)
    os.utime(path, ns=(1, 1))
    before, status = path.read_bytes(), path.stat()
    with opened(path) as snapshot:
        content(snapshot)
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert side_files(path) == []
    assert unchanged(path, snapshot.state)


CRASHED = """
import os, sqlite3, sys
app = sqlite3.connect(sys.argv[1], isolation_level=None)
app.execute("PRAGMA wal_autocheckpoint=0")
app.execute("PRAGMA cache_size=5")
app.execute("BEGIN IMMEDIATE")
app.execute("UPDATE t SET x=zeroblob(296)")
if sys.argv[2] == "commit":
    app.execute("COMMIT")
os.kill(os.getpid(), 9)
"""


def crash(path: Path, how: str) -> None:
    with python(CRASHED, path, how) as process:
        assert process.wait() == -signal.SIGKILL


def test_a_log_left_by_a_crash_is_read_and_left(tmp_path: Path) -> None:
    path = build(tmp_path / "a.db")
    crash(path, "commit")
    log = path.with_name("a.db-wal")
    file_bytes, log_bytes = path.read_bytes(), log.read_bytes()
    with opened(path) as snapshot:
        seen = content(snapshot)
    assert (path.read_bytes(), log.read_bytes()) == (file_bytes, log_bytes)
    assert unchanged(path, snapshot.state)
    assert seen == pages_by_sqlite(path)
    assert bytes(296) in b"".join(seen)


def test_a_hot_journal_is_rolled_back(tmp_path: Path) -> None:
    path = build(tmp_path / "a.db", wal=False)
    before = pages_by_sqlite(path)
    crash(path, "cut")
    assert path.with_name("a.db-journal").stat().st_size > 0
    assert path.read_bytes() != b"".join(before), "nothing was spilled"
    with opened(path) as snapshot:
        assert content(snapshot) == before


def test_a_file_without_an_index_to_read_comes_through_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build(tmp_path / "a.db")
    app = open_app(path)
    app.execute("UPDATE t SET x=zeroblob(300) WHERE id<50")

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(local_snapshot, "PinnedLog", refuse)
    with opened(path) as snapshot:
        assert content(snapshot) == pages_by_sqlite(path)
        assert snapshot.state.wal_frames == UNKNOWN
        assert snapshot.changed_since(snapshot.state) is None
    assert not unchanged(path, snapshot.state)
    app.close()


NAMES = [
    "a b.db",
    "100%25.db",
    "a?mode=rw.db",
    "a#b.db",
    "ä漢.db",
    "-journal",
    os.fsdecode(b"\xff.db"),
]


@pytest.mark.parametrize("name", NAMES)
def test_any_file_name(tmp_path: Path, name: str) -> None:
    build(tmp_path / "plain.db", wal=False).rename(tmp_path / name)
    with opened(tmp_path / name) as snapshot:
        assert snapshot.page_count > 1


def test_a_symbolic_link_finds_the_journal_of_the_file(tmp_path: Path) -> None:
    path = build(tmp_path / "a.db")
    crash(path, "commit")
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "b.db"
    link.symlink_to(path)
    with opened(link) as snapshot, opened(path) as direct:
        assert content(snapshot) == content(direct)


def test_a_replaced_file_is_noticed(tmp_path: Path) -> None:
    path = build(tmp_path / "a.db")
    build(tmp_path / "b.db")
    with opened(path) as snapshot:
        snapshot.check_not_replaced()
        (tmp_path / "b.db").rename(path)
        with pytest.raises(FileReplaced, match="replaced"):
            snapshot.check_not_replaced()
        path.unlink()
        with pytest.raises(FileReplaced, match="removed"):
            snapshot.check_not_replaced()


class TestWrongInput:
    def refused(self, path: Path, kind: type[LocalFileError], match: str) -> None:
        before = side_files(path)
        for read in (opened, peek_state):
            with pytest.raises(kind, match=match) as refused:
                read(path)
            assert type(refused.value) is kind
        assert side_files(path) == before

    def test_missing(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "a.db", LocalFileError, "does not exist")

    def test_a_folder(self, tmp_path: Path) -> None:
        self.refused(tmp_path, NotADatabase, "is a directory")

    def test_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.db")
        self.refused(tmp_path / "a.db", NotADatabase, "not a regular file")

    def test_text(self, tmp_path: Path) -> None:
        (tmp_path / "a.db").write_text("id,name\n" * 500)
        self.refused(tmp_path / "a.db", NotADatabase, "is not a SQLite database")

    def test_encrypted(self, tmp_path: Path) -> None:
        (tmp_path / "a.db").write_bytes(random.Random(1).randbytes(8192))
        self.refused(tmp_path / "a.db", NotADatabase, "encrypted")

    @pytest.mark.parametrize(
        ("at", "value", "match"),
        [
            (16, b"\x0f\x00", "page size 3840"),
            (16, b"\x00\x02", "page size 2"),
            (21, b"\x00", "bytes 21-23"),
            (19, b"\x09", "file format 9"),
        ],
    )
    def test_damaged_headers(self, tmp_path: Path, at: int, value: bytes, match: str) -> None:
        path = build(tmp_path / "a.db", wal=False)
        with path.open("r+b") as file:
            file.seek(at)
            file.write(value)
        self.refused(path, NotADatabase, match)

    @pytest.mark.parametrize("bytes_left", [16, 99])
    def test_cut_within_the_header(self, tmp_path: Path, bytes_left: int) -> None:
        path = build(tmp_path / "a.db", wal=False)
        os.truncate(path, bytes_left)
        self.refused(path, NotADatabase, "cut short")

    @pytest.mark.parametrize("cut_bytes", [1, 4096, 5000])
    def test_cut(self, tmp_path: Path, cut_bytes: int) -> None:
        path = build(tmp_path / "a.db", wal=False)
        os.truncate(path, path.stat().st_size - cut_bytes)
        with pytest.raises(NotADatabase, match="cut short"):
            opened(path)

    def test_a_tail_after_the_last_page_is_not_content(self, tmp_path: Path) -> None:
        path = build(tmp_path / "a.db", wal=False)
        before = pages_by_sqlite(path)
        with path.open("ab") as file:
            file.write(b"tail" * 2000)
        with opened(path) as snapshot:
            assert content(snapshot) == before


class TestAnotherUser:
    """As a user who owns nothing here."""

    @pytest.fixture
    def folder(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
            Path(name).chmod(0o755)

    def test_a_folder_that_cannot_be_written(self, folder: Path) -> None:
        path = build(folder / "a.db")
        expected = pages_by_sqlite(path)
        path.chmod(0o444)
        folder.chmod(0o555)

        def read() -> str:
            with opened(path) as snapshot:
                same = content(snapshot) == expected
                snapshot.check_not_replaced()
            return f"{same} {side_files(path)}"

        assert as_nobody(read) == "True []"

    def test_a_file_that_cannot_be_read(self, folder: Path) -> None:
        path = build(folder / "a.db")
        path.chmod(0)
        folder.chmod(0o755)
        assert as_nobody(lambda: opened(path).page_count).startswith("LocalFileError")

    def test_a_log_without_an_index_that_can_be_made(self, folder: Path) -> None:
        path = build(folder / "a.db")
        crash(path, "commit")
        path.with_name("a.db-shm").unlink()
        folder.chmod(0o555)
        assert as_nobody(lambda: opened(path).page_count).startswith("LocalFileError")


def as_nobody(work: Callable[[], object]) -> str:
    """What `work` returns, or the error it raises, in a child process without privileges."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        said = "died"
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            said = str(work())
        except EdgeReplicaError as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(writable, said.encode())
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


def test_no_litter_from_failed_openings(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    (tmp_path / "text").write_text("no database" * 500)
    for _ in range(20):
        for name in ("text", "missing"):
            with pytest.raises(LocalFileError):
                opened(tmp_path / name)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert side_files(tmp_path / "text") == []
