"""Which pages changed: never one too few, and nothing read where nothing can have changed."""

import os
import random
from pathlib import Path
from typing import Any

import pytest
from tests.helpers_local import build, fill, masked, open_app, pages_by_sqlite

from edgereplica.adapters import local_changes
from edgereplica.adapters.hashing import fingerprints, hash_pages, root_of
from edgereplica.adapters.local_changes import LocalChanges, find_changes, require_unchanged
from edgereplica.adapters.local_snapshot import LocalSnapshot
from edgereplica.adapters.local_state import FileState, unchanged
from edgereplica.adapters.local_wal import frame_offset
from edgereplica.adapters.sidecar import Sidecar, SidecarHeader
from edgereplica.events.errors import FileReplaced
from edgereplica.events.limits import DIGEST_BYTES
from edgereplica.events.pages import Runs, lock_byte_page, pages_of

SEED = 0xDEADBEEF


def opened(path: Path) -> LocalSnapshot:
    return LocalSnapshot.open(path, busy_timeout_seconds=0)


def state_of(path: Path) -> FileState:
    with opened(path) as snapshot:
        return snapshot.state


def changed_since(path: Path, known: FileState) -> Runs | None:
    with opened(path) as snapshot:
        return snapshot.changed_since(known)


def synced(path: Path) -> Sidecar:
    """The sidecar of a file whose content now is the version."""
    with opened(path) as snapshot:
        size, count = snapshot.page_size, snapshot.page_count
        data = snapshot.read(1, count) if count else memoryview(b"")
        hashes = bytearray(hash_pages(data, size, 1))
        header = SidecarHeader(
            "http://s", "d", 1, root_of(hashes), size, count, snapshot.state, SEED
        )
        return Sidecar(header, hashes, bytearray(fingerprints(data, size, SEED, 1)))


def changes(path: Path, sidecar: Sidecar, **options: Any) -> LocalChanges:
    with opened(path) as snapshot:
        return find_changes(snapshot, sidecar, **options)


def age(path: Path) -> None:
    """Date the file so long ago that nobody can take a later write for this one."""
    os.utime(path, ns=(1, 1))


