"""The local file beside real processes that write, read and die.

No timing decides here: writers run without pause, readers and kills are placed by what the
processes say. The oracle is the content itself: every transaction of the writer stamps every row,
so a torn copy shows two stamps; and what SQLite reads in the very same transaction.
"""

import random
import signal
import sqlite3
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.helpers_local import build, line, masked, open_app, pages_by_sqlite, python, tell

from edgereplica.adapters.local_apply import apply_version
from edgereplica.adapters.local_fresh import FreshFile
from edgereplica.adapters.local_snapshot import LocalSnapshot
from edgereplica.events.errors import FileBusy
from edgereplica.events.pages import pages_of

ROWS = 400

STAMPER = """
import sqlite3, sys
app = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=float(sys.argv[2]))
app.execute("PRAGMA wal_autocheckpoint=%s" % sys.argv[3])
app.execute("PRAGMA synchronous=OFF")
stamp = 0
while True:
    stamp += 1
    app.execute("BEGIN IMMEDIATE")
    app.execute("UPDATE t SET x=printf('%010d', ?) || substr(x, 11)", (stamp,))
    app.execute("COMMIT")
    if stamp % 10 == 0:
        print(stamp)
"""


def stamps(path: Path, snapshot: LocalSnapshot) -> set[bytes]:
    """The stamps in a copy of the snapshot, as SQLite reads the copy."""
    copy = path.with_name("copy.db")
    copy.write_bytes(snapshot.read(1, snapshot.page_count))
    with sqlite3.connect(f"file:{copy}?immutable=1", uri=True) as reader:
        found = {row[0] for row in reader.execute("SELECT substr(x, 1, 10) FROM t")}
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (ROWS,)
    reader.close()
    return {bytes(stamp) if isinstance(stamp, bytes) else stamp.encode() for stamp in found}


@pytest.mark.parametrize("checkpoint_frames", [3, 60, 1000])
def test_a_snapshot_beside_a_writer_shows_one_stamp(tmp_path: Path, checkpoint_frames: int) -> None:
    """The writer has no patience at all: were it ever blocked, it would die of it."""
    path = build(tmp_path / "a.db", rows=ROWS, page_size=1024)
    with python(STAMPER, path, 0, checkpoint_frames) as writer:
        first = int(line(writer))
        seen: set[bytes] = set()
        for _ in range(30):
            with LocalSnapshot.open(path, busy_timeout_seconds=0) as snapshot:
                found = stamps(path, snapshot)
                assert len(found) == 1
                again = stamps(path, snapshot)
                assert again == found
            seen |= found
            line(writer)
        assert writer.poll() is None, "the writer was blocked"
        assert int(line(writer)) > first + 100
    assert len(seen) > 10


def test_a_snapshot_in_rollback_mode_shows_one_stamp(tmp_path: Path) -> None:
    path = build(tmp_path / "a.db", rows=ROWS, page_size=1024, wal=False)
    with python(STAMPER, path, 60, 0) as writer:
        line(writer)
        seen: set[bytes] = set()
        for _ in range(20):
            with LocalSnapshot.open(path, busy_timeout_seconds=60) as snapshot:
                found = stamps(path, snapshot)
                assert len(found) == 1
            seen |= found
            line(writer)
    assert len(seen) > 5


