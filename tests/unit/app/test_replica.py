"""The attempts of a sync: what is tried again, and with which token."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from edgereplica import AsyncReplica
from edgereplica.app.client_session import ClientTransport
from edgereplica.events.errors import EdgeReplicaError, NetworkError, Unauthenticated


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (a)")
    return path


class Tries:
    """A replica whose every connection fails with `error`; `tokens` are those it came with."""

    def __init__(
        self,
        file: Path,
        error: EdgeReplicaError,
        renew: Callable[[], str] | None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.tokens: list[str] = []
        self._error = error
        self.replica = AsyncReplica(
            file, server="http://localhost:1", token="first", retries=2, renew_token=renew
        )
        self.replica.options = replace(self.replica.options, connector=self._connect)
        monkeypatch.setattr("edgereplica.app.replica.RETRY_SECONDS_MAX", 0)

    async def _connect(self, url: str, token: str) -> ClientTransport:
        self.tokens.append(token)
        raise self._error


def test_every_further_attempt_has_a_token_of_its_own(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = iter(["second", "third"])
    tries = Tries(file, NetworkError("gone"), lambda: next(later), monkeypatch)
    with pytest.raises(NetworkError, match="gone"):
        asyncio.run(tries.replica.push())
    assert tries.tokens == ["first", "second", "third"]


def test_a_token_that_was_given_is_used_for_every_attempt(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = Tries(file, NetworkError("gone"), None, monkeypatch)
    with pytest.raises(NetworkError, match="gone"):
        asyncio.run(tries.replica.push())
    assert tries.tokens == ["first"] * 3


def test_a_token_that_cannot_be_minted_again_ends_the_attempts(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def renew() -> str:
        raise Unauthenticated("the session is over")

    tries = Tries(file, NetworkError("gone"), renew, monkeypatch)
    with pytest.raises(Unauthenticated, match="the session is over"):
        asyncio.run(tries.replica.pull())
    assert tries.tokens == ["first"]


def test_a_refusal_is_not_tried_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = Tries(file, Unauthenticated("no"), lambda: "second", monkeypatch)
    with pytest.raises(Unauthenticated, match="no"):
        asyncio.run(tries.replica.status())
    assert tries.tokens == ["first"]
