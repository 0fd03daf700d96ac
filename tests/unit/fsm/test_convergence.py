"""Whole sessions in memory: machines, codecs and driver between two ends of plain values."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import fake_ends as fakes
from tests.fake_ends import FakeDatabase, FakeFile

from edgereplica.adapters.memory_transport import MemoryTransport
from edgereplica.app.driver import CODECS, Driver
from edgereplica.events.errors import NetworkError, StorageError
from edgereplica.events.limits import INBOUND_BYTES_MAX
from edgereplica.fsm.client_pull import ClientPull
from edgereplica.fsm.client_push import ClientPush
from edgereplica.fsm.server_pull import ServerPull
from edgereplica.fsm.server_push import ServerPush

Pages = list[bytes]


@dataclass
class Session:
    """A session that is over: both drivers, the client's end and what was sent."""

    client: Driver
    server: Driver
    end: Any
    server_end: Any
    near: MemoryTransport
    far: MemoryTransport

    @property
    def states(self) -> tuple[str, str]:
        return self.client.machine.state_id, self.server.machine.state_id


class CuttingTransport(MemoryTransport):
    """Cuts the connection instead of sending the n-th frame."""

    frames_left: int | None = None

    async def send(self, frame: Any) -> None:
        if self.frames_left == 0:
            self.cut()
        if self.frames_left is not None:
            self.frames_left -= 1
        await super().send(frame)


async def _run(
    client: Any,
    server: Any,
    end: Any,
    server_end: Any,
    plan: Any,
    wire: int,
    cut: int | None,
    queue_bytes: int,
) -> Session:
    near, far = CuttingTransport(queue_bytes), MemoryTransport(queue_bytes)
    near.frames_left = cut
    near.join(far)
    far.join(near)
    session = Session(
        Driver(client, end, near, codec=CODECS[wire]),
        Driver(server, server_end, far),
        end,
        server_end,
        near,
        far,
    )

    async def run_client() -> None:
        await session.client.run(plan)
        await near.close(1000, "")

    async with asyncio.timeout(20), asyncio.TaskGroup() as both:
        both.create_task(session.server.run())
        both.create_task(run_client())
    assert session.server.wire_version in (wire, None)
    return session


def push(
    file: FakeFile,
    database: FakeDatabase,
    wire: int = 2,
    cut: int | None = None,
    queue_bytes: int = INBOUND_BYTES_MAX,
    **more: Any,
) -> Session:
    """Push, and on success remember the new base as a sidecar would."""
    end, server_end = fakes.PushClientEnd(file), fakes.PushServerEnd(database)
    session = asyncio.run(
        _run(
            ClientPush(wire),
            ServerPush(),
            end,
            server_end,
            file.push_plan(**more),
            wire,
            cut,
            queue_bytes,
        )
    )
    machine = session.client.machine
    assert isinstance(machine, ClientPush)
    if machine.outcome is not None and machine.outcome.version is not None:
        file.base = (machine.outcome.version, list(file.pages))
    return session


def pull(
    file: FakeFile,
    database: FakeDatabase,
    wire: int = 2,
    cut: int | None = None,
    queue_bytes: int = INBOUND_BYTES_MAX,
    **more: Any,
) -> Session:
    end = fakes.PullClientEnd(file, speaks_v1=wire == 1)
    server_end = fakes.PullServerEnd(database)
    return asyncio.run(
        _run(
            ClientPull(wire),
            ServerPull(),
            end,
            server_end,
            file.pull_plan(**more),
            wire,
            cut,
            queue_bytes,
        )
    )


