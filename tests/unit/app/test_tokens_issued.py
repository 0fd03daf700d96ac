"""Tokens that were issued stay good: key derivation, claims and format are pinned byte for byte.

A server that is upgraded must take the tokens of the version before it, and their key ids; and what
a refusal says, a person reads.
"""

import base64
from typing import Any

import pytest

from edgereplica.app import macaroon
from edgereplica.app.tokens import Identity, Keyring, VerifiedClaims, narrow
from edgereplica.events.errors import InvalidArgument, Unauthenticated
from edgereplica.events.limits import TOKEN_CAVEATS_MAX, TOKEN_CHARS_MAX
from edgereplica.proto.gen.edgereplica.auth.v1.token_pb import Purpose, TokenClaims

NOW, EXP = 1_800_000_000.0, 1_800_000_060
WHO = Identity("user-1", "org-1", "a@example.org", "admin")
NONCE, PARENT = bytes(range(16)), b"p" * 16
KEY_ID = "bf155becc7ebd5bc"


@pytest.fixture
def ring() -> Keyring:
    """Made anew, so that deriving its keys is part of every test."""
    return Keyring([bytes(range(32))])


SESSION = (
    "AgELZWRnZXJlcGxpY2ECVwgBUgZ1c2VyLTFaBW9yZy0xYg1hQGV4YW1wbGUub3JnagVhZG1pbqIBEGJmMTU1YmVjYzdl"
    "YmQ1YmOqARAAAQIDBAUGBwgJCgsMDQ4PsAGApKfaBrgBAwACDmV4cD0xODAwMDAwMDYwAAAGIA9QmXvxEquJ2TM8xvWB"
    "rYG6Ni8kbtqQp4km0jkgYj6f"
)
SYNC = (
    "AgELZWRnZXJlcGxpY2ECcggCUgZ1c2VyLTFaBW9yZy0xYg1hQGV4YW1wbGUub3JnagVhZG1pbnIEZGItMXgBogEQYmYx"
    "NTViZWNjN2ViZDViY6oBEAABAgMEBQYHCAkKCwwNDg-wAYCkp9oGuAEDwgEQcHBwcHBwcHBwcHBwcHBwcAACDmV4cD0x"
    "ODAwMDAwMDYwAAILbWF4X2J5dGVzPTcAAg1tYXhfdmVyc2lvbj05AAAGIN0NIYFiUCX_YIuaK9Rvc4_ATdviMkBMsHmj"
    "IfVaIxO4"
)
INVITE = (
    "AgELZWRnZXJlcGxpY2ECVwgDUgZ1c2VyLTFaBW9yZy0xYg1hQGV4YW1wbGUub3JnagVhZG1pbqIBEGJmMTU1YmVjYzdl"
    "YmQ1YmOqARAAAQIDBAUGBwgJCgsMDQ4PsAGApKfaBrgBAwACDmV4cD0xODAwMDAwMDYwAAAGIJBth9ucjyZbZrdvYsFm"
    "IjF4sFpDuyzmglj-sVQF7981"
)


def claimed(purpose: Any, **more: Any) -> VerifiedClaims:
    return VerifiedClaims(
        purpose,
        "user-1",
        "org-1",
        "a@example.org",
        "admin",
        EXP,
        NONCE,
        KEY_ID,
        int(NOW),
        **{"epoch": 3} | more,
    )


def test_a_session_of_an_earlier_version_is_good(ring: Keyring) -> None:
    made = ring.mint_session(WHO, now=NOW, ttl_seconds=60, nonce=NONCE, epoch=3)
    assert made == (SESSION, EXP)
    assert ring.verify_session(SESSION, NOW) == claimed("session")
    assert ring.verify(SESSION, NOW) == claimed("session")


def test_a_sync_token_of_an_earlier_version_is_good(ring: Keyring) -> None:
    bounds = {"max_bytes": 7, "max_version": 9}
    made = ring.mint_sync(
        WHO,
        "db-1",
        "push",
        now=NOW,
        ttl_seconds=60,
        nonce=NONCE,
        epoch=3,
        parent_nonce=PARENT,
        **bounds,
    )
    assert made == (SYNC, EXP)
    named = {"database_id": "db-1", "direction": "push", "parent_nonce": PARENT}
    # It has more than one caveat, as a token that its holder narrowed.
    assert ring.verify_sync(SYNC, NOW) == claimed("sync", narrowed=True, **bounds, **named)


def test_an_invitation_of_an_earlier_version_is_good(ring: Keyring) -> None:
    made = ring.mint_invite(WHO, now=NOW, ttl_seconds=60, nonce=NONCE, epoch=3)
    assert made == (INVITE, EXP)
    assert ring.verify_invite(INVITE, NOW) == claimed("invite")
    assert ring.verify(INVITE, NOW) == claimed("invite")


