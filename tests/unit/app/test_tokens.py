"""Tokens: what verifies, and every way of making one that must not.

The holder's and the attacker's tool is `pymacaroons`, not our own code.
"""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymacaroons import MACAROON_V2, Macaroon, Verifier
from pymacaroons.caveat import Caveat

from edgereplica.app import macaroon
from edgereplica.app.tokens import Identity, Keyring, VerifiedClaims
from edgereplica.events.errors import InvalidArgument, Unauthenticated
from edgereplica.events.limits import TOKEN_CAVEATS_MAX, TOKEN_CHARS_MAX
from edgereplica.proto.gen.edgereplica.auth.v1.token_pb import TokenClaims

NOW = 1_800_000_000.0
WHO = Identity("user-1", "org-1", "a@example.org", "admin")
NONCE = bytes(range(16))
RING = Keyring([b"k" * 32])


def session(ring: Keyring = RING, ttl_seconds: int = 60) -> str:
    return ring.mint_session(WHO, now=NOW, ttl_seconds=ttl_seconds, nonce=NONCE)[0]


def sync(direction: str = "pull", ttl_seconds: int = 60) -> str:
    mint = RING.mint_sync
    return mint(WHO, "db-1", direction, now=NOW, ttl_seconds=ttl_seconds, nonce=NONCE)[0]


def narrowed(token: str, *caveats: str) -> str:
    """What any holder of `token` can make of it."""
    held = Macaroon.deserialize(token)
    for caveat in caveats:
        held.add_first_party_caveat(caveat)
    return held.serialize()


def refused(token: str, now: float = NOW) -> str:
    with pytest.raises(Unauthenticated) as error:
        RING.verify(token, now)
    return error.value.message


def raw(token: str) -> bytes:
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))


def text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_a_session_says_who_it_is() -> None:
    token, exp = RING.mint_session(WHO, now=NOW + 0.9, ttl_seconds=60, nonce=NONCE)
    assert exp == NOW + 60
    claims = RING.verify_session(token, NOW)
    assert claims == RING.verify(token, NOW)
    assert claims == VerifiedClaims(
        purpose="session",
        user_id="user-1",
        org_id="org-1",
        email="a@example.org",
        role="admin",
        exp=exp,
        nonce=NONCE,
        key_id=claims.key_id,
        issued_at=int(NOW),
    )


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_a_sync_token_says_what_it_opens(direction: str) -> None:
    claims = RING.verify_sync(sync(direction), NOW)
    assert (claims.purpose, claims.database_id, claims.direction) == ("sync", "db-1", direction)
    assert (claims.user_id, claims.max_bytes, claims.max_version) == ("user-1", None, None)


def test_a_token_of_one_purpose_is_not_of_the_other() -> None:
    for verify, token in ((RING.verify_sync, session()), (RING.verify_session, sync())):
        with pytest.raises(Unauthenticated):
            verify(token, NOW)


def test_it_expires_to_the_second() -> None:
    token = session(ttl_seconds=60)
    assert RING.verify(token, NOW + 59.99)
    assert "expired" in refused(token, NOW + 60)


def test_the_library_agrees_about_what_is_minted() -> None:
    token = narrowed(sync(), "max_bytes=7")
    verifier = Verifier()
    verifier.satisfy_general(lambda _: True)
    key = RING._keys[0].of_purpose["sync"]
    assert verifier.verify(Macaroon.deserialize(token), key)


@pytest.mark.parametrize(
    ("caveats", "expected"),
    [
        (["exp=1800000030"], {"exp": 1800000030}),
        (["exp=1800000030", "exp=1800000020", "exp=1800000040"], {"exp": 1800000020}),
        (["exp=9900000000"], {"exp": 1800000060}),
        (["direction=pull", "direction=pull"], {"direction": "pull"}),
        (["database=db-1"], {"database_id": "db-1"}),
        (["max_bytes=10", "max_bytes=5", "max_bytes=7"], {"max_bytes": 5}),
        (["max_version=0"], {"max_version": 0}),
        (["max_version=3", "max_version=9"], {"max_version": 3}),
    ],
    ids=str,
)
def test_narrowing_twice_intersects(caveats: list[str], expected: dict[str, object]) -> None:
    claims = RING.verify(narrowed(sync("pull"), *caveats), NOW)
    assert {name: getattr(claims, name) for name in expected} == expected