CHURN = """
import random, sqlite3, sys
dice = random.Random(int(sys.argv[2]))
app = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
app.execute("PRAGMA synchronous=OFF")
app.execute("PRAGMA cache_size=20")
steps = [
    "UPDATE t SET x=randomblob(300) WHERE id%{n}=0",
    "UPDATE t SET x=randomblob(300) WHERE id={n}",
    "INSERT INTO t(x) SELECT randomblob(300) FROM t LIMIT 200",
    "DELETE FROM t WHERE id%{n}=1 AND id>300",
    "BEGIN; UPDATE t SET x=zeroblob(50); ROLLBACK",
    "PRAGMA incremental_vacuum",
    "VACUUM",
    "PRAGMA wal_autocheckpoint={n}",
    "PRAGMA wal_autocheckpoint={n}00",
    "PRAGMA wal_checkpoint(PASSIVE)",
    "PRAGMA wal_checkpoint(RESTART)",
    "PRAGMA wal_checkpoint(TRUNCATE)",
]
weights = [30, 30, 5, 5, 5, 2, 1, 2, 2, 3, 2, 2]
app.execute("PRAGMA busy_timeout=1")
while True:
    try:
        app.executescript(dice.choices(steps, weights)[0].format(n=dice.randint(2, 9)))
    except sqlite3.OperationalError as error:
        assert "locked" in str(error), error
    print("step")
"""


@pytest.mark.parametrize("seed", range(3))
def test_against_sqlite_in_the_same_transaction(tmp_path: Path, seed: int) -> None:
    """Two writers commit, roll back, vacuum and checkpoint as they like; what is read directly is
    what `sqlite_dbpage` reads in the same transaction, and no changed page is missed."""
    path = build(tmp_path / "a.db", rows=800, page_size=1024, auto_vacuum=2)
    laid_over = told = 0
    previous: tuple[LocalSnapshot, bytes] | None = None
    with python(CHURN, path, seed) as writer, python(CHURN, path, seed + 100) as other:
        for _ in range(150):
            with LocalSnapshot.open(path, busy_timeout_seconds=60) as snapshot:
                size, count = snapshot.page_size, snapshot.page_count
                data = bytes(snapshot.read(1, count))
                oracle = bytearray(len(data))
                snapshot._read_through_sqlite(1, memoryview(oracle))
                assert data == oracle
                laid_over += bool(snapshot._log and snapshot._log._frames)
                if previous is not None:
                    runs = snapshot.changed_since(previous[0].state)
                    if runs is not None:
                        told += 1
                        listed = set(pages_of(runs))
                        old = previous[1]
                        for page in range(1, count + 1):
                            place = slice((page - 1) * size, page * size)
                            assert page in listed or page == 1 or data[place] == old[place]
                previous = (snapshot, data)
            line(writer)
        assert writer.poll() is None
        assert other.poll() is None
    assert laid_over > 10
    assert told > 5


READER = """
import sqlite3, sys
app = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
count = lambda: app.execute("SELECT count(*), total(length(x)) FROM t").fetchone()
app.execute("BEGIN")
print(count())
sys.stdin.readline()
print(count())
app.execute("COMMIT")
print(count(), app.execute("PRAGMA integrity_check").fetchone()[0])
sys.stdin.readline()
"""


def apply(
    path: Path,
    version: list[bytes],
    busy_timeout_seconds: float = 0,
    pages: Iterable[int] | None = None,
) -> None:
    chosen = range(1, len(version) + 1) if pages is None else pages
    apply_version(
        path,
        page_size=len(version[0]),
        page_count=len(version),
        pages=[(page, version[page - 1]) for page in chosen],
        busy_timeout_seconds=busy_timeout_seconds,
    )


def test_a_reader_in_wal_mode_keeps_its_snapshot_and_then_sees_the_version(tmp_path: Path) -> None:
    path = build(tmp_path / "a.db", rows=200)
    version = pages_by_sqlite(build(tmp_path / "b.db", rows=500, seed=2))
    with python(READER, path) as reader:
        assert line(reader) == "(200, 60000.0)"
        apply(path, version)
        tell(reader)
        assert line(reader) == "(200, 60000.0)"
        assert line(reader) == "(500, 150000.0) ok"
        assert masked(pages_by_sqlite(path)) == masked(version)


HOLDER = """
import sqlite3, sys
app = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.stdin:
    try:
        print(app.execute(statement).fetchall(), flush=True)
    except sqlite3.Error as error:
        print(error, flush=True)
"""

