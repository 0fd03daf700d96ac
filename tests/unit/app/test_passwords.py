"""Passwords: right and wrong ones, bounds, and the same cost for a user that does not exist."""

import asyncio
import threading

import pytest

from edgereplica.app.passwords import ITERATIONS, LANES, MEMORY_KIB, Passwords
from edgereplica.events.errors import InvalidArgument, LimitExceeded, StorageError
from edgereplica.events.limits import PASSWORD_RETRY_SECONDS


def fast(**more: int) -> Passwords:
    return Passwords(**({"memory_kib": 64, "iterations": 1} | more))


def test_right_and_wrong() -> None:
    async def main() -> None:
        passwords = fast()
        stored = await passwords.hash("correct horse")
        assert stored.startswith("$argon2id$")
        assert stored != await passwords.hash("correct horse"), "every hash has its own salt"
        assert await passwords.verify(stored, "correct horse")
        assert not await passwords.verify(stored, "correct horsf")
        assert not await passwords.verify(None, "correct horse")
        passwords.close()

    asyncio.run(main())


def test_parameters_are_at_least_owasps() -> None:
    async def main() -> None:
        passwords = Passwords()
        stored = await passwords.hash("x" * 8)
        assert f"$v=19$m={MEMORY_KIB},t={ITERATIONS},p={LANES}$" in stored
        assert MEMORY_KIB >= 19 * 1024
        assert ITERATIONS >= 2
        passwords.close()

    asyncio.run(main())


def test_an_unknown_user_is_checked_with_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        passwords = Passwords()
        checked: list[str] = []
        real = passwords._check

        def spy(stored: str, encoded: bytes) -> bool:
            checked.append(stored)
            return real(stored, encoded)

        monkeypatch.setattr(passwords, "_check", spy)
        stored = await passwords.hash("a password")
        await passwords.verify(stored, "another one")
        await passwords.verify(None, "another one")
        known, nobody = (text.split("$") for text in checked)
        assert known[:4] == nobody[:4], "variant, version and parameters"
        assert [len(part) for part in known] == [len(part) for part in nobody]
        passwords.close()

    asyncio.run(main())


def test_higher_parameters_ask_for_a_new_hash() -> None:
    async def main() -> None:
        low, high = fast(), fast(iterations=2)
        stored = await low.hash("a password")
        assert not low.needs_rehash(stored)
        assert high.needs_rehash(stored)
        assert await high.verify(stored, "a password")
        low.close()
        high.close()

    asyncio.run(main())


def test_one_password_however_it_is_typed() -> None:
    async def main() -> None:
        passwords = fast()
        stored = await passwords.hash("caf\u00e9 au lait")
        assert await passwords.verify(stored, "cafe\u0301 au lait")
        with pytest.raises(InvalidArgument):
            await passwords.hash("half a \ud800 pair")
        passwords.close()

    asyncio.run(main())


def test_a_damaged_hash_is_the_servers_fault() -> None:
    async def main() -> None:
        passwords = fast()
        with pytest.raises(StorageError):
            await passwords.verify("$argon2id$nonsense", "a password")
        passwords.close()

    asyncio.run(main())


def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        passwords = fast(threads=1, queue_max=3)
        release = threading.Event()
        monkeypatch.setattr(passwords, "_check", lambda stored, encoded: release.wait(30))
        waiting = [asyncio.create_task(passwords.verify("x", "y")) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(LimitExceeded) as refused:
            await passwords.verify("x", "y")
        assert refused.value.details["limit"] == "password_queue"
        assert refused.value.details["value"] == 3
        assert refused.value.details["retry_after_seconds"] == PASSWORD_RETRY_SECONDS
        waiting[2].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[2]
        fourth = asyncio.create_task(passwords.verify("x", "y"))
        release.set()
        assert await asyncio.gather(waiting[0], waiting[1], fourth) == [True] * 3
        passwords.close()

    asyncio.run(main())
