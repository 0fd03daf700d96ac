"""Tokens in their holder's hands, offline: what one says, and a narrower copy of it.

Nobody but a server can tell whether a token is genuine; what is read here is what it *claims*.
Narrowing needs no key: a caveat is appended and the signature replaced by its HMAC over that
caveat, so nobody can take it back, and it widens nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..events.errors import InvalidArgument, Unauthenticated
from ..proto.gen.edgereplica.auth.v1 import token_pb
from . import macaroon
from .tokens import Purpose, narrow

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd]?)")
_PURPOSES: dict[int, Purpose] = {
    token_pb.Purpose.SESSION: "session",
    token_pb.Purpose.SYNC: "sync",
    token_pb.Purpose.INVITE: "invite",
}


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """What a token claims to allow, after all its caveats; None means: not restricted.

    Times are Unix seconds. `nonce` (hex) is what revocation names; a narrowed copy keeps it.
    """

    purpose: str
    user_id: str
    org_id: str
    email: str
    role: str
    database: str | None
    direction: str | None
    max_bytes: int | None
    max_version: int | None
    issued_at_unix: int
    exp_unix: int
    key_id: str
    nonce: str
    caveats: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def claimed_database(untrusted_token: str) -> str:
    """The id of the database that a token claims to be for; empty if it does not say."""
    try:
        return inspect(untrusted_token).database or ""
    except InvalidArgument:
        return ""


def inspect(untrusted_token: str) -> UnverifiedToken:
    """Raises `InvalidArgument` for what is no token, or one that allows nothing at all."""
    try:
        unverified = macaroon.parse(untrusted_token)
        claims = token_pb.TokenClaims.from_binary(unverified.identifier)
        purpose = _PURPOSES[claims.purpose]
        # At the beginning of time nothing has expired: that is for the reader to judge.
        allowed = narrow(purpose, claims, unverified.caveats, now=0)
    except Unauthenticated as error:
        raise InvalidArgument(error.message) from None
    except (KeyError, ValueError, RecursionError):
        raise InvalidArgument("the token is malformed, or newer than this program") from None
    return UnverifiedToken(
        purpose=purpose,
        user_id=allowed.user_id,
        org_id=allowed.org_id,
        email=allowed.email,
        role=allowed.role,
        database=allowed.database_id,
        direction=allowed.direction,
        max_bytes=allowed.max_bytes,
        max_version=allowed.max_version,
        issued_at_unix=allowed.issued_at,
        exp_unix=allowed.exp,
        key_id=allowed.key_id,
        nonce=allowed.nonce.hex(),
        caveats=tuple(caveat.decode() for caveat in unverified.caveats),
    )


def attenuate(untrusted_token: str, caveats: Sequence[str]) -> str:
    """A copy of the token under more caveats (`app.tokens` lists them).

    `InvalidArgument` if nothing would be left that the copy allows.
    """
    inspect(untrusted_token)
    if not caveats:
        raise InvalidArgument("nothing was said to narrow")
    narrowed = macaroon.parse(untrusted_token).attenuated([text.encode() for text in caveats])
    inspect(narrowed)
    return narrowed


def seconds_of(duration: str) -> int:
    """`90`, `90s`, `5m`, `2h` or `7d` in seconds."""
    match = _DURATION.fullmatch(duration.strip())
    if not match:
        raise InvalidArgument(f"{duration!r} is no time: write 90s, 5m, 2h or 7d")
    return int(match[1]) * _UNITS[match[2]]
