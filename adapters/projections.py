"""Tables made of events: what changes with each one, and how to make them all again.

A projection is changed in the transaction of the append (`EventLog.append`), so it is never behind
the log. `event_log.rebuild` runs the same statements over the whole log, which is why they depend
on the event and its recorded time alone.
"""

from functools import singledispatch

from ..events.domain import (
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
    SegmentStaged,
    StagedSegmentExpired,
    TokenRevoked,
    UserSignedUp,
    VersionCommitted,
    VersionsExpired,
)
from .ports import Statement

EMPTY_ALL = tuple(
    Statement(sql)
    for sql in (
        "DELETE FROM revoked_tokens",
        "DELETE FROM token_epochs",
        "DELETE FROM staged_segments",
        "DELETE FROM databases",
        "DELETE FROM memberships",
        "DELETE FROM organizations",
        "DELETE FROM identities",
        "DELETE FROM users",
    )
)
"""Empties every projection, each before those it refers to."""


def email_key(email: str) -> str:
    """What two spellings of one e-mail address have in common: letter case does not count."""
    return email.casefold()


@singledispatch
def project(event: DomainEvent, recorded_at: float) -> list[Statement]:
    """The statements that carry `event` into the projections."""
    raise NotImplementedError(f"no projection for {type(event).__name__}")


@project.register
def _(event: UserSignedUp, recorded_at: float) -> list[Statement]:
    return [
        Statement(
            "INSERT INTO users (user_id, email, email_key, created_at) VALUES (?, ?, ?, ?)",
            (event.user_id, event.email, email_key(event.email), recorded_at),
        ),
        Statement(
            "INSERT INTO identities (provider, subject, user_id, linked_at) VALUES (?, ?, ?, ?)",
            (event.provider, event.subject, event.user_id, recorded_at),
        ),
    ]


@project.register
def _(event: OrganizationCreated, recorded_at: float) -> list[Statement]:
    return [
        Statement(
            "INSERT INTO organizations (org_id, name, personal, created_at) VALUES (?, ?, ?, ?)",
            (event.org_id, event.name, int(event.personal), recorded_at),
        )
    ]


@project.register
def _(event: MemberAdded, recorded_at: float) -> list[Statement]:
    return [
        Statement(
            "INSERT INTO memberships (org_id, user_id, role, added_at) VALUES (?, ?, ?, ?)",
            (event.org_id, event.user_id, event.role, recorded_at),
        )
    ]


@project.register
def _(event: MemberRoleChanged, recorded_at: float) -> list[Statement]:
    return [
        Statement(
            "UPDATE memberships SET role = ? WHERE org_id = ? AND user_id = ?",
            (event.role, event.org_id, event.user_id),
        )
    ]


@project.register
def _(event: MemberRemoved, recorded_at: float) -> list[Statement]:
    return [
        Statement(
            "DELETE FROM memberships WHERE org_id = ? AND user_id = ?",
            (event.org_id, event.user_id),
        )
    ]


@project.register
def _(event: IdentityLinked, recorded_at: float) -> list[Statement]:
    return [
        Statement(
            "INSERT INTO identities (provider, subject, user_id, linked_at) VALUES (?, ?, ?, ?)",
            (event.provider, event.subject, event.user_id, recorded_at),
        )
    ]


@project.register
def _(event: AllTokensRevoked, recorded_at: float) -> list[Statement]:
    return [
        Statement(
            "INSERT INTO token_epochs (user_id, epoch) VALUES (?, ?) "
            "ON CONFLICT (user_id) DO UPDATE SET epoch = excluded.epoch",
            (event.user_id, event.epoch),
        )
    ]


@project.register
def _(event: TokenRevoked, recorded_at: float) -> list[Statement]:
    return [
        Statement(
            "INSERT INTO revoked_tokens (nonce, user_id, descendants, revoked_at) "
            "VALUES (?, ?, ?, ?) ON CONFLICT (nonce) DO UPDATE SET descendants = "
            "CASE WHEN excluded.descendants = 1 THEN 1 ELSE revoked_tokens.descendants END",
            (event.nonce, event.user_id, int(event.descendants), recorded_at),
        )
    ]


@project.register
def _(event: DatabaseCreated, recorded_at: float) -> list[Statement]:
    return [
        Statement(
            "INSERT INTO databases (database_id, org_id, name, created_by, created_at, "
            "head_version, page_count, stored_bytes) VALUES (?, ?, ?, ?, ?, 0, 0, 0)",
            (event.database_id, event.org_id, event.name, event.created_by, recorded_at),
        )
    ]


@project.register
def _(event: DatabaseDeleted, recorded_at: float) -> list[Statement]:
    return [
        Statement(
            "UPDATE databases SET deleted_at = ? WHERE database_id = ?",
            (recorded_at, event.database_id),
        )
    ]


@project.register
def _(event: SegmentStaged, recorded_at: float) -> list[Statement]:
    return [
        Statement(
            "INSERT INTO staged_segments "
            "(segment_id, database_id, org_id, stored_bytes, pages, staged_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                event.segment_id,
                event.database_id,
                event.org_id,
                event.stored_bytes,
                event.pages,
                recorded_at,
            ),
        )
    ]


@project.register
def _(event: VersionCommitted, recorded_at: float) -> list[Statement]:
    head = Statement(
        "UPDATE databases SET head_version = ?, head_root = ?, head_at = ?, page_size = ?, "
        "page_count = ?, stored_bytes = stored_bytes + ? WHERE database_id = ?",
        (
            event.version,
            event.root.hex(),
            event.committed_at,
            event.page_size,
            event.page_count,
            event.stored_bytes,
            event.database_id,
        ),
    )
    return [head] + [
        Statement("DELETE FROM staged_segments WHERE segment_id = ?", (segment_id,))
        for segment_id in event.segments
    ]


@project.register
def _(event: StagedSegmentExpired, recorded_at: float) -> list[Statement]:
    return [Statement("DELETE FROM staged_segments WHERE segment_id = ?", (event.segment_id,))]


@project.register(RetentionSet)
@project.register(VersionsExpired)
@project.register(MapsRewritten)
def _(event: DomainEvent, recorded_at: float) -> list[Statement]:
    """Only a database's history knows of these."""
    return []
