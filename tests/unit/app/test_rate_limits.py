"""Token buckets: bursts, refilling, a bounded table, clocks that jump; and who counts as one."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from edgereplica.adapters.clock import ManualClock
from edgereplica.app.client_address import limit_key
from edgereplica.app.rate_limits import LoginLimits, RateLimit, account_key
from edgereplica.events.errors import RateLimited, Unauthenticated


def refused(limit: RateLimit, key: str) -> int:
    with pytest.raises(RateLimited) as caught:
        limit.take(key, "attempts")
    details = caught.value.details
    assert (details["limit"], details["value"]) == (limit.name, limit.per_minute)
    assert str(limit.per_minute) in caught.value.message
    return int(details["retry_after_seconds"])


def test_a_burst_then_an_even_flow() -> None:
    clock = ManualClock()
    limit = RateLimit("name", 6, clock)
    for _ in range(6):
        limit.take("a", "attempts")
    assert refused(limit, "a") == 10
    limit.take("b", "attempts")  # another key has its own
    clock.advance(9.5)
    assert refused(limit, "a") == 1
    clock.advance(0.5)
    limit.take("a", "attempts")
    assert refused(limit, "a") == 10
    clock.advance(10_000)
    for _ in range(6):
        limit.take("a", "attempts")
    refused(limit, "a")


def test_waiting_as_long_as_was_said_is_enough() -> None:
    clock = ManualClock()
    limit = RateLimit("name", 7, clock)
    for _ in range(7):
        limit.take("a", "attempts")
    for _ in range(50):
        clock.advance(refused(limit, "a"))
        limit.take("a", "attempts")
        while True:
            try:
                limit.take("a", "attempts")
            except RateLimited:
                break


def test_what_is_given_back_is_there_again_but_never_more() -> None:
    limit = RateLimit("name", 2, ManualClock())
    for _ in range(50):
        limit.take("a", "attempts")
        limit.give_back("a")
        limit.give_back("a")
    limit.take("a", "attempts")
    limit.take("a", "attempts")
    refused(limit, "a")


def test_the_table_is_bounded_and_forgets_who_was_away_longest() -> None:
    limit = RateLimit("name", 1, ManualClock(), keys_max=3)
    for key in "abc":
        limit.take(key, "attempts")
    refused(limit, "a")
    limit.take("d", "attempts")
    assert len(limit) == 3
    refused(limit, "a")
    limit.take("b", "attempts")  # forgotten, and so new


def test_a_clock_set_back_gives_and_takes_nothing() -> None:
    clock = ManualClock()
    limit = RateLimit("name", 2, clock)
    limit.take("a", "attempts")
    clock.advance(-5000)
    limit.take("a", "attempts")
    refused(limit, "a")
    clock.advance(30)
    limit.take("a", "attempts")


def context(name: str, address: str = "192.0.2.1:4711") -> Any:
    return SimpleNamespace(method=SimpleNamespace(name=name), client_address=address)


async def attempt(limits: LoginLimits, email: str, *, right: bool = False, **more: str) -> str:
    async def call(request: Any, ctx: Any) -> str:
        if not right:
            raise Unauthenticated("wrong")
        return "in"

    ctx = context(**({"name": "Login"} | more))
    try:
        return await limits.intercept_unary(call, SimpleNamespace(email=email), ctx)
    except (Unauthenticated, RateLimited) as error:
        return error.code


def test_logins_are_limited_for_each_account_from_wherever_they_come() -> None:
    async def main() -> None:
        limits = LoginLimits(ManualClock(), per_account=3, per_address=1000)
        spellings = ["ann@example.org", "ANN@example.org", " Ann@Example.org "]
        for number, email in enumerate(spellings):
            assert await attempt(limits, email, address=f"192.0.2.{number}:1") == "unauthenticated"
        assert await attempt(limits, "ann@example.org") == "resource_exhausted"
        assert await attempt(limits, "bob@example.org") == "unauthenticated"

    asyncio.run(main())


def test_logins_are_limited_for_each_address_whatever_the_account() -> None:
    async def main() -> None:
        limits = LoginLimits(ManualClock(), per_account=1000, per_address=3)
        for number in range(3):
            assert await attempt(limits, f"{number}@example.org") == "unauthenticated"
        assert await attempt(limits, "new@example.org") == "resource_exhausted"
        assert await attempt(limits, "new@example.org", name="Signup") == "resource_exhausted"
        assert await attempt(limits, "new@example.org", name="Whoami") == "unauthenticated"
        assert await attempt(limits, "new@example.org", address="192.0.2.2:9") == "unauthenticated"

    asyncio.run(main())


def test_logins_that_succeed_are_not_counted() -> None:
    async def main() -> None:
        limits = LoginLimits(ManualClock(), per_account=2, per_address=2)
        for _ in range(20):
            assert await attempt(limits, "ann@example.org", right=True) == "in"
        for _ in range(2):  # but new accounts are
            assert await attempt(limits, "x@example.org", right=True, name="Signup") == "in"
        assert await attempt(limits, "ann@example.org", right=True) == "resource_exhausted"

    asyncio.run(main())


def test_keys_are_bounded_and_one_for_all_spellings() -> None:
    assert len(account_key("x" * 10**6)) < 300
    assert account_key("Caf\u00e9@example.org") == account_key("cafe\u0301@EXAMPLE.org ")
    assert limit_key("::ffff:192.0.2.1") == limit_key("192.0.2.1") == "192.0.2.1"
    assert limit_key("2001:db8::1") == limit_key("2001:db8::2:3") != limit_key("2001:db8:0:1::1")
    assert limit_key("testclient") == "testclient"
