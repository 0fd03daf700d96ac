"""Which tokens are worth nothing any more, though their signature holds.

Three things end a token before its time: its own nonce was revoked; its user's tokens were all
revoked since (`epoch`); or its user is no longer a member of its organization. A sync token also
ends with the session that issued it, if that was revoked together with what it issued.

That is asked when a connection opens, before a commit, and on every call. What was revoked stays
revoked, so it is remembered here (a bounded cache: a flood with a dead token costs no query). What
was *not* revoked is asked each time anew: an answer kept for a second would let a token that
another server process has just revoked commit once more. The question is one query over primary
keys.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from ..adapters.event_log import EventLog
from ..adapters.ports import Repo, Statement
from ..events.domain import AllTokensRevoked, TokenRevoked, user_stream
from ..events.errors import ConcurrentAppend, Unauthenticated
from ..events.limits import APPEND_ATTEMPTS_MAX, REVOCATIONS_CACHED_MAX
from .tokens import VerifiedClaims

RevocationReason = Literal["asked", "password_changed", "password_reset"]

_STANDING = (
    "SELECT m.role AS role, COALESCE(e.epoch, 0) AS epoch, "
    "(SELECT COUNT(*) FROM revoked_tokens WHERE nonce = ?) AS revoked, "
    "(SELECT COUNT(*) FROM revoked_tokens WHERE nonce = ? AND descendants = 1) AS parent_revoked "
    "FROM users u "
    "LEFT JOIN memberships m ON m.user_id = u.user_id AND m.org_id = ? "
    "LEFT JOIN token_epochs e ON e.user_id = u.user_id WHERE u.user_id = ?"
)


class Revocations:
    """Asks and revokes; see the module's docstring."""

    def __init__(self, repo: Repo, log: EventLog, cached_max: int = REVOCATIONS_CACHED_MAX) -> None:
        self._repo = repo
        self._log = log
        self._dead: OrderedDict[bytes, None] = OrderedDict()
        self._cached_max = cached_max

    async def check(self, claims: VerifiedClaims) -> VerifiedClaims:
        """`claims` with the role that the user has today; `Unauthenticated` if they have ended."""
        if claims.nonce in self._dead:
            self._dead.move_to_end(claims.nonce)
            raise _revoked()
        row = await self._repo.first(
            _STANDING, claims.nonce.hex(), claims.parent_nonce.hex(), claims.org_id, claims.user_id
        )
        if row is None:
            raise Unauthenticated("there is no such user any more")
        if row["revoked"] or row["parent_revoked"] or claims.epoch < row["epoch"]:
            self._remember(claims.nonce)
            raise _revoked()
        if row["role"] is None:
            raise Unauthenticated("the token's user is no longer a member of its organization")
        return replace(claims, role=row["role"])

    async def revoke(self, claims: VerifiedClaims, revoked_by: str, *, descendants: bool) -> None:
        """Revoke one token; with `descendants` also the sync tokens that it issued, as a session.

        Revoking it again changes nothing, but for descendants that were spared the first time.
        """
        event = revocation(claims, revoked_by, descendants=descendants)
        for _ in range(APPEND_ATTEMPTS_MAX):
            known = await self._repo.first(
                "SELECT descendants FROM revoked_tokens WHERE nonce = ?", event.nonce
            )
            if known is None or (descendants and not known["descendants"]):
                try:
                    seq = await self._log.last(event.stream)
                    await self._log.append([(event.stream, seq, [event])])
                except ConcurrentAppend:
                    continue
            self._remember(claims.nonce)
            return
        raise ConcurrentAppend("the log of this token does not stand still")

    async def revoke_all(
        self,
        user_id: str,
        reason: RevocationReason,
        also: Sequence[Statement] = (),
        *,
        since: int | None = None,
    ) -> int:
        """Revoke every token of a user; the epoch from which new ones are good.

        `also` runs in the same transaction. `since` is the epoch of the token by which it is asked,
        where a revocation in between must end that as well (`Unauthenticated`).
        """
        stream = user_stream(user_id)
        for _ in range(APPEND_ATTEMPTS_MAX):
            seq = await self._log.last(stream)
            epoch = await self.epoch(user_id) + 1
            if since is not None and since + 1 != epoch:
                raise _revoked()
            event = AllTokensRevoked(user_id=user_id, epoch=epoch, reason=reason)
            try:
                await self._log.append([(stream, seq, [event])], also)
            except ConcurrentAppend:
                continue
            return epoch
        raise ConcurrentAppend("the log of this user does not stand still")

    async def epoch(self, user_id: str) -> int:
        """What a token minted now must carry."""
        row = await self._repo.first("SELECT epoch FROM token_epochs WHERE user_id = ?", user_id)
        return int(row["epoch"]) if row else 0

    def _remember(self, nonce: bytes) -> None:
        self._dead[nonce] = None
        self._dead.move_to_end(nonce)
        while len(self._dead) > self._cached_max:
            self._dead.popitem(last=False)


def revocation(claims: VerifiedClaims, revoked_by: str, *, descendants: bool) -> TokenRevoked:
    return TokenRevoked(
        nonce=claims.nonce.hex(),
        user_id=claims.user_id,
        org_id=claims.org_id,
        purpose=claims.purpose,
        descendants=descendants,
        revoked_by=revoked_by,
    )


def _revoked() -> Unauthenticated:
    return Unauthenticated("the token was revoked")
