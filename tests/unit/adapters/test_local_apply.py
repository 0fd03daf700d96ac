"""A version applied in place: the replica is then byte for byte the version, or what it was."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers_local import (
    PAGE_SIZES,
    build,
    line,
    masked,
    open_app,
    pages_by_sqlite,
    python,
    tell,
)

from edgereplica.adapters import local_apply
from edgereplica.adapters.local_apply import AppliedState, apply_version
from edgereplica.adapters.local_snapshot import LocalSnapshot
from edgereplica.adapters.local_state import UNKNOWN, unchanged
from edgereplica.events.errors import (
    FileBusy,
    FileReplaced,
    InvalidArgument,
    LocalFileError,
    NotADatabase,
)
from edgereplica.events.pages import lock_byte_page


def apply(path: Path, pages: list[bytes], numbers: Any = None, **options: Any) -> AppliedState:
    """Make the file the version `pages`, sending the pages `numbers` (default: all)."""
    chosen = range(1, len(pages) + 1) if numbers is None else numbers
    return apply_version(
        path,
        page_size=options.pop("page_size", None) or len(pages[0]),
        page_count=len(pages),
        pages=options.pop("rows", None) or [(n, pages[n - 1]) for n in chosen],
        busy_timeout_seconds=options.pop("busy_timeout_seconds", 0),
        **options,
    )


def differing(new: list[bytes], old: list[bytes]) -> list[int]:
    return [n for n, page in enumerate(new, 1) if n > len(old) or page != old[n - 1]]


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
@pytest.mark.parametrize("rows", [(200, 500), (500, 200)], ids=["grow", "shrink"])
def test_every_page_size_and_journal(
    tmp_path: Path, page_size: int, wal: bool, rows: tuple[int, int]
) -> None:
    path = build(tmp_path / "a.db", rows=rows[0], page_size=page_size, wal=wal)
    other = build(tmp_path / "b.db", rows=rows[1], page_size=page_size, wal=not wal, seed=2)
    version = pages_by_sqlite(other)
    numbers = differing(version, pages_by_sqlite(path))
    applied = apply(path, version, numbers)
    assert masked(pages_by_sqlite(path)) == masked(version)
    assert path.read_bytes()[18:20] == (b"\x02\x02" if wal else b"\x01\x01")
    assert path.stat().st_size == len(version) * page_size
    assert applied.in_place
    assert applied.pages_written == len(numbers)
    assert unchanged(path, applied.state)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.db", "b.db"]
    app = open_app(path)
    assert app.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    app.close()


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
@pytest.mark.parametrize("back", [True, False], ids=["older schema", "newer schema"])
def test_a_version_with_another_schema_and_length(
    tmp_path: Path, page_size: int, wal: bool, back: bool
) -> None:
    """A changed schema cookie once made SQLite parse the schema before the file was cut."""
    path = build(tmp_path / "a.db", page_size=page_size, wal=wal)
    before = pages_by_sqlite(path)
    app = open_app(path)
    app.executescript(
        "CREATE TABLE more(a); CREATE INDEX more_a ON more(a);"
        "INSERT INTO more VALUES (zeroblob(100000)); CREATE VIEW v AS SELECT a FROM more;"
    )
    app.close()
    after = pages_by_sqlite(path)
    if not back:
        apply(path, before, differing(before, after))
    version, held = (before, after) if back else (after, before)
    apply(path, version, differing(version, held))
    assert masked(pages_by_sqlite(path)) == masked(version)
    assert path.stat().st_size == len(version) * page_size
    app = open_app(path)
    assert app.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert app.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'more'").fetchone() == (
        0 if back else 1,
    )
    app.close()


@pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
def test_a_damaged_schema_is_mended(tmp_path: Path, wal: bool) -> None:
    path = build(tmp_path / "a.db", wal=wal)
    version = pages_by_sqlite(path)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"Z" * 2900)
    apply(path, version, [1])
    assert masked(pages_by_sqlite(path)) == masked(version)
    app = open_app(path)
    assert app.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    app.close()


@pytest.mark.parametrize("order", ["ascending", "descending", "joined"])
def test_pages_come_in_any_order(tmp_path: Path, order: str) -> None:
    path = build(tmp_path / "a.db")
    version = pages_by_sqlite(build(tmp_path / "b.db", rows=300, seed=2))
    rows: list[tuple[int, bytes | memoryview]] = [(n, page) for n, page in enumerate(version, 1)]
    if order == "descending":
        rows.reverse()
    if order == "joined":
        rows = [(4, memoryview(b"".join(version[3:]))), (1, b"".join(version[:3]))]
    apply(path, version, rows=rows)
    assert masked(pages_by_sqlite(path)) == masked(version)


def test_page_one_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut in the middle of a commit without a journal must not leave a header ahead of it."""
    path = build(tmp_path / "a.db")
    version = pages_by_sqlite(build(tmp_path / "b.db", rows=300, seed=2))
    written: list[int] = []

    class Spy:
        def __init__(self, connection: Any) -> None:
            self._connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

        def execute(self, sql: str, *rest: Any) -> Any:
            if sql.startswith("INSERT"):
                written.append(rest[0][0])
            return self._connection.execute(sql, *rest)

        def executemany(self, sql: str, rows: Iterator[Any]) -> Any:
            def seen() -> Iterator[Any]:
                for row in rows:
                    written.append(row[0])
                    yield row

            return self._connection.executemany(sql, seen())

    real = local_apply.connect
    monkeypatch.setattr(local_apply, "connect", lambda *a, **k: Spy(real(*a, **k)))
    apply(path, version)
    assert written == [*range(2, len(version) + 1), 1, len(version) + 1]


