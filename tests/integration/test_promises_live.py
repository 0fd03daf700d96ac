"""Promises to applications that use the file meanwhile: writers, readers, checkpoints.

Real processes throughout; what happens when is decided by what they say, never by a clock.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.helpers_cutting import CuttingProxy, Fault
from tests.helpers_local import line, python, tell
from tests.helpers_server import START_SECONDS_MAX, ServerProcess
from tests.helpers_sync import User, dump, execute, make_notes, wait_for

# Its patience is 0 (or argv[2]): were it ever blocked, it would die of it.
WRITER = """
import sqlite3, sys
app = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=float(sys.argv[2]))
app.execute("PRAGMA synchronous = off")
stamp = 0
while True:
    stamp += 1
    app.execute("BEGIN IMMEDIATE")
    app.execute("UPDATE notes SET stamp = ?", (stamp,))
    app.execute("COMMIT")
    print(stamp)
"""
READER = """
import sqlite3, sys
app = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
seen = lambda: app.execute("SELECT count(*), min(text) FROM notes").fetchone()
app.execute("BEGIN")
print(seen())
sys.stdin.readline()
print(seen())
app.execute("COMMIT")
print(seen())
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("live") / "data") as running:
        yield running


@pytest.fixture
def user(server: ServerProcess, tmp_path: Path) -> User:
    return User(tmp_path, server.base)


def stamps(file: Path) -> list[int]:
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT count(*) FROM notes").fetchone() == (2000,)
        return [stamp for (stamp,) in db.execute("SELECT DISTINCT stamp FROM notes")]


def rollback_journal(file: Path) -> None:
    execute(file, "PRAGMA journal_mode = delete")


def test_pushes_beside_a_writer_show_one_stamp_each_and_never_block_it(
    user: User, tmp_path: Path
) -> None:
    file, copy = tmp_path / "app.db", tmp_path / "copy.db"
    make_notes(file)
    seen: list[int] = []
    with python(WRITER, file, 0) as writer:
        last = int(line(writer))
        for _ in range(4):
            assert user.ok("push", file)["outcome"] == "pushed"
            user.ok("pull", copy)
            (stamp,) = stamps(copy)
            seen.append(stamp)
            while last < stamp + 1:  # it has committed since: that it is there, and further on
                said = line(writer)
                assert said, "the writer was blocked"
                last = int(said)
        assert writer.poll() is None, "the writer was blocked"
    assert seen == sorted(set(seen))


def test_a_writer_in_rollback_mode_goes_on_after_a_push(user: User, tmp_path: Path) -> None:
    file, copy = tmp_path / "app.db", tmp_path / "copy.db"
    make_notes(file)
    rollback_journal(file)
    with python(WRITER, file, 60) as writer:
        line(writer)
        for _ in range(2):
            user.ok("push", file, "--busy-timeout", "60")
            user.ok("pull", copy)
            assert len(stamps(copy)) == 1
            assert line(writer)


def test_a_push_that_hangs_in_the_network_holds_up_no_checkpoint(
    user: User, tmp_path: Path
) -> None:
    """Its read is over; only what it read is on its way."""
    file = tmp_path / "app.db"
    make_notes(file)
    user.ok("push", file)
    execute(file, "UPDATE notes SET text = text || stamp")
    with CuttingProxy(user.base, Fault("stall", 100_000)) as proxy:
        push = user.start("push", file, "--compress", "never", EDGEREPLICA_SERVER=proxy.base)
        assert proxy.reached.wait(START_SECONDS_MAX)
        with closing(sqlite3.connect(file, isolation_level=None, timeout=0)) as app:
            app.execute("UPDATE notes SET stamp = 7")
            (blocked, _, _) = app.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        proxy.release()
        said, complaint = push.communicate(timeout=START_SECONDS_MAX)
    assert push.returncode == 0, said + complaint
    assert not blocked
    user.ok("pull", tmp_path / "copy.db")
    assert stamps(tmp_path / "copy.db") == [0]


def test_readers_of_a_wal_replica_keep_their_snapshot_and_nothing_is_checkpointed(
    user: User, tmp_path: Path
) -> None:
    origin, replica = tmp_path / "origin.db", tmp_path / "replica.db"
    make_notes(origin)
    user.ok("push", origin)
    user.ok("pull", replica)
    execute(origin, "DELETE FROM notes WHERE id > 500; UPDATE notes SET text = 'new'")
    user.ok("push", origin)
    with python(READER, replica) as reader:
        old = line(reader)
        assert old.startswith("(2000, ")
        main_file = replica.read_bytes()
        user.ok("pull", replica)
        tell(reader)
        assert line(reader) == old
        assert line(reader) == "(500, 'new')"
        assert replica.read_bytes() == main_file, "the pull checkpointed beside an open reader"
    assert dump(replica) == dump(origin)


def a_replica_behind(user: User, tmp_path: Path) -> tuple[Path, Path]:
    origin, replica = tmp_path / "origin.db", tmp_path / "replica.db"
    make_notes(origin)
    rollback_journal(origin)
    user.ok("push", origin)
    user.ok("pull", replica)
    execute(origin, "UPDATE notes SET text = 'new'")
    user.ok("push", origin)
    return origin, replica


def test_a_pull_names_who_holds_a_rollback_replica(user: User, tmp_path: Path) -> None:
    _, replica = a_replica_behind(user, tmp_path)
    with python(READER, replica) as reader:
        line(reader)
        before = replica.read_bytes()
        code, error = user.refused("pull", replica, "--busy-timeout", "0.2")
        assert (code, error["code"]) == (1, "file_busy")
        assert f"pid {reader.pid}" in error["message"]
        assert replica.read_bytes() == before
        tell(reader)
        assert line(reader).startswith("(2000, 'note")
    assert user.ok("pull", replica)["version"] == 2


def test_a_pull_waits_for_a_reader_of_a_rollback_replica(user: User, tmp_path: Path) -> None:
    origin, replica = a_replica_behind(user, tmp_path)

    def is_locked() -> bool:
        with closing(sqlite3.connect(replica, isolation_level=None, timeout=0)) as app:
            try:
                app.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            app.execute("ROLLBACK")
            return False

    with python(READER, replica) as reader:
        line(reader)
        pull = user.start("pull", replica, "--busy-timeout", "60")
        wait_for(is_locked, "the pull holds the write lock")
        assert pull.poll() is None
        tell(reader)
        assert line(reader).startswith("(2000, 'note")
        line(reader)
        said, complaint = pull.communicate(timeout=START_SECONDS_MAX)
        assert pull.returncode == 0, said + complaint
    assert dump(replica) == dump(origin)
