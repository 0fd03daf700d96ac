"""What happens in a sync session: the events that the machines consume.

Two come from outside (`MessageReceived`, `PeerLost`), one from the driver (`Failed`); the others
are the results of effects (`fsm.effects`), in the past tense of what was asked.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from .errors import EdgeReplicaError
from .messages import At, Codec, HashRanges, Message, Windows
from .pages import Runs
from .value import Value


class MessageReceived(Value, frozen=True):
    message: Message


class PeerLost(Value, frozen=True):
    """The connection ended without the session's end. Nothing more can be said."""

    reason: str


class Failed(Value, frozen=True):
    """An effect failed, or an event was refused: the session ends and says so."""

    code: str
    message: str
    close_code: int
    retryable: bool = False
    details: Mapping[str, Any] = msgspec.field(default_factory=dict)

    @classmethod
    def from_error(cls, error: EdgeReplicaError) -> "Failed":
        return cls(
            code=error.code,
            message=error.message,
            close_code=error.close_code,
            retryable=error.retryable,
            details=error.details,
        )


class VersionInfo(Value, frozen=True):
    """A version as the other end is told of it; version 0 is the empty database."""

    version: int
    root: bytes
    page_size: int
    page_count: int
    database: str = ""
    author: str = ""
    committed_at: float = 0.0


# --- the server's end -----------------------------------------------------------------------------


class PushOpened(Value, frozen=True):
    """`conflict` names what stands between the client's base and the head, if anything does."""

    head: VersionInfo
    base_known: bool
    conflict: Failed | None = None


class PullOpened(Value, frozen=True):
    version: VersionInfo
    base_known: bool
    pages_changed: int | None = None


class HashesCompared(Value, frozen=True):
    """Of the announced pages, those whose content this end does not hold (push) or that differ
    from the version pulled (pull)."""

    runs: Runs


class RangesCompared(Value, frozen=True):
    runs: Runs


class PagesStaged(Value, frozen=True):
    pages: int
    wire_bytes: int


class PushCommitted(Value, frozen=True):
    version: int
    root: bytes


class PagesRead(Value, frozen=True):
    """A batch of the pages asked for; `exhausted` when there was none left."""

    runs: Runs = ()
    codec: Codec = "raw"
    data: bytes = b""

    @property
    def exhausted(self) -> bool:
        return not self.runs


# --- the client's end -----------------------------------------------------------------------------


class PushPlanned(Value, frozen=True):
    """What the local file has for the server. `root` is None while the content is not hashed."""

    page_size: int
    page_count: int
    base: int | None
    base_root: bytes | None
    root: bytes | None
    force: bool = False
    dry_run: bool = False
    message: str = ""


class PullPlanned(Value, frozen=True):
    """What the local file holds before a pull. `fresh`: nothing that could be kept."""

    page_size: int
    page_count: int
    base: int | None
    base_root: bytes | None
    root: bytes | None
    at: At = None
    fresh: bool = False
    dry_run: bool = False


class WindowHashed(Value, frozen=True):
    """The next announced window; `last` carries the root of the whole."""

    windows: Windows
    last: bool
    page_count: int = 0
    root: bytes = b""


class ContentHashed(Value, frozen=True):
    root: bytes


class DrilledDown(Value, frozen=True):
    """The next round of a drill-down. No ranges: it is over, and the windows that follow are of
    the pages whose ranges differed."""

    ranges: HashRanges


class PagesLoaded(Value, frozen=True):
    """One batch of requested pages, and what of the request is still to load."""

    runs: Runs
    codec: Codec
    data: bytes
    rest: Runs = ()


Announcement = Literal["nothing", "windows", "ranges"]


class ReplicaPrepared(Value, frozen=True):
    """The local end is ready for pages. `announce`: how it tells the server what it holds."""

    announce: Announcement


class PagesStored(Value, frozen=True):
    pages: int
    wire_bytes: int


class VersionApplied(Value, frozen=True):
    version: int


Event = (
    MessageReceived
    | PeerLost
    | Failed
    | PushOpened
    | PullOpened
    | HashesCompared
    | RangesCompared
    | PagesStaged
    | PushCommitted
    | PagesRead
    | PushPlanned
    | PullPlanned
    | WindowHashed
    | ContentHashed
    | DrilledDown
    | PagesLoaded
    | ReplicaPrepared
    | PagesStored
    | VersionApplied
)
