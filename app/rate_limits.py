"""How often: token buckets for logins and for opening sync sessions.

A bucket holds up to a minute's worth of tokens and fills evenly, so a burst is allowed and a flood
is not. Buckets are kept in memory, in a bounded table: the one not used for the longest time is
forgotten first, and by then it is full again unless the table itself is flooded. Each server
process counts for itself.

Who the client is (`app.client_address`) and what is limited (`LoginLimits`, `app.admission`) is
said elsewhere; how many at once, in `app.session_limits`.
"""

import math
import unicodedata
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from ..adapters.ports import Clock
from ..adapters.projections import email_key
from ..events.errors import EdgeReplicaError, RateLimited
from ..events.limits import (
    EMAIL_CHARS_MAX,
    LOGIN_ATTEMPTS_PER_ACCOUNT_PER_MINUTE,
    LOGIN_ATTEMPTS_PER_ADDRESS_PER_MINUTE,
    RATE_BUCKETS_MAX,
)
from .client_address import limit_key

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")

_SECONDS: Final = 60.0
_COSTLY_CALLS: Final = frozenset(
    {
        "Login",
        "Signup",
        "ChangePassword",
        "StartOAuth",
        "BeginOAuth",
        "CompleteOAuth",
        "CompleteLink",
        "AcceptInvitation",
    }
)
"""Calls that check a secret, or cost much before anybody is known."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class RateLimit:
    """`per_minute` takes a minute for each key. `name` is the setting that says so."""

    def __init__(
        self, name: str, per_minute: int, clock: Clock, keys_max: int = RATE_BUCKETS_MAX
    ) -> None:
        self.name = name
        self.per_minute = per_minute
        self._clock = clock
        self._keys_max = keys_max
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, what: str) -> None:
        """Take one for `key`; `RateLimited` when there is none. `what` is said to the client."""
        bucket = self._filled(key)
        if bucket.tokens < 1:
            missing = (1 - bucket.tokens) * _SECONDS / self.per_minute
            seconds = max(1, math.ceil(missing))
            raise RateLimited(
                f"too many {what}: at most {self.per_minute} a minute; try again in {seconds} s",
                limit=self.name,
                value=self.per_minute,
                retry_after_seconds=seconds,
            )
        bucket.tokens -= 1

    def give_back(self, key: str) -> None:
        """Undo one `take`: it was no misuse."""
        bucket = self._filled(key)
        bucket.tokens = min(self.per_minute, bucket.tokens + 1)

    def _filled(self, key: str) -> _Bucket:
        now = self._clock.now()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self.per_minute, now)
            while len(self._buckets) > self._keys_max:
                self._buckets.popitem(last=False)
            return bucket
        self._buckets.move_to_end(key)
        # A clock that was set back gives nothing, and takes nothing.
        passed = max(0.0, now - bucket.at)
        bucket.tokens = min(self.per_minute, bucket.tokens + passed * self.per_minute / _SECONDS)
        bucket.at = now
        return bucket


class LoginLimits:
    """A Connect interceptor: bounds the calls that check secrets, per address and per account.

    A login that succeeds is not counted. An account is whatever address was typed, whether there
    is such a user or not, so that the refusal tells nothing. It stands inside of the interceptor
    that turns errors into Connect's.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        per_account: int = LOGIN_ATTEMPTS_PER_ACCOUNT_PER_MINUTE,
        per_address: int = LOGIN_ATTEMPTS_PER_ADDRESS_PER_MINUTE,
    ) -> None:
        self._accounts = RateLimit("login_attempts_per_account_per_minute", per_account, clock)
        self._addresses = RateLimit("login_attempts_per_address_per_minute", per_address, clock)

    async def intercept_unary(
        self,
        call_next: Callable[[_Request, Any], Awaitable[_Response]],
        request: _Request,
        ctx: Any,
        /,
    ) -> _Response:
        name = ctx.method.name
        if name not in _COSTLY_CALLS:
            return await call_next(request, ctx)
        address = limit_key((ctx.client_address or "").rpartition(":")[0])
        account = account_key(str(getattr(request, "email", ""))) if name == "Login" else None
        self._addresses.take(address, "attempts from this address")
        if account is not None:
            self._accounts.take(account, "attempts for this account")
        try:
            answer = await call_next(request, ctx)
        except EdgeReplicaError as error:
            if isinstance(error, RateLimited):  # nothing was tried
                self._give_back(address, account)
            raise
        if account is not None:
            self._give_back(address, account)
        return answer

    def _give_back(self, address: str, account: str | None) -> None:
        self._addresses.give_back(address)
        if account is not None:
            self._accounts.give_back(account)


def account_key(email: str) -> str:
    """One key for all spellings of an address, of bounded length."""
    return email_key(unicodedata.normalize("NFC", email[: EMAIL_CHARS_MAX + 1]).strip())
