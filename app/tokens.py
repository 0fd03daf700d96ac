r"""Session and sync tokens: minting, and verification that needs nothing but the keys and the time.

A token is a macaroon (`app.macaroon`). Its signed identifier is a `TokenClaims` message: who the
bearer is and what he may do. Its caveats, `key=value`, only narrow that; whoever holds a token may
append some. Verification checks the signature over identifier and every caveat *before* it looks
at either, then requires that every caveat is understood and holds. Whether a user still exists or a
token was revoked is for the callers that have a database.

| caveat | meaning | twice |
|---|---|---|
| `exp=<unix seconds>` | not valid from then on; at least one must be there | the earliest |
| `direction=push\|pull` | only this direction | must agree |
| `database=<id>` | only this database | must agree |
| `max_bytes=<n>` | a session moves at most n bytes of page data | the smallest |
| `max_version=<n>` | a pull gives no version above n | the smallest |

A caveat that contradicts the identifier (`direction=pull` on a push token) leaves nothing that the
token allows, so it is refused: a push token carries no right to read, and appending must not add
one.

Each purpose signs with its own key, derived from the root key, so that a token of one purpose can
never pass for another. Root keys rotate: the first of the keyring mints, all of them verify.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from ..events.errors import InvalidArgument, Unauthenticated
from ..events.limits import KEY_BYTES, NONCE_BYTES
from ..proto.gen.edgereplica.auth.v1 import token_pb
from . import macaroon

Purpose = Literal["session", "sync", "invite"]
Direction = Literal["push", "pull"]

_PURPOSES: Final[dict[Purpose, token_pb.Purpose]] = {
    "session": token_pb.Purpose.SESSION,
    "sync": token_pb.Purpose.SYNC,
    "invite": token_pb.Purpose.INVITE,
}
_DIRECTIONS: Final[dict[Direction, token_pb.Direction]] = {
    "push": token_pb.Direction.PUSH,
    "pull": token_pb.Direction.PULL,
}
_DIRECTION_CAVEATS: Final[dict[str, Direction]] = {"push": "push", "pull": "pull"}
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token speaks for."""

    user_id: str
    org_id: str
    email: str
    role: str


@dataclass(frozen=True, slots=True)
class VerifiedClaims:
    """What a token allows, after all its caveats. None means: not restricted.

    A sync token always has `database_id` and `direction`; a session has them only if it was
    narrowed. `exp` and `issued_at` are Unix seconds; `nonce` and `epoch` are what revocation names
    (`app.revocations`), `parent_nonce` the session that issued a sync token. An invitation's
    `user_id` is who invites, its `email` and `role` are what the invited user becomes.
    """

    purpose: Purpose
    user_id: str
    org_id: str
    email: str
    role: str
    exp: int
    nonce: bytes
    key_id: str
    issued_at: int
    database_id: str | None = None
    direction: Direction | None = None
    max_bytes: int | None = None
    max_version: int | None = None
    narrowed: bool = False
    """Whether a holder appended anything to what was minted."""
    epoch: int = 0
    parent_nonce: bytes = b""


class TokenVerifier(Protocol):
    """What an edge needs of a keyring: `Keyring.verify`."""

    def verify(self, untrusted_token: str, now: float) -> VerifiedClaims: ...


class _Key(NamedTuple):
    key_id: str
    of_purpose: dict[Purpose, bytes]


def _derived(root: bytes, use: str) -> bytes:
    return hashlib.blake2b(use.encode(), key=root, person=b"edgereplica", digest_size=32).digest()


