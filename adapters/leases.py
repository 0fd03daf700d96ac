"""Leases: one runner at a time over all servers, by a row in the database.

A lease is taken if nobody holds it or its holder's time is over, and is renewed while its holder
works. Clocks of different servers may differ by `CLOCK_SKEW_SECONDS_MAX` without two holders at
once. Beyond that, or when a holder sleeps through its expiry, the fencing `token` decides: what a
holder writes goes into one transaction with `Lease.held`, which fails once somebody else came.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..events.errors import AlreadyExists, LeaseLost, LeaseTaken, StorageError
from ..events.limits import CLOCK_SKEW_SECONDS_MAX, LEASE_SECONDS
from .ports import Clock, Repo, Statement


class Lease:
    """A lease that was held when it was made, by `Leases.take`. `token` is greater than that of
    every earlier holder."""

    def __init__(self, repo: Repo, clock: Clock, name: str, holder: str, token: int) -> None:
        self._repo = repo
        self._clock = clock
        self.name = name
        self._holder = holder
        self.token = token
        self._renewed_at = clock.now()

    async def keep(self) -> None:
        """`renew` if a third of the time has passed: to be called while at work."""
        if not 0 <= self._clock.now() - self._renewed_at < LEASE_SECONDS / 3:
            await self.renew()

    async def renew(self) -> None:
        """Hold it for another `LEASE_SECONDS`; `LeaseLost` if somebody else holds it now."""
        now = self._clock.now()
        changed = await self._repo.execute(
            "UPDATE leases SET expires_at = ? WHERE name = ? AND holder = ?",
            now + LEASE_SECONDS,
            self.name,
            self._holder,
        )
        if not changed:
            raise LeaseLost(f"another server holds the lease {self.name!r}")
        self._renewed_at = now

    def held(self) -> list[Statement]:
        """Statements that make their transaction fail unless the lease is held (see `Pin.held`)."""
        return [
            Statement(
                "UPDATE leases SET expires_at = expires_at WHERE name = ? AND holder = ?",
                (self.name, self._holder),
            ),
            Statement(
                "INSERT INTO leases (name, holder, token, expires_at) "
                "SELECT CAST(? AS TEXT), CAST(NULL AS TEXT), 0, 0 "
                "WHERE NOT EXISTS (SELECT 1 FROM leases WHERE name = ? AND holder = ?)",
                (self.name, self.name, self._holder),
            ),
        ]

    async def release(self) -> None:
        """Let the next one come at once. The row stays: its token must grow on."""
        await self._repo.execute(
            "UPDATE leases SET holder = '', expires_at = 0 WHERE name = ? AND holder = ?",
            self.name,
            self._holder,
        )


class Leases:
    """Takes leases."""

    def __init__(self, repo: Repo, clock: Clock, new_id: Callable[[], str]) -> None:
        self._repo = repo
        self._clock = clock
        self._new_id = new_id

    async def take(self, name: str) -> Lease:
        """The lease `name`; `LeaseTaken` while somebody else holds it."""
        holder, now = self._new_id(), self._clock.now()
        changed = await self._repo.execute(
            "UPDATE leases SET holder = ?, token = token + 1, expires_at = ? "
            "WHERE name = ? AND expires_at < ?",
            holder,
            now + LEASE_SECONDS,
            name,
            now - CLOCK_SKEW_SECONDS_MAX,
        )
        if not changed:
            try:
                await self._repo.execute(
                    "INSERT INTO leases (name, holder, token, expires_at) VALUES (?, ?, 1, ?)",
                    name,
                    holder,
                    now + LEASE_SECONDS,
                )
            except AlreadyExists:
                raise LeaseTaken(f"another runner holds the lease {name!r}") from None
        row = await self._repo.first(
            "SELECT token FROM leases WHERE name = ? AND holder = ?", name, holder
        )
        if row is None:
            raise LeaseLost(f"another server holds the lease {name!r}")
        return Lease(self._repo, self._clock, name, holder, int(row["token"]))


@contextmanager
def fenced() -> Iterator[None]:
    """Around a transaction with `Lease.held`: a lease that was lost raises `LeaseLost`."""
    try:
        yield
    except (StorageError, AlreadyExists) as error:
        if error.details.get("table") != "leases":
            raise
        raise LeaseLost("another server took the lease over") from error
