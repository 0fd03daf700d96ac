"""Revocations: what is remembered, what is asked anew, and what a race may do."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from edgereplica.adapters.clock import ManualClock
from edgereplica.adapters.event_log import EventLog
from edgereplica.adapters.memory_repo import MemoryRepo
from edgereplica.adapters.migrations import migrate
from edgereplica.adapters.ports import Row
from edgereplica.app.revocations import Revocations
from edgereplica.app.tokens import VerifiedClaims
from edgereplica.events.domain import MemberAdded, OrganizationCreated, UserSignedUp
from edgereplica.events.errors import Unauthenticated

CLAIMS = VerifiedClaims("sync", "u", "o", "a@b.c", "member", 1, bytes(16), "k", 0)


class CountingRepo(MemoryRepo):
    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def first(self, sql: str, *parameters: Any) -> Row | None:
        self.asked += 1
        return await super().first(sql, *parameters)


def claims(number: int, **more: Any) -> VerifiedClaims:
    return replace(CLAIMS, nonce=number.to_bytes(16), **more)


def run(check: Callable[[CountingRepo, EventLog], Awaitable[None]]) -> None:
    async def main() -> None:
        repo = CountingRepo()
        await migrate(repo)
        log = EventLog(repo, ManualClock())
        user = UserSignedUp(user_id="u", email="a@b.c", provider="password", subject="a@b.c")
        org = OrganizationCreated(org_id="o", name="a", personal=True)
        member = MemberAdded(org_id="o", user_id="u", role="admin")
        await log.append([(user.stream, 0, [user]), (org.stream, 0, [org, member])])
        await check(repo, log)
        await repo.close()

    asyncio.run(main())


def test_what_is_good_is_asked_each_time_and_has_todays_role() -> None:
    async def check(repo: CountingRepo, log: EventLog) -> None:
        here, elsewhere = Revocations(repo, log), Revocations(repo, log)
        assert (await here.check(claims(1))).role == "admin"
        await elsewhere.revoke(claims(1), "u", descendants=False)
        with pytest.raises(Unauthenticated):
            await here.check(claims(1))

    run(check)


def test_what_is_dead_costs_no_query_and_the_cache_is_bounded() -> None:
    async def check(repo: CountingRepo, log: EventLog) -> None:
        revocations = Revocations(repo, log, cached_max=3)
        for number in range(5):
            await revocations.revoke(claims(number), "u", descendants=False)
        for number, queries in ((4, 0), (3, 0), (2, 0), (0, 1), (0, 0), (2, 0), (4, 1)):
            before = repo.asked
            with pytest.raises(Unauthenticated, match="revoked"):
                await revocations.check(claims(number))
            assert repo.asked - before == queries, number
        assert len(revocations._dead) == 3

    run(check)


def test_descendants_end_with_their_session_only_if_that_was_said() -> None:
    async def check(repo: CountingRepo, log: EventLog) -> None:
        revocations = Revocations(repo, log)
        session, child = claims(1), claims(2, parent_nonce=(1).to_bytes(16))
        await revocations.revoke(session, "u", descendants=False)
        assert await revocations.check(child)
        for _ in range(2):
            await revocations.revoke(session, "u", descendants=True)
            with pytest.raises(Unauthenticated):
                await revocations.check(child)
        await revocations.revoke(session, "u", descendants=False)
        with pytest.raises(Unauthenticated):
            await Revocations(repo, log).check(child)

    run(check)


def test_an_epoch_ends_what_came_before_and_races_count_on() -> None:
    async def check(repo: CountingRepo, log: EventLog) -> None:
        revocations = Revocations(repo, log)
        epochs = await asyncio.gather(*(revocations.revoke_all("u", "asked") for _ in range(4)))
        assert sorted(epochs) == [1, 2, 3, 4]
        assert await revocations.epoch("u") == 4
        with pytest.raises(Unauthenticated):
            await revocations.check(claims(1, epoch=3))
        assert await revocations.check(claims(2, epoch=4))

    run(check)


def test_revoked_at_once_from_many_sides() -> None:
    async def check(repo: CountingRepo, log: EventLog) -> None:
        many = [Revocations(repo, log) for _ in range(4)]
        await asyncio.gather(*(r.revoke(claims(1), "u", descendants=True) for r in many))
        recorded = await log.read(f"token:{(1).to_bytes(16).hex()}")
        assert len(recorded) == 1

    run(check)


def test_nobody_and_no_member_are_refused() -> None:
    async def check(repo: CountingRepo, log: EventLog) -> None:
        revocations = Revocations(repo, log)
        with pytest.raises(Unauthenticated, match="no such user"):
            await revocations.check(claims(1, user_id="nobody"))
        with pytest.raises(Unauthenticated, match="member"):
            await revocations.check(claims(2, org_id="another"))

    run(check)
