"""The Python API against a real server: what the sidecar is for, and what happens without it."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.helpers_local import line, python
from tests.helpers_server import Account, ServerProcess

from edgereplica import AsyncReplica, Replica
from edgereplica.adapters.local_fresh import FreshFile
from edgereplica.adapters.websocket_client import WebSocketTransport
from edgereplica.app.replay import FileRecorder
from edgereplica.app.results import Progress
from edgereplica.app.sample_database import create, scatter_edits
from edgereplica.events.errors import (
    Conflict,
    FileReplaced,
    LocalFileError,
    NetworkError,
    NoSharedHistory,
    UnpushedChanges,
)
from edgereplica.events.session import Event, VersionApplied


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with ServerProcess(tmp_path_factory.mktemp("server") / "data") as server:
        yield Account.signup(server.base, "replica@example.org")


class Site:
    """One database and the files that follow it."""

    def __init__(self, account: Account, folder: Path) -> None:
        self.folder = folder
        name = "".join(c if c.isalnum() else "-" for c in folder.name)[:60]
        self.base = account.base
        database = account.create_database(name)
        self._tokens = {d: account.token(database, d) for d in ("push", "pull")}

    def replica(self, name: str, direction: str, **options: object) -> Replica:
        token = self._tokens[direction]
        return Replica(self.folder / name, server=self.base, token=token, **options)


@pytest.fixture
def site(account: Account, tmp_path: Path) -> Site:
    create(tmp_path / "a.db", 2 << 20)
    return Site(account, tmp_path)


def same_pages(left: Path, right: Path) -> bool:
    dumps = []
    for path in (left, right):
        with closing(sqlite3.connect(path)) as connection:
            dumps.append(list(connection.iterdump()))
    return dumps[0] == dumps[1]


def test_a_lost_sidecar_costs_time_not_force(site: Site) -> None:
    site.replica("a.db", "push").push()
    site.replica("b.db", "pull").pull()
    scatter_edits(site.folder / "a.db", 0.02, 1)
    site.replica("a.db", "push").push()
    (site.folder / "b.db-edgereplica").unlink()
    pulled = site.replica("b.db", "pull").pull()
    assert pulled.outcome == "pulled"
    assert pulled.pages_received < pulled.page_count / 5
    assert same_pages(site.folder / "a.db", site.folder / "b.db")


@pytest.mark.parametrize("damage", ["header", "arrays", "short"])
def test_a_damaged_sidecar_costs_time_not_correctness(site: Site, damage: str) -> None:
    site.replica("a.db", "push").push()
    site.replica("b.db", "pull").pull()
    scatter_edits(site.folder / "a.db", 0.02, 1)
    site.replica("a.db", "push").push()
    sidecar = site.folder / "b.db-edgereplica"
    data = bytearray(sidecar.read_bytes())
    if damage == "header":
        data[40] ^= 1
    elif damage == "arrays":
        data[-100] ^= 1
    else:
        del data[-7:]
    sidecar.write_bytes(data)
    assert site.replica("b.db", "pull").pull().outcome == "pulled"
    assert same_pages(site.folder / "a.db", site.folder / "b.db")


def test_an_edited_file_without_sidecar_is_not_overwritten(site: Site) -> None:
    site.replica("a.db", "push").push()
    site.replica("b.db", "pull").pull()
    scatter_edits(site.folder / "b.db", 0.02, 1)
    (site.folder / "b.db-edgereplica").unlink()
    before = (site.folder / "b.db").read_bytes()
    with pytest.raises(NoSharedHistory):
        site.replica("b.db", "pull").pull()
    assert (site.folder / "b.db").read_bytes() == before


def test_a_file_is_not_pulled_back_by_a_server_restored_from_an_older_backup(
    tmp_path: Path,
) -> None:
    """What was pushed after the backup was taken is nowhere but in the file, though nothing in the
    file is new."""
    file, data, saved = tmp_path / "a.db", tmp_path / "data", tmp_path / "saved"
    create(file, 1 << 20)
    with ServerProcess(data) as server:
        site = Site(Account.signup(server.base, "backup@example.org"), tmp_path)
        site.replica("a.db", "push").push()
    shutil.copytree(data, saved)
    with ServerProcess(data) as server:
        site.base = server.base
        scatter_edits(file, 0.01, 2)
        site.replica("a.db", "push").push()
        site.replica("b.db", "pull").pull()
        # Nothing is lost by going back and forth while the server knows both.
        assert site.replica("b.db", "pull").pull(at=1).version == 1
        assert site.replica("b.db", "pull").pull().version == 2
    with ServerProcess(saved) as server:
        site.base = server.base
        for name in ("a.db", "b.db"):
            replica = site.replica(name, "pull")
            assert replica.status().pull == "refused"
            assert replica.pull(dry_run=True).would_refuse == "no_shared_history"
            for at in (None, 1):
                with pytest.raises(NoSharedHistory):
                    replica.pull(at=at)
        assert same_pages(file, tmp_path / "b.db")
        kept = site.replica("b.db", "pull").pull(force=True).backup_path
        assert kept is not None
        assert same_pages(file, Path(kept))
        # The next version of a database that has been restored may have the same number.
        assert site.replica("a.db", "push").push(force=True).version == 2
        assert site.replica("b.db", "pull").pull().version == 2


def test_without_sidecar_a_forced_push_and_pull_send_little(site: Site) -> None:
    site.replica("a.db", "push").push()
    scatter_edits(site.folder / "a.db", 0.01, 1)
    (site.folder / "a.db-edgereplica").unlink()
    with pytest.raises(Conflict):
        site.replica("a.db", "push").push()
    pushed = site.replica("a.db", "push").push(force=True)
    assert pushed.version == 2
    assert 0 < pushed.pages_sent == pushed.pages_changed < 60
    assert pushed.bytes_sent < 40 * pushed.page_size
    create(site.folder / "c.db", 2 << 20)
    pulled = site.replica("c.db", "pull").pull(force=True)
    assert pulled.pages_received == pushed.pages_sent
    assert same_pages(site.folder / "a.db", site.folder / "c.db")


def test_a_conflict_names_pages_and_tables_on_both_sides(site: Site) -> None:
    site.replica("a.db", "push").push()
    site.replica("b.db", "pull").pull()
    for name, sql in (("a.db", "UPDATE orders SET status = 'x'"), ("b.db", "CREATE TABLE z(a)")):
        with closing(sqlite3.connect(site.folder / name)) as connection, connection:
            connection.execute(sql)
    site.replica("a.db", "push").push()
    with pytest.raises(Conflict) as caught:
        site.replica("b.db", "push").push()
    details = caught.value.details
    assert (details["base"], details["head"]) == (1, 2)
    assert details["author"] == "replica@example.org"
    assert "orders" in details["tables_there"]
    assert details["tables"] == ["sqlite_schema", "z"]
    assert details["local_pages_changed"] == 2
    with pytest.raises(UnpushedChanges):
        site.replica("b.db", "pull").pull()
    would = site.replica("b.db", "push").push(dry_run=True)
    assert (would.would_conflict, would.pages_changed) == (True, 2)


def test_a_replica_with_new_tables_is_forced_back(site: Site) -> None:
    """Once it ended in 'malformed': schema and length change together."""
    site.replica("a.db", "push").push()
    site.replica("b.db", "pull").pull()
    with closing(sqlite3.connect(site.folder / "b.db")) as connection, connection:
        connection.execute("CREATE TABLE z AS SELECT * FROM orders")
    pulled = site.replica("b.db", "pull").pull(force=True)
    assert pulled.backup_path is not None
    assert same_pages(site.folder / "a.db", site.folder / "b.db")
    with closing(sqlite3.connect(pulled.backup_path)) as connection:
        assert connection.execute("SELECT count(*) FROM z").fetchone()[0] > 0


def test_what_a_forced_pull_keeps_is_as_private_as_the_file_was(site: Site) -> None:
    site.replica("a.db", "push").push()
    mine = site.folder / "b.db"
    site.replica("b.db", "pull").pull()
    mine.chmod(0o600)
    scatter_edits(mine, 0.01, 2)
    backup = site.replica("b.db", "pull").pull(force=True).backup_path
    assert backup is not None
    modes = [Path(path).stat().st_mode & 0o777 for path in (mine, backup)]
    assert modes == [0o600, 0o600]


@pytest.mark.parametrize("page_size", [512, 1024, 4096, 65536])
def test_another_page_size_is_a_full_replacement(site: Site, page_size: int) -> None:
    path = site.folder / "p.db"
    create(path, 1 << 20, page_size_bytes=2048, wal=False)
    site.replica("p.db", "push").push()
    site.replica("q.db", "pull").pull()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"PRAGMA page_size = {page_size}; VACUUM")
    assert site.replica("p.db", "push").push().version == 2
    assert site.replica("q.db", "pull").pull().page_size == page_size
    assert same_pages(path, site.folder / "q.db")


COMMIT_AND_CLOSE = """
import sqlite3, sys
app = sqlite3.connect(sys.argv[1])
app.execute("CREATE TABLE precious (x)")
app.commit()
app.close()
print("committed")
"""


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_a_commit_just_before_a_file_is_replaced_is_not_lost(
    site: Site, journal_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the last look at the old file, before it is locked: the pull is refused."""
    old, new = site.folder / "b.db", site.folder / "a.db"
    site.replica("a.db", "push").push()
    site.replica("b.db", "pull").pull()
    with closing(sqlite3.connect(old)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal_mode}")
    with closing(sqlite3.connect(new)) as connection:
        connection.executescript("PRAGMA journal_mode=delete; PRAGMA page_size=8192; VACUUM")
    site.replica("a.db", "push").push()
    lock = FreshFile._lock_exclusively

    def late(self: FreshFile, connection: Any, header: Any) -> None:
        with python(COMMIT_AND_CLOSE, old) as application:
            assert line(application) == "committed"
        lock(self, connection, header)

    monkeypatch.setattr(FreshFile, "_lock_exclusively", late)
    with pytest.raises(FileReplaced):
        site.replica("b.db", "pull").pull()
    monkeypatch.undo()
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("SELECT count(*) FROM precious").fetchone() == (0,)
    with pytest.raises(UnpushedChanges):
        site.replica("b.db", "pull").pull()
    site.replica("b.db", "pull").pull(force=True)
    assert same_pages(new, old)


