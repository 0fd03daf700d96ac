"""Who may open a sync session: what is asked before a WebSocket is accepted.

In this order, the cheapest first: the address has not opened too many of late; a browser's page is
of an allowed origin; there is a bearer, whose signature and caveats hold; the token has not been
used too often of late; the client means the direction that the token allows. Nothing here reads a
database. The direction comes from the token alone; what the client says it means is only compared,
so that a wrong token is told as one.
"""

from collections.abc import Collection
from typing import Final

from ..adapters.ports import Clock
from ..events.errors import InvalidArgument, PermissionDenied, Unauthenticated
from ..events.limits import (
    SYNC_OPENS_PER_ADDRESS_PER_MINUTE,
    SYNC_OPENS_PER_TOKEN_PER_MINUTE,
)
from .client_address import limit_key
from .rate_limits import RateLimit
from .tokens import Keyring, VerifiedClaims

_DIRECTION_HEADER: Final = b"x-edgereplica-direction"


class Admission:
    """Admits a handshake, or says why not. `origins` are those of browser pages, exact."""

    def __init__(
        self,
        keyring: Keyring,
        clock: Clock,
        *,
        origins: Collection[str] = (),
        opens_per_token: int = SYNC_OPENS_PER_TOKEN_PER_MINUTE,
        opens_per_address: int = SYNC_OPENS_PER_ADDRESS_PER_MINUTE,
    ) -> None:
        self._keyring = keyring
        self._clock = clock
        self._origins = frozenset(origins)
        self._tokens = RateLimit("sync_opens_per_token_per_minute", opens_per_token, clock)
        self._addresses = RateLimit("sync_opens_per_address_per_minute", opens_per_address, clock)

    def admit(self, headers: dict[bytes, bytes], address: str) -> VerifiedClaims:
        """The claims of the handshake's token; an error of `events.errors` otherwise."""
        self._addresses.take(limit_key(address), "sync sessions from this address")
        self._check_origin(headers.get(b"origin"))
        scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("a sync session needs `Authorization: Bearer <sync token>`")
        claims = self._keyring.verify_sync(token.strip(), self._clock.now())
        self._tokens.take(claims.nonce.hex(), "sync sessions with this token")
        _check_direction(headers.get(_DIRECTION_HEADER), claims)
        return claims

    def _check_origin(self, origin: bytes | None) -> None:
        """Only a browser sends one; programs do not."""
        if origin is not None and origin.decode("latin-1").lower() not in self._origins:
            raise PermissionDenied("pages of this origin may not open a sync session")


def _check_direction(said: bytes | None, claims: VerifiedClaims) -> None:
    if said is None:  # an original client
        return
    if said not in (b"push", b"pull"):
        raise InvalidArgument("X-EdgeReplica-Direction is push or pull")
    if said.decode() != claims.direction:
        raise PermissionDenied(f"this token is for a {claims.direction}, not for a {said.decode()}")