@pytest.mark.parametrize(
    ("token", "purpose"),
    [(SESSION, Purpose.SESSION), (SYNC, Purpose.SYNC), (INVITE, Purpose.INVITE)],
)
def test_the_claims_name_their_purpose(ring: Keyring, token: str, purpose: Purpose) -> None:
    claims = TokenClaims.from_binary(macaroon.parse(token).identifier)
    assert claims.purpose == purpose
    for verify, own in ((ring.verify_session, SESSION), (ring.verify_sync, SYNC)):
        if own != token:
            with pytest.raises(Unauthenticated) as refused:
                verify(token, NOW)
            assert refused.value.message == "the token was not signed by this server"


def test_without_an_epoch_a_token_is_of_the_first(ring: Keyring) -> None:
    more: dict[str, Any] = {"now": NOW, "ttl_seconds": 60, "nonce": NONCE}
    session, _ = ring.mint_session(WHO, **more)
    invite, _ = ring.mint_invite(WHO, **more)
    sync, _ = ring.mint_sync(WHO, "db-1", "pull", **more)
    for token in (session, invite, sync):
        claims = ring.verify(token, NOW)
        assert (claims.epoch, claims.parent_nonce) == (0, b"")
    assert ring._claims("session", WHO, NOW, NONCE).epoch == 0


def test_a_database_id_may_hold_what_separates_key_and_value(ring: Keyring) -> None:
    token = macaroon.parse(SESSION).attenuated([b"database=a=b"])
    assert ring.verify(token, NOW).database_id == "a=b"


KEYS_SAY, NONCE_SAYS = "a keyring needs keys of 32 bytes", "a nonce has 16 bytes"


def test_what_it_refuses_to_make_is_said(ring: Keyring) -> None:
    for keys in ([], [b"short"]):
        with pytest.raises(InvalidArgument) as refused:
            Keyring(keys)
        assert refused.value.message == KEYS_SAY
    for nonce in (b"", bytes(15), bytes(17)):
        with pytest.raises(InvalidArgument) as refused:
            ring.mint_session(WHO, now=NOW, ttl_seconds=60, nonce=nonce)
        assert refused.value.message == NONCE_SAYS


NOT_UNDERSTOOD = "the token carries a restriction that this server does not understand"
NOTHING_LEFT = "the token's restrictions leave nothing that it allows"
MALFORMED = "the token is malformed"


@pytest.mark.parametrize(
    ("caveats", "say", "details"),
    [
        ([], "the token never expires", {}),
        ([b"exp=1800000000"], "the token has expired", {"expired_at": 1_800_000_000}),
        ([b"exp=1900000000", b"colour=red"], NOT_UNDERSTOOD, {}),
        ([b"exp=1900000000", b"\xff=\xff"], NOT_UNDERSTOOD, {}),
        ([b"exp=soon"], NOT_UNDERSTOOD, {}),
        ([b"exp=1900000000", b"direction=push", b"direction=pull"], NOTHING_LEFT, {}),
        ([b"exp=1900000000", b"database=a", b"database=b"], NOTHING_LEFT, {}),
        ([b"exp=1900000000"], "the token names no database or no direction", {}),
    ],
)
def test_why_a_token_allows_nothing_is_said(
    caveats: list[bytes], say: str, details: dict[str, Any]
) -> None:
    with pytest.raises(Unauthenticated) as refused:
        narrow("sync", TokenClaims(), caveats, NOW)
    assert (refused.value.message, dict(refused.value.details)) == (say, details)


def _with(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("token", "say"),
    [
        ("A" * (TOKEN_CHARS_MAX + 1), "the token is too long"),
        (
            macaroon.mint(bytes(32), b"i", ("exp=9",) * (TOKEN_CAVEATS_MAX + 1)),
            "the token has too many restrictions",
        ),
        ("", MALFORMED),
        ("!", MALFORMED),
        ("A", MALFORMED),
        (SESSION + "A", MALFORMED),
        (_with(b"\x01"), MALFORMED),
        (_with(b"\x02\x01\x01x"), MALFORMED),
    ],
    ids=lambda value: value[:12],
)
def test_why_a_token_cannot_be_read_is_said(token: str, say: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        macaroon.parse(token)
    assert refused.value.message == say


def test_every_byte_of_a_length_counts_for_more_than_the_one_before() -> None:
    """Three bytes that would be 200 if the third counted as the second does."""
    caveat = b"c" * 200
    token = macaroon.mint(bytes(32), b"i", (caveat.decode(),))
    packet = b"\x02\xc8\x01" + caveat
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    assert raw.count(packet) == 1
    with pytest.raises(Unauthenticated):
        macaroon.parse(_with(raw.replace(packet, b"\x02\xc8\x80\x01" + caveat)))
