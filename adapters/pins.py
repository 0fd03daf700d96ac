"""Pins: what keeps garbage collection from taking what a running session has seen.

A session takes its pin before it reads anything, so whatever it knows of it knew later than the
pin was there. The pin ends with the session, or, if nobody renews it, when it expires: then its row
is deleted by the collector. A push that finds its pin gone may commit nothing any more: the check
is part of the transaction that commits (`Pin.held`), so a session that slept through its expiry
cannot refer to what was taken meanwhile. Clocks therefore decide how soon garbage goes, never
whether something referenced does.

There is no background task: a session calls `keep` whenever it works, which writes once in
`PIN_RENEW_SECONDS`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..events.errors import AlreadyExists, SessionTooSlow, StorageError
from ..events.limits import PIN_RENEW_SECONDS, PIN_SECONDS
from .ports import Clock, Repo, Statement


class Pin:
    """One session's pin. Made by `Pins.take`."""

    def __init__(self, repo: Repo, clock: Clock, pin_id: str, expires_at: float) -> None:
        self._repo = repo
        self._clock = clock
        self._id = pin_id
        self._expires_at = expires_at
        self._released = False

    async def keep(self) -> None:
        """Renew if it is time. Raises `SessionTooSlow` if the pin had already been taken away."""
        now = self._clock.now()
        if self._released or now < self._expires_at - PIN_SECONDS + PIN_RENEW_SECONDS:
            return
        changed = await self._repo.execute(
            "UPDATE pins SET expires_at = ? WHERE pin_id = ?", now + PIN_SECONDS, self._id
        )
        if not changed:
            raise _too_slow()
        self._expires_at = now + PIN_SECONDS

    def held(self, *, release: bool = False) -> list[Statement]:
        """Statements that make their transaction fail unless the pin is held, and end it if asked.

        The first waits for a collector that is deleting the row at this moment (PostgreSQL), the
        second then sees how that ended: without the row it violates NOT NULL. `guarding` turns that
        failure into `SessionTooSlow`.
        """
        statements = [
            Statement("UPDATE pins SET expires_at = expires_at WHERE pin_id = ?", (self._id,)),
            Statement(
                "INSERT INTO pins (pin_id, org_id, database_id, version, expires_at) "
                "SELECT CAST(? AS TEXT), CAST(NULL AS TEXT), CAST(NULL AS TEXT), 0, 0 "
                "WHERE NOT EXISTS (SELECT 1 FROM pins WHERE pin_id = ?)",
                (self._id, self._id),
            ),
        ]
        if release:
            statements.append(Statement("DELETE FROM pins WHERE pin_id = ?", (self._id,)))
        return statements

    def released(self) -> None:
        """A transaction with `held(release=True)` succeeded."""
        self._released = True

    async def release(self) -> None:
        """End the pin; once is enough."""
        if not self._released:
            self._released = True
            await self._repo.execute("DELETE FROM pins WHERE pin_id = ?", self._id)


class Pins:
    """Takes pins."""

    def __init__(self, repo: Repo, clock: Clock, new_id: Callable[[], str]) -> None:
        self._repo = repo
        self._clock = clock
        self._new_id = new_id

    async def take(self, org_id: str, database_id: str, version: int) -> Pin:
        """A pin on everything of `org_id`; read what it is to hold only after this returned.

        Retention leaves `version` of the database, and what is newer, readable meanwhile.
        """
        pin_id, expires_at = self._new_id(), self._clock.now() + PIN_SECONDS
        await self._repo.execute(
            "INSERT INTO pins (pin_id, org_id, database_id, version, expires_at) "
            "VALUES (?, ?, ?, ?, ?)",
            pin_id,
            org_id,
            database_id,
            version,
            expires_at,
        )
        return Pin(self._repo, self._clock, pin_id, expires_at)


@contextmanager
def guarding() -> Iterator[None]:
    """Around an append with `Pin.held`: a pin that is gone raises `SessionTooSlow`."""
    try:
        yield
    except (StorageError, AlreadyExists) as error:
        if error.details.get("table") != "pins":
            raise
        raise _too_slow() from error


def _too_slow() -> SessionTooSlow:
    return SessionTooSlow("this session was silent for too long; try again")
