"""Domain events: what goes into the log comes out of it, and nothing else does."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgereplica.events.domain import (
    EVENTS,
    AllTokensRevoked,
    DatabaseCreated,
    DatabaseDeleted,
    DomainEvent,
    IdentityLinked,
    MapsRewritten,
    MemberAdded,
    MemberRemoved,
    MemberRoleChanged,
    OrganizationCreated,
    RetentionSet,
    RewrittenMap,
    SegmentStaged,
    StagedSegmentExpired,
    TokenRevoked,
    UserSignedUp,
    VersionCommitted,
    VersionsExpired,
    decode,
    encode,
)
from edgereplica.events.errors import InvalidArgument, StorageError
from edgereplica.events.pages import digest, page_size

VERSION = VersionCommitted(
    database_id="d",
    version=2,
    parent=1,
    page_size=page_size(4096),
    page_count=7,
    root=digest(bytes(range(32))),
    author_id="u",
    author_email="a@b.c",
    message="a message with a \N{SNOWMAN}",
    committed_at=1.5,
    map_key="maps/d/2",
    map_is_snapshot=True,
    segments=("s1", "s2"),
    pages_changed=3,
    stored_bytes=12,
)
SAMPLES: list[DomainEvent] = [
    UserSignedUp(user_id="u", email="A@b.c", provider="password", subject="a@b.c"),
    IdentityLinked(user_id="u", provider="github", subject="583231"),
    AllTokensRevoked(user_id="u", epoch=1, reason="password_changed"),
    TokenRevoked(
        nonce="0f" * 16,
        user_id="u",
        org_id="o",
        purpose="session",
        descendants=True,
        revoked_by="u",
    ),
    OrganizationCreated(org_id="o", name="A@b.c", personal=True),
    MemberRoleChanged(org_id="o", user_id="u", role="member", changed_by="u"),
    MemberRemoved(org_id="o", user_id="u", removed_by="v"),
    MemberAdded(org_id="o", user_id="u", role="admin"),
    DatabaseCreated(database_id="d", org_id="o", name="main", created_by="u"),
    DatabaseDeleted(database_id="d", deleted_by="u"),
    SegmentStaged(database_id="d", org_id="o", segment_id="s", stored_bytes=4, pages=1),
    VERSION,
    StagedSegmentExpired(segment_id="s"),
    RetentionSet(database_id="d", keep_last=3, keep_days=None, set_by="u"),
    VersionsExpired(database_id="d", through=2),
    MapsRewritten(
        database_id="d",
        maps=(RewrittenMap(version=2, map_key="m", map_is_snapshot=True, segments=("s3",)),),
    ),
]


def test_every_event_has_a_sample() -> None:
    assert {type(sample) for sample in SAMPLES} == set(EVENTS)
    assert len({event.kind for event in EVENTS}) == len(EVENTS)


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: event.kind)
def test_round_trip(event: DomainEvent) -> None:
    kind, data = encode(event)
    assert decode(kind, data) == event
    assert ":" in event.stream


def test_the_stored_form_stays_as_it_is() -> None:
    """What a log holds must be readable for ever: this text may only grow new optional fields."""
    assert json.loads(encode(VERSION)[1]) == {
        "database_id": "d",
        "version": 2,
        "parent": 1,
        "page_size": 4096,
        "page_count": 7,
        "root": bytes(range(32)).hex(),
        "author_id": "u",
        "author_email": "a@b.c",
        "message": "a message with a \N{SNOWMAN}",
        "committed_at": 1.5,
        "map_key": "maps/d/2",
        "map_is_snapshot": True,
        "segments": ["s1", "s2"],
        "pages_changed": 3,
        "stored_bytes": 12,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 0},
        {"parent": -1},
        {"page_size": 1000},
        {"page_count": 2**32},
        {"root": b"short"},
        {"root": "zz"},
        {"segments": ("",)},
        {"stored_bytes": -1},
        {"unknown": 1},
    ],
    ids=str,
)
def test_bad_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises((ValidationError, InvalidArgument)):
        VersionCommitted.model_validate({**VERSION.model_dump(), **wrong})


def test_an_event_is_frozen() -> None:
    for name in type(VERSION).model_fields:
        with pytest.raises(ValidationError):
            setattr(VERSION, name, None)


@given(st.sampled_from([event.kind for event in EVENTS]) | st.text(), st.text() | st.binary())
def test_decoding_anything_gives_an_event_or_a_storage_error(kind: str, data: str | bytes) -> None:
    with pytest.raises(StorageError):
        decode(kind, data)


@pytest.mark.parametrize("wrong", [{"root": "00"}, {"page_size": 1000}, {"version": "x"}], ids=str)
def test_a_damaged_record_is_a_storage_error(wrong: dict[str, object]) -> None:
    data = json.dumps(json.loads(encode(VERSION)[1]) | wrong)
    with pytest.raises(StorageError):
        decode(VERSION.kind, data)
