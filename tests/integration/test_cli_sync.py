"""`edgereplica sync` against a real server: what a user types, sees and gets."""

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.helpers_proxy import StallingProxy
from tests.helpers_server import START_SECONDS_MAX, ServerProcess
from tests.helpers_sync import User, dump, execute, make_notes

from edgereplica.app import sample_database

WRITER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
stamp = 0
print("writing", flush=True)
while True:
    stamp += 1
    db.execute("UPDATE notes SET stamp = ?", (stamp,))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("sync") / "data") as running:
        yield running


@pytest.fixture
def user(server: ServerProcess, tmp_path: Path) -> User:
    return User(tmp_path, server.base)


def test_a_database_that_another_process_writes_to_goes_round(user: User, tmp_path: Path) -> None:
    file, copy = tmp_path / "app.db", tmp_path / "copy.db"
    make_notes(file)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    try:
        assert writer.stdout.readline() == b"writing\n"
        assert user.ok("push", file)["version"] == 1
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    user.ok("pull", copy)
    with closing(sqlite3.connect(copy)) as db:
        stamps = db.execute("SELECT DISTINCT stamp FROM notes").fetchall()
        assert len(stamps) == 1
        assert db.execute("SELECT count(*) FROM notes").fetchone() == (2000,)
    user.ok("push", file)
    user.ok("pull", copy)
    assert dump(copy) == dump(file)


def test_two_who_change_the_same_version(user: User, tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine.db", tmp_path / "theirs.db"
    make_notes(mine)
    user.ok("push", mine)
    user.ok("pull", theirs)
    execute(theirs, "UPDATE notes SET text = 'theirs' WHERE id = 1")
    execute(mine, "UPDATE notes SET text = 'mine' WHERE id = 2")
    user.ok("push", theirs, "--message", "theirs first")

    plan = user.ok("push", mine, "--dry-run")
    assert (plan["outcome"], plan["would_conflict"]) == ("dry_run", True)
    refused = user.run("push", mine)
    assert refused.returncode == 3
    assert refused.stderr.startswith("error: ")
    assert "hint: " in refused.stderr
    as_json = user.run("push", mine, "--json")
    assert as_json.returncode == 3
    assert json.loads(as_json.stderr)["error"]["code"] == "conflict"
    standing = user.ok("status", mine)
    assert (standing["base"], standing["head"], standing["push"]) == (1, 2, "conflict")

    before = dump(mine)
    overwriting = user.run("pull", mine)
    assert overwriting.returncode == 3
    assert dump(mine) == before
    forced = user.ok("pull", mine, "--force")
    assert dump(mine) == dump(theirs)
    assert dump(Path(str(forced["backup_path"]))) == before


def test_another_file_is_not_overwritten(user: User, tmp_path: Path) -> None:
    file, other = tmp_path / "app.db", tmp_path / "other.db"
    make_notes(file)
    user.ok("push", file)
    execute(other, "CREATE TABLE precious (x)")
    before = other.read_bytes()
    refused = user.run("pull", other, "--json")
    assert refused.returncode == 3
    assert json.loads(refused.stderr)["error"]["code"] == "no_shared_history"
    assert other.read_bytes() == before


def test_the_status_says_of_a_pull_what_it_does(user: User, tmp_path: Path) -> None:
    """Nothing was pushed yet: there is nothing to pull, and a file is not emptied for it."""
    file, fresh = tmp_path / "app.db", tmp_path / "fresh.db"
    make_notes(file)
    assert (user.ok("status", file)["push"], user.ok("status", file)["pull"]) == ("push", "refused")
    assert user.refused("pull", file)[1]["code"] == "no_shared_history"
    assert user.ok("status", fresh)["pull"] == "nothing"
    user.ok("push", file)
    assert user.ok("status", file)["pull"] == "nothing"
    assert user.ok("pull", file)["outcome"] == "unchanged"
    assert user.ok("status", fresh)["pull"] == "pull"


def test_an_older_version_by_number(user: User, tmp_path: Path) -> None:
    file, old = tmp_path / "app.db", tmp_path / "old.db"
    make_notes(file)
    user.ok("push", file)
    first = dump(file)
    execute(file, "DELETE FROM notes WHERE id > 10")
    user.ok("push", file)
    assert user.ok("pull", old, "--at", "1")["version"] == 1
    assert dump(old) == first


@pytest.mark.parametrize(
    ("token", "code", "name"),
    [("nonsense", 4, "unauthenticated"), ("push", 4, "permission_denied")],
)
def test_a_wrong_token(user: User, tmp_path: Path, token: str, code: int, name: str) -> None:
    wrong = user.tokens.get(token, token)
    done = user.run("pull", tmp_path / "a.db", "--json", EDGEREPLICA_SYNC_TOKEN=wrong)
    assert done.returncode == code
    assert json.loads(done.stderr)["error"]["code"] == name
    assert wrong not in done.stdout + done.stderr
    assert list(tmp_path.glob("a.db*")) == []


def test_a_server_that_is_not_there(user: User, tmp_path: Path) -> None:
    file = tmp_path / "app.db"
    make_notes(file)
    before = file.read_bytes()
    done = user.run("push", file, "--retries", "0", EDGEREPLICA_SERVER="http://127.0.0.1:1")
    assert done.returncode == 5
    assert done.stderr.startswith("error: ")
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no database", None])
def test_what_is_no_database(user: User, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "thing"
    if content is None:
        file.mkdir()
    elif content:
        file.write_bytes(content)
    done = user.run("push", file, "--json")
    assert done.returncode in (1, 2)
    assert "error" in json.loads(done.stderr)


def test_ctrl_c_leaves_file_and_server_as_they_were(user: User, tmp_path: Path) -> None:
    file, sample = tmp_path / "app.db", tmp_path / "sample.db"
    make_notes(file)
    user.ok("push", file)
    # Far more than the sockets' buffers between the two hold, so that pages are owed when it hangs.
    sample_database.create(sample, 48 * 1024 * 1024)
    before = sample.read_bytes()
    with StallingProxy(user.base, 1024 * 1024) as proxy:
        push = subprocess.Popen(
            user.command("push", sample, "--force"),
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=user.environment("push", EDGEREPLICA_SERVER=proxy.base),
        )
        assert proxy.stalled.wait(START_SECONDS_MAX)
        push.send_signal(signal.SIGINT)
        said, complaint = push.communicate(timeout=START_SECONDS_MAX)
    assert (push.returncode, said) == (130, "")
    assert complaint.startswith("interrupted: nothing was changed")
    assert len(complaint.splitlines()) == 1
    assert sample.read_bytes() == before
    assert user.ok("status", file)["head"] == 1
