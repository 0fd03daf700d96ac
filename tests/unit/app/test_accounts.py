"""Sessions beside what ends them at the same moment, and begun logins beside a flood of them."""

import asyncio
import unicodedata
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

import pytest

from edgereplica.adapters.clock import ManualClock
from edgereplica.adapters.event_log import EventLog
from edgereplica.adapters.ids import SeededIds
from edgereplica.adapters.memory_repo import MemoryRepo
from edgereplica.adapters.migrations import migrate
from edgereplica.adapters.ports import CodeProof
from edgereplica.app import oauth
from edgereplica.app.accounts import AccountService, reset_password
from edgereplica.app.admin import AdminService, Lifetimes
from edgereplica.app.history import DatabaseHistory
from edgereplica.app.oauth import OAuthLogins
from edgereplica.app.passwords import Passwords
from edgereplica.app.rate_limits import account_key
from edgereplica.app.revocations import Revocations
from edgereplica.app.sessions import Authenticated, Sessions
from edgereplica.app.tokens import Keyring
from edgereplica.events.errors import (
    IdentityProviderFailed,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from edgereplica.events.limits import OAUTH_LOGIN_KEPT_SECONDS, PASSWORD_CHARS_MAX
from edgereplica.events.oauth import ProviderIdentity

EMAIL, OLD, NEW = "ann@example.org", "correct horse", "battery staple"
SESSION_SECONDS = 1000
LOGIN_SECONDS = 600


class Meanwhile(Passwords):
    """Passwords whose next check is overtaken by `meanwhile`, as one in a long queue would be."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def verify(self, stored: str | None, password: str) -> bool:
        right = await super().verify(stored, password)
        work, self.meanwhile = self.meanwhile, None
        if work is not None:
            await work()
        return right


class Provider:
    """A provider to begin logins with; nobody finishes them."""

    name = "github"

    def authorize_url(
        self, *, public_state: str, redirect_uri: str, code_challenge: str, nonce: str
    ) -> str:
        return f"https://provider.example.org/?state={public_state}"

    async def identity(self, proof: CodeProof, now: float) -> ProviderIdentity:
        raise IdentityProviderFailed("nobody is asked")

    async def close(self) -> None:
        return


@dataclass
class World:
    repo: MemoryRepo = field(default_factory=MemoryRepo)
    clock: ManualClock = field(default_factory=ManualClock)
    passwords: Meanwhile = field(default_factory=lambda: Meanwhile(memory_kib=64, iterations=1))

    async def start(self) -> None:
        await migrate(self.repo)
        ids, keyring = SeededIds(1, self.clock), Keyring([b"k" * 32])
        self.log = EventLog(self.repo, self.clock)
        self.revocations = Revocations(self.repo, self.log)
        self.sessions = Sessions(
            repo=self.repo,
            keyring=keyring,
            revocations=self.revocations,
            clock=self.clock,
            ids=ids,
            ttl_seconds=SESSION_SECONDS,
        )
        self.oauth = OAuthLogins(
            providers={"github": Provider()},
            redirect_base="https://sync.example.org",
            repo=self.repo,
            log=self.log,
            sessions=self.sessions,
            clock=self.clock,
            ids=ids,
            ttl_seconds=LOGIN_SECONDS,
        )
        self.accounts = AccountService(
            repo=self.repo,
            log=self.log,
            keyring=keyring,
            passwords=self.passwords,
            sessions=self.sessions,
            revocations=self.revocations,
            oauth=self.oauth,
            clock=self.clock,
            ids=ids,
        )
        self.admin = AdminService(
            repo=self.repo,
            log=self.log,
            histories=DatabaseHistory(self.log),
            keyring=keyring,
            passwords=self.passwords,
            clock=self.clock,
            ids=ids,
            lifetimes=Lifetimes(),
            sessions=self.sessions,
            oauth=self.oauth,
        )

    async def works(self, opened: Authenticated) -> bool:
        try:
            await self.sessions.verify(opened.session_token)
        except Unauthenticated:
            return False
        return True


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


@pytest.mark.parametrize("how", ["changed", "reset"])
def test_a_login_with_the_old_password_does_not_outlive_a_change_beside_it(how: str) -> None:
    async def check(world: World) -> None:
        signed_up = await world.admin.signup(EMAIL, OLD)

        async def change() -> None:
            if how == "reset":
                await reset_password(world.repo, world.log, world.passwords, EMAIL, NEW)
                return
            session = await world.sessions.verify(signed_up.session_token)
            assert await world.works(await world.accounts.change_password(session, OLD, NEW))

        world.passwords.meanwhile = change
        thief = await world.admin.login(EMAIL, OLD)
        assert not await world.works(thief)
        assert await world.works(await world.admin.login(EMAIL, NEW))

    run(check)


def test_a_change_of_the_old_password_does_not_undo_one_beside_it() -> None:
    async def check(world: World) -> None:
        signed_up = await world.admin.signup(EMAIL, OLD)
        session = await world.sessions.verify(signed_up.session_token)
        opened: list[Authenticated] = []

        async def change() -> None:
            opened.append(await world.accounts.change_password(session, OLD, NEW))

        world.passwords.meanwhile = change
        with pytest.raises(Unauthenticated, match="revoked"):
            await world.accounts.change_password(session, OLD, "a thief's password")
        assert await world.works(opened[0])
        assert await world.works(await world.admin.login(EMAIL, NEW))

    run(check)


def test_switching_does_not_make_a_session_last_longer() -> None:
    async def check(world: World) -> None:
        first = await world.admin.signup(EMAIL, OLD)
        world.clock.advance(SESSION_SECONDS - 1)
        session = await world.sessions.verify(first.session_token)
        second = await world.accounts.switch_organization(session, session.org_id)
        assert second.exp_unix == first.exp_unix
        assert await world.works(second)
        listed = await world.accounts.list_sessions(session)
        assert {info.expires_at for info in listed} == {float(first.exp_unix)}
        world.clock.advance(1)
        assert not await world.works(second)

    run(check)


def test_a_switch_beside_a_revocation_of_everything_opens_nothing() -> None:
    async def check(world: World) -> None:
        first = await world.admin.signup(EMAIL, OLD)
        session = await world.sessions.verify(first.session_token)
        await world.accounts.revoke_all(session)
        switched = await world.accounts.switch_organization(session, session.org_id)
        assert not await world.works(switched)

    run(check)


def test_what_is_typed_is_bounded_before_it_is_brought_into_one_spelling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sorting accents takes the square of their number: one text of 64 KiB held up everybody."""
    accents = "a" + "\u0315\u0300" * 10_000
    longest = 0

    def normalize(form: Literal["NFC", "NFD", "NFKC", "NFKD"], text: str) -> str:
        nonlocal longest
        longest = max(longest, len(text))
        return original(form, text)

    original = unicodedata.normalize

    async def check(world: World) -> None:
        opened = await world.admin.signup(EMAIL, OLD)
        session = await world.sessions.verify(opened.session_token)
        monkeypatch.setattr(unicodedata, "normalize", normalize)
        account_key(accents)
        for email, password in ((accents, OLD), (EMAIL, accents), (EMAIL, OLD + accents)):
            with pytest.raises(Unauthenticated, match="wrong"):
                await world.admin.login(email, password)
            with pytest.raises(InvalidArgument):
                await world.admin.signup(email, password)
        with pytest.raises(PermissionDenied, match="wrong"):
            await world.accounts.change_password(session, accents, NEW)
        with pytest.raises(InvalidArgument):
            await world.accounts.invite_member(session, accents, "member")
        assert 0 < longest <= PASSWORD_CHARS_MAX

    run(check)


@pytest.mark.parametrize("user_id", ["", "x" * 65, "\0", "nobody"])
def test_what_cannot_be_a_member_is_no_member(user_id: str) -> None:
    async def check(world: World) -> None:
        opened = await world.admin.signup(EMAIL, OLD)
        session = await world.sessions.verify(opened.session_token)
        with pytest.raises(NotFound, match="no such member"):
            await world.accounts.remove_member(session, user_id)
        with pytest.raises(NotFound, match="no such member"):
            await world.accounts.set_member_role(session, user_id, "member")

    run(check)


def test_a_flood_of_begun_logins_is_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oauth, "OAUTH_LOGINS_PENDING_MAX", 3)

    async def check(world: World) -> None:
        for _ in range(3):
            await world.oauth.begin("github")
        with pytest.raises(LimitExceeded, match="under way"):
            await world.oauth.begin("github")
        world.clock.advance(LOGIN_SECONDS + OAUTH_LOGIN_KEPT_SECONDS + 1)
        await world.oauth.begin("github")

    run(check)
