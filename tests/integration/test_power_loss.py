"""What a pull makes durable, and in which order: by its calls, as `make torture` records them."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from proof.torture.client import start_sync
from proof.torture.syscalls import Note, Recorder
from proof.torture.world import Server, World, resize


@pytest.fixture
def recorded(tmp_path: Path, request: pytest.FixtureRequest) -> list[Note]:
    """The calls of a pull into a file in the journal mode that the test names, perhaps of another
    page size."""
    mode, resized = request.param
    with Server(tmp_path / "data") as server:
        world = World(tmp_path, server, Random(1), rows=50)
        path = tmp_path / "replica" / "replica.db"
        path.parent.mkdir()
        asyncio.run(world.replica(path, "pull").pull())
        with closing(sqlite3.connect(path)) as app:
            app.execute(f"PRAGMA journal_mode = {mode}")
        world.edit()
        if resized:
            resize(world.origin)
        world.push()
        recorder = Recorder(path.parent)
        sync = start_sync("pull", path, server.base, world.tokens["pull"], held=True)
        with recorder.attached(sync.process.pid):
            sync.release()
            told = sync.end()
        assert told is not None
        assert told[0] == "done"
        return recorder.notes


def steps(notes: list[Note]) -> list[str]:
    return [" ".join(filter(None, (note.what, note.to or note.path))) for note in notes]


@pytest.mark.parametrize("recorded", [("delete", False)], indirect=True)
def test_the_journal_is_gone_for_good_before_the_sidecar_names_the_version(
    recorded: list[Note],
) -> None:
    """A power loss could bring it back, and the old version with it, under the new sidecar: the
    next push would have taken back what others had pushed."""
    found = steps(recorded)
    removed = found.index("unlink replica.db-journal")
    named = found.index("rename replica.db-edgereplica")
    assert "sync_directory" in found[removed:named]


@pytest.mark.parametrize("recorded", [("wal", True)], indirect=True)
def test_the_journal_is_gone_for_good_before_another_file_has_its_name(
    recorded: list[Note],
) -> None:
    """That of leaving WAL mode: a power loss could bring it back, and it was played into the new
    file, which was then neither the old nor the new version."""
    found = steps(recorded)
    removed = found.index("unlink replica.db-journal")
    named = found.index("rename replica.db")
    assert removed < named
    assert "sync_directory" in found[removed:named]


@pytest.mark.parametrize("recorded", [("delete", False), ("wal", False)], indirect=True)
def test_what_a_pull_is_about_to_install_is_written_down_for_good_before(
    recorded: list[Note],
) -> None:
    """Without it a version that survived a power loss looked like changes made here."""
    found = steps(recorded)
    written = found.index("rename replica.db-pulled-edgereplica")
    assert found[written - 1 : written + 2] == ["sync", found[written], "sync_directory"]
    first_of_sqlite = min(
        at
        for at, step in enumerate(found)
        if step in ("create replica.db-wal", "create replica.db-journal") and at > written
    )
    assert written + 1 < first_of_sqlite
    remembered = found.index("rename replica.db-edgereplica")
    dropped = found.index("unlink replica.db-pulled-edgereplica")
    assert found[remembered - 1] == "sync"
    assert "sync_directory" in found[remembered:dropped]
