"""What the server knows, as facts in the past tense: the events of the append-only log.

A fold over these events is the whole state of the server (design §6); `adapters.projections`
makes tables of them, `app.history` makes a database's versions of them. When something happened
is the log's business (`Recorded.recorded_at`), except for a version, whose time is part of what its
users see. Secrets are not history: no password hash and no token is ever in an event.

Each event belongs to one stream (`stream_of`), the unit of compare-and-swap:

    user:<id>       UserSignedUp, IdentityLinked, AllTokensRevoked
    org:<id>        OrganizationCreated, MemberAdded, MemberRoleChanged, MemberRemoved
    database:<id>   DatabaseCreated, VersionCommitted, DatabaseDeleted, RetentionSet,
                    VersionsExpired, MapsRewritten
    segment:<id>    SegmentStaged, StagedSegmentExpired
    token:<nonce>   TokenRevoked

A segment is its own stream, because it belongs to an organization and not to a database, and so
that two pushes of one database never contend while they stage. A token is one, so that a second
revocation of it finds the stream begun: that is what makes an invitation single-use.

Stored form: the kind in a column, the fields as JSON with digests in hex. An unknown field or kind
is refused, since a server that skipped what it does not understand would fold a wrong state.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from . import pages
from .errors import InvalidArgument, StorageError
from .limits import (
    COMPACT_MAPS_PER_EVENT_MAX,
    DATABASE_NAME_CHARS_MAX,
    EMAIL_CHARS_MAX,
    KEEP_DAYS_MAX,
    KEEP_LAST_VERSIONS_MAX,
    PAGE_NUMBER_MAX,
)

Role = Literal["admin", "member"]


def _digest(value: object) -> bytes:
    raw = bytes.fromhex(value) if isinstance(value, str) else value
    if not isinstance(raw, bytes):
        raise ValueError("a digest is 32 bytes, or 64 hex digits")
    return pages.digest(raw)


Id = Annotated[str, Field(min_length=1, max_length=64)]
HexDigest = Annotated[
    pages.Digest,
    BeforeValidator(_digest),
    PlainSerializer(lambda raw: raw.hex(), return_type=str, when_used="json"),
]
CheckedPageSize = Annotated[pages.PageSize, BeforeValidator(pages.page_size)]
Count = Annotated[int, Field(ge=0)]


class DomainEvent(BaseModel):
    """The root of all events; `kind` is what the log stores in its column."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    kind: ClassVar[str]

    @property
    def stream(self) -> str:
        """The stream that this event belongs to."""
        raise NotImplementedError


class UserSignedUp(DomainEvent):
    """`provider` and `subject` name the identity; for a password, "password" and the e-mail key."""

    kind: ClassVar[str] = "user_signed_up"
    user_id: Id
    email: Annotated[str, Field(max_length=EMAIL_CHARS_MAX)]
    provider: Id
    subject: Annotated[str, Field(min_length=1, max_length=EMAIL_CHARS_MAX)]

    @property
    def stream(self) -> str:
        return user_stream(self.user_id)


class IdentityLinked(DomainEvent):
    """The user also logs in as `subject` of `provider` from now on."""

    kind: ClassVar[str] = "identity_linked"
    user_id: Id
    provider: Id
    subject: Annotated[str, Field(min_length=1, max_length=EMAIL_CHARS_MAX)]

    @property
    def stream(self) -> str:
        return user_stream(self.user_id)


class AllTokensRevoked(DomainEvent):
    """Tokens of the user from before `epoch` are worth nothing: sessions and sync tokens.

    A counter and not a time: a token minted in the same second as the revocation is told apart.
    """

    kind: ClassVar[str] = "all_tokens_revoked"
    user_id: Id
    epoch: Annotated[int, Field(ge=1)]
    reason: Literal["asked", "password_changed", "password_reset"]

    @property
    def stream(self) -> str:
        return user_stream(self.user_id)


class TokenRevoked(DomainEvent):
    """The token with this nonce, and every narrowed copy of it, is worth nothing from now on.

    `nonce` is in hex: it names a token and opens nothing. `descendants`: so are the sync tokens
    that a session of this nonce issued.
    """

    kind: ClassVar[str] = "token_revoked"
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    user_id: Id
    org_id: Id
    purpose: Literal["session", "sync", "invite"]
    descendants: bool
    revoked_by: Id

    @property
    def stream(self) -> str:
        return token_stream(self.nonce)


class OrganizationCreated(DomainEvent):
    kind: ClassVar[str] = "organization_created"
    org_id: Id
    name: Annotated[str, Field(max_length=EMAIL_CHARS_MAX)]
    personal: bool

    @property
    def stream(self) -> str:
        return org_stream(self.org_id)


class MemberAdded(DomainEvent):
    kind: ClassVar[str] = "member_added"
    org_id: Id
    user_id: Id
    role: Role

    @property
    def stream(self) -> str:
        return org_stream(self.org_id)


class MemberRoleChanged(DomainEvent):
    kind: ClassVar[str] = "member_role_changed"
    org_id: Id
    user_id: Id
    role: Role
    changed_by: Id

    @property
    def stream(self) -> str:
        return org_stream(self.org_id)


class MemberRemoved(DomainEvent):
    kind: ClassVar[str] = "member_removed"
    org_id: Id
    user_id: Id
    removed_by: Id

    @property
    def stream(self) -> str:
        return org_stream(self.org_id)