FORKS = {
    "a small schema": ("CREATE TABLE base(a)", "CREATE TABLE mine(a)", "CREATE TABLE theirs(b)"),
    # Page 1 is the same in both: the names stand in pages below it.
    "a large schema": (
        ";".join(f"CREATE TABLE table_number_{n}(a, b, c)" for n in range(200)),
        "ALTER TABLE table_number_150 RENAME TO mine",
        "ALTER TABLE table_number_150 RENAME TO theirs",
    ),
}


@pytest.mark.parametrize("fork", FORKS)
@pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
def test_a_live_connection_sees_the_schema_of_a_history_that_parted(
    tmp_path: Path, fork: str, wal: bool
) -> None:
    """Both schemas had the same cookie: it wrote its rows into the tables of the other one."""
    base, mine, theirs = FORKS[fork]
    for name, change in (("a.db", mine), ("b.db", theirs)):
        app = open_app(build(tmp_path / name, wal=wal))
        app.executescript(base)
        app.executescript(change)
        app.close()
    path, version = tmp_path / "a.db", pages_by_sqlite(tmp_path / "b.db")
    held = pages_by_sqlite(path)
    assert held[0][40:44] == version[0][40:44]
    with python(HOLDER, path) as holder:
        tell(holder, "SELECT * FROM mine")
        assert line(holder) == "[]"
        differing = [n for n, page in enumerate(version, 1) if page != held[n - 1]]
        assert (1 in differing) == (fork == "a small schema")
        apply(path, version, pages=differing)
        tell(holder, "INSERT INTO mine(a) VALUES (1)")
        assert line(holder) == "no such table: mine"
        tell(holder, "SELECT * FROM theirs")
        assert line(holder) == "[]"
    assert masked(pages_by_sqlite(path)) == masked(version)


def test_a_live_connection_sees_what_became_of_an_older_schema(tmp_path: Path) -> None:
    """Back at an older version the cookie was an old one too, and the next schema's a known one."""
    path = build(tmp_path / "a.db")
    older = pages_by_sqlite(path)
    app = open_app(path)
    app.execute("CREATE TABLE mine(a)")
    app.close()
    with python(HOLDER, path) as holder:
        tell(holder, "SELECT * FROM mine")
        assert line(holder) == "[]"
        apply(path, older)
        assert masked(pages_by_sqlite(path)) == masked(older)
        app = open_app(path)
        app.execute("CREATE TABLE theirs(b)")
        app.close()
        tell(holder, "INSERT INTO mine VALUES (1)")
        assert line(holder) == "no such table: mine"


@pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
def test_a_file_that_nobody_has_open_gets_the_version_s_own_cookie(
    tmp_path: Path, wal: bool
) -> None:
    """An older one, and that of another schema that is the file's own already."""
    path = build(tmp_path / "a.db", wal=wal)
    versions = [pages_by_sqlite(path)]
    for table in ("mine", "theirs"):
        other = build(tmp_path / f"{table}.db", wal=wal)
        app = open_app(other)
        app.execute(f"CREATE TABLE {table}(a)")
        app.close()
        versions.append(pages_by_sqlite(other))
    assert versions[1][0][40:44] == versions[2][0][40:44] != versions[0][0][40:44]
    for version in (versions[1], versions[2], versions[0]):
        apply(path, version)
        assert pages_by_sqlite(path)[0][40:44] == version[0][40:44]
        assert masked(pages_by_sqlite(path)) == masked(version)


@pytest.mark.parametrize("newer_schema", [True, False])
def test_along_one_history_a_file_has_the_cookies_of_its_versions(
    tmp_path: Path, newer_schema: bool
) -> None:
    path = build(tmp_path / "a.db")
    before = pages_by_sqlite(path)
    app = open_app(path)
    app.execute("CREATE TABLE more(a)" if newer_schema else "DELETE FROM t WHERE id > 20")
    app.execute("VACUUM" if newer_schema else "UPDATE t SET x = zeroblob(9000)")
    app.close()
    version = pages_by_sqlite(path)
    build(tmp_path / "b.db")
    assert masked(pages_by_sqlite(tmp_path / "b.db")) == masked(before)
    apply(tmp_path / "b.db", version)
    assert pages_by_sqlite(tmp_path / "b.db")[0][40:44] == version[0][40:44]


