"""Wrong input and full disks: the command says what is wrong, and touches nothing."""

import ctypes
import os
import random
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tests.helpers_cutting import CuttingProxy, Fault
from tests.helpers_server import START_SECONDS_MAX, ServerProcess
from tests.helpers_sync import User, dump, error_in, execute, make_notes

from edgereplica.app import sample_database
from edgereplica.events.limits import ANNOUNCED_WINDOWS_MAX, HASH_WINDOW_BYTES

MIB = 1024 * 1024
NOBODY = 65_534
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("wrong") / "data") as running:
        yield running


@pytest.fixture
def user(server: ServerProcess, tmp_path: Path) -> User:
    return User(tmp_path, server.base)


def torn(path: Path) -> None:
    make_notes(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def zeroed_header(path: Path) -> None:
    make_notes(path)
    with path.open("r+b") as file:
        file.write(bytes(100))


def odd_page_size(path: Path) -> None:
    make_notes(path)
    with path.open("r+b") as file:
        file.seek(16)
        file.write(b"\x0b\xb8")


WRONG: dict[str, Any] = {
    "text": lambda path: path.write_text("id,name\n1,Ada\n" * 200),
    "encrypted": lambda path: path.write_bytes(random.Random(1).randbytes(40_960)),
    "directory": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "torn": torn,
    "a header of zeros": zeroed_header,
    "a page size that is none": odd_page_size,
}
WORDS = {"encrypted": "encrypted", "directory": "directory", "text": "not a SQLite database"}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_database_is_refused_in_both_directions(
    user: User, tmp_path: Path, what: str
) -> None:
    good, thing = tmp_path / "good.db", tmp_path / "thing"
    make_notes(good, 10)
    user.ok("push", good)
    WRONG[what](thing)
    before = thing.read_bytes() if thing.is_file() else b""
    for way in ("push", "pull"):
        code, error = user.refused(way, thing)
        assert (code, error["code"]) == (1, "not_a_database"), error
        assert str(thing) in error["message"]
        assert WORDS.get(what, "") in error["message"]
    assert (thing.read_bytes() if thing.is_file() else b"") == before
    assert user.ok("status", good)["head"] == 1
    left = {path.name for path in tmp_path.glob("thing*")}
    assert left <= {"thing", "thing-wal", "thing-shm"}


def test_a_missing_file_is_named(user: User, tmp_path: Path) -> None:
    code, error = user.refused("push", tmp_path / "missing.db")
    assert (code, error["code"]) == (2, "invalid_argument")
    assert "missing.db" in error["message"]
    assert list(tmp_path.glob("missing*")) == []


def without_override() -> None:
    """Take from a process of root what lets it read the files of others (capabilities(7))."""
    library = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if library.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


def test_without_permission_nothing_happens(user: User, tmp_path: Path) -> None:
    file = tmp_path / "app.db"
    make_notes(file)
    user.ok("push", file)
    execute(file, "UPDATE notes SET stamp = 1; PRAGMA wal_checkpoint(TRUNCATE)")
    before = file.read_bytes()
    file.chmod(0o600)
    options: dict[str, Any] = {}
    if os.geteuid() == 0:
        os.chown(file, NOBODY, NOBODY)
        options = {"preexec_fn": without_override}
    else:
        file.chmod(0)
    for way in ("push", "pull"):
        done = user.run(way, file, "--json", options=options)
        error = error_in(done.stderr)
        assert (done.returncode, error["code"]) == (2, "invalid_argument"), error
        assert "app.db' is not readable" in error["message"]
    file.chmod(0o600)
    assert file.read_bytes() == before


def limited(bytes_max: int) -> dict[str, Any]:
    """No file may grow beyond `bytes_max`: what a full disk does, to this process alone."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, bytes_max))

    return {"preexec_fn": limit}


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh file", "in place"])
def test_a_full_disk_of_the_client_leaves_the_old_file(
    user: User, tmp_path: Path, fresh: bool
) -> None:
    origin, replica = tmp_path / "origin.db", tmp_path / "replica.db"
    make_notes(origin, 500)
    user.ok("push", origin)
    if not fresh:
        user.ok("pull", replica)
    old = None if fresh else dump(replica)
    with closing(sqlite3.connect(origin)) as db:
        db.execute("CREATE TABLE big AS SELECT randomblob(1000) AS x FROM notes, notes LIMIT 3000")
        db.commit()
    user.ok("push", origin)
    done = user.run("pull", replica, "--json", options=limited(MIB))
    assert (done.returncode, error_in(done.stderr)["code"]) == (1, "disk_full"), done.stderr
    if old is None:
        assert list(tmp_path.glob("replica*")) == []
    else:
        assert dump(replica) == old
    user.ok("pull", replica)
    assert dump(replica) == dump(origin)


def test_a_full_disk_of_the_server_loses_nothing_and_passes(
    user: User, server: ServerProcess, tmp_path: Path
) -> None:
    file = tmp_path / "app.db"
    make_notes(file)
    user.ok("push", file)
    old = dump(file)
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE big AS SELECT randomblob(1000) AS x FROM notes, notes LIMIT 4000")
        db.commit()
    unlimited = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (3 * MIB, unlimited[1]))
    code, error = user.refused("push", file, "--retries", "0")
    assert (code, error["code"]) == (1, "storage")
    assert "no space left" in error["message"]
    assert user.ok("status", file)["head"] == 1
    user.ok("pull", tmp_path / "first.db")
    assert dump(tmp_path / "first.db") == old
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)
    assert user.ok("push", file)["version"] == 2
    user.ok("pull", tmp_path / "second.db")
    assert dump(tmp_path / "second.db") == dump(file)


def test_a_file_replaced_in_mid_push_is_noticed(user: User, tmp_path: Path) -> None:
    file, other = tmp_path / "app.db", tmp_path / "other.db"
    # More windows than are announced before the proxy stalls, and those that the answers to them
    # allow: so the last one, after which the file is looked at again, cannot have been read yet.
    sample_database.create(file, (2 * ANNOUNCED_WINDOWS_MAX + 2) * HASH_WINDOW_BYTES)
    make_notes(other)
    with CuttingProxy(user.base, Fault("stall", MIB)) as proxy:
        push = user.start(
            "push", file, "--compress", "never", "--json", EDGEREPLICA_SERVER=proxy.base
        )
        assert proxy.reached.wait(START_SECONDS_MAX)
        other.replace(file)
        proxy.release()
        said, complaint = push.communicate(timeout=START_SECONDS_MAX)
    assert (push.returncode, error_in(complaint)["code"]) == (1, "file_replaced"), said
    assert user.ok("status", file)["head"] == 0
    assert user.ok("push", file)["version"] == 1
    user.ok("pull", tmp_path / "copy.db")
    assert dump(tmp_path / "copy.db") == dump(file)


def test_a_changed_page_size_is_a_whole_new_version(user: User, tmp_path: Path) -> None:
    file, replica = tmp_path / "app.db", tmp_path / "replica.db"
    make_notes(file)
    user.ok("push", file)
    user.ok("pull", replica)
    execute(file, "PRAGMA journal_mode = delete; PRAGMA page_size = 8192; VACUUM")
    assert user.ok("push", file)["page_size"] == 8192
    assert user.ok("pull", replica)["page_size"] == 8192
    assert dump(replica) == dump(file)
    with closing(sqlite3.connect(replica)) as db:
        assert db.execute("PRAGMA page_size").fetchone() == (8192,)


class _Stranger(BaseHTTPRequestHandler):
    """A web server that never heard of EdgeReplica."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        """Silent."""


def test_a_server_of_another_kind_is_said(user: User, tmp_path: Path) -> None:
    file = tmp_path / "app.db"
    make_notes(file)
    before = file.read_bytes()
    stranger = ThreadingHTTPServer(("127.0.0.1", 0), _Stranger)
    thread = Thread(target=stranger.serve_forever, args=(0.05,))
    thread.start()
    try:
        base = f"http://127.0.0.1:{stranger.server_address[1]}"
        done = user.run("push", file, "--retries", "0", EDGEREPLICA_SERVER=base)
    finally:
        stranger.shutdown()
        thread.join()
        stranger.server_close()
    assert done.returncode in (1, 5)
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert file.read_bytes() == before