def page(n: int, size: int = 512) -> bytes:
    return n.to_bytes(4, "big") * (size // 4)


def make(count: int, start: int = 0, size: int = 512) -> Pages:
    return [page(start + n, size) for n in range(count)]


def edited(pages: Pages, **numbers: int) -> Pages:
    return [page(numbers.get(f"p{n}", 0) or 0) if f"p{n}" in numbers else p
            for n, p in enumerate(pages, 1)]  # fmt: skip


BOTH_WIRES = pytest.mark.parametrize("wire", [1, 2])


@BOTH_WIRES
@pytest.mark.parametrize("count", [0, 1, 3, 4, 40])
def test_a_first_push_and_a_fresh_pull(wire: int, count: int) -> None:
    database, file = FakeDatabase(), FakeFile(pages=make(count))
    session = push(file, database, wire)
    if wire == 1 and not count:
        assert session.states == ("pushed", "in_sync")
        assert not database.versions
        return
    assert session.states == ("pushed", "committed")
    assert database.head == file.pages
    assert sorted(session.end.sent) == list(range(1, count + 1))
    other = FakeFile()
    assert pull(other, database, wire).states == ("pulled", "delivered")
    assert other.pages == file.pages
    assert session.far.closed_with == 1000


@BOTH_WIRES
def test_only_changed_pages_travel(wire: int) -> None:
    database, file = FakeDatabase(), FakeFile(pages=make(30))
    push(file, database, wire)
    other = FakeFile()
    pull(other, database, wire)
    file.pages = edited(file.pages, p2=901, p3=902, p29=903)
    assert push(file, database, wire).end.sent == [2, 3, 29]
    assert sorted(pull(other, database, wire).end.received) == [2, 3, 29]
    assert other.pages == file.pages == database.head


@BOTH_WIRES
@pytest.mark.parametrize("count", [1, 12, 45])
def test_growing_and_shrinking(wire: int, count: int) -> None:
    database, file, other = FakeDatabase(), FakeFile(pages=make(20)), FakeFile()
    push(file, database, wire)
    pull(other, database, wire)
    file.pages = make(count)
    push(file, database, wire)
    pull(other, database, wire)
    assert other.pages == database.head == make(count)


@BOTH_WIRES
def test_a_changed_page_size_replaces_everything(wire: int) -> None:
    database, file, other = FakeDatabase(), FakeFile(pages=make(9)), FakeFile()
    push(file, database, wire)
    pull(other, database, wire)
    file.page_size, file.pages, file.base = 1024, make(5, 70, 1024), None
    assert push(file, database, wire, force=True).states == ("pushed", "committed")
    assert pull(other, database, wire).states == ("pulled", "delivered")
    assert (other.page_size, other.pages) == (1024, file.pages)


def test_equal_roots_end_both_directions_in_one_round_trip() -> None:
    database, file = FakeDatabase(), FakeFile(pages=make(9))
    push(file, database)
    for run in (push, pull):
        session = run(file, database)
        assert session.states == ("unchanged", "in_sync")
        assert session.near.bytes_sent < 300
        assert session.far.closed_with == 1000
    assert len(database.versions) == 1


def test_a_push_on_an_old_base_is_a_conflict_before_any_page() -> None:
    database, ours, theirs = FakeDatabase(), FakeFile(pages=make(9)), FakeFile()
    push(ours, database)
    pull(theirs, database)
    ours.pages, theirs.pages = edited(ours.pages, p1=500), edited(theirs.pages, p2=600)
    push(ours, database)
    head = list(database.head)
    session = push(theirs, database)
    assert session.states == ("refused", "refused")
    assert session.client.machine.refusal is not None
    assert session.client.machine.refusal.code == "conflict"
    assert session.client.machine.refusal.details == {"head": 2}
    assert session.far.closed_with == 1008
    assert session.end.sent == []
    assert database.head == head
    forced = push(theirs, database, force=True)
    assert forced.states == ("pushed", "committed")
    assert database.head == theirs.pages


def test_a_file_without_history_is_a_conflict_unless_equal_or_forced() -> None:
    database, file = FakeDatabase(), FakeFile(pages=make(40))
    push(file, database)
    stranger = FakeFile(pages=edited(make(40), p20=700))
    session = push(stranger, database)
    assert session.states == ("refused", "lost")
    assert session.client.machine.refusal is not None
    assert session.client.machine.refusal.code == "conflict"
    assert session.client.machine.refusal.details["head"] == 1
    twin = FakeFile(pages=make(40))
    assert push(twin, database).states == ("unchanged", "lost")
    assert len(database.versions) == 1
    forced = push(stranger, database, force=True)
    assert forced.states == ("pushed", "committed")
    assert forced.end.sent == [20]
    assert forced.end.rounds == 2
    assert database.head == stranger.pages


@pytest.mark.parametrize("local", [make(40), make(38), edited(make(43), p41=9), make(3, 800)])
def test_a_pull_without_history_drills_down(local: Pages) -> None:
    database, file = FakeDatabase(), FakeFile(pages=edited(make(40), p20=700))
    push(file, database)
    other = FakeFile(pages=local)
    session = pull(other, database)
    assert session.states == ("pulled", "delivered")
    assert session.end.rounds > 0
    assert other.pages == database.head
    differing = [n for n, p in enumerate(database.head, 1) if n > len(local) or local[n - 1] != p]
    assert sorted(session.end.received) == differing


def test_a_pull_replaces_local_changes_relative_to_its_base() -> None:
    database, file, other = FakeDatabase(), FakeFile(pages=make(20)), FakeFile()
    push(file, database)
    pull(other, database)
    file.pages = edited(file.pages, p5=500)
    push(file, database)
    other.pages = edited(other.pages, p9=900)
    session = pull(other, database)
    assert sorted(session.end.received) == [5, 9]
    assert other.pages == file.pages


def test_a_pull_of_an_older_version() -> None:
    database, file = FakeDatabase(), FakeFile(pages=make(5))
    push(file, database)
    file.pages = make(7, 100)
    push(file, database)
    pull(file, database, at=1)
    assert file.pages == make(5)
    pull(file, database, at=0)
    assert file.pages == []


@pytest.mark.parametrize("count", [0, 1, 3, 30])
def test_a_dry_push_counts_and_changes_nothing(count: int) -> None:
    database, file = FakeDatabase(), FakeFile(pages=make(30))
    push(file, database)
    file.pages = make(30 - count) + make(count, 900)
    session = push(file, database, dry_run=True)
    expected = ("measured", "lost") if count else ("unchanged", "in_sync")
    assert session.states == expected
    assert session.end.counted == list(range(31 - count, 31))
    assert session.end.sent == []
    assert len(database.versions) == 1


@pytest.mark.parametrize("local", [[], make(40), make(20, 700)])
def test_a_dry_pull_applies_nothing(local: Pages) -> None:
    database, file = FakeDatabase(), FakeFile(pages=edited(make(40), p3=3000))
    push(file, database)
    other = FakeFile(pages=list(local))
    session = pull(other, database, dry_run=True)
    assert session.states == ("measured", "lost")
    assert other.pages == local
    assert session.end.received == {}


def test_a_dry_pull_of_another_page_size_applies_nothing() -> None:
    database, file = FakeDatabase(), FakeFile(page_size=1024, pages=make(4, size=1024))
    push(file, database)
    other = FakeFile(pages=make(4))
    assert pull(other, database, dry_run=True).states == ("measured", "lost")
    assert other.pages == make(4)


@pytest.mark.parametrize("run", [push, pull])
def test_v1_has_no_dry_run(run: Any) -> None:
    database, file = FakeDatabase(), FakeFile(pages=make(4))
    database.commit(512, make(4, 9))
    session = run(file, database, 1, dry_run=True)
    assert session.client.machine.state_id == "refused"
    assert session.client.failure.code == "unimplemented"
    assert session.near.bytes_sent == 0


@BOTH_WIRES
def test_a_push_cut_at_any_frame_is_never_seen_and_resumes(wire: int) -> None:
    """The pages that came before the cut do not travel again."""
    whole = FakeFile(pages=make(12))
    frames, at, resumed = [], 0, 0
    while True:
        database, file = FakeDatabase(), FakeFile(pages=list(whole.pages))
        session = push(file, database, wire, cut=at)
        if session.states == ("pushed", "committed"):
            break
        assert session.states == ("lost", "lost")
        assert isinstance(session.client.failure, NetworkError)
        assert database.versions == []
        before = len(database.content)
        # A v1 server that heard `hello` has opened a push; one that did not has nothing to keep.
        assert session.server_end.abandoned == (at > 0)
        again = push(file, database, wire)
        assert again.states == ("pushed", "committed")
        assert len(again.end.sent) == 12 - before
        resumed += before
        assert database.head == whole.pages
        frames.append(at)
        at += 1
    assert len(frames) > 3
    assert resumed > 0


@BOTH_WIRES
def test_a_pull_cut_at_any_frame_leaves_the_file_alone(wire: int) -> None:
    database, at = FakeDatabase(), 0
    database.commit(512, make(12, 50))
    while True:
        file = FakeFile(pages=make(9))
        session = pull(file, database, wire, cut=at)
        if session.states[0] == "pulled":
            break
        assert session.states == ("lost", "lost")
        assert file.pages == make(9)
        assert session.end.applied == 0
        at += 1
    assert at >= 3
    assert file.pages == make(12, 50)


@BOTH_WIRES
def test_a_commit_that_fails_is_told_and_keeps_what_came(wire: int) -> None:
    database, file = FakeDatabase(), FakeFile(pages=make(7))
    database.commits_refused_with = StorageError("the disk is gone")
    session = push(file, database, wire)
    assert session.states == ("refused", "refused")
    assert session.client.machine.refusal is not None
    assert session.client.machine.refusal.message == "the disk is gone"
    assert session.client.machine.refusal.code == ("storage" if wire == 2 else "")
    assert session.far.closed_with == 1011
    assert session.server_end.abandoned
    assert len(database.content) == 7
    database.commits_refused_with = None
    assert push(file, database, wire).end.sent == []
    assert database.head == file.pages


@BOTH_WIRES
def test_two_ends_that_both_write_do_not_wait_for_each_other(wire: int) -> None:
    """Queues of 400 bytes hold six hashes or ten requests: a client that announced 300 pages
    without listening would fill both."""
    database, file = FakeDatabase(), FakeFile(pages=make(300))
    assert push(file, database, wire, queue_bytes=400).states == ("pushed", "committed")
    assert database.head == file.pages
    stale = FakeFile(pages=make(300)[:-1] + make(1, 900))
    if wire == 2:
        assert pull(stale, database, wire, queue_bytes=400).states == ("pulled", "delivered")
        assert stale.pages == file.pages


CONTENT = st.lists(st.integers(0, 12).map(page), max_size=30)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CONTENT, st.booleans(), st.sampled_from([1, 2])), max_size=5))
def test_whatever_is_pushed_is_what_every_puller_gets(
    history: list[tuple[Pages, bool, int]],
) -> None:
    database, file = FakeDatabase(), FakeFile()
    followers = [FakeFile(pages=make(3, 40)), FakeFile(), FakeFile()]
    for content, forget, wire in history:
        file.pages = content
        if forget:
            file.base = None
        before = list(database.head)
        session = push(file, database, wire, force=True)
        assert session.client.machine.state_id in ("pushed", "unchanged")
        assert database.head == (content if wire == 2 or content else before)
        for follower, follower_wire in zip(followers, (2, 2, wire), strict=True):
            pull(follower, database, follower_wire)
            assert follower.pages == database.head