class TestTheLog:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = build(tmp_path / "a.db")
        age(path)
        return path

    @pytest.fixture
    def app(self, path: Path) -> Any:
        app = open_app(path)
        app.execute("PRAGMA wal_autocheckpoint=0")
        app.execute("UPDATE t SET x=zeroblob(300) WHERE id<5")
        yield app
        app.close()

    def test_nothing_happened(self, path: Path, app: Any) -> None:
        known = state_of(path)
        assert unchanged(path, known)
        assert changed_since(path, known) == ()

    def test_the_log_went_on(self, path: Path, app: Any) -> None:
        known = state_of(path)
        app.execute("UPDATE t SET x=zeroblob(301) WHERE id=150")
        assert not unchanged(path, known)
        runs = changed_since(path, known)
        assert runs is not None
        assert 0 < len(list(pages_of(runs))) <= 3

    def test_a_checkpoint_changes_nothing(self, path: Path, app: Any) -> None:
        known = state_of(path)
        app.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        assert changed_since(path, known) == ()
        app.execute("UPDATE t SET x=zeroblob(301) WHERE id=150")
        assert changed_since(path, known) is None  # the log was restarted: it holds one commit
        after = state_of(path)
        app.execute("UPDATE t SET x=zeroblob(302) WHERE id=150")
        assert changed_since(path, after)

    def test_a_log_begun_after_the_file_was_complete(self, path: Path, app: Any) -> None:
        app.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        age(path)
        known = state_of(path)
        assert (known.wal_salts, known.wal_frames) == (None, 0)
        app.execute("UPDATE t SET x=zeroblob(301) WHERE id=150")
        runs = changed_since(path, known)
        assert runs
        assert len(list(pages_of(runs))) <= 3

    def test_a_file_written_within_the_same_tick_is_not_trusted(
        self, path: Path, app: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The state was taken while a later write could still get the same time."""
        app.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        moment = path.stat().st_mtime_ns
        clock = "edgereplica.adapters.local_state.newest_settled_mtime_ns"
        monkeypatch.setattr(clock, lambda: moment - 1)
        known = state_of(path)
        assert not known.settled
        monkeypatch.undo()
        app.execute("UPDATE t SET x=zeroblob(301) WHERE id=150")
        app.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        os.utime(path, ns=(moment, moment))
        assert not unchanged(path, known)
        assert changed_since(path, known) is None

    def test_a_write_that_went_round_sqlite(self, path: Path, app: Any) -> None:
        known = state_of(path)
        with path.open("r+b") as file:
            file.seek(5000)
            file.write(b"x")
        assert not unchanged(path, known)
        assert changed_since(path, known) is None

    def test_frames_lost_in_a_power_failure(self, path: Path, app: Any) -> None:
        """Other commits stand where the known ones stood, under the same salts."""
        log = path.with_name("a.db-wal")
        before = log.read_bytes()
        app.execute("UPDATE t SET x=zeroblob(301) WHERE id=150")
        known = state_of(path)
        self.lose_log_after(app, path, len(before))
        app2 = open_app(path)
        app2.execute("PRAGMA wal_autocheckpoint=0")
        for place in (20, 21):  # as many frames as there were, then more
            app2.execute("UPDATE t SET x=zeroblob(302) WHERE id=?", (place,))
            now = state_of(path)
            assert now.wal_salts == known.wal_salts
            assert now.wal_frames == known.wal_frames + place - 20
            assert not unchanged(path, known)
            assert changed_since(path, known) is None
        app2.close()

    def test_a_frame_lost_in_the_midst_of_the_log(self, path: Path, app: Any) -> None:
        """The last frame still stands, and SQLite goes on in the place of the lost one."""
        log = path.with_name("a.db-wal")
        app.execute("UPDATE t SET x=zeroblob(301) WHERE id=10")
        lost = log.stat().st_size
        for place in (50, 100, 150):
            app.execute("UPDATE t SET x=zeroblob(301) WHERE id=?", (place,))
        known = state_of(path)
        assert unchanged(path, known)
        self.lose_log_after(app, path, log.stat().st_size)
        with log.open("r+b") as file:
            file.seek(lost)
            file.write(bytes(24))
        assert not unchanged(path, known)
        app2 = open_app(path)
        app2.execute("PRAGMA wal_autocheckpoint=0")
        app2.execute("UPDATE t SET x='precious' WHERE id=100")
        assert log.stat().st_size > lost
        assert not unchanged(path, known)
        with pytest.raises(FileReplaced):
            require_unchanged(path, known)
        app2.close()

    def lose_log_after(self, app: Any, path: Path, size: int) -> None:
        """Bring file and log to where the machine comes up again, with the end of the log gone."""
        log, index = path.with_name("a.db-wal"), path.with_name("a.db-shm")
        kept, file_bytes, status = log.read_bytes()[:size], path.read_bytes(), path.stat()
        app.close()
        path.write_bytes(file_bytes)
        log.write_bytes(kept)
        index.unlink(missing_ok=True)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def test_a_page_cut_off_and_back_unwritten(self, path: Path, app: Any) -> None:
        """It is in no frame of the log, and may have become zeros: it counts as changed.

        SQLite itself writes every page it adds; a tool that writes through `sqlite_dbpage`, as
        this one does, may leave pages out.
        """
        known = state_of(path)
        one, other = pages_by_sqlite(path)[:2]
        insert = "INSERT INTO sqlite_dbpage(pgno, data) VALUES (?, ?)"
        for count in (5, known.page_count):
            header = one[:28] + count.to_bytes(4, "big") + one[32:]
            app.execute("BEGIN")
            app.execute(insert, (count, other))
            app.execute(insert, (1, header))
            app.execute(insert, (count + 1, None))
            app.execute("COMMIT")
        with opened(path) as snapshot:
            assert snapshot.page_count == known.page_count
            runs = snapshot.changed_since(known)
            assert runs is not None
            assert set(range(6, known.page_count + 1)) <= set(pages_of(runs))

    def test_another_file_under_the_name(self, path: Path, app: Any) -> None:
        known = state_of(path)
        app.close()
        build(path.with_name("b.db"), seed=2).rename(path)
        assert not unchanged(path, known)
        assert changed_since(path, known) is None


def test_a_rollback_commit_moves_the_change_counter(tmp_path: Path) -> None:
    """The time of the file is put back, as if both had happened in one tick of the clock."""
    path = build(tmp_path / "a.db", wal=False)
    known = state_of(path)
    assert unchanged(path, known)
    status = path.stat()
    app = open_app(path)
    app.execute("UPDATE t SET x=zeroblob(300) WHERE id=5")
    app.close()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not unchanged(path, known)
    assert changed_since(path, known) is None


STEPS = (
    "INSERT INTO t(x) SELECT randomblob(300) FROM t LIMIT 40",
    "UPDATE t SET x=randomblob(300) WHERE id%{n}=0",
    "DELETE FROM t WHERE id%{n}=1",
    "DELETE FROM t WHERE id>{n}*20",
    "PRAGMA incremental_vacuum",
    "VACUUM",
    "CREATE TABLE IF NOT EXISTS u{n}(y)",
    "DROP TABLE IF EXISTS u{n}",
    "PRAGMA wal_checkpoint(PASSIVE)",
    "PRAGMA wal_checkpoint(RESTART)",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "SAVEPOINT s; UPDATE t SET x=zeroblob(9); ROLLBACK TO s; RELEASE s",
    "BEGIN; UPDATE t SET x=zeroblob(9); ROLLBACK",
    "close",
    "PRAGMA journal_mode=DELETE",
    "PRAGMA journal_mode=WAL",
)


@pytest.mark.parametrize("seed", range(12))
def test_any_history(tmp_path: Path, seed: int) -> None:
    """Against plain comparison: after any steps, from any earlier state, no page is missed."""
    dice = random.Random(seed)
    path = build(tmp_path / "a.db", rows=600, auto_vacuum=seed % 3, page_size=1024)
    app = open_app(path)
    app.execute("PRAGMA cache_size=10")
    known: list[tuple[FileState, list[bytes], Sidecar]] = []
    told = 0
    for _ in range(60):
        step = dice.choice(STEPS).format(n=dice.randint(2, 9))
        if step == "close":
            app.close()
            app = open_app(path)
        else:
            app.executescript(step)
        with opened(path) as snapshot:
            size = snapshot.page_size
            data = bytes(snapshot.read(1, snapshot.page_count))
            pages = [data[at : at + size] for at in range(0, len(data), size)]
            for state, old, _ in known:
                if unchanged(path, state):
                    assert pages == old, f"seed {seed}: taken for unchanged after {step}"
                runs = snapshot.changed_since(state)
                told += runs is not None
                if runs is not None:
                    differing = {
                        n for n, page in enumerate(pages, 1) if n > len(old) or page != old[n - 1]
                    }
                    missed = differing - set(pages_of(runs)) - {1}
                    assert not missed, f"seed {seed}: {missed} missed after {step}"
                    assert masked(pages)[0] == masked(old)[0] or 1 in pages_of(runs)
        assert pages == pages_by_sqlite(path)
        known = [*known[-4:], (state_of(path), pages, synced(path))]
    assert told > 30, "the log was hardly ever of use"
    app.close()


class TestAgainstTheSidecar:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return build(tmp_path / "a.db")

    def check(self, path: Path, sidecar: Sidecar, found: LocalChanges, runs: set[int]) -> None:
        pages = pages_by_sqlite(path)
        expected = bytearray().join(hash_pages(page, len(page)) for page in pages)
        if 1 not in runs:
            expected[:DIGEST_BYTES] = found.hashes[:DIGEST_BYTES]
        assert set(pages_of(found.runs)) == runs
        assert found.hashes == expected
        assert found.fingerprints == fingerprints(b"".join(pages), len(pages[0]), SEED, 1)

    def test_nothing(self, path: Path) -> None:
        age(path)
        sidecar = synced(path)
        hashes = bytes(sidecar.hashes)
        found = changes(path, sidecar)
        assert (found.runs, found.differ, found.pages_read) == ((), False, 0)
        assert found.hashes == hashes
        with opened(path) as snapshot:
            again = find_changes(snapshot, sidecar, read_everything=True)
            assert (again.runs, again.differ) == ((), False)
            assert again.pages_read == snapshot.page_count

    @pytest.mark.parametrize("how", ["log", "scan"])
    def test_content_that_differs(self, path: Path, how: str) -> None:
        app = open_app(path)
        app.execute("UPDATE t SET x=zeroblob(300) WHERE id=1")
        sidecar, old = synced(path), pages_by_sqlite(path)
        app.execute("UPDATE t SET x=zeroblob(301) WHERE id in (30, 31, 180)")
        app.execute("UPDATE t SET x=zeroblob(302) WHERE id=100")
        app.execute("UPDATE t SET x=x")  # written, not changed
        if how == "scan":
            app.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        new = pages_by_sqlite(path)
        differing = {n for n, page in enumerate(new, 1) if page != old[n - 1]}
        found = changes(path, sidecar)
        assert found.differ
        self.check(path, sidecar, found, differing)
        app.close()

    def test_only_the_journal_mode(self, path: Path) -> None:
        sidecar = synced(path)
        hashes = bytes(sidecar.hashes)
        app = open_app(path)
        app.execute("PRAGMA journal_mode=DELETE").fetchall()
        app.close()
        assert path.read_bytes()[18:20] == b"\x01\x01"
        found = changes(path, sidecar)
        assert (found.runs, found.differ) == ((), False)
        assert found.hashes == hashes

    def test_page_one_with_content(self, path: Path) -> None:
        sidecar = synced(path)
        app = open_app(path)
        app.execute("PRAGMA user_version=7")
        app.close()
        self.check(path, sidecar, changes(path, sidecar), {1})

    def test_longer(self, path: Path) -> None:
        sidecar, old = synced(path), pages_by_sqlite(path)
        app = open_app(path)
        fill(app, 300, seed=4)
        app.close()
        new = pages_by_sqlite(path)
        expected = {n for n, page in enumerate(new, 1) if n > len(old) or page != old[n - 1]}
        assert max(expected) == len(new) > len(old)
        self.check(path, sidecar, changes(path, sidecar), expected)

    def test_shorter(self, path: Path) -> None:
        app = open_app(path)
        app.execute("DELETE FROM t WHERE id>60")
        sidecar, old = synced(path), pages_by_sqlite(path)
        app.execute("VACUUM")
        app.close()
        new = pages_by_sqlite(path)
        assert len(new) < len(old)
        found = changes(path, sidecar)
        assert found.differ
        expected = {n for n, page in enumerate(masked(new), 1) if page != masked(old)[n - 1]}
        self.check(path, sidecar, found, expected)

    def test_another_page_size(self, path: Path) -> None:
        sidecar = synced(path)
        app = open_app(path)
        app.execute("PRAGMA journal_mode=DELETE").fetchall()
        app.execute("PRAGMA page_size=1024")
        app.execute("VACUUM")
        app.close()
        everything = set(range(1, len(pages_by_sqlite(path)) + 1))
        found = changes(path, sidecar)
        assert found.differ
        self.check(path, sidecar, found, everything)

    def test_emptied_and_begun(self, tmp_path: Path) -> None:
        path = tmp_path / "e.db"
        path.touch()
        sidecar = synced(path)
        assert not changes(path, sidecar).differ
        build(path)
        full = synced(path)
        assert len(changes(path, sidecar).runs) == 1
        path.write_bytes(b"")
        found = changes(path, full)
        assert (found.runs, found.differ, found.hashes) == ((), True, b"")

    def test_the_lock_byte_page_is_no_change(self, tmp_path: Path) -> None:
        path = build(tmp_path / "a.db", page_size=65536, wal=False)
        sidecar, page = synced(path), lock_byte_page(65536)
        with path.open("r+b") as file:
            file.seek(28)
            file.write((page + 1).to_bytes(4, "big"))
            file.truncate((page + 1) * 65536)
        found = changes(path, sidecar)
        assert found.runs[-1] == (page + 1, page + 1)
        assert found.runs[-2][1] == page - 1
        assert found.hashes[(page - 1) * 32 : page * 32] == bytes(32)

    def test_only_what_differs_is_hashed(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sidecar = synced(path)
        app = open_app(path)
        app.execute("UPDATE t SET x=zeroblob(300) WHERE id=100")
        app.close()
        hashed: list[int] = []

        def count(data: Any, page_size: int, first_page: int = 0) -> bytes:
            hashed.append(first_page)
            return hash_pages(data, page_size, first_page)

        monkeypatch.setattr(local_changes, "hash_pages", count)
        found = changes(path, sidecar, read_everything=True)
        assert hashed == list(pages_of(found.runs))


class TestRequireUnchanged:
    def test_beside_the_own_write_lock(self, tmp_path: Path) -> None:
        path = build(tmp_path / "a.db")
        app = open_app(path)
        app.execute("UPDATE t SET x=zeroblob(300) WHERE id<5")
        known = state_of(path)
        app.execute("BEGIN IMMEDIATE")
        require_unchanged(path, known)
        app.execute("COMMIT")
        app.execute("PRAGMA cache_size=5")
        app.execute("BEGIN")
        app.execute("UPDATE t SET x=zeroblob(299)")
        app.execute("ROLLBACK")  # spilled into the log, and taken back
        assert not unchanged(path, known)
        require_unchanged(path, known)
        app.execute("UPDATE t SET x=zeroblob(299) WHERE id=7")
        with pytest.raises(FileReplaced, match="changed by another process"):
            require_unchanged(path, known)
        app.close()


def test_frames_lie_one_after_the_other() -> None:
    assert [frame_offset(n, 512) for n in (1, 2, 3)] == [32, 568, 1104]
