"""Versions of a database, and the compare-and-swap that adds one."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgereplica.adapters.clock import ManualClock
from edgereplica.adapters.event_log import Append, EventLog, Stored
from edgereplica.adapters.memory_repo import MemoryRepo
from edgereplica.adapters.migrations import migrate
from edgereplica.adapters.ports import Statement
from edgereplica.app import history as history_module
from edgereplica.app import history_snapshot, stored_versions
from edgereplica.app.history import DatabaseHistory, History, fold
from edgereplica.events.domain import (
    DatabaseCreated,
    DatabaseDeleted,
    MapsRewritten,
    MemberAdded,
    OrganizationCreated,
    RetentionSet,
    RewrittenMap,
    UserSignedUp,
    VersionCommitted,
    VersionsExpired,
)
from edgereplica.events.errors import ConcurrentAppend, Conflict, NotFound, StorageError
from edgereplica.events.pages import digest, page_size


class CountingLog(EventLog):
    """Counts the events it reads, and can lose the race for an append on purpose."""

    events_read = 0
    lost_races = 0

    async def stored(self, stream: str, after_seq: int = 0) -> list[Stored]:
        recorded = await super().stored(stream, after_seq)
        self.events_read += len(recorded)
        return recorded

    async def append(self, appends, also: tuple[Statement, ...] = ()) -> float:
        if self.lost_races:
            self.lost_races -= 1
            raise ConcurrentAppend("lost on purpose")
        return await super().append(appends, also)


@dataclass
class World:
    repo: MemoryRepo = field(default_factory=MemoryRepo)
    clock: ManualClock = field(default_factory=ManualClock)

    async def start(self) -> None:
        await migrate(self.repo)
        self.log = CountingLog(self.repo, self.clock)
        self.histories = DatabaseHistory(self.log)
        user = UserSignedUp(user_id="u", email="a@x", provider="password", subject="a@x")
        org = OrganizationCreated(org_id="o", name="a", personal=True)
        member = MemberAdded(org_id="o", user_id="u", role="admin")
        await self.log.append(
            [Append(user.stream, 0, [user]), Append(org.stream, 0, [org, member])]
        )
        for name in ("one", "two", "three"):
            event = DatabaseCreated(database_id=name, org_id="o", name=name, created_by="u")
            await self.log.append([Append(event.stream, 0, [event])])


def run(check: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        await world.start()
        await check(world)
        await world.repo.close()

    asyncio.run(main())


def version(number: int, parent: int | None = None, database: str = "one") -> VersionCommitted:
    return VersionCommitted(
        database_id=database,
        version=number,
        parent=number - 1 if parent is None else parent,
        page_size=page_size(4096),
        page_count=number,
        root=digest(bytes([number % 256]) * 32),
        author_id="u",
        author_email=f"author{number}@x",
        message="",
        committed_at=100.0 * number,
        map_key="",
        map_is_snapshot=False,
        segments=(),
        pages_changed=1,
        stored_bytes=1,
    )


def test_a_new_database_is_at_version_zero() -> None:
    async def check(world: World) -> None:
        history = await world.histories.open("one", "o")
        assert (history.head, history.head_version, history.versions) == (None, 0, ())
        assert (history.seq, history.name, history.org_id) == (1, "one", "o")
        for version_number in (-1, 0, 1):
            with pytest.raises(NotFound):
                history.at(version_number)
        with pytest.raises(NotFound):
            history.at_time(1e12)

    run(check)


def test_versions_are_found_by_number_and_by_time() -> None:
    async def check(world: World) -> None:
        history = await world.histories.open("one", "o")
        for number in (1, 2, 3):
            history = await world.histories.commit(history, version(number))
        assert history == await world.histories.open("one", "o")
        assert history == await DatabaseHistory(world.log).open("one", "o")
        assert [history.at(n).version for n in (1, 2, 3)] == [1, 2, 3]
        assert [history.at_time(t).version for t in (100.0, 299.9, 300.0, 1e9)] == [1, 2, 3, 3]
        for missing in (0, 4):
            with pytest.raises(NotFound):
                history.at(missing)
        with pytest.raises(NotFound):
            history.at_time(99.9)

    run(check)


def test_missing_deleted_and_foreign_databases_answer_alike() -> None:
    async def check(world: World) -> None:
        gone = DatabaseDeleted(database_id="two", deleted_by="u")
        await world.log.append([Append(gone.stream, 1, [gone])])
        said = set()
        for database_id, org_id in (("none", "o"), ("two", "o"), ("one", "other"), ("none", "")):
            with pytest.raises(NotFound) as refused:
                await world.histories.open(database_id, org_id)
            said.add((refused.value.message.replace(database_id, "ID"), len(refused.value.details)))
        assert len(said) == 1

    run(check)


def test_a_commit_on_an_old_base_is_a_conflict() -> None:
    async def check(world: World) -> None:
        mine = await world.histories.open("one", "o")
        theirs = await DatabaseHistory(world.log).open("one", "o")
        await DatabaseHistory(world.log).commit(theirs, version(1))
        with pytest.raises(Conflict) as refused:
            await world.histories.commit(mine, version(1))
        assert dict(refused.value.details) == {
            "base": 0,
            "head": 1,
            "author": "author1@x",
            "committed_at": 100.0,
        }
        assert mine.head is None, "a history is what its opener saw"
        assert (await world.histories.open("one", "o")).head_version == 1

    run(check)


@pytest.mark.parametrize(("number", "parent"), [(1, 1), (6, 5)])
def test_a_base_that_never_was_is_a_conflict(number: int, parent: int) -> None:
    async def check(world: World) -> None:
        with pytest.raises(Conflict):
            history = await world.histories.open("one", "o")
            await world.histories.commit(history, version(number, parent))

    run(check)


def test_of_many_concurrent_commits_one_wins() -> None:
    async def check(world: World) -> None:
        history = await world.histories.open("one", "o")
        results = await asyncio.gather(
            *(DatabaseHistory(world.log).commit(history, version(1)) for _ in range(10)),
            return_exceptions=True,
        )
        assert sorted(type(result).__name__ for result in results) == ["Conflict"] * 9 + ["History"]

    run(check)


def test_a_commit_to_a_deleted_database_is_not_found() -> None:
    async def check(world: World) -> None:
        history = await world.histories.open("one", "o")
        gone = DatabaseDeleted(database_id="one", deleted_by="u")
        await world.log.append([Append(gone.stream, 1, [gone])])
        with pytest.raises(NotFound):
            await world.histories.commit(history, version(1))
        assert await world.log.last("database:one") == 2

    run(check)


def test_a_stream_that_moved_without_a_version_is_tried_again() -> None:
    async def check(world: World) -> None:
        history = await world.histories.open("one", "o")
        world.log.lost_races = 3
        assert (await world.histories.commit(history, version(1))).head_version == 1
        world.log.lost_races = 1000
        with pytest.raises(ConcurrentAppend):
            await world.histories.commit(await world.histories.open("one", "o"), version(2))

    run(check)


def test_a_version_must_follow_its_parent() -> None:
    async def check(world: World) -> None:
        history = await world.histories.open("one", "o")
        with pytest.raises(StorageError, match="version 2 follows version 0"):
            await world.histories.commit(history, version(2, 0))
        with pytest.raises(ValueError, match="belongs to"):
            await world.histories.commit(history, version(1, database="two"))

    run(check)


def test_only_new_events_are_read() -> None:
    async def check(world: World) -> None:
        history = await world.histories.open("one", "o")
        for number in range(1, 21):
            history = await world.histories.commit(history, version(number))
        assert world.log.events_read == 1
        await world.histories.open("one", "o")
        assert world.log.events_read == 1

    run(check)


def test_the_cache_is_bounded_by_histories_and_versions() -> None:
    async def check(world: World) -> None:
        histories = DatabaseHistory(world.log, histories_max=2, versions_max=5)
        for name in ("one", "two", "three"):
            await histories.open(name, "o")
        before = world.log.events_read
        await histories.open("three", "o")
        await histories.open("two", "o")
        assert world.log.events_read == before
        await histories.open("one", "o")
        assert world.log.events_read == before + 1

        history = await histories.open("one", "o")
        for number in range(1, 8):
            history = await histories.commit(history, version(number))
        assert history.head_version == 7
        before = world.log.events_read
        assert (await histories.open("one", "o")).head_version == 7
        assert world.log.events_read == before + 8, "too long for this cache: read afresh"

    run(check)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("commit"), st.integers(1, 9)),
            st.tuples(st.just("expire"), st.integers(0, 10)),
            st.tuples(st.just("rewrite"), st.integers(0, 10)),
            st.tuples(st.just("retain"), st.integers(1, 5)),
            st.tuples(st.just("snapshot")),
        ),
        max_size=30,
    )
)
@example([("commit", 3), ("rewrite", 1), ("snapshot",)])
def test_a_snapshot_and_what_came_after_is_the_whole_fold(actions: list[Any]) -> None:
    async def check(world: World) -> None:
        histories = world.histories
        for action in actions:
            history = await histories.open("one", "o")
            head = history.head_version
            match action:
                case "commit", count:
                    for _ in range(count):
                        number = history.head_version + 1
                        snapshot = number % 3 == 1
                        made = version(number).model_copy(update={"map_is_snapshot": snapshot})
                        history = await histories.commit(history, made)
                case "expire", back if head - back > history.expired:
                    event = VersionsExpired(database_id="one", through=head - back)
                    if head - back < head:
                        await histories.append(history, event)
                case "rewrite", back if head - back >= history.first:
                    one = RewrittenMap(
                        version=head - back, map_key="new", map_is_snapshot=True, segments=("s",)
                    )
                    await histories.append(history, MapsRewritten(database_id="one", maps=(one,)))
                case "retain", count:
                    rule = RetentionSet(
                        database_id="one", keep_last=count, keep_days=None, set_by="u"
                    )
                    await histories.append(history, rule)
                case ("snapshot",):
                    await DatabaseHistory(world.log).write_snapshot("one")
        whole = fold(History("one"), await EventLog.stored(world.log, "database:one"))
        for found in (await DatabaseHistory(world.log).peek("one"), await histories.peek("one")):
            assert list(found.outlines()) == list(whole.outlines())
            assert found.versions == whole.versions
            for name in ("seq", "first", "oldest", "head_version", "retention", "org_id", "name"):
                assert getattr(found, name) == getattr(whole, name), name

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history_module, "HISTORY_SNAPSHOT_EVENTS", 1)
        patch.setattr(history_snapshot, "HISTORY_CHUNK_VERSIONS", 4)
        patch.setattr(stored_versions, "HISTORY_CHUNK_VERSIONS", 4)
        run(check)


def test_a_damaged_snapshot_is_not_believed() -> None:
    async def check(world: World) -> None:
        history = await world.histories.open("one", "o")
        for number in range(1, 600):
            history = await world.histories.commit(history, version(number))
        assert await DatabaseHistory(world.log).write_snapshot("one")
        assert not await DatabaseHistory(world.log).write_snapshot("one"), "nothing new"
        before = world.log.events_read
        assert (await DatabaseHistory(world.log).open("one", "o")).at(3) == version(3)
        assert world.log.events_read == before
        await world.repo.execute("UPDATE stream_snapshot_chunks SET data = 'abc'")
        with pytest.raises(StorageError):
            (await DatabaseHistory(world.log).open("one", "o")).at(3)

    run(check)
