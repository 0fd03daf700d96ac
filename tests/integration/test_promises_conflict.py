"""Base and conflict, force, dry runs, two syncs of one file, tokens that do not fit."""

import hashlib
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.helpers_cutting import CuttingProxy, Fault
from tests.helpers_server import START_SECONDS_MAX, Account, ServerProcess, call
from tests.helpers_sync import User, dump, error_in, execute, make_notes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("conflict") / "data") as running:
        yield running


@pytest.fixture
def user(server: ServerProcess, tmp_path: Path) -> User:
    return User(tmp_path, server.base)


@pytest.fixture
def diverged(user: User, tmp_path: Path) -> tuple[Path, Path]:
    """(mine, theirs): both changed version 1, theirs was pushed as version 2."""
    mine, theirs = tmp_path / "mine.db", tmp_path / "theirs.db"
    make_notes(mine)
    user.ok("push", mine)
    user.ok("pull", theirs)
    execute(theirs, "UPDATE notes SET text = 'theirs' WHERE id = 1")
    execute(mine, "UPDATE notes SET text = 'mine' WHERE id > 1900")
    user.ok("push", theirs, "--message", "theirs first")
    return mine, theirs


def files(directory: Path) -> dict[str, str]:
    """Every file below with its content's digest, but what SQLite makes when it only reads."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
        and not path.name.endswith("-shm")
        and not (path.name.endswith("-wal") and not path.stat().st_size)
    }


def data_of(server: ServerProcess) -> set[str]:
    """The objects the server holds."""
    return {str(path) for path in server._data_dir.rglob("*") if path.is_file()}


def test_a_conflict_names_base_head_author_time_and_pages_and_sends_nothing(
    user: User, server: ServerProcess, diverged: tuple[Path, Path]
) -> None:
    mine, _ = diverged
    before, held = files(mine.parent), data_of(server)
    with CuttingProxy(user.base, record=True) as proxy:
        code, error = user.refused("push", mine, EDGEREPLICA_SERVER=proxy.base)
        assert proxy.connections == 1, "a refusal was retried"
        assert len(proxy.links[0].up) < 2048, "pages were sent before the refusal"
    details = error["details"]
    assert (code, error["code"]) == (3, "conflict")
    assert (details["base"], details["head"]) == (1, 2)
    assert details["author"].endswith("@example.org")
    assert isinstance(details["committed_at"], float)
    assert details["pages_changed"] >= 1
    assert details["local_pages_changed"] >= 1
    said = user.run("push", mine).stderr
    for word in ("version 1", "version 2", details["author"], "--force", "pages"):
        assert word in said
    assert files(mine.parent) == before
    assert data_of(server) == held


def test_a_forced_push_replaces_the_head_as_a_whole(
    user: User, diverged: tuple[Path, Path], tmp_path: Path
) -> None:
    mine, theirs = diverged
    assert user.ok("push", mine, "--force")["version"] == 3
    user.ok("pull", tmp_path / "copy.db")
    assert dump(tmp_path / "copy.db") == dump(mine)
    user.ok("pull", tmp_path / "second.db", "--at", "2")
    assert dump(tmp_path / "second.db") == dump(theirs)


@pytest.mark.parametrize("backup", [True, False])
def test_a_forced_pull_keeps_the_old_file_unless_told_not_to(
    user: User, diverged: tuple[Path, Path], backup: bool
) -> None:
    mine, theirs = diverged
    code, error = user.refused("pull", mine)
    assert (code, error["code"]) == (3, "unpushed_changes")
    assert error["details"]["pages_changed"] >= 1
    old, names = dump(mine), {path.name for path in mine.parent.iterdir()}
    done = user.ok("pull", mine, "--force", *([] if backup else ["--no-backup"]))
    assert dump(mine) == dump(theirs)
    kept = {path.name for path in mine.parent.iterdir()} - names
    if backup:
        assert dump(Path(done["backup_path"])) == old
    else:
        assert (done["backup_path"], kept) == (None, set())


def test_dry_runs_and_status_change_nothing(
    user: User, server: ServerProcess, diverged: tuple[Path, Path], tmp_path: Path
) -> None:
    mine, theirs = diverged
    execute(theirs, "UPDATE notes SET text = 'more' WHERE id > 1000")
    fresh = tmp_path / "fresh.db"
    before, held = files(tmp_path), data_of(server)
    push = user.ok("push", mine, "--dry-run")
    assert (push["outcome"], push["would_conflict"]) == ("dry_run", True)
    push = user.ok("push", theirs, "--dry-run")
    assert (push["would_conflict"], push["pages_changed"] > 10) == (False, True)
    pull = user.ok("pull", mine, "--dry-run")
    assert (pull["outcome"], pull["would_refuse"]) == ("dry_run", "unpushed_changes")
    assert user.ok("pull", fresh, "--dry-run")["pages_received"] > 0
    assert user.ok("status", mine)["push"] == "conflict"
    assert user.ok("status", theirs)["push"] == "push"
    assert files(tmp_path) == before
    assert data_of(server) == held
    sent = user.ok("push", theirs)["pages_sent"]
    assert sent == push["pages_sent"], "the dry run told another number"


def test_a_second_sync_of_a_file_says_so_and_stops(user: User, tmp_path: Path) -> None:
    file = tmp_path / "app.db"
    make_notes(file, 20_000)
    with CuttingProxy(user.base, Fault("stall", 200_000)) as proxy:
        first = user.start("push", file, "--compress", "never", EDGEREPLICA_SERVER=proxy.base)
        assert proxy.reached.wait(START_SECONDS_MAX)
        for way in ("push", "pull"):
            code, error = user.refused(way, file, "--busy-timeout", "0")
            assert (code, error["code"]) == (1, "file_busy")
            assert str(first.pid) in error["message"]
        proxy.release()
        said, complaint = first.communicate(timeout=START_SECONDS_MAX)
    assert first.returncode == 0, said + complaint
    assert user.ok("push", file)["outcome"] == "unchanged"


def test_a_sync_that_was_killed_does_not_lock_the_file(user: User, tmp_path: Path) -> None:
    file = tmp_path / "app.db"
    make_notes(file, 20_000)
    with CuttingProxy(user.base, Fault("stall", 200_000)) as proxy:
        first = user.start("push", file, "--compress", "never", EDGEREPLICA_SERVER=proxy.base)
        assert proxy.reached.wait(START_SECONDS_MAX)
        first.send_signal(signal.SIGKILL)
        first.communicate()
    assert user.ok("push", file)["version"] == 1


@pytest.mark.parametrize(("way", "held"), [("push", "pull"), ("pull", "push")])
@pytest.mark.parametrize("known", [True, False], ids=["synced before", "first sync"])
def test_a_token_for_the_other_direction_is_named_and_changes_nothing(
    user: User, tmp_path: Path, way: str, held: str, known: bool
) -> None:
    file = tmp_path / "app.db"
    make_notes(file)
    if known:
        user.ok("push", file)
        execute(file, "UPDATE notes SET stamp = 1")
    before, standing = files(tmp_path), user.ok("status", file)["head"]
    code, error = user.refused(way, file, EDGEREPLICA_SYNC_TOKEN=user.tokens[held])
    assert (code, error["code"]) == (4, "permission_denied")
    assert held in error["message"]
    assert files(tmp_path) == before
    assert user.ok("status", file)["head"] == standing


def test_a_token_for_another_database_loses_nothing(user: User, tmp_path: Path) -> None:
    """The other database holds something else: neither it nor the file is overwritten."""
    file, other = tmp_path / "app.db", tmp_path / "other.db"
    make_notes(file)
    user.ok("push", file)
    tokens = user.tokens_for(user.account.create_database("other"))
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE elsewhere (x)")
    user.ok("push", other, EDGEREPLICA_SYNC_TOKEN=tokens["push"])
    before = file.read_bytes()
    assert user.ok("status", file, EDGEREPLICA_SYNC_TOKEN=tokens["pull"])["pull"] == "refused"
    execute(file, "UPDATE notes SET stamp = 1 WHERE id = 1")
    changed = dump(file)
    code, error = user.refused("push", file, EDGEREPLICA_SYNC_TOKEN=tokens["push"])
    assert (code, error["code"]) == (3, "conflict")
    code, error = user.refused("pull", file, EDGEREPLICA_SYNC_TOKEN=tokens["pull"])
    assert code == 3
    assert error["code"] in ("no_shared_history", "unpushed_changes")
    assert dump(file) == changed
    assert len(before) == len(file.read_bytes())
    assert user.ok("status", other, EDGEREPLICA_SYNC_TOKEN=tokens["pull"])["head"] == 1
    assert user.ok("push", file)["version"] == 2, "the way back to its own database is open"


def test_an_unchanged_file_is_not_pulled_over_from_another_database(
    user: User, tmp_path: Path
) -> None:
    """Nothing of it is new; but its own database may be deleted by now, and this the only copy."""
    file = tmp_path / "app.db"
    make_notes(file)
    user.ok("push", file)
    token = user.tokens_for(user.account.create_database("empty"))["pull"]
    _delete(user.account, user.database)
    before = file.read_bytes()
    measured = user.ok("pull", file, "--dry-run", EDGEREPLICA_SYNC_TOKEN=token)
    assert measured["would_refuse"] == "no_shared_history"
    code, error = user.refused("pull", file, EDGEREPLICA_SYNC_TOKEN=token)
    assert (code, error["code"]) == (3, "no_shared_history")
    assert file.read_bytes() == before
    forced = user.ok("pull", file, "--force", EDGEREPLICA_SYNC_TOKEN=token)
    assert Path(forced["backup_path"]).read_bytes() == before
    assert file.read_bytes() == b""


def test_refusals_are_not_retried(user: User, tmp_path: Path) -> None:
    file = tmp_path / "app.db"
    make_notes(file)
    gone = user.account.create_database("gone")
    token = user.tokens_for(gone)["push"]
    _delete(user.account, gone)
    cases: list[tuple[str, Any]] = [("not_found", token), ("unauthenticated", token[:-4] + "AAAA")]
    for code, used in cases:
        with CuttingProxy(user.base) as proxy:
            more = {"EDGEREPLICA_SERVER": proxy.base, "EDGEREPLICA_SYNC_TOKEN": used}
            done = user.run("push", file, "--json", "--retries", "5", **more)
            assert error_in(done.stderr)["code"] == code
            assert len(done.stderr.splitlines()) == 1
            assert proxy.connections == 1


def _delete(account: Account, database: str) -> None:
    call(account.base, "DeleteDatabase", {"databaseId": database}, account.session_token)
