"""The log and its projections, over every repository."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgereplica.adapters.clock import ManualClock
from edgereplica.adapters.event_log import EventLog, rebuild
from edgereplica.adapters.memory_repo import MemoryRepo
from edgereplica.adapters.migrations import migrate
from edgereplica.adapters.ports import Repo, Statement
from edgereplica.adapters.postgres_repo import PostgresRepo
from edgereplica.adapters.sqlite_repo import SqliteRepo
from edgereplica.events import limits
from edgereplica.events.domain import (
    AllTokensRevoked,
    DatabaseCreated,
    DatabaseDeleted,
    DomainEvent,
    IdentityLinked,
    MemberAdded,
    MemberRemoved,
    MemberRoleChanged,
    OrganizationCreated,
    SegmentStaged,
    TokenRevoked,
    UserSignedUp,
    VersionCommitted,
)
from edgereplica.events.errors import AlreadyExists, ConcurrentAppend, StorageError
from edgereplica.events.pages import digest, page_size

PROJECTIONS = (
    "users",
    "identities",
    "organizations",
    "memberships",
    "databases",
    "staged_segments",
    "token_epochs",
    "revoked_tokens",
)


@dataclass
class Fixture:
    repo: Repo
    log: EventLog
    clock: ManualClock

    async def tables(self) -> dict[str, list[dict[str, Any]]]:
        return {
            table: sorted(
                (dict(row) for row in await self.repo.all(f"SELECT * FROM {table}")), key=repr
            )
            for table in PROJECTIONS
        }


Check = Callable[[Fixture], Awaitable[None]]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def with_log(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Check], None]:
    async def open_repo() -> Repo:
        match request.param:
            case "postgres":
                return await PostgresRepo.open(request.getfixturevalue("postgres").database())
            case "sqlite":
                return await SqliteRepo.open(tmp_path / "repo.db")
            case _:
                return MemoryRepo()

    def run(check: Check) -> None:
        async def main() -> None:
            repo = await open_repo()
            try:
                await migrate(repo)
                clock = ManualClock(1000.0)
                await check(Fixture(repo, EventLog(repo, clock), clock))
            finally:
                await repo.close()

        asyncio.run(main())

    return run


def signup(name: str) -> list[tuple[str, int, list[DomainEvent]]]:
    user = UserSignedUp(
        user_id=f"u-{name}", email=f"{name}@x.org", provider="password", subject=f"{name}@x.org"
    )
    org = OrganizationCreated(org_id=f"o-{name}", name=name, personal=True)
    member = MemberAdded(org_id=f"o-{name}", user_id=f"u-{name}", role="admin")
    return [(user.stream, 0, [user]), (org.stream, 0, [org, member])]


def created(name: str, org: str, label: str = "main") -> DatabaseCreated:
    return DatabaseCreated(
        database_id=f"d-{name}", org_id=f"o-{org}", name=label, created_by=f"u-{org}"
    )


def staged(segment: str, database: str) -> SegmentStaged:
    return SegmentStaged(
        database_id=f"d-{database}", org_id="o-a", segment_id=segment, stored_bytes=10, pages=2
    )


def version(database: str, number: int, segments: tuple[str, ...] = ()) -> VersionCommitted:
    return VersionCommitted(
        database_id=f"d-{database}",
        version=number,
        parent=number - 1,
        page_size=page_size(4096),
        page_count=number * 10,
        root=digest(bytes([number]) * 32),
        author_id="u-a",
        author_email="a@x.org",
        message="",
        committed_at=1000.0 + number,
        map_key=f"maps/{number}",
        map_is_snapshot=False,
        segments=segments,
        pages_changed=1,
        stored_bytes=100,
    )


async def a_life(fixture: Fixture) -> None:
    """Two organizations; one database that lives and one that was deleted and made again."""
    log, clock = fixture.log, fixture.clock
    await log.append(signup("a"))
    clock.advance(1)
    await log.append(signup("b"))
    first = created("1", "a")
    await log.append([(first.stream, 0, [first])])
    for segment in ("s1", "s2", "s3", "s4"):
        clock.advance(1)
        event = staged(segment, "1")
        await log.append([(event.stream, 0, [event])])
    await log.append([(first.stream, 1, [version("1", 1, ("s1", "s3"))])])
    await log.append([(first.stream, 2, [version("1", 2, ("s4",))])])
    doomed, again = created("2", "a", "other"), created("3", "a", "other")
    await log.append([(doomed.stream, 0, [doomed])])
    gone = DatabaseDeleted(database_id="d-2", deleted_by="u-a")
    await log.append([(doomed.stream, 1, [gone])])
    await log.append([(again.stream, 0, [again])])


def test_events_come_back_in_order(with_log: Callable[[Check], None]) -> None:
    async def check(fixture: Fixture) -> None:
        await a_life(fixture)
        stream = "database:d-1"
        recorded = await fixture.log.read(stream)
        assert [entry.seq for entry in recorded] == [1, 2, 3]
        assert [entry.event.kind for entry in recorded] == [
            "database_created",
            "version_committed",
            "version_committed",
        ]
        assert await fixture.log.read(stream, 2) == recorded[2:]
        assert await fixture.log.last(stream) == 3
        assert await fixture.log.last("database:none") == 0
        everything = [entry async for entry in fixture.log.all()]
        assert [entry.position for entry in everything] == list(range(1, len(everything) + 1))
        assert [entry async for entry in fixture.log.all(5)] == everything[5:]
        assert [entry for entry in everything if entry.stream == stream] == recorded

    with_log(check)


def test_all_reads_in_pieces(
    with_log: Callable[[Check], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgereplica.adapters.event_log.EVENTS_PER_READ_MAX", 3)

    async def check(fixture: Fixture) -> None:
        await a_life(fixture)
        row = await fixture.repo.first("SELECT COUNT(*) AS n FROM events")
        assert row is not None
        assert len([entry async for entry in fixture.log.all()]) == row["n"] == 16

    assert limits.EVENTS_PER_READ_MAX > 3
    with_log(check)


def test_projections_follow_the_log(with_log: Callable[[Check], None]) -> None:
    async def check(fixture: Fixture) -> None:
        await a_life(fixture)
        tables = await fixture.tables()
        assert [row["email"] for row in tables["users"]] == ["a@x.org", "b@x.org"]
        assert [row["created_at"] for row in tables["users"]] == [1000.0, 1001.0]
        assert [row["subject"] for row in tables["identities"]] == ["a@x.org", "b@x.org"]
        assert [row["role"] for row in tables["memberships"]] == ["admin", "admin"]
        assert [row["segment_id"] for row in tables["staged_segments"]] == ["s2"]
        assert tables["staged_segments"][0]["staged_at"] == 1003.0
        one, two, three = tables["databases"]
        assert (one["head_version"], one["page_count"], one["stored_bytes"]) == (2, 20, 200)
        assert (one["head_root"], one["head_at"]) == ("02" * 32, 1002.0)
        assert (two["deleted_at"] is None, three["deleted_at"]) == (False, None)
        assert (three["head_version"], three["page_size"], three["head_root"]) == (0, None, None)

    with_log(check)


def test_rebuild_gives_identical_tables(with_log: Callable[[Check], None]) -> None:
    async def check(fixture: Fixture) -> None:
        await a_life(fixture)
        await fixture.repo.execute("INSERT INTO credentials VALUES (?, ?)", "u-a", "hash")
        before = await fixture.tables()
        await fixture.repo.execute("UPDATE databases SET head_version = 77, name = database_id")
        await fixture.repo.execute("DELETE FROM staged_segments")
        await fixture.repo.execute("DELETE FROM memberships")
        assert await fixture.tables() != before
        assert await rebuild(fixture.repo) == 16
        assert await fixture.tables() == before
        assert await fixture.repo.first("SELECT password_hash FROM credentials") == {
            "password_hash": "hash"
        }

    with_log(check)


async def a_life_of_accounts(fixture: Fixture) -> None:
    """After `a_life`: a link, two changes of role, a member who goes, tokens that end."""
    for stream, seq, events in [
        ("user:u-a", 1, [IdentityLinked(user_id="u-a", provider="github", subject="7")]),
        (
            "user:u-a",
            2,
            [
                AllTokensRevoked(user_id="u-a", epoch=1, reason="asked"),
                AllTokensRevoked(user_id="u-a", epoch=2, reason="password_reset"),
            ],
        ),
        (
            "org:o-a",
            2,
            [
                MemberAdded(org_id="o-a", user_id="u-b", role="member"),
                MemberRoleChanged(org_id="o-a", user_id="u-b", role="admin", changed_by="u-a"),
                MemberRemoved(org_id="o-a", user_id="u-a", removed_by="u-b"),
            ],
        ),
        ("token:" + "0f" * 16, 0, [revoked("0f" * 16, descendants=True)]),
        ("token:" + "1f" * 16, 0, [revoked("1f" * 16, descendants=False)]),
    ]:
        await fixture.log.append([(stream, seq, events)])


def revoked(nonce: str, *, descendants: bool) -> TokenRevoked:
    return TokenRevoked(
        nonce=nonce,
        user_id="u-a",
        org_id="o-a",
        purpose="session",
        descendants=descendants,
        revoked_by="u-a",
    )


def test_accounts_are_projected_and_rebuilt(with_log: Callable[[Check], None]) -> None:
    async def check(fixture: Fixture) -> None:
        await a_life(fixture)
        await a_life_of_accounts(fixture)
        before = await fixture.tables()
        assert {(row["provider"], row["user_id"]) for row in before["identities"]} == {
            ("password", "u-a"),
            ("password", "u-b"),
            ("github", "u-a"),
        }
        assert before["token_epochs"] == [{"user_id": "u-a", "epoch": 2}]
        assert {(row["nonce"], row["descendants"]) for row in before["revoked_tokens"]} == {
            ("0f" * 16, 1),
            ("1f" * 16, 0),
        }
        members = {(row["user_id"], row["role"]) for row in before["memberships"]}
        assert members == {("u-b", "admin")}
        await rebuild(fixture.repo)
        assert await fixture.tables() == before

    with_log(check)


def test_a_token_is_revoked_once(with_log: Callable[[Check], None]) -> None:
    async def check(fixture: Fixture) -> None:
        event = revoked("0f" * 16, descendants=False)
        await fixture.log.append([(event.stream, 0, [event])])
        with pytest.raises(ConcurrentAppend):
            await fixture.log.append([(event.stream, 0, [event])])

    with_log(check)


def test_a_rebuild_that_fails_changes_nothing(with_log: Callable[[Check], None]) -> None:
    async def check(fixture: Fixture) -> None:
        await a_life(fixture)
        before = await fixture.tables()
        await fixture.repo.execute("UPDATE events SET data = '{}' WHERE position = 9")
        with pytest.raises(StorageError):
            await rebuild(fixture.repo)
        assert await fixture.tables() == before

    with_log(check)


@pytest.mark.parametrize("expected", [0, 1, 2, 4, 9])
def test_an_append_that_saw_another_end_loses(
    with_log: Callable[[Check], None], expected: int
) -> None:
    async def check(fixture: Fixture) -> None:
        await a_life(fixture)
        before, count = await fixture.tables(), len([e async for e in fixture.log.all()])
        fresh = staged("s9", "1")
        with pytest.raises(ConcurrentAppend):
            await fixture.log.append(
                [(fresh.stream, 0, [fresh]), ("database:d-1", expected, [version("1", 3)])]
            )
        assert await fixture.tables() == before
        assert len([e async for e in fixture.log.all()]) == count

    with_log(check)


def test_of_many_concurrent_appends_one_wins(with_log: Callable[[Check], None]) -> None:
    async def check(fixture: Fixture) -> None:
        await a_life(fixture)
        results = await asyncio.gather(
            *(fixture.log.append([("database:d-1", 3, [version("1", 3)])]) for _ in range(10)),
            return_exceptions=True,
        )
        assert sorted(type(result).__name__ for result in results) == (
            ["ConcurrentAppend"] * 9 + ["float"]
        )
        assert await fixture.log.last("database:d-1") == 4

    with_log(check)


def test_a_projection_that_refuses_undoes_the_append(with_log: Callable[[Check], None]) -> None:
    async def check(fixture: Fixture) -> None:
        await a_life(fixture)
        same_name = created("9", "a")
        with pytest.raises(AlreadyExists) as refused:
            await fixture.log.append([(same_name.stream, 0, [same_name])])
        assert refused.value.details["table"] == "databases"
        assert await fixture.log.last(same_name.stream) == 0
        other_case = UserSignedUp(
            user_id="u-A", email="A@X.org", provider="password", subject="a@x.org"
        )
        with pytest.raises(AlreadyExists) as refused:
            await fixture.log.append([(other_case.stream, 0, [other_case])])
        assert refused.value.details["table"] == "users"

    with_log(check)


def test_what_goes_along_is_in_the_same_transaction(with_log: Callable[[Check], None]) -> None:
    async def check(fixture: Fixture) -> None:
        credential = Statement("INSERT INTO credentials VALUES (?, ?)", ("u-a", "hash"))
        await fixture.log.append(signup("a"), [credential])
        with pytest.raises(AlreadyExists):
            await fixture.log.append(signup("b"), [credential])
        assert await fixture.log.last("user:u-b") == 0

    with_log(check)


def test_an_event_goes_to_its_own_stream_only(with_log: Callable[[Check], None]) -> None:
    async def check(fixture: Fixture) -> None:
        with pytest.raises(ValueError, match="database:d-1"):
            await fixture.log.append([("database:other", 0, [created("1", "a")])])

    with_log(check)
