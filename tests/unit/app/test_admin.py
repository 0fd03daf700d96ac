"""The administrative rules, without a transport."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from pymacaroons import Macaroon

from edgereplica.adapters.clock import ManualClock
from edgereplica.adapters.event_log import EventLog
from edgereplica.adapters.ids import SeededIds
from edgereplica.adapters.memory_repo import MemoryRepo
from edgereplica.adapters.migrations import migrate
from edgereplica.adapters.ports import Statement
from edgereplica.app.admin import AdminService, Authenticated, Lifetimes, check_email
from edgereplica.app.history import DatabaseHistory
from edgereplica.app.passwords import Passwords
from edgereplica.app.tokens import Keyring, VerifiedClaims
from edgereplica.events.domain import MemberAdded, org_stream
from edgereplica.events.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unimplemented,
)

PASSWORD = "correct horse"
LIFETIMES = Lifetimes(session_seconds=1000, sync_token_seconds=100, sync_token_seconds_max=300)


@dataclass
class World:
    repo: MemoryRepo = field(default_factory=MemoryRepo)
    clock: ManualClock = field(default_factory=ManualClock)
    keyring: Keyring = field(default_factory=lambda: Keyring([b"k" * 32]))
    passwords: Passwords = field(default_factory=lambda: Passwords(memory_kib=64, iterations=1))
    deleted: list[str] = field(default_factory=list)

    async def start(self) -> None:
        await migrate(self.repo)
        self.ids = SeededIds(1, self.clock)
        self.log = EventLog(self.repo, self.clock)
        self.histories = DatabaseHistory(self.log)
        self.admin = AdminService(
            repo=self.repo,
            log=self.log,
            histories=self.histories,
            keyring=self.keyring,
            passwords=self.passwords,
            clock=self.clock,
            ids=self.ids,
            lifetimes=LIFETIMES,
            database_deleted=self.deleted.append,
        )

    async def session(self, email: str = "a@example.org") -> VerifiedClaims:
        opened = await self.admin.signup(email, PASSWORD)
        return await self.admin.session(opened.session_token)

    async def demote(self, session: VerifiedClaims) -> VerifiedClaims:
        await self.repo.execute(
            "UPDATE memberships SET role = 'member' WHERE user_id = ?", session.user_id
        )
        return replace(session, role="member")


def run(check: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        await world.start()
        try:
            await check(world)
        finally:
            world.passwords.close()
            await world.repo.close()

    asyncio.run(main())


def narrowed(opened: Authenticated, *caveats: str) -> str:
    held = Macaroon.deserialize(opened.session_token)
    for caveat in caveats:
        held.add_first_party_caveat(caveat)
    return held.serialize()


def test_signup_makes_user_organization_and_membership_at_once() -> None:
    async def check(world: World) -> None:
        opened = await world.admin.signup("Ann@Example.org", PASSWORD)
        session = await world.admin.session(opened.session_token)
        assert (session.email, session.role) == ("Ann@Example.org", "admin")
        assert (session.user_id, session.org_id) == (
            opened.identity.user_id,
            opened.identity.org_id,
        )
        assert opened.exp_unix == int(world.clock.now()) + 1000
        kinds = [entry.event.kind async for entry in world.log.all()]
        assert kinds == ["user_signed_up", "organization_created", "member_added"]
        stored = [entry.event.model_dump_json() async for entry in world.log.all()]
        assert not any("argon2" in text or PASSWORD in text for text in stored)
        assert opened.session_token not in repr(opened)

    run(check)


def test_a_signup_that_fails_leaves_nothing() -> None:
    async def check(world: World) -> None:
        await world.admin.signup("ann@example.org", PASSWORD)
        for email in ("ann@example.org", "ANN@example.org", "Ann@EXAMPLE.org"):
            with pytest.raises(AlreadyExists) as refused:
                await world.admin.signup(email, "another password")
            assert "registered" in refused.value.message
        for table in ("users", "organizations", "memberships", "credentials", "identities"):
            row = await world.repo.first(f"SELECT COUNT(*) AS n FROM {table}")
            assert row == {"n": 1}

    run(check)


def test_of_concurrent_signups_with_one_address_one_wins() -> None:
    async def check(world: World) -> None:
        results = await asyncio.gather(
            *(world.admin.signup("ann@example.org", PASSWORD) for _ in range(5)),
            return_exceptions=True,
        )
        names = sorted(type(result).__name__ for result in results)
        assert names == ["AlreadyExists"] * 4 + ["Authenticated"]

    run(check)


@pytest.mark.parametrize(
    "email",
    [
        "",
        "a",
        "@",
        "a@",
        "@b",
        "a b@c.d",
        "a@b c",
        "a@b@c",
        "a@-b.c",
        "a@b-.c",
        "a@b..c",
        "a@.b",
        "a@b.",
        " a@b.c",
        "a@b.c\n",
        "a@b.c\0",
        "a,b@c.d",
        "<a@b.c>",
        "a@" + "b" * 64,
        "a" * 65 + "@b.c",
        "a@" + ".".join(["b" * 60] * 5),
        "a\ud800@b.c",
    ],
)
def test_malformed_addresses(email: str) -> None:
    with pytest.raises(InvalidArgument):
        check_email(email)


@pytest.mark.parametrize(
    "email", ["a@b", "a@localhost", "a.b+c@d-e.co.uk", "o'neill@x.org", "用户@例え.jp", "é@x.fr"]
)
def test_addresses_that_may_exist(email: str) -> None:
    assert check_email(email) == email


@pytest.mark.parametrize("password", ["", "1234567", "x" * 1025])
def test_malformed_passwords(password: str) -> None:
    async def check(world: World) -> None:
        with pytest.raises(InvalidArgument):
            await world.admin.signup("a@b.c", password)
        assert await world.log.last("user:any") == 0

    run(check)


@pytest.mark.parametrize("password", ["12345678", "x" * 1024, "\N{PILE OF POO}" * 8, " " * 8])
def test_passwords_at_the_bounds(password: str) -> None:
    async def check(world: World) -> None:
        await world.admin.signup("a@b.c", password)
        assert await world.admin.login("A@B.C", password)

    run(check)


def test_login_says_the_same_of_all_that_is_wrong() -> None:
    async def check(world: World) -> None:
        await world.admin.signup("ann@example.org", PASSWORD)
        assert (await world.admin.login("ANN@example.ORG", PASSWORD)).identity.role == "admin"
        said = set()
        for email, password in (
            ("ann@example.org", "wrong horse"),
            ("ann@example.org", ""),
            ("ann@example.org", PASSWORD + " "),
            ("ann@example.org", "x" * 5000),
            ("bob@example.org", PASSWORD),
            ("no address", PASSWORD),
            ("ann\ud800@example.org", PASSWORD),
            ("ann@example.org", "\ud800" * 8),
            ("", ""),
        ):
            with pytest.raises(Unauthenticated) as refused:
                await world.admin.login(email, password)
            said.add(refused.value.message)
        assert len(said) == 1

    run(check)


def test_every_login_checks_exactly_one_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: World) -> None:
        await world.admin.signup("ann@example.org", PASSWORD)
        checks: list[str] = []
        real = world.passwords._check

        def spy(stored: str, encoded: bytes) -> bool:
            checks.append(stored.rsplit("$", 2)[0])
            return real(stored, encoded)

        monkeypatch.setattr(world.passwords, "_check", spy)
        for email, password in (
            ("ann@example.org", "wrong horse"),
            ("bob@example.org", PASSWORD),
            ("garbage", "x"),
        ):
            with pytest.raises(Unauthenticated):
                await world.admin.login(email, password)
        assert len(checks) == 3
        assert len(set(checks)) == 1, "the same parameters each time"

    run(check)


def test_a_hash_of_older_parameters_is_renewed_at_login() -> None:
    async def check(world: World) -> None:
        await world.admin.signup("ann@example.org", PASSWORD)
        stronger = Passwords(memory_kib=128, iterations=2)
        world.admin._passwords = stronger
        query = "SELECT password_hash AS h FROM credentials"
        before = await world.repo.first(query)
        with pytest.raises(Unauthenticated):
            await world.admin.login("ann@example.org", "wrong horse")
        assert await world.repo.first(query) == before
        await world.admin.login("ann@example.org", PASSWORD)
        after = await world.repo.first(query)
        assert after is not None
        assert "m=128,t=2" in after["h"]
        assert await world.admin.login("ann@example.org", PASSWORD)
        stronger.close()

    run(check)


def test_a_session_needs_a_valid_token_and_a_member() -> None:
    async def check(world: World) -> None:
        opened = await world.admin.signup("ann@example.org", PASSWORD)
        session = await world.admin.session(opened.session_token)
        await world.demote(session)
        assert (await world.admin.session(opened.session_token)).role == "member"
        database = await world.admin.create_database(session, "main")
        push, _ = await world.admin.issue_sync_token(session, database.database_id, "push")
        for token in ("", "garbage", push, opened.session_token[:-1]):
            with pytest.raises(Unauthenticated):
                await world.admin.session(token)
        await world.repo.execute("DELETE FROM memberships")
        with pytest.raises(Unauthenticated):
            await world.admin.session(opened.session_token)
        world.clock.advance(1000)
        with pytest.raises(Unauthenticated):
            await world.admin.session(opened.session_token)

    run(check)


def test_databases_are_created_listed_and_deleted() -> None:
    async def check(world: World) -> None:
        session = await world.session()
        assert await world.admin.list_databases(session) == []
        first = await world.admin.create_database(session, "main")
        assert first.created_at == world.clock.now()
        world.clock.advance(1)
        second = await world.admin.create_database(session, "Main")
        assert await world.admin.list_databases(session) == [first, second]
        await world.admin.delete_database(session, first.database_id)
        assert world.deleted == [first.database_id]
        assert await world.admin.list_databases(session) == [second]
        with pytest.raises(NotFound):
            await world.admin.delete_database(session, first.database_id)
        again = await world.admin.create_database(session, "main")
        assert again.database_id != first.database_id
        assert world.deleted == [first.database_id]

    run(check)


@pytest.mark.parametrize("name", ["", " ", "a b", "a.b", "a/b", "ä", "x" * 65, "main\n", "a\0"])
def test_bad_database_names(name: str) -> None:
    async def check(world: World) -> None:
        with pytest.raises(InvalidArgument):
            await world.admin.create_database(await world.session(), name)

    run(check)


def test_a_deletion_ends_the_sessions_though_its_caller_hangs_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def check(world: World) -> None:
        session = await world.session()
        created = await world.admin.create_database(session, "main")
        writing, go, told = asyncio.Event(), asyncio.Event(), asyncio.Event()
        batch = world.repo.batch

        async def write(statements: Sequence[Statement]) -> None:
            await go.wait()
            await batch(statements)

        async def batch_to_its_end(statements: Sequence[Statement]) -> None:
            """As a repository writes that is not in memory: whether or not it is waited for."""
            writing.set()
            await asyncio.shield(asyncio.create_task(write(statements)))

        monkeypatch.setattr(world.repo, "batch", batch_to_its_end)
        monkeypatch.setattr(world.admin, "_database_deleted", lambda _: told.set())
        call = asyncio.create_task(world.admin.delete_database(session, created.database_id))
        await writing.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        go.set()
        await asyncio.wait_for(told.wait(), 10)
        assert await world.admin.list_databases(session) == []

    run(check)


def test_names_are_unique_in_an_organization_only() -> None:
    async def check(world: World) -> None:
        ann, bob = await world.session("ann@x.org"), await world.session("bob@x.org")
        await world.admin.create_database(ann, "x" * 64)
        await world.admin.create_database(bob, "x" * 64)
        with pytest.raises(AlreadyExists):
            await world.admin.create_database(ann, "x" * 64)

    run(check)


def test_another_organizations_database_answers_like_a_missing_one() -> None:
    async def check(world: World) -> None:
        ann, bob = await world.session("ann@x.org"), await world.session("bob@x.org")
        database_id = (await world.admin.create_database(ann, "main")).database_id
        said = set()
        for target in (database_id, "missing"):
            for attempt in (
                world.admin.delete_database(bob, target),
                world.admin.issue_sync_token(bob, target, "pull"),
            ):
                with pytest.raises(NotFound) as refused:
                    await attempt
                said.add(refused.value.message.replace(target, "ID"))
        assert len(said) == 1
        assert await world.admin.list_databases(bob) == []
        assert world.deleted == []

    run(check)


def test_a_member_syncs_but_neither_creates_nor_deletes() -> None:
    async def check(world: World) -> None:
        ann, bob = await world.session("ann@x.org"), await world.session("bob@x.org")
        database = await world.admin.create_database(ann, "main")
        joined = MemberAdded(org_id=ann.org_id, user_id=bob.user_id, role="member")
        await world.log.append([(org_stream(ann.org_id), 2, [joined])])
        member = replace(bob, org_id=ann.org_id, role="member")
        assert await world.admin.list_databases(member) == [database]
        assert await world.admin.issue_sync_token(member, database.database_id, "push")
        for attempt in (
            world.admin.create_database(member, "other"),
            world.admin.delete_database(member, database.database_id),
        ):
            with pytest.raises(PermissionDenied):
                await attempt

    run(check)


@pytest.mark.parametrize(
    ("asked", "given"), [(0, 100), (-5, 100), (1, 1), (299, 299), (300, 300), (2**62, 300)]
)
def test_the_life_of_a_sync_token(asked: int, given: int) -> None:
    async def check(world: World) -> None:
        session = await world.session()
        database = await world.admin.create_database(session, "main")
        token, exp = await world.admin.issue_sync_token(
            session, database.database_id, "pull", asked
        )
        claims = world.keyring.verify_sync(token, world.clock.now())
        assert claims.exp == exp == int(world.clock.now()) + given
        assert (claims.database_id, claims.direction) == (database.database_id, "pull")
        assert (claims.user_id, claims.email) == (session.user_id, session.email)

    run(check)


def test_a_direction_is_needed() -> None:
    async def check(world: World) -> None:
        with pytest.raises(InvalidArgument):
            await world.admin.issue_sync_token(await world.session(), "any", None)

    run(check)


def test_a_narrowed_session_gives_nothing_wider() -> None:
    async def check(world: World) -> None:
        opened = await world.admin.signup("ann@x.org", PASSWORD)
        whole = await world.admin.session(opened.session_token)
        one = await world.admin.create_database(whole, "one")
        two = await world.admin.create_database(whole, "two")
        soon = int(world.clock.now()) + 10
        session = await world.admin.session(
            narrowed(
                opened,
                f"exp={soon}",
                f"database={one.database_id}",
                "direction=pull",
                "max_bytes=7",
                "max_version=3",
            )
        )
        assert await world.admin.list_databases(session) == [one]
        token, exp = await world.admin.issue_sync_token(session, one.database_id, "pull", 250)
        claims = world.keyring.verify_sync(token, world.clock.now())
        assert (exp, claims.max_bytes, claims.max_version) == (soon, 7, 3)
        for attempt in (
            world.admin.issue_sync_token(session, one.database_id, "push"),
            world.admin.issue_sync_token(session, two.database_id, "pull"),
            world.admin.create_database(session, "three"),
            world.admin.delete_database(session, one.database_id),
        ):
            with pytest.raises(PermissionDenied):
                await attempt

    run(check)


def test_providers_are_not_configured() -> None:
    async def check(world: World) -> None:
        for provider in ("github", "google"):
            with pytest.raises(Unimplemented):
                await world.admin.start_oauth(provider)
        with pytest.raises(InvalidArgument):
            await world.admin.start_oauth("myspace")
        with pytest.raises(InvalidArgument):
            await world.admin.complete_oauth("", "code")
        with pytest.raises(Unimplemented):
            await world.admin.complete_oauth("state", "code")

    run(check)
