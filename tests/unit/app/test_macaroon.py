"""The macaroon format: one encoding for one token. Each test here kills a mutant."""

import base64

import pytest
from pymacaroons import Macaroon

from edgereplica.app.macaroon import mint, parse
from edgereplica.app.tokens import Identity, Keyring
from edgereplica.events.errors import Unauthenticated
from edgereplica.events.limits import TOKEN_CHARS_MAX

KEY = bytes(range(32))
RING = Keyring([KEY])
WHO = Identity("u1", "o1", "ada@example.org", "admin")
NOW = 1_800_000_000.0


def raw(token: str) -> bytes:
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))


def text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_a_length_in_more_bytes_than_it_needs_is_refused() -> None:
    """The signature covers what the packets hold, not how long their lengths are written."""
    good = raw(mint(KEY, b"who", ("exp=9",)))
    packet = b"\x02\x03who"
    assert good.count(packet) == 1
    for length in (b"\x83\x00", b"\x83\x80", b"\x83\x80\x00"):
        with pytest.raises(Unauthenticated):
            parse(text(good.replace(packet, b"\x02" + length + b"who")))
    assert parse(text(good)).is_signed_by(KEY)


@pytest.mark.parametrize("length", [1, 126, 127, 128, 129, 300])
def test_a_narrowed_token_is_written_as_any_macaroon_library_writes_it(length: int) -> None:
    token, caveat = mint(KEY, b"i" * length, ("exp=9",)), "c" * length
    theirs = Macaroon.deserialize(token)
    theirs.add_first_party_caveat(caveat)
    ours = parse(token).attenuated([caveat.encode()])
    assert ours == theirs.serialize()
    assert parse(ours).is_signed_by(KEY)
    assert parse(ours).caveats == (b"exp=9", caveat.encode())


def test_the_longest_token_is_read_and_one_character_more_is_not() -> None:
    def of_length(padding: int) -> str:
        return mint(KEY, b"i", ("x" * padding,))

    lengths = {len(of_length(padding)): padding for padding in range(2950, 3060)}
    longest = of_length(lengths[TOKEN_CHARS_MAX])
    assert parse(longest).is_signed_by(KEY)
    longer = of_length(lengths[TOKEN_CHARS_MAX] + 1)
    assert len(longer) > TOKEN_CHARS_MAX
    with pytest.raises(Unauthenticated, match="too long"):
        parse(longer)


def test_a_session_is_narrowed_from_the_first_caveat_that_was_appended() -> None:
    token, _ = RING.mint_session(WHO, now=NOW, ttl_seconds=60, nonce=bytes(16))
    assert not RING.verify(token, NOW).narrowed
    assert RING.verify(parse(token).attenuated([b"database=d"]), NOW).narrowed


@pytest.mark.parametrize("missing", ["database", "direction"])
def test_a_sync_token_that_names_only_half_is_refused(missing: str) -> None:
    claims = RING._claims("sync", WHO, NOW, bytes(16))
    token, _ = RING._mint("sync", claims, 60)
    half = b"direction=pull" if missing == "database" else b"database=d"
    with pytest.raises(Unauthenticated, match="no database or no direction"):
        RING.verify(parse(token).attenuated([half]), NOW)
    whole = parse(token).attenuated([b"direction=pull", b"database=d"])
    assert RING.verify(whole, NOW).direction == "pull"
