"""Altered macaroons, none of which may be accepted; caveats, which may only take away."""

import base64
from dataclasses import fields
from random import Random
from typing import Any

from pymacaroons import Macaroon

from edgereplica.app.tokens import Direction, Identity, Keyring, VerifiedClaims
from edgereplica.events.errors import Unauthenticated
from proof.running import Counts, Job

from .victims import Violation

NOW = 1_800_000_000.0
STEP = 500
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/ ."
DATABASES = ("d1", "d2")
ALTERATIONS = ("a letter changed", "cut off", "something appended", "bits flipped",
               "another's bytes", "another's signature", "a caveat put in", "a caveat taken out",
               "a caveat put in again")  # fmt: skip


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


def _packet(caveat: bytes) -> bytes:
    """A first-party caveat of macaroon format v2: field 2, its length (one byte here), an end."""
    return b"\x02" + bytes([len(caveat)]) + caveat + b"\0"


def _altered(token: str, other: str, kind: str, dice: Random) -> str:
    """Changed in its text, its bytes or its structure, without the key."""
    at = dice.randrange(len(token))
    match kind:
        case "a letter changed":
            return token[:at] + dice.choice(_ALPHABET) + token[at + 1 :]
        case "cut off":
            return token[:at]
        case "something appended":
            more = "".join(dice.choice(_ALPHABET) for _ in range(dice.choice((1, 2, 4))))
            return token + more
    raw = _raw(token)
    at = dice.randrange(len(raw))
    match kind:
        case "bits flipped":
            for _ in range(dice.choice((1, 1, 3))):
                raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
        case "another's bytes":
            foreign = _raw(other)
            raw[at:] = foreign[dice.randrange(len(foreign)) :]
        case "another's signature":
            raw[-34:] = _raw(other)[-34:]
        case "a caveat put in":
            # Before the end of the caveats, the signature left as it was.
            caveat = dice.choice((b"exp=9999999999", b"direction=push", b"max_bytes=1", b"x"))
            raw[-35:-35] = _packet(caveat)
        case _:
            caveats = [caveat.caveat_id_bytes for caveat in Macaroon.deserialize(token).caveats]
            packet = _packet(dice.choice(caveats))
            start = raw.index(packet)
            again = packet if kind == "a caveat put in again" else b""
            raw[start : start + len(packet)] = again * 2
    return _text(bytes(raw))


def altered(job: Job) -> Counts:
    """`job.count` altered macaroons; besides, a hundredth as many minted with another key.

    What happens to be what was minted does not count. Half of the originals were narrowed by their
    holder, so that there are caveats to take out and to exchange.
    """
    dice = job.dice
    keyring = Keyring([dice.randbytes(32), dice.randbytes(32)])
    stranger = Keyring([dice.randbytes(32)])
    found = Counts({"altered": 0, "minted with another key": 0, "accepted": 0})
    token = other = ""
    while found["altered"] < job.count:
        number = found["altered"]
        if number % STEP == 0 or not token:
            token, other = _narrowed(keyring, dice), _narrowed(keyring, dice)
            keyring.verify(token, NOW)  # else nothing below would mean anything
        kind = dice.choice(ALTERATIONS)
        forged = _altered(token, other, kind, dice)
        if forged in (token, other):
            continue
        _require_refused(keyring, forged)
        found["altered"] += 1
        found[kind] += 1
        if number % STEP == STEP - 1:
            job.step(STEP)
        if number % 100 == 99:
            _require_refused(keyring, _minted(stranger, dice))
            found["minted with another key"] += 1
    return found


def _narrowed(keyring: Keyring, dice: Random) -> str:
    """A good token with caveats of its holder, all of which hold now."""
    macaroon = Macaroon.deserialize(_minted(keyring, dice))
    for _ in range(dice.choice((1, 1, 2, 3))):
        macaroon.add_first_party_caveat(f"exp={int(NOW) + dice.choice((60, 600, 10**6))}")
    return str(macaroon.serialize())


def _require_refused(keyring: Keyring, forged: str) -> None:
    try:
        claims = keyring.verify(forged, NOW)
    except Unauthenticated:
        return
    except BaseException as error:
        raise Violation(f"{error!r} for {forged}") from error
    raise Violation(f"accepted: {forged}: {claims}")


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


def chains(job: Job) -> Counts:
    """Caveats appended one by one with a good signature, as any holder may.

    With each, the rights are those before it or fewer; and none left is the end of it.
    """
    dice = job.dice
    keyring = Keyring([dice.randbytes(32)])
    found = Counts({"chains": 0, "caveats": 0, "narrowed to the end": 0, "refused": 0, "grown": 0})
    while found["chains"] < job.count:
        token = _minted(keyring, dice)
        held: VerifiedClaims | None = keyring.verify(token, NOW)
        macaroon = Macaroon.deserialize(token)
        for _ in range(dice.choice((1, 2, 5))):
            macaroon.add_first_party_caveat(_caveat(dice))
            found["caveats"] += 1
            left = _rights(keyring, str(macaroon.serialize()))
            if left is not None:
                if held is None:
                    raise Violation(f"a refused token was accepted with one caveat more: {left}")
                _require_shrunk(held, left)
            held = left
        found["chains"] += 1
        found["refused" if held is None else "narrowed to the end"] += 1
        if found["chains"] % STEP == 0:
            job.step(STEP)
    return found


def _rights(keyring: Keyring, token: str) -> VerifiedClaims | None:
    try:
        return keyring.verify(token, NOW)
    except Unauthenticated:
        return None


_MAY_APPEAR = ("database_id", "direction")
"""What a caveat may bind that was not bound before."""
_MAY_FALL = ("exp", "max_bytes", "max_version")
"""Bounds, None for none."""


def _require_shrunk(before: VerifiedClaims, after: VerifiedClaims) -> None:
    grown = []
    for field in fields(VerifiedClaims):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if field.name == "narrowed":
            fine = new
        elif field.name in _MAY_FALL:
            fine = old is None or (new is not None and new <= old)
        else:
            fine = old == new or (field.name in _MAY_APPEAR and old is None)
        if not fine:
            grown.append(field.name)
    if grown:
        raise Violation(f"a caveat widened {grown}: {before} became {after}")
