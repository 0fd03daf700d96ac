"""A token in its holder's hands: what it says, and what narrowing makes of it."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymacaroons import Macaroon

from edgereplica.app import macaroon
from edgereplica.app.token_view import attenuate, claimed_database, inspect, seconds_of
from edgereplica.app.tokens import Identity, Keyring
from edgereplica.events.errors import InvalidArgument, Unauthenticated
from edgereplica.proto.gen.edgereplica.auth.v1 import token_pb

NOW = 1_800_000_000
RING = Keyring([b"k" * 32])
WHO = Identity("user-1", "org-1", "a@example.org", "admin")
NONCE = bytes(range(16))
PULL = RING.mint_sync(WHO, "db-1", "pull", now=NOW, ttl_seconds=60, nonce=NONCE)[0]
SESSION = RING.mint_session(WHO, now=NOW, ttl_seconds=60, nonce=NONCE)[0]
INVITE = RING.mint_invite(WHO, now=NOW, ttl_seconds=60, nonce=NONCE)[0]


def test_it_says_what_the_server_would_verify() -> None:
    for token, purpose in ((PULL, "sync"), (SESSION, "session"), (INVITE, "invite")):
        view, claims = inspect(token), RING.verify(token, NOW)
        assert (view.purpose, view.exp_unix, view.nonce) == (purpose, NOW + 60, NONCE.hex())
        assert (view.database, view.direction) == (claims.database_id, claims.direction)
        assert (view.user_id, view.org_id, view.role) == ("user-1", "org-1", "admin")
        assert (view.email, view.issued_at_unix) == ("a@example.org", NOW)
        assert view.key_id == claims.key_id
        assert "exp=1800000060" in view.caveats
        assert view.to_dict()["caveats"] == view.caveats
    narrowed = inspect(attenuate(PULL, ["max_version=3", "exp=1"]))
    assert (narrowed.max_version, narrowed.caveats[-2:]) == (3, ("max_version=3", "exp=1"))
    assert narrowed.exp_unix == 1


def test_what_expired_at_the_beginning_of_time_is_read_all_the_same() -> None:
    assert inspect(attenuate(PULL, ["exp=1"])).exp_unix == 1


def test_a_token_that_nests_without_end_is_malformed() -> None:
    nested = macaroon.UnverifiedMacaroon(b"\x0b" * 300, (), bytes(32)).attenuated([b"exp=1"])
    with pytest.raises(InvalidArgument, match="malformed"):
        inspect(nested)
    assert claimed_database(nested) == ""


def test_the_database_that_a_token_is_for() -> None:
    assert claimed_database(PULL) == "db-1"
    assert claimed_database(SESSION) == ""
    assert claimed_database("no token") == ""


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: attenuate(PULL, []), "nothing was said to narrow"),
        (lambda: seconds_of("soon"), "'soon' is no time: write 90s, 5m, 2h or 7d"),
        (lambda: inspect(_unknown_purpose()), "the token is malformed, or newer than this program"),
        (lambda: inspect(_for_no_database()), "the token names no database or no direction"),
        (
            lambda: attenuate(PULL, ["colour=red"]),
            "the token carries a restriction that this server does not understand",
        ),
    ],
)
def test_a_refusal_says_why(call: Callable[[], object], words: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        call()
    assert refused.value.message == words


def _unknown_purpose() -> str:
    claims = token_pb.TokenClaims.from_binary(macaroon.parse(PULL).identifier)
    claims.purpose = token_pb.Purpose.UNSPECIFIED
    return macaroon.mint(b"k", claims.to_binary(), ())


def _for_no_database() -> str:
    claims = token_pb.TokenClaims.from_binary(macaroon.parse(PULL).identifier)
    claims.database_id = ""
    return macaroon.mint(b"k", claims.to_binary(), [b"exp=1"])


@given(st.lists(st.integers(0, 200), min_size=1, max_size=6))
def test_narrowing_is_what_pymacaroons_makes_of_it_and_intersects(bounds: list[int]) -> None:
    token, theirs = PULL, Macaroon.deserialize(PULL)
    for bound in bounds:
        token = attenuate(token, [f"max_bytes={bound}", f"max_version={bound + 1}"])
        theirs.add_first_party_caveat(f"max_bytes={bound}")
        theirs.add_first_party_caveat(f"max_version={bound + 1}")
    assert token == theirs.serialize()
    claims = RING.verify(token, NOW)
    assert (claims.max_bytes, claims.max_version) == (min(bounds), min(bounds) + 1)
    assert (inspect(token).max_bytes, claims.narrowed) == (min(bounds), True)


def test_a_long_caveat_keeps_the_format() -> None:
    token = attenuate(SESSION, [f"database={'d' * 300}"])
    assert RING.verify(token, NOW).database_id == "d" * 300


@pytest.mark.parametrize(
    "caveats",
    [
        ["direction=push"],
        ["database=db-2"],
        ["max_bytes=-1"],
        ["max_bytes=1", "colour=red"],
        ["direction=sideways"],
        [],
        ["exp=1"] * 40,
    ],
    ids=str,
)
def test_a_copy_that_would_allow_nothing_is_refused(caveats: list[str]) -> None:
    with pytest.raises(InvalidArgument):
        attenuate(PULL, caveats)


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.hex()))
def test_garbage_is_an_invalid_argument(text: str) -> None:
    for call in (inspect, lambda token: attenuate(token, ["max_bytes=1"])):
        with pytest.raises(InvalidArgument):
            call(text)


@given(st.data())
def test_whatever_a_holder_sees_a_changed_token_verifies_nowhere(data: st.DataObject) -> None:
    narrowed = attenuate(PULL, ["max_version=1"])
    at = data.draw(st.integers(0, len(narrowed) - 1))
    changed = narrowed[:at] + data.draw(st.sampled_from("AQgw_-9z")) + narrowed[at + 1 :]
    if changed != narrowed:
        with pytest.raises(Unauthenticated):
            RING.verify(changed, NOW)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("2h", 7200), ("7d", 604_800)]
)
def test_durations(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "-5m", "5 m", "1.5h", "5w", "m", "9" * 12])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        seconds_of(text)