class Keyring:
    """Root keys of 32 bytes, the newest first: that one mints, all of them verify."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise InvalidArgument(f"a keyring needs keys of {KEY_BYTES} bytes")
        self._keys = [
            _Key(
                _derived(key, "key-id").hex()[:16],
                {purpose: _derived(key, f"token/{purpose}") for purpose in _PURPOSES},
            )
            for key in keys
        ]

    def mint_session(
        self, identity: Identity, *, now: float, ttl_seconds: int, nonce: bytes, epoch: int = 0
    ) -> tuple[str, int]:
        """A session token and when it expires (Unix seconds)."""
        claims = self._claims("session", identity, now, nonce, epoch)
        return self._mint("session", claims, ttl_seconds)

    def mint_invite(
        self, invited: Identity, *, now: float, ttl_seconds: int, nonce: bytes, epoch: int = 0
    ) -> tuple[str, int]:
        """An invitation and when it expires (Unix seconds).

        `invited` has the inviting user's id, the organization, and the e-mail and role to be.
        """
        return self._mint("invite", self._claims("invite", invited, now, nonce, epoch), ttl_seconds)

    def mint_sync(
        self,
        identity: Identity,
        database_id: str,
        direction: Direction,
        *,
        now: float,
        ttl_seconds: int,
        nonce: bytes,
        max_bytes: int | None = None,
        max_version: int | None = None,
        epoch: int = 0,
        parent_nonce: bytes = b"",
    ) -> tuple[str, int]:
        """A token for one direction of one database and when it expires (Unix seconds)."""
        claims = self._claims("sync", identity, now, nonce, epoch)
        claims.parent_nonce = parent_nonce
        claims.database_id = database_id
        claims.direction = _DIRECTIONS[direction]
        bounds = {"max_bytes": max_bytes, "max_version": max_version}
        more = tuple(f"{key}={value}" for key, value in bounds.items() if value is not None)
        return self._mint("sync", claims, ttl_seconds, more)

    def verify_session(self, untrusted_token: str, now: float) -> VerifiedClaims:
        return self._verify(untrusted_token, now, ("session",))

    def verify_sync(self, untrusted_token: str, now: float) -> VerifiedClaims:
        return self._verify(untrusted_token, now, ("sync",))

    def verify_invite(self, untrusted_token: str, now: float) -> VerifiedClaims:
        return self._verify(untrusted_token, now, ("invite",))

    def verify(self, untrusted_token: str, now: float) -> VerifiedClaims:
        """What a token of any purpose allows at `now`.

        `Unauthenticated` for everything else: garbage, another key, an altered token, an expired
        one, a caveat that is not understood. No other exception.
        """
        return self._verify(untrusted_token, now, tuple(_PURPOSES))

    def _claims(
        self, purpose: Purpose, identity: Identity, now: float, nonce: bytes, epoch: int = 0
    ) -> token_pb.TokenClaims:
        if len(nonce) != NONCE_BYTES:
            raise InvalidArgument(f"a nonce has {NONCE_BYTES} bytes")
        return token_pb.TokenClaims(
            purpose=_PURPOSES[purpose],
            user_id=identity.user_id,
            org_id=identity.org_id,
            email=identity.email,
            role=identity.role,
            key_id=self._keys[0].key_id,
            nonce=nonce,
            issued_at_unix=int(now),
            epoch=epoch,
        )

    def _mint(
        self,
        purpose: Purpose,
        claims: token_pb.TokenClaims,
        ttl_seconds: int,
        caveats: tuple[str, ...] = (),
    ) -> tuple[str, int]:
        exp = claims.issued_at_unix + ttl_seconds
        key = self._keys[0].of_purpose[purpose]
        return macaroon.mint(key, claims.to_binary(), (f"exp={exp}", *caveats)), exp

    def _verify(
        self, untrusted_token: str, now: float, purposes: tuple[Purpose, ...]
    ) -> VerifiedClaims:
        unverified = macaroon.parse(untrusted_token)
        for purpose in purposes:
            for key in self._keys:
                if unverified.is_signed_by(key.of_purpose[purpose]):
                    claims = token_pb.TokenClaims.from_binary(unverified.identifier)
                    return narrow(purpose, claims, unverified.caveats, now)
        raise Unauthenticated("the token was not signed by this server")


def narrow(
    purpose: Purpose, claims: token_pb.TokenClaims, caveats: Sequence[bytes], now: float
) -> VerifiedClaims:
    """`claims` under `caveats`: what a token allows at `now`, if its signature covers them all.

    `Unauthenticated` if that is nothing.
    """
    limits = _Limits(claims)
    for caveat in caveats:
        limits.apply(caveat)
    if limits.exp is None:
        raise Unauthenticated("the token never expires")
    if now >= limits.exp:
        raise Unauthenticated("the token has expired", expired_at=limits.exp)
    if purpose == "sync" and not (limits.database_id and limits.direction):
        raise Unauthenticated("the token names no database or no direction")
    return VerifiedClaims(
        purpose=purpose,
        user_id=claims.user_id,
        org_id=claims.org_id,
        email=claims.email,
        role=claims.role,
        exp=limits.exp,
        nonce=claims.nonce,
        key_id=claims.key_id,
        issued_at=claims.issued_at_unix,
        database_id=limits.database_id,
        direction=limits.direction,
        max_bytes=limits.max_bytes,
        max_version=limits.max_version,
        narrowed=len(caveats) > 1,
        epoch=claims.epoch,
        parent_nonce=claims.parent_nonce,
    )


class _Limits:
    """The intersection of what a token allows with caveat after caveat."""

    def __init__(self, claims: token_pb.TokenClaims) -> None:
        named = {number: name for name, number in _DIRECTIONS.items()}
        self.direction: Direction | None = named.get(claims.direction)
        self.database_id: str | None = claims.database_id or None
        self.exp: int | None = None
        self.max_bytes: int | None = None
        self.max_version: int | None = None

    def apply(self, caveat: bytes) -> None:
        try:
            key, _, value = caveat.decode().partition("=")
        except UnicodeDecodeError:
            raise _not_understood() from None
        match key:
            case "exp":
                self.exp = _smaller(self.exp, value)
            case "max_bytes":
                self.max_bytes = _smaller(self.max_bytes, value)
            case "max_version":
                self.max_version = _smaller(self.max_version, value)
            case "direction" if direction := _DIRECTION_CAVEATS.get(value):
                if self.direction not in {None, direction}:
                    raise _contradiction()
                self.direction = direction
            case "database" if value:
                if self.database_id not in {None, value}:
                    raise _contradiction()
                self.database_id = value
            case _:
                raise _not_understood()


def _smaller(held: int | None, value: str) -> int:
    if not _NUMBER.fullmatch(value):
        raise _not_understood()
    return int(value) if held is None else min(held, int(value))


def _not_understood() -> Unauthenticated:
    return Unauthenticated("the token carries a restriction that this server does not understand")


def _contradiction() -> Unauthenticated:
    return Unauthenticated("the token's restrictions leave nothing that it allows")
