"""Altered macaroons, none of which may be accepted; caveats, which may only take away."""

import base64
from collections import Counter
from random import Random
from typing import Any

from pymacaroons import Macaroon

from edgereplica.app.tokens import Direction, Identity, Keyring, VerifiedClaims
from edgereplica.events.errors import Unauthenticated

from .frames import Violation

Counts = Counter[str]
NOW = 1_800_000_000.0
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/ ."
DATABASES = ("d1", "d2")


def _minted(keyring: Keyring, dice: Random) -> str:
    who = Identity("u1", "o1", "ada@example.org", dice.choice(("admin", "member")))
    nonce = dice.randbytes(16)
    ttl = dice.choice((1, 3600))
    if dice.random() < 0.3:
        return keyring.mint_session(who, now=NOW, ttl_seconds=ttl, nonce=nonce)[0]
    direction: Direction = dice.choice(("push", "pull"))
    bounds: dict[str, Any] = {}
    if dice.random() < 0.3:
        bounds = {"max_bytes": 5000, "max_version": 5}
    return keyring.mint_sync(
        who, dice.choice(DATABASES), direction, now=NOW, ttl_seconds=ttl, nonce=nonce, **bounds
    )[0]


def _raw(token: str) -> bytearray:
    return bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _altered(token: str, other: str, dice: Random) -> str:
    """Changed in its text, its bytes or its structure, without the key."""
    kind = dice.randrange(8)
    at = dice.randrange(len(token))
    if kind == 0:
        return token[:at] + dice.choice(_ALPHABET) + token[at + 1 :]
    if kind == 1:
        return token[:at]
    if kind == 2:
        return token + "".join(dice.choice(_ALPHABET) for _ in range(dice.choice((1, 2, 4))))
    raw = _raw(token)
    at = dice.randrange(len(raw))
    if kind in (3, 4):
        for _ in range(dice.choice((1, 1, 3))):
            raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
    elif kind == 5:
        foreign = _raw(other)
        raw[at:] = foreign[dice.randrange(len(foreign)) :]
    elif kind == 6:
        raw[-34:] = _raw(other)[-34:]  # another token's signature
    else:
        # A caveat put in before the end of the caveats, the signature left as it was.
        caveat = dice.choice((b"exp=9999999999", b"direction=push", b"max_bytes=1", b"x"))
        packet = b"\x02" + bytes([len(caveat)]) + caveat + b"\0"
        raw[-35:-35] = packet
    return _text(bytes(raw))


def altered(count: int, dice: Random) -> Counts:
    keyring = Keyring([dice.randbytes(32), dice.randbytes(32)])
    stranger = Keyring([dice.randbytes(32)])
    found: Counts = Counter()
    token = other = ""
    while found["altered"] < count:
        number = found["altered"]
        if number % 500 == 0:
            token, other = _minted(keyring, dice), _minted(keyring, dice)
        forged = _altered(token, other, dice)
        if number % 100 == 99:
            forged = _minted(stranger, dice)
        if forged in (token, other):
            found["same as minted"] += 1
            continue
        found["altered"] += 1
        try:
            claims = keyring.verify(forged, NOW)
        except Unauthenticated:
            continue
        except BaseException as error:
            raise Violation(f"{error!r} for {forged}") from error
        raise Violation(f"accepted: {forged}: {claims}")
    found["accepted"] = 0
    return found


def _caveat(dice: Random) -> str:
    key = dice.choice(("exp", "direction", "database", "max_bytes", "max_version", "role"))
    match key:
        case "exp":
            value = str(int(NOW) + dice.choice((-10, 1, 60, 10**6)))
        case "direction":
            value = dice.choice(("push", "pull", "push", "both", ""))
        case "database":
            value = dice.choice((*DATABASES, ""))
        case "role":
            key, value = dice.choice((("role", "admin"), ("user_id", "u2"), ("", ""), ("org", "")))
        case _:
            value = str(dice.choice((0, 1, 4999, 5001, 10**6, "-1", "1e9", "٣")))
    return f"{key}={value}"


def chains(count: int, dice: Random) -> Counts:
    """Caveats appended with a good signature, as any holder may: rights only shrink."""
    keyring, found = Keyring([dice.randbytes(32)]), Counter[str]()
    while found["chains"] < count:
        token = _minted(keyring, dice)
        held = keyring.verify(token, NOW)
        macaroon = Macaroon.deserialize(token)
        for _ in range(dice.choice((1, 2, 5))):
            macaroon.add_first_party_caveat(_caveat(dice))
        found["chains"] += 1
        try:
            now_held = keyring.verify(macaroon.serialize(), NOW)
        except Unauthenticated:
            found["refused"] += 1
            continue
        found["narrowed"] += 1
        _check_shrunk(held, now_held)
    found["grown"] = 0
    return found


def _check_shrunk(before: VerifiedClaims, after: VerifiedClaims) -> None:
    same = ("purpose", "user_id", "org_id", "email", "role", "nonce", "key_id", "issued_at")
    grown = [name for name in same if getattr(before, name) != getattr(after, name)]
    grown += [
        name
        for name in ("database_id", "direction")
        if getattr(before, name) not in (None, getattr(after, name))
    ]
    grown += [
        name
        for name in ("exp", "max_bytes", "max_version")
        if getattr(before, name) is not None
        and (getattr(after, name) is None or getattr(after, name) > getattr(before, name))
    ]
    if grown:
        raise Violation(f"a caveat widened {grown}: {before} became {after}")