def test_a_reader_in_rollback_mode_is_waited_for_and_named(tmp_path: Path) -> None:
    path = build(tmp_path / "a.db", rows=200, wal=False)
    version = pages_by_sqlite(build(tmp_path / "b.db", rows=500, seed=2))
    before = path.read_bytes()
    with python(READER, path) as reader:
        assert line(reader) == "(200, 60000.0)"
        with pytest.raises(FileBusy, match=f"pid {reader.pid} "):
            apply(path, version, busy_timeout_seconds=0.05)
        assert path.read_bytes() == before
        tell(reader)
        assert line(reader) == "(200, 60000.0)"
        assert line(reader) == "(200, 60000.0) ok"
        apply(path, version)
        assert masked(pages_by_sqlite(path)) == masked(version)


def test_a_writer_in_wal_mode_is_waited_for_and_named(tmp_path: Path) -> None:
    path = build(tmp_path / "a.db")
    version = pages_by_sqlite(build(tmp_path / "b.db", rows=500, seed=2))
    code = """
import sqlite3, sys
app = sqlite3.connect(sys.argv[1], isolation_level=None)
app.execute("BEGIN IMMEDIATE")
print("locked")
sys.stdin.readline()
"""
    with python(code, path) as writer:
        assert line(writer) == "locked"
        with pytest.raises(FileBusy, match=f"held by pid {writer.pid} "):
            apply(path, version, busy_timeout_seconds=0.05)
    apply(path, version)
    assert masked(pages_by_sqlite(path)) == masked(version)


KILLED_APPLY = """
import os, sys
from pathlib import Path
from edgereplica.adapters.local_apply import apply_version
path, size, last = Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4])
data = Path(sys.argv[2]).read_bytes()
count = len(data) // size
def rows():
    for n in range(1, count + 1):
        if n == last:
            os.kill(os.getpid(), 9)
        yield n, data[(n - 1) * size : n * size]
print("begin")
apply_version(path, page_size=size, page_count=count, pages=rows(), busy_timeout_seconds=0)
print("end")
"""


@pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
def test_killed_at_any_page_the_file_is_the_old_version(tmp_path: Path, wal: bool) -> None:
    """The cache holds 16 MiB, so by the later kills much has been written to log or file."""
    path = build(tmp_path / "a.db", rows=400, wal=wal, page_size=65536)
    old = pages_by_sqlite(path)
    source = build(tmp_path / "b.db", rows=130_000, seed=2, page_size=65536, wal=wal)
    count = source.stat().st_size // 65536
    dice = random.Random(7)
    for last in [1, 2, count, *(dice.randint(3, count) for _ in range(7))]:
        with python(KILLED_APPLY, path, source, 65536, last) as victim:
            assert line(victim) == "begin"
            assert victim.wait() == -signal.SIGKILL
        assert masked(pages_by_sqlite(path)) == masked(old)


@pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
def test_killed_at_any_instant_the_file_is_old_or_new(tmp_path: Path, wal: bool) -> None:
    """Killed at random moments of the commit too: whatever the moment, there is no third state."""
    old = pages_by_sqlite(build(tmp_path / "o.db", rows=3000, wal=wal))
    new_file = build(tmp_path / "n.db", rows=5000, seed=2, wal=wal)
    new = pages_by_sqlite(new_file)
    dice = random.Random(11)
    for round_ in range(25):
        path = tmp_path / f"a{round_}.db"
        path.write_bytes((tmp_path / "o.db").read_bytes())
        with python(KILLED_APPLY, path, new_file, 4096, 0) as victim:
            assert line(victim) == "begin"
            with suppress(subprocess.TimeoutExpired):
                victim.wait(timeout=dice.uniform(0, 0.05))
            victim.kill()
            victim.wait()
        assert masked(pages_by_sqlite(path)) in (masked(old), masked(new))