def test_pages_that_do_not_change_need_not_come(tmp_path: Path) -> None:
    path = build(tmp_path / "a.db")
    old = pages_by_sqlite(path)
    version = [*old[:4], bytes(4096), *old[5:]]
    applied = apply(path, version, [5])
    assert applied.pages_written == 1
    assert masked(pages_by_sqlite(path)) == masked(version)


def test_a_commit_does_not_vacuum(tmp_path: Path) -> None:
    """auto_vacuum=FULL moves free pages at every commit, if there are any: not in a replica."""
    other = build(tmp_path / "b.db", rows=500, auto_vacuum=2, wal=False)
    app = open_app(other)
    app.execute("DELETE FROM t WHERE id%3<2")
    app.close()
    version = pages_by_sqlite(other)
    header = bytearray(version[0])
    assert int.from_bytes(header[36:40], "big") > 5, "there are free pages"
    header[64:68] = bytes(4)  # from INCREMENTAL to FULL
    version[0] = bytes(header)
    for wal in (True, False):
        path = build(tmp_path / f"a{wal}.db", rows=300, auto_vacuum=1, wal=wal)
        apply(path, version)
        assert masked(pages_by_sqlite(path)) == masked(version)
        changed = [*version[:-1], bytes(4096)]
        apply(path, changed, [len(changed)])  # without page 1
        assert masked(pages_by_sqlite(path)) == masked(changed)


def test_past_the_lock_byte_page(tmp_path: Path) -> None:
    """A sparse file of 64 KiB pages grows past 1 GiB; the lock-byte page is not written."""
    size = 65536
    lock = lock_byte_page(size)
    path = build(tmp_path / "a.db", page_size=size, wal=False)
    old = pages_by_sqlite(path)
    header = bytearray(old[0])
    header[28:32] = (lock - 1).to_bytes(4, "big")
    with path.open("r+b") as file:
        file.write(header)
        file.truncate((lock - 1) * size)
    header[28:32] = (lock + 1).to_bytes(4, "big")
    header[24:28] = header[92:96]
    after = b"N" * size
    apply_version(
        path,
        page_size=size,
        page_count=lock + 1,
        pages=[(lock, b"L" * size + after), (1, header)],
        busy_timeout_seconds=0,
    )
    assert path.stat().st_size == (lock + 1) * size
    with path.open("rb") as file:
        file.seek((lock - 1) * size)
        assert file.read(2 * size) == bytes(size) + after


