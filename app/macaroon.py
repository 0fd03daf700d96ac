"""The macaroon format, read strictly, and its signature chain.

`pymacaroons` mints tokens here, but does not verify them: its verifier leaves a caveat that is not
met out of the chain, so a caveat appended without re-signing goes through, and its reader raises
whatever it comes upon (facts.md). What is read here is libmacaroons' binary format 2
(doc/format.txt) and nothing looser: one encoding for one token, no third-party caveats, no bytes
left over. This module knows nothing of what the identifier and the caveats say.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from pymacaroons import MACAROON_V2, Macaroon

from ..events.errors import Unauthenticated
from ..events.limits import TOKEN_CAVEATS_MAX, TOKEN_CHARS_MAX

LOCATION = "edgereplica"
TOKEN_PREFIX = base64.urlsafe_b64encode(b"\x02\x01\x0b" + LOCATION.encode()).decode()[:18]
"""What every token of ours begins with: version, field type, length and text of the location."""
_EOS, _LOCATION, _IDENTIFIER, _SIGNATURE = 0, 1, 2, 6
_SIGNATURE_BYTES = 32
_KEY_GENERATOR = b"macaroons-key-generator"


@dataclass(frozen=True, slots=True, repr=False)
class UnverifiedMacaroon:
    """What a token claims to be. Nothing in it is true before `is_signed_by` says so."""

    identifier: bytes
    caveats: tuple[bytes, ...]
    signature: bytes

    def is_signed_by(self, key: bytes) -> bool:
        """Whether every byte of the identifier and of *every* caveat stands in the HMAC chain."""
        signature = hmac.digest(_KEY_GENERATOR, key, "sha256")
        for part in (self.identifier, *self.caveats):
            signature = hmac.digest(signature, part, "sha256")
        return hmac.compare_digest(signature, self.signature)

    def attenuated(self, more: Sequence[bytes]) -> str:
        """The token with more caveats: what any holder can make of it, without a key."""
        signature = self.signature
        for caveat in more:
            signature = hmac.digest(signature, caveat, "sha256")
        raw = bytearray(b"\x02" + _packet(_LOCATION, LOCATION.encode()))
        raw += _packet(_IDENTIFIER, self.identifier) + bytes([_EOS])
        for caveat in (*self.caveats, *more):
            raw += _packet(_IDENTIFIER, caveat) + bytes([_EOS])
        raw += bytes([_EOS]) + _packet(_SIGNATURE, signature)
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _packet(kind: int, data: bytes) -> bytes:
    """Type, length as a varint in its shortest form, data."""
    length, encoded = len(data), bytearray([kind])
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded) + data


def mint(key: bytes, identifier: bytes, caveats: tuple[str, ...]) -> str:
    macaroon = Macaroon(LOCATION, identifier, key, version=MACAROON_V2)
    for caveat in caveats:
        macaroon.add_first_party_caveat(caveat)
    return str(macaroon.serialize())


def parse(untrusted_token: str) -> UnverifiedMacaroon:
    """The parts of a token. `Unauthenticated` for whatever is not exactly one macaroon."""
    if len(untrusted_token) > TOKEN_CHARS_MAX:
        raise Unauthenticated("the token is too long")
    reader = _Reader(_decode(untrusted_token))
    if reader.take(1) != b"\x02":
        raise _malformed()
    if reader.field(_LOCATION) != LOCATION.encode():
        raise _malformed()
    identifier = reader.field(_IDENTIFIER)
    reader.end_of_section()
    caveats: list[bytes] = []
    while not reader.at_end_of_section():
        if len(caveats) == TOKEN_CAVEATS_MAX:
            raise Unauthenticated("the token has too many restrictions")
        # A third-party caveat would begin with its location here.
        caveats.append(reader.field(_IDENTIFIER))
        reader.end_of_section()
    reader.end_of_section()
    signature = reader.field(_SIGNATURE)
    if reader.left() or len(signature) != _SIGNATURE_BYTES:
        raise _malformed()
    return UnverifiedMacaroon(identifier, tuple(caveats), signature)


def _malformed() -> Unauthenticated:
    return Unauthenticated("the token is malformed")


def _decode(text: str) -> bytes:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _malformed() from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=") != text.encode():
        raise _malformed()
    return raw


class _Reader:
    """Takes bytes from the front; too few of them make a malformed token."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left():
            raise _malformed()
        self._at += count
        return self._data[self._at - count : self._at]

    def field(self, kind: int) -> bytes:
        """One packet: its type, the length as a varint in its shortest form, the data."""
        if self.take(1)[0] != kind:
            raise _malformed()
        length = shift = 0
        while True:
            (byte,) = self.take(1)
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        if byte == 0 and shift:
            raise _malformed()
        return self.take(length)

    def at_end_of_section(self) -> bool:
        return self._data[self._at : self._at + 1] == bytes([_EOS])

    def end_of_section(self) -> None:
        if self.take(1)[0] != _EOS:
            raise _malformed()
