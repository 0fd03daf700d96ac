"""Sessions: opening them, knowing them again, listing them.

A session is its token; the table `sessions` only remembers when and from where it was opened, so
that its user recognizes what is his. Who may open one is decided by whoever calls `open`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from ..adapters.ports import Clock, Ids, Repo, Row, Statement
from ..events.errors import PermissionDenied
from ..events.limits import CLIENT_TEXT_CHARS_MAX, NONCE_BYTES, SESSIONS_LISTED_MAX
from .revocations import Revocations
from .tokens import Identity, Keyring, VerifiedClaims


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a call came from, as far as it is known: an address, and the program's own name."""

    address: str = ""
    agent: str = ""


_NOWHERE = Origin()
_origin: ContextVar[Origin] = ContextVar("origin", default=_NOWHERE)


@contextmanager
def called_from(address: str, agent: str) -> Iterator[None]:
    """What is opened inside was opened from there."""
    origin = Origin(address[:CLIENT_TEXT_CHARS_MAX], agent[:CLIENT_TEXT_CHARS_MAX])
    before = _origin.set(origin)
    try:
        yield
    finally:
        _origin.reset(before)


@dataclass(frozen=True, slots=True)
class Authenticated:
    """A session just opened. `session_token` is a secret."""

    session_token: str = field(repr=False)
    exp_unix: int
    identity: Identity


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as its user sees it; times in Unix seconds. The id opens nothing."""

    session_id: str
    org_id: str
    method: str
    address: str
    agent: str
    opened_at: float
    expires_at: float


class Sessions:
    """Opens, verifies and lists."""

    def __init__(
        self,
        *,
        repo: Repo,
        keyring: Keyring,
        revocations: Revocations,
        clock: Clock,
        ids: Ids,
        ttl_seconds: int,
    ) -> None:
        self._repo = repo
        self._keyring = keyring
        self._revocations = revocations
        self._clock = clock
        self._ids = ids
        self._ttl_seconds = ttl_seconds

    async def open(
        self,
        identity: Identity,
        method: str,
        *,
        epoch: int | None = None,
        exp_max: int | None = None,
    ) -> Authenticated:
        """A new session. `method` says how its user proved who he is.

        `epoch` is the user's epoch when he proved it: if all his tokens were revoked since, for a
        new password say, this one is among them. None is for what no revocation takes back.
        `exp_max` in Unix seconds.
        """
        now, nonce = self._clock.now(), self._ids.token_bytes(NONCE_BYTES)
        if epoch is None:
            epoch = await self._revocations.epoch(identity.user_id)
        ttl_seconds = self._ttl_seconds
        if exp_max is not None:
            ttl_seconds = min(ttl_seconds, exp_max - int(now))
        token, exp = self._keyring.mint_session(
            identity, now=now, ttl_seconds=ttl_seconds, nonce=nonce, epoch=epoch
        )
        origin = _origin.get()
        await self._repo.batch(
            [
                Statement("DELETE FROM sessions WHERE expires_at <= ?", (now,)),
                Statement(
                    "INSERT INTO sessions (nonce, user_id, org_id, epoch, method, address, agent, "
                    "opened_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        nonce.hex(),
                        identity.user_id,
                        identity.org_id,
                        epoch,
                        method,
                        origin.address,
                        origin.agent,
                        now,
                        float(exp),
                    ),
                ),
            ]
        )
        return Authenticated(token, exp, identity)

    async def open_first(
        self, user_id: str, method: str, *, epoch: int | None = None
    ) -> Authenticated:
        """A session of the user in the organization that he joined first; `epoch` as in `open`."""
        member = await self._repo.first(
            "SELECT u.email, m.org_id, m.role FROM users u JOIN memberships m "
            "ON m.user_id = u.user_id WHERE u.user_id = ? ORDER BY m.added_at, m.org_id",
            user_id,
        )
        if member is None:
            raise PermissionDenied("this account is not a member of any organization")
        identity = Identity(user_id, member["org_id"], member["email"], member["role"])
        return await self.open(identity, method, epoch=epoch)

    async def verify(self, untrusted_token: str) -> VerifiedClaims:
        """The session that a token opens, with the role its user has today; `Unauthenticated`."""
        claims = self._keyring.verify_session(untrusted_token, self._clock.now())
        return await self._revocations.check(claims)

    async def of_user(self, user_id: str) -> list[SessionInfo]:
        """The user's sessions that are neither expired nor revoked, the newest first."""
        rows = await self._repo.all(
            "SELECT s.* FROM sessions s LEFT JOIN token_epochs e ON e.user_id = s.user_id "
            "WHERE s.user_id = ? AND s.expires_at > ? AND s.epoch >= COALESCE(e.epoch, 0) "
            "AND NOT EXISTS (SELECT 1 FROM revoked_tokens r WHERE r.nonce = s.nonce) "
            "ORDER BY s.opened_at DESC, s.nonce LIMIT ?",
            user_id,
            self._clock.now(),
            SESSIONS_LISTED_MAX,
        )
        return [_info(row) for row in rows]


def _info(row: Row) -> SessionInfo:
    return SessionInfo(
        session_id=row["nonce"],
        org_id=row["org_id"],
        method=row["method"],
        address=row["address"],
        agent=row["agent"],
        opened_at=row["opened_at"],
        expires_at=row["expires_at"],
    )