def test_a_session_can_be_narrowed_too() -> None:
    claims = RING.verify_session(narrowed(session(), "database=x", "direction=pull"), NOW)
    assert (claims.database_id, claims.direction) == ("x", "pull")
    refused(narrowed(session(), "database=x", "database=y"))
    refused(narrowed(session(), "direction=pull", "direction=push"))


def test_nobody_gains_a_direction_or_a_database_by_appending() -> None:
    refused(narrowed(sync("pull"), "direction=push"))
    refused(narrowed(sync("push"), "direction=pull"))
    refused(narrowed(sync("pull"), "database=db-2"))


@pytest.mark.parametrize(
    "caveat",
    [
        "",
        "=",
        "exp",
        "exp=",
        "exp=soon",
        "exp= 1900000000",
        "exp=+1900000000",
        "exp=-1",
        "exp=1e12",
        "exp=١٩٠٠٠٠٠٠٠٠",
        "exp=01900000000",
        "exp=" + "9" * 19,
        "EXP=1900000000",
        " exp=1900000000",
        "direction=",
        "direction=both",
        "direction=PULL",
        "database=",
        "max_bytes=-1",
        "max_version=x",
        "ip=127.0.0.1",
        "purpose=session",
    ],
)
def test_a_caveat_that_is_not_understood_fails_closed(caveat: str) -> None:
    assert "does not understand" in refused(narrowed(sync(), caveat))


def test_a_caveat_appended_without_signing_is_refused() -> None:
    """The hole in pymacaroons: its own verifier accepts this token."""
    forged = Macaroon.deserialize(sync("pull"))
    forged.caveats.append(Caveat(caveat_id=b"database=db-2", version=MACAROON_V2))
    verifier = Verifier()
    verifier.satisfy_general(lambda predicate: predicate.startswith("exp="))
    assert verifier.verify(forged, RING._keys[0].of_purpose["sync"])
    assert "not signed" in refused(forged.serialize())


def test_a_caveat_taken_away_is_refused() -> None:
    held = Macaroon.deserialize(narrowed(sync(), "max_bytes=1"))
    for index in range(len(held.caveats)):
        forged = held.copy()
        del forged.caveats[index]
        assert "not signed" in refused(forged.serialize())
    forged = held.copy()
    forged.caveats.reverse()
    assert "not signed" in refused(forged.serialize())


def test_another_identifier_is_refused() -> None:
    forged = Macaroon.deserialize(sync("pull"))
    claims = TokenClaims.from_binary(forged.identifier_bytes)
    claims.database_id = "db-2"
    forged.identifier = claims.to_binary()
    assert "not signed" in refused(forged.serialize())


def test_a_third_party_caveat_is_refused() -> None:
    held = Macaroon.deserialize(sync())
    held.add_third_party_caveat("https://elsewhere", "a key of its own that is long", "id")
    assert "malformed" in refused(held.serialize())


def test_a_token_that_would_never_expire_is_refused() -> None:
    key = RING._keys[0].of_purpose["session"]
    claims = RING._claims("session", WHO, NOW, NONCE)
    assert "never expires" in refused(macaroon.mint(key, claims.to_binary(), ()))


def test_a_sync_token_without_authority_is_refused() -> None:
    key = RING._keys[0].of_purpose["sync"]
    claims = RING._claims("sync", WHO, NOW, NONCE)
    refused(macaroon.mint(key, claims.to_binary(), ("exp=1900000000",)))


def test_keys_rotate() -> None:
    old, new = b"o" * 32, b"n" * 32
    before = session(Keyring([old]))
    both = Keyring([new, old])
    assert both.verify(before, NOW)
    after = session(both)
    assert both.verify(after, NOW).key_id != both.verify(before, NOW).key_id
    assert Keyring([new]).verify(after, NOW)
    for ring, token in ((Keyring([old]), after), (Keyring([new]), before)):
        with pytest.raises(Unauthenticated):
            ring.verify(token, NOW)