def test_an_empty_file_becomes_the_version(tmp_path: Path) -> None:
    for wal in (True, False):
        version = pages_by_sqlite(build(tmp_path / f"b{wal}.db", page_size=1024, wal=wal))
        path = tmp_path / f"a{wal}.db"
        path.touch()
        apply(path, version)
        assert masked(pages_by_sqlite(path)) == masked(version)
        assert path.read_bytes()[18:20] == version[0][18:20]


def test_a_damaged_schema_does_not_stand_in_the_way(tmp_path: Path) -> None:
    path = build(tmp_path / "a.db", wal=False)
    version = pages_by_sqlite(path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"CREATE TABLE t(", b"CREATE TABLE t)"))
    apply(path, version)
    assert masked(pages_by_sqlite(path)) == masked(version)


def test_a_disk_that_is_full_after_the_commit_takes_nothing_back(tmp_path: Path) -> None:
    """Its log still fits, the checkpoint does not: that once failed a pull that had happened."""
    path = build(tmp_path / "a.db", rows=2000)
    app = open_app(path)
    app.execute("UPDATE t SET x = zeroblob(300) WHERE id > 1990")
    app.close()
    version = pages_by_sqlite(path)
    old = build(tmp_path / "b.db", rows=2000)
    numbers = differing(version, pages_by_sqlite(old))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        applied = apply(old, version, numbers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert old.stat().st_size > 5 * 100_000
    assert applied.state.wal_frames == UNKNOWN
    assert masked(pages_by_sqlite(old)) == masked(version)


class TestNothingIsChanged:
    @pytest.fixture(params=[True, False], ids=["wal", "rollback"])
    def path(self, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
        return build(tmp_path / "a.db", rows=300, wal=request.param)

    @pytest.fixture
    def version(self, tmp_path: Path) -> list[bytes]:
        return pages_by_sqlite(build(tmp_path / "b.db", rows=3000, seed=2))

    def refused(self, path: Path, kind: type[BaseException], *args: Any, **options: Any) -> None:
        before = path.read_bytes()
        with pytest.raises(kind):
            apply(path, *args, **options)
        assert path.read_bytes() == before
        assert sorted(f.name for f in path.parent.iterdir()) == ["a.db", "b.db"]

    def test_if_the_check_refuses(self, path: Path, version: list[bytes]) -> None:
        def check() -> None:
            raise FileReplaced("no")

        self.refused(path, FileReplaced, version, check=check)

    def test_if_the_pages_stop_coming(self, path: Path, version: list[bytes]) -> None:
        def rows() -> Iterator[tuple[int, bytes]]:
            yield from ((n, page) for n, page in enumerate(version[:-1], 1))
            raise ConnectionResetError

        self.refused(path, LocalFileError, version, rows=rows())

    def test_if_they_are_no_pages(self, path: Path, version: list[bytes]) -> None:
        for row in ((2, b"short"), (0, version[0]), (len(version) + 1, version[0])):
            self.refused(path, InvalidArgument, version, rows=[(3, version[2]), row])
        for header in (bytes(4096), b"SQLite format 3\x00" + b"\xff" * 4080):
            self.refused(path, NotADatabase, version, rows=[(2, version[1]), (1, header)])

    def test_if_the_page_size_is_none(self, path: Path, version: list[bytes]) -> None:
        self.refused(path, InvalidArgument, version, page_size=1000)

    def test_if_a_whole_replacement_is_incomplete(self, path: Path, version: list[bytes]) -> None:
        self.refused(path, InvalidArgument, version[:10], page_size=512, rows=[(1, bytes(512))])


def test_a_check_runs_with_the_write_lock_held(tmp_path: Path) -> None:
    path = build(tmp_path / "a.db")
    version = pages_by_sqlite(build(tmp_path / "b.db", seed=2))
    called = []

    def check() -> None:
        app = open_app(path)
        with pytest.raises(Exception, match="locked"):
            app.execute("UPDATE t SET x=1 WHERE id=1")
        app.close()
        called.append(True)

    apply(path, version, check=check)
    assert called == [True]


def test_a_replaced_file_is_left_alone(tmp_path: Path) -> None:
    path = build(tmp_path / "a.db")
    version = pages_by_sqlite(build(tmp_path / "b.db", seed=2))
    newcomer = build(tmp_path / "c.db", seed=3)
    expected = newcomer.read_bytes()
    before = path.read_bytes()
    old = path.rename(tmp_path / "old.db")
    os.link(old, path)
    real = local_apply._Application._check_identity

    def swap(self: Any) -> None:
        newcomer.rename(path)
        real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_apply._Application, "_check_identity", swap)
        with pytest.raises(FileReplaced):
            apply(path, version)
    assert (path.read_bytes(), old.read_bytes()) == (expected, before)


class TestTheStateAfterwards:
    """It must be that of the version alone, or say that it cannot be told."""

    @pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
    def test_a_commit_that_follows_at_once(
        self, tmp_path: Path, wal: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = build(tmp_path / "a.db", wal=wal)
        version = pages_by_sqlite(build(tmp_path / "b.db", seed=2))
        real = LocalSnapshot.open

        def open_late(where: Path, *, busy_timeout_seconds: float) -> LocalSnapshot:
            app = open_app(path)
            app.execute("UPDATE t SET x=1 WHERE id=1")
            app.close()
            return real(where, busy_timeout_seconds=busy_timeout_seconds)

        monkeypatch.setattr(local_apply.LocalSnapshot, "open", open_late)
        applied = apply(path, version)
        assert applied.state.wal_frames == UNKNOWN
        assert not unchanged(path, applied.state)

    def test_beside_a_connection_that_stays(self, tmp_path: Path) -> None:
        """The log is the application's to checkpoint; the state names its frames."""
        path = build(tmp_path / "a.db")
        version = pages_by_sqlite(build(tmp_path / "b.db", seed=2, rows=20_000))
        code = """
import sqlite3, sys
app = sqlite3.connect(sys.argv[1], isolation_level=None)
print(app.execute("SELECT count(*) FROM t").fetchone()[0])
sys.stdin.readline()
print(app.execute("SELECT count(*) FROM t").fetchone()[0])
sys.stdin.readline()
"""
        with python(code, path) as reader:
            assert line(reader) == "200"
            size = path.stat().st_size
            applied = apply(path, version)
            assert path.stat().st_size == size, "somebody checkpointed"
            assert applied.state.wal_frames >= len(version) > 1000
            assert applied.state.wal_backfilled == 0
            assert unchanged(path, applied.state)
            tell(reader)
            assert line(reader) == "20000"
        assert masked(pages_by_sqlite(path)) == masked(version)


class TestAnotherPageSize:
    @pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
    def test_replaces_the_file_and_keeps_its_mode(self, tmp_path: Path, wal: bool) -> None:
        path = build(tmp_path / "a.db", wal=wal)
        path.chmod(0o640)
        version = pages_by_sqlite(build(tmp_path / "b.db", page_size=1024, wal=not wal, seed=2))
        applied = apply(path, version)
        assert masked(pages_by_sqlite(path)) == masked(version)
        assert path.read_bytes()[18:20] == (b"\x02\x02" if wal else b"\x01\x01")
        assert path.stat().st_mode & 0o777 == 0o640
        assert not applied.in_place
        assert unchanged(path, applied.state)
        assert sorted(f.name for f in tmp_path.iterdir()) == ["a.db", "b.db"]

    @pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
    def test_is_refused_while_somebody_has_it_open(self, tmp_path: Path, wal: bool) -> None:
        path = build(tmp_path / "a.db", wal=wal)
        version = pages_by_sqlite(build(tmp_path / "b.db", page_size=1024, seed=2))
        before = pages_by_sqlite(path)
        code = """
import sqlite3, sys
app = sqlite3.connect(sys.argv[1], isolation_level=None)
print(app.execute("SELECT count(*) FROM t").fetchone()[0])
sys.stdin.readline()
"""
        with python(code, path) as idle:
            assert line(idle) == "200"
            with pytest.raises(FileBusy, match=f"pid {idle.pid} "):
                apply(path, version)
            assert pages_by_sqlite(path) == before

    def test_no_pages_at_all(self, tmp_path: Path) -> None:
        path = build(tmp_path / "a.db")
        applied = apply_version(
            path, page_size=4096, page_count=0, pages=[], busy_timeout_seconds=0
        )
        assert path.read_bytes() == b""
        assert unchanged(path, applied.state)
