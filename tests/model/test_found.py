"""What the model and the simulation found, each by its name."""

import asyncio
import gc
from collections.abc import Iterator

import pytest
from tests.model.convergence import Convergence
from tests.model.wire import FRAMES_OF_A_PUSH

from edgereplica.adapters.memory_transport import memory_pair
from edgereplica.app.driver import Driver
from edgereplica.events.errors import Conflict, FileReplaced, ServerShuttingDown
from edgereplica.events.session import Failed
from edgereplica.fsm.server_push import ServerPush


@pytest.fixture
def model() -> Iterator[Convergence]:
    model = Convergence()
    model.first_files()
    model.happened.clear()
    yield model
    model.teardown()


def test_a_wal_file_is_replaced_whole(model: Convergence) -> None:
    """The check for local changes opened the file that the installation had just locked."""
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.change_page_size(number=1, page_size=1024)
    model.change_journal_mode(number=1, mode="WAL")
    model.pull(number=1, wire_version=2, force=True, backup=False, cut_at=None)
    assert model.clients[1].base is not None
    assert model.clients[1].base.version == 1


def test_a_wal_file_that_is_not_replaced_stays_in_wal_mode(
    model: Convergence, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.change_page_size(number=1, page_size=1024)
    model.change_journal_mode(number=1, mode="WAL")

    def refuse(self: object, old: object, header: object) -> None:
        raise FileReplaced("somebody else was there")

    monkeypatch.setattr("edgereplica.adapters.local_fresh.FreshFile._take_the_name", refuse)
    # The model found the file untouched, or it would say that instead.
    with pytest.raises(AssertionError, match="somebody else was there"):
        model.pull(number=1, wire_version=2, force=True, backup=False, cut_at=None)


def test_an_unchanged_file_is_pushed_whole_to_a_database_made_anew(model: Convergence) -> None:
    """Nothing of the file had been opened, because the sidecar said that nothing changed."""
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.delete_and_recreate_the_database()
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    assert model.versions == [model.clients[0].pages]
    model.write(number=1, rows=3, size=10, killed=False)
    model.push(number=1, wire_version=1, force=False, cut_at=None)
    model.push(number=0, wire_version=1, force=False, cut_at=None)
    assert model.versions[2] == model.clients[0].pages


def test_a_file_synced_in_v1_is_known_by_its_root_in_v2(model: Convergence) -> None:
    """Its sidecar knows no version; the server's word that it knows the root was refused."""
    model.push(number=0, wire_version=1, force=False, cut_at=None)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    assert model.clients[0].base is not None
    assert model.clients[0].base.version == 1


def test_a_file_that_is_the_head_and_does_not_know_it_is_pulled_unforced(
    model: Convergence,
) -> None:
    """The answer to its push was lost: there is nothing in it that a pull could lose."""
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.write(number=0, rows=3, size=10, killed=False)
    model.push(number=0, wire_version=2, force=False, cut_at=FRAMES_OF_A_PUSH)
    assert len(model.versions) == 2, "the answer alone was to be lost"
    model.pull(number=0, wire_version=2, force=False, backup=False, cut_at=None)
    assert model.clients[0].base is not None
    assert model.clients[0].base.version == 2


def unheard(model: Convergence, number: int = 0) -> None:
    """A push that makes the next version, and whose client does not hear of it."""
    version = len(model.versions) + 1
    model.write(number=number, rows=3, size=10, killed=False)
    model.push(number=number, wire_version=2, force=False, cut_at=FRAMES_OF_A_PUSH)
    assert len(model.versions) == version, "the answer alone was to be lost"


def test_what_follows_a_push_unheard_builds_on_it(model: Convergence) -> None:
    """It was a conflict of the client with itself, and needed force."""
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    for _ in range(2):
        unheard(model)
    model.write(number=0, rows=3, size=10, killed=False)
    pushed = model._run(0, "push")
    assert pushed.task is not None
    assert pushed.task.result().version == 4


def test_a_push_unheard_is_not_forgotten_for_one_that_makes_nothing(model: Convergence) -> None:
    """The second is cut before it has said everything."""
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    unheard(model)
    model.write(number=0, rows=3, size=10, killed=False)
    model.push(number=0, wire_version=2, force=False, cut_at=3)
    model.write(number=0, rows=3, size=10, killed=False)
    model.push(number=0, wire_version=2, force=False, cut_at=FRAMES_OF_A_PUSH - 1)
    assert len(model.versions) == 2, "nothing was to be made"
    model.write(number=0, rows=3, size=10, killed=False)
    pushed = model._run(0, "push")
    assert pushed.task is not None
    assert pushed.task.result().version == 3


def test_a_push_unheard_under_another_s_is_a_conflict(model: Convergence) -> None:
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    unheard(model)
    model.pull_change_and_push(number=1, rows=3, wire_version=2)
    model.write(number=0, rows=3, size=10, killed=False)
    refused = model._run(0, "push")
    assert refused.task is not None
    assert isinstance(refused.task.exception(), Conflict)


def test_a_push_unheard_is_known_behind_a_pull_that_failed(model: Convergence) -> None:
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    unheard(model)
    model.pull_to_a_full_disk(number=0, page_size=512, mode="DELETE")
    pushed = model._run(0, "push")
    assert pushed.task is not None
    assert pushed.task.result().version == 3


@pytest.mark.parametrize("unchanged", [True, False])
def test_a_push_unheard_is_no_base_for_an_older_version(
    model: Convergence, unchanged: bool
) -> None:
    """Pulled since, or found to be what the file is: what is made of it is a conflict."""
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    older = model.clients[0].file.image()
    unheard(model)
    if unchanged:
        written_down = model.clients[0].file.image().keys() - older.keys()
        now = {name: model.clients[0].file.image()[name] for name in written_down}
        assert list(now) == ["app.db-pushed-edgereplica"]
        model.clients[0].file.restore(older | now)
        model.clients[0].pages = model.clients[0].file.pages()
    model._run(0, "pull", force=True, at=1)
    model.write(number=0, rows=3, size=10, killed=False)
    refused = model._run(0, "push")
    assert refused.task is not None
    assert isinstance(refused.task.exception(), Conflict)


@pytest.mark.parametrize("wire_version", [1, 2])
def test_a_push_unheard_to_a_database_made_anew_is_in_sync_the_next_time(
    model: Convergence, wire_version: int
) -> None:
    """Its sidecar named the version of the old database, which differs from the file in what is no
    change: that was a conflict of the head with itself."""
    model.pull_beside_a_reader(reader=1, other=1, mode="WAL")
    model.delete_and_recreate_the_database()
    model.push(number=1, wire_version=wire_version, force=False, cut_at=FRAMES_OF_A_PUSH)
    assert len(model.versions) == 1, "the answer alone was to be lost"
    again = model._run(1, "push")
    assert again.task is not None
    assert again.task.result().outcome == "unchanged"


def test_an_empty_database_is_pulled_into_a_file_and_into_none(model: Convergence) -> None:
    """No page came, so there were no fingerprints of the right length to remember."""
    for number in (0, 2):
        model.pull(number=number, wire_version=2, force=True, backup=False, cut_at=None)
        assert model.clients[number].pages == ()


def test_a_forced_pull_of_what_the_file_already_is_is_remembered(model: Convergence) -> None:
    """A push whose answer was lost, then a forced pull: the next push builds on the head."""
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.write(number=0, rows=3, size=10, killed=False)
    model.push(number=0, wire_version=2, force=False, cut_at=FRAMES_OF_A_PUSH)
    assert len(model.versions) == 2, "the answer alone was to be lost"
    model.pull(number=0, wire_version=2, force=True, backup=False, cut_at=None)
    model.write(number=0, rows=3, size=10, killed=False)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    assert len(model.versions) == 3


def test_a_dry_pull_of_an_empty_database_says_that_it_would_be_refused(model: Convergence) -> None:
    """No page would come, so nothing seemed to stand against it."""
    model.dry_run(number=0, kind="pull", force=False, then_do_it=True)


def test_a_dry_push_of_a_file_known_by_its_root_says_that_it_would_be_refused(
    model: Convergence,
) -> None:
    """Pulled in wire v1, it named no base, so the server greeted it and waited for more."""
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.pull(number=1, wire_version=1, force=True, backup=False, cut_at=None)
    model.pull_change_and_push(number=0, rows=3, wire_version=2)
    model.dry_run(number=1, kind="push", force=False, then_do_it=True)
    assert model.happened["ended by conflict"]


def test_a_server_that_ends_a_session_before_hello_is_not_taken_for_an_old_one() -> None:
    """It said why in wire v1; a v2 client went on in v1, where a push replaces the head."""

    class Hands:
        handlers: dict[type, object] = {}  # noqa: RUF012

    async def end_early() -> list[bytes]:
        client, server = memory_pair()
        driver = Driver(ServerPush(), Hands(), server)
        await driver.feed(Failed.from_error(ServerShuttingDown("the server is shutting down")))
        assert server.closed_with == 1012
        frames = []
        while (frame := client.receive_nowait()) is not None:
            frames.append(frame)
        return frames

    assert asyncio.run(end_early()) == []


def test_a_page_size_that_changes_under_a_pull_is_a_change_like_any_other(
    model: Convergence,
) -> None:
    """The installation wanted all pages of a file of another page size, and blamed the input."""
    model.write(number=0, rows=40, size=3000, killed=False)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.pull(number=1, wire_version=2, force=True, backup=False, cut_at=None)
    model.change_a_few(number=0, killed=False)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.begin(number=1, kind="pull", wire_version=2, force=False)
    model.change_page_size(number=1, page_size=1024)
    model.finish(which=0, from_client=True)
    assert not model.sessions


def test_an_unchanged_file_that_is_written_to_is_pushed_as_it_is_when_it_is_read(
    model: Convergence,
) -> None:
    """A v1 push that the server asks for pages of a file it had not opened: read anew, whole."""
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.write(number=1, rows=3, size=10, killed=False)
    model.begin(number=0, kind="push", wire_version=1, force=False)
    model.push(number=1, wire_version=2, force=True, cut_at=None)
    model.change_a_few(number=0, killed=False)
    model.finish(which=0, from_client=True)
    assert model.versions[-1] == model.clients[0].pages


def test_a_push_that_begins_anew_takes_the_file_as_it_is_then(model: Convergence) -> None:
    """Its sidecar is of a database that is no more: the server asks for more than what changed."""
    model.write(number=0, rows=40, size=500, killed=False)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.change_a_few(number=0, killed=False)
    model.delete_and_recreate_the_database()
    model.begin(number=0, kind="push", wire_version=2, force=False)
    model.change_journal_mode(number=0, mode="WAL")
    model.finish(which=0, from_client=True)
    assert model.versions == [model.clients[0].pages]


def test_a_session_that_begins_anew_needs_a_token_that_is_still_valid(model: Convergence) -> None:
    model.write(number=0, rows=40, size=500, killed=False)
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.change_a_few(number=0, killed=False)
    model.delete_and_recreate_the_database()
    model.begin(number=0, kind="push", wire_version=2, force=False)
    model.look_after_storage(hours=1)
    model.finish(which=0, from_client=True)
    assert model.happened["ended by unauthenticated"]
    assert not model.versions


@pytest.mark.parametrize("wire", [1, 2])
def test_an_unchanged_file_is_not_pulled_over_from_a_database_made_anew(
    model: Convergence, wire: int
) -> None:
    """Its own database is deleted: the file may be the only copy, though nothing in it is new."""
    model.push(number=0, wire_version=wire, force=False, cut_at=None)
    model.delete_and_recreate_the_database()
    before = model.clients[0].pages
    model.pull(number=0, wire_version=wire, force=False, backup=False, cut_at=None)
    assert model.happened["ended by no_shared_history"]
    assert model.clients[0].pages == before
    # Forced, it is kept beside it: the model looks.
    model.pull(number=0, wire_version=wire, force=True, backup=True, cut_at=None)
    assert model.clients[0].pages != before


def test_a_dry_run_of_a_push_leaves_no_sidecar(model: Convergence) -> None:
    """Its file was the head and did not know it; measuring made it know."""
    client = model.clients[0]
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    for trace in client.file.path.parent.glob("*edgereplica*"):
        trace.unlink()
    client.base = None
    before = sorted(client.file.path.parent.iterdir())
    model.dry_run(number=0, kind="push", force=False, then_do_it=False)
    assert sorted(client.file.path.parent.iterdir()) == before


def test_a_pull_that_is_cut_leaves_nothing_reading_behind(model: Convergence) -> None:
    """Its half-read pages were left to the garbage collector, which ends one generator within
    another, and the event loop said of each cut that it had failed."""
    for _ in range(8):  # segments, more than are read ahead
        model.write(number=0, rows=10, size=3000, killed=False)
        model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.pull(number=2, wire_version=2, force=False, backup=False, cut_at=6)
    gc.collect()
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    gc.collect()
    model.holds()


def test_a_forced_pull_that_begins_anew_replaces_the_file_as_it_is_then(
    model: Convergence,
) -> None:
    """Its sidecar is of a database that is no more, and the application writes before that shows:
    what is overwritten is what the second reading found, and is kept beside it."""
    model.push(number=0, wire_version=2, force=False, cut_at=None)
    model.delete_and_recreate_the_database()
    model.push(number=1, wire_version=2, force=False, cut_at=None)
    model.begin(number=0, kind="pull", wire_version=1, force=True)
    model.step(which=0, from_client=True, steps=1)
    model.write(number=0, rows=3, size=10, killed=False)
    model.finish(which=0, from_client=True)
    assert model.happened["pull begun anew"]
    assert model.clients[0].base is not None