KILLED_AT = """
import os, sys
from pathlib import Path
from edgereplica.adapters import local_apply
path, size, step = Path(sys.argv[1]), 4096, sys.argv[3]
data = Path(sys.argv[2]).read_bytes()
when, statement = step.split(" ", 1)
class Mortal:
    def __init__(self, connection):
        self._connection = connection
    def __getattr__(self, name):
        return getattr(self._connection, name)
    def execute(self, sql, *rest):
        if sql.startswith(statement) and when == "before":
            os.kill(os.getpid(), 9)
        result = self._connection.execute(sql, *rest)
        if sql.startswith(statement):
            os.kill(os.getpid(), 9)
        return result
real = local_apply.connect
local_apply.connect = lambda *args, **options: Mortal(real(*args, **options))
local_apply.apply_version(
    path, page_size=size, page_count=len(data) // size, pages=[(1, data)], busy_timeout_seconds=0
)
"""


@pytest.mark.parametrize(
    ("step", "new"),
    [
        ("after BEGIN IMMEDIATE", False),
        ("before COMMIT", False),
        ("after COMMIT", True),
        ("before PRAGMA wal_checkpoint(", True),
        ("after PRAGMA wal_checkpoint(", True),
    ],
)
def test_killed_at_each_step(tmp_path: Path, step: str, new: bool) -> None:
    path = build(tmp_path / "a.db", rows=300)
    other = build(tmp_path / "b.db", rows=500, seed=2)
    expected = pages_by_sqlite(other if new else path)
    with python(KILLED_AT, path, other, step) as victim:
        assert victim.wait() == -signal.SIGKILL
    assert masked(pages_by_sqlite(path)) == masked(expected)


KILLED_FRESH = """
import os, sys
from pathlib import Path
from edgereplica.adapters import local_fresh
from edgereplica.adapters.local_fresh import FreshFile
path, data, step = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), sys.argv[3]
fresh = FreshFile(path, 4096, len(data) // 4096)
fresh.write(1, data[:8192])
if step == "written":
    os.kill(os.getpid(), 9)
fresh.write(3, data[8192:])
def then_die(name):
    real = getattr(os, name)
    def call(*args, **kwargs):
        result = real(*args, **kwargs)
        if name == step:
            os.kill(os.getpid(), 9)
        return result
    setattr(local_fresh.os, name, call)
for name in ("fsync", "link"):
    then_die(name)
if step == "directory":
    # The first time it is for the journal that may have been there.
    local_fresh.sync_directory = lambda folder: path.exists() and os.kill(os.getpid(), 9)
fresh.install()
"""


@pytest.mark.parametrize("step", ["written", "fsync", "link", "directory"])
def test_a_fresh_file_is_whole_or_not_there(tmp_path: Path, step: str) -> None:
    source = build(tmp_path / "b.db")
    path = tmp_path / "here.db"
    with python(KILLED_FRESH, path, source, step) as victim:
        assert victim.wait() == -signal.SIGKILL
    assert path.exists() is (step in ("link", "directory"))
    if path.exists():
        assert path.read_bytes() == source.read_bytes()
    else:
        data = source.read_bytes()
        fresh = FreshFile(path, 4096, len(data) // 4096)
        fresh.write(1, data)
        fresh.install()
    assert sorted(f.name for f in tmp_path.glob("here*")) == (
        ["here.db"] if step in ("written", "fsync") else ["here.db", "here.db-edgereplica-tmp"]
    )


def test_the_client_stays_light() -> None:
    """Nothing here may bring in what costs more than a small sync takes."""
    code = """
import sys
from edgereplica.adapters import local_apply, local_changes, local_lock, sidecar
print(sorted({"numpy", "pydantic", "asyncio", "json"} & set(sys.modules)))
"""
    with python(code) as process:
        assert line(process) == "[]"