class DatabaseCreated(DomainEvent):
    kind: ClassVar[str] = "database_created"
    database_id: Id
    org_id: Id
    name: Annotated[str, Field(min_length=1, max_length=DATABASE_NAME_CHARS_MAX)]
    created_by: Id

    @property
    def stream(self) -> str:
        return database_stream(self.database_id)


class DatabaseDeleted(DomainEvent):
    kind: ClassVar[str] = "database_deleted"
    database_id: Id
    deleted_by: Id

    @property
    def stream(self) -> str:
        return database_stream(self.database_id)


class SegmentStaged(DomainEvent):
    """A segment is durable in page storage and no version refers to it yet."""

    kind: ClassVar[str] = "segment_staged"
    database_id: Id
    org_id: Id
    segment_id: Id
    stored_bytes: Count
    pages: Count

    @property
    def stream(self) -> str:
        return segment_stream(self.segment_id)


class StagedSegmentExpired(DomainEvent):
    """The push that staged the segment was not resumed in time: nothing may use it any more."""

    kind: ClassVar[str] = "staged_segment_expired"
    segment_id: Id

    @property
    def stream(self) -> str:
        return segment_stream(self.segment_id)


class VersionCommitted(DomainEvent):
    """A push became visible. `segments` are the ids this version added to those of its parent.

    `committed_at` is in Unix seconds, `root` the range hash over pages 1..page_count,
    `pages_changed` and `stored_bytes` count what this version added.
    """

    kind: ClassVar[str] = "version_committed"
    database_id: Id
    version: Annotated[int, Field(ge=1)]
    parent: Count
    page_size: CheckedPageSize
    page_count: Annotated[int, Field(ge=0, le=PAGE_NUMBER_MAX)]
    root: HexDigest
    author_id: Id
    author_email: Annotated[str, Field(max_length=EMAIL_CHARS_MAX)]
    message: str
    committed_at: float
    map_key: str
    map_is_snapshot: bool
    segments: tuple[Id, ...]
    pages_changed: Count
    stored_bytes: Count

    @property
    def stream(self) -> str:
        return database_stream(self.database_id)


class RetentionSet(DomainEvent):
    """Which versions to keep from now on: those that either rule keeps; with none, all."""

    kind: ClassVar[str] = "retention_set"
    database_id: Id
    keep_last: Annotated[int, Field(ge=1, le=KEEP_LAST_VERSIONS_MAX)] | None
    keep_days: Annotated[int, Field(ge=1, le=KEEP_DAYS_MAX)] | None
    set_by: Id

    @property
    def stream(self) -> str:
        return database_stream(self.database_id)


class VersionsExpired(DomainEvent):
    """No version up to `through` can be read any more. The head is never among them."""

    kind: ClassVar[str] = "versions_expired"
    database_id: Id
    through: Annotated[int, Field(ge=1)]

    @property
    def stream(self) -> str:
        return database_stream(self.database_id)


class RewrittenMap(BaseModel):
    """Where a version's map lies now; its content and root are what they were."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    version: Annotated[int, Field(ge=1)]
    map_key: str
    map_is_snapshot: bool
    segments: tuple[Id, ...]


class MapsRewritten(DomainEvent):
    """Pages of these versions were copied to better places. `segments` of a map are ids that it
    refers to and that this rewriting made; the old maps and segments are garbage unless others
    refer to them."""

    kind: ClassVar[str] = "maps_rewritten"
    database_id: Id
    maps: Annotated[tuple[RewrittenMap, ...], Field(max_length=COMPACT_MAPS_PER_EVENT_MAX)]

    @property
    def stream(self) -> str:
        return database_stream(self.database_id)


EVENTS: tuple[type[DomainEvent], ...] = (
    UserSignedUp,
    IdentityLinked,
    AllTokensRevoked,
    TokenRevoked,
    OrganizationCreated,
    MemberAdded,
    MemberRoleChanged,
    MemberRemoved,
    DatabaseCreated,
    DatabaseDeleted,
    SegmentStaged,
    StagedSegmentExpired,
    VersionCommitted,
    RetentionSet,
    VersionsExpired,
    MapsRewritten,
)
_BY_KIND = {event.kind: event for event in EVENTS}


def user_stream(user_id: str) -> str:
    return f"user:{user_id}"


def org_stream(org_id: str) -> str:
    return f"org:{org_id}"


def database_stream(database_id: str) -> str:
    return f"database:{database_id}"


def token_stream(nonce_hex: str) -> str:
    return f"token:{nonce_hex}"


def segment_stream(segment_id: str) -> str:
    return f"segment:{segment_id}"


def encode(event: DomainEvent) -> tuple[str, str]:
    """`event` as (kind, JSON)."""
    return event.kind, event.model_dump_json()


def decode(kind: str, data: str | bytes) -> DomainEvent:
    """The event that `encode` made. `StorageError` if this program does not understand it."""
    event = _BY_KIND.get(kind)
    if event is None:
        raise StorageError(
            f"the log holds an event of unknown kind {kind!r}: written by newer code"
        )
    try:
        return event.model_validate_json(data)
    except (ValidationError, InvalidArgument) as error:
        raise StorageError(f"the log holds a {kind} that this code cannot read: {error}") from error