def test_a_pull_that_fails_behind_its_transaction_is_no_local_change(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its recording could not be written: once the next pull took the new pages for changes."""
    site.replica("a.db", "push").push()
    site.replica("b.db", "pull").pull()
    scatter_edits(site.folder / "a.db", 0.01, 2)
    site.replica("a.db", "push").push()
    record = FileRecorder.record

    def full(self: FileRecorder, event: Event, effects: Any) -> None:
        if isinstance(event, VersionApplied):
            raise LocalFileError("cannot record: no space left")
        record(self, event, effects)

    monkeypatch.setattr(FileRecorder, "record", full)
    with pytest.raises(LocalFileError, match="cannot record"):
        site.replica("b.db", "pull", record=site.folder / "session.jsonl").pull()
    monkeypatch.undo()
    assert same_pages(site.folder / "a.db", site.folder / "b.db")
    scatter_edits(site.folder / "a.db", 0.01, 3)
    site.replica("a.db", "push").push()
    assert site.replica("b.db", "pull").pull().version == 3


@pytest.mark.parametrize("turned", ["link", "folder"])
def test_a_link_that_is_turned_during_a_push_takes_no_base_along(site: Site, turned: str) -> None:
    """It once gave the base of the file that was pushed to the other, whose next push was then no
    conflict, and undid it."""
    one, two = site.folder / "one" / "a.db", site.folder / "two" / "a.db"
    for file in (one, two):
        file.parent.mkdir()
    (site.folder / "a.db").rename(one)
    link = site.folder / "current" if turned == "folder" else site.folder / "a.db"
    name = "current/a.db" if turned == "folder" else "a.db"
    site.replica("one/a.db", "push").push()
    site.replica("two/a.db", "pull").pull()
    scatter_edits(one, 0.01, 2)
    link.symlink_to(one.parent if turned == "folder" else one)

    def turn(progress: Progress) -> None:
        if progress.phase == "committing":
            link.unlink(missing_ok=True)
            link.symlink_to(two.parent if turned == "folder" else two)

    assert site.replica(name, "push", progress=turn).push().version == 2
    scatter_edits(two, 0.01, 3)
    with pytest.raises(Conflict):
        site.replica("two/a.db", "push").push()
    assert site.replica("one/a.db", "push").push().outcome == "unchanged"


def test_after_delete_and_vacuum_both_sides_have_shrunk(site: Site) -> None:
    path = site.folder / "a.db"
    site.replica("a.db", "push").push()
    site.replica("b.db", "pull").pull()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM orders")
        connection.execute("VACUUM")
    pushed = site.replica("a.db", "push").push()
    pulled = site.replica("b.db", "pull").pull()
    assert pulled.page_count == pushed.page_count < 512
    assert (site.folder / "b.db").stat().st_size == pulled.page_count * 4096
    assert same_pages(path, site.folder / "b.db")


def test_a_rollback_database_comes_back_byte_for_byte_after_changes(site: Site) -> None:
    path = site.folder / "r.db"
    create(path, 1 << 20, wal=False)
    site.replica("r.db", "push").push()
    scatter_edits(path, 0.05, 3)
    site.replica("r.db", "push").push()
    site.replica("s.db", "pull").pull()
    assert (site.folder / "s.db").read_bytes() == path.read_bytes()


def test_an_empty_file_goes_round(site: Site) -> None:
    (site.folder / "e.db").touch()
    pushed = site.replica("e.db", "push").push()
    assert pushed.page_count == 0
    assert site.replica("f.db", "pull").pull().page_count == 0
    with closing(sqlite3.connect(site.folder / "e.db")) as connection:
        connection.execute("CREATE TABLE t(a)")
    assert site.replica("e.db", "push").push().outcome == "pushed"
    assert site.replica("f.db", "pull").pull().page_count == 2
    assert same_pages(site.folder / "e.db", site.folder / "f.db")


def test_the_status_of_an_empty_file_says_what_push_and_pull_do(site: Site) -> None:
    path = site.folder / "e.db"
    path.touch()
    status = site.replica("e.db", "pull").status()
    assert (status.push, status.pull) == ("push", "nothing")
    site.replica("a.db", "push").push()
    status = site.replica("e.db", "pull").status()
    assert (status.push, status.pull) == ("conflict", "pull")
    with pytest.raises(Conflict):
        site.replica("e.db", "push").push()
    assert site.replica("e.db", "pull").pull().outcome == "pulled"
    path.write_bytes(b"")
    status = site.replica("e.db", "pull").status()
    assert (status.base, status.push, status.pull) == (1, "push", "pull")
    assert site.replica("e.db", "push").push().version == 2
    status = site.replica("e.db", "pull").status()
    assert (status.base, status.push, status.pull) == (2, "nothing", "nothing")


def test_an_older_version_by_number_and_by_time(site: Site) -> None:
    first = site.replica("a.db", "push").push(message="one")
    old = (site.folder / "a.db").read_bytes()
    scatter_edits(site.folder / "a.db", 0.02, 1)
    site.replica("a.db", "push").push(message="two")
    pulled = site.replica("old.db", "pull").pull(at=first.version)
    assert pulled.version == 1
    assert (site.folder / "old.db").read_bytes() == old


async def _pull(replica: AsyncReplica) -> str:
    return (await replica.pull()).outcome


def test_the_asynchronous_api(site: Site) -> None:
    import asyncio

    site.replica("a.db", "push").push()
    replica = AsyncReplica(site.folder / "b.db", server=site.base, token=site._tokens["pull"])
    assert asyncio.run(_pull(replica)) == "pulled"
    assert asyncio.run(_pull(replica)) == "unchanged"


def test_a_push_whose_answer_is_lost_is_known_by_the_next_though_the_file_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application writes before the push is tried again: it conflicted with itself."""
    path = site.folder / "a.db"
    site.replica("a.db", "push").push()
    real = WebSocketTransport.receive

    def lose(attempts: int) -> None:
        """The answer of so many attempts, with a commit of the application after each."""

        async def lossy(transport: WebSocketTransport) -> bytes:
            nonlocal attempts
            frame = bytes(await real(transport))
            if attempts and b"sync_complete" in frame:
                attempts -= 1
                scatter_edits(path, 0.01, seed=attempts)
                raise NetworkError("the connection was lost")
            return frame

        monkeypatch.setattr(WebSocketTransport, "receive", lossy)

    scatter_edits(path, 0.01, seed=10)
    lose(2)
    assert site.replica("a.db", "push").push().version == 4
    scatter_edits(path, 0.01, seed=11)
    lose(1)
    with pytest.raises(NetworkError):
        site.replica("a.db", "push", retries=0).push()
    status = site.replica("a.db", "pull").status()
    assert (status.base, status.head, status.push, status.pull) == (5, 5, "push", "nothing")
    assert status.pages_changed_locally
    assert site.replica("a.db", "push").push(dry_run=True).would_conflict is False
    assert site.replica("a.db", "push").push().version == 6
    assert sorted(file.name for file in site.folder.glob("a.db*edgereplica")) == [
        "a.db-edgereplica"
    ]