def test_the_root_key_itself_signs_nothing() -> None:
    root = b"k" * 32
    claims = RING._claims("session", WHO, NOW, NONCE)
    refused(macaroon.mint(root, claims.to_binary(), ("exp=1900000000",)))


@pytest.mark.parametrize("keys", [[], [b"short"], [b"k" * 32, b""]])
def test_a_keyring_wants_whole_keys(keys: list[bytes]) -> None:
    with pytest.raises(InvalidArgument):
        Keyring(keys)


def test_length_and_number_of_caveats_are_bounded() -> None:
    full = narrowed(session(), *["max_bytes=1"] * (TOKEN_CAVEATS_MAX - 1))
    assert RING.verify(full, NOW)
    assert "too many" in refused(narrowed(full, "max_bytes=1"))
    assert "too long" in refused("A" * (TOKEN_CHARS_MAX + 1))


def test_format_1_is_refused() -> None:
    key = RING._keys[0].of_purpose["session"]
    old = Macaroon("edgereplica", "an identifier", key.hex())
    assert "malformed" in refused(old.serialize())


TOKEN = narrowed(sync(), "max_bytes=10")


def test_every_flipped_bit_is_refused() -> None:
    data = raw(TOKEN)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        refused(text(bytes(flipped)))


def test_every_truncation_and_every_longer_token_is_refused() -> None:
    for length in range(len(TOKEN)):
        refused(TOKEN[:length])
    data = raw(TOKEN)
    for more in (b"\0", b"\x06", data):
        refused(text(data + more))


def test_one_token_has_one_spelling() -> None:
    padded = TOKEN + "=" * (-len(TOKEN) % 4 or 4)
    for other in (
        padded,
        TOKEN + "\n",
        " " + TOKEN,
        TOKEN.replace("A", "\u0391"),
        TOKEN + "\ud800",
    ):
        assert "malformed" in refused(other)
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    same_bytes = [TOKEN[:-1] + c for c in last if raw(TOKEN[:-1] + c) == raw(TOKEN)]
    assert len(raw(TOKEN)) % 3 == 0 or len(same_bytes) > 1
    for other in set(same_bytes) - {TOKEN}:
        assert "malformed" in refused(other)


@given(st.text())
def test_any_text_is_unauthenticated(garbage: str) -> None:
    refused(garbage)


@given(st.binary(max_size=200))
def test_any_bytes_are_unauthenticated(garbage: bytes) -> None:
    refused(text(garbage))
    refused(text(b"\x02" + garbage))
    refused(text(raw(TOKEN)[: len(garbage)] + garbage))


@given(st.data())
def test_any_edit_is_unauthenticated(data: st.DataObject) -> None:
    whole = raw(TOKEN)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    changed = whole[:start] + data.draw(st.binary(max_size=20)) + whole[end:]
    if changed != whole:
        refused(text(changed))


@given(
    st.lists(st.sampled_from(["exp", "direction", "database", "max_bytes", "max_version"])),
    st.data(),
)
def test_whatever_is_appended_only_narrows(keys: list[str], data: st.DataObject) -> None:
    values = {
        "exp": st.integers(0, 2 * int(NOW)).map(str),
        "direction": st.sampled_from(["push", "pull"]),
        "database": st.sampled_from(["db-1", "db-2"]),
        "max_bytes": st.integers(0, 99).map(str),
        "max_version": st.integers(0, 99).map(str),
    }
    before = RING.verify(TOKEN, NOW)
    try:
        after = RING.verify(narrowed(TOKEN, *(f"{k}={data.draw(values[k])}" for k in keys)), NOW)
    except Unauthenticated:
        return
    assert after.exp <= before.exp
    assert (after.direction, after.database_id) == (before.direction, before.database_id)
    assert before.max_bytes is not None and after.max_bytes is not None
    assert after.max_bytes <= before.max_bytes
