"""Sessions as tests of machines write them: an event, the effects it has, the state after it."""

from typing import Any

import pytest

from edgereplica.events.errors import EdgeReplicaError
from edgereplica.events.limits import (
    BATCH_DECODED_BYTES_MAX,
    FRAME_BYTES_MAX,
    PAGES_PER_DATABASE_MAX,
    PAGES_PER_FRAME_MAX,
)
from edgereplica.events.messages import (
    Complete,
    ErrorMessage,
    HeadChanged,
    Hello,
    HelloReply,
    PageData,
    PageHashes,
    RangeHashes,
    RangesDiffer,
    RequestPages,
    SyncComplete,
)
from edgereplica.events.session import (
    Failed,
    MessageReceived,
    PeerLost,
    PullPlanned,
    PushPlanned,
    VersionInfo,
    WindowHashed,
)
from edgereplica.fsm.effects import (
    Close,
    Send,
)
from edgereplica.fsm.machine import Machine

H, R0, R1, R2 = b"\xaa" * 32, bytes(32), b"\x01" * 32, b"\x02" * 32
HEAD = VersionInfo(4, R1, 1024, 7, "db-1", "ann@example.org", 1_800_000_000.5)
NOTHING = VersionInfo(0, R0, 0, 0, "db-1")
LIMITS = {
    "frame_bytes_max": FRAME_BYTES_MAX,
    "batch_decoded_bytes_max": BATCH_DECODED_BYTES_MAX,
    "pages_per_frame_max": PAGES_PER_FRAME_MAX,
    "pages_per_database_max": PAGES_PER_DATABASE_MAX,
}
OWN = {"frame_bytes_max": 7}
LOST = PeerLost("gone")
FAILED = Failed("storage", "the disk is full", 1011, retryable=True, details={"free": 0})
TOLD = (
    Send(ErrorMessage("the disk is full", "storage", True, {"free": 0})),
    Close(1011, "storage"),
)
REFUSAL = ErrorMessage("no", code="conflict", details={"head": 9})
IN_SYNC, DRY_RUN = Close(1000, "in sync"), Close(1000, "dry run")
HELLO = {1: Hello(512, force=True), 2: Hello(512, 9, base=4, base_root=R1, root=R2)}
PAGES = PageData(((2, 3),), "zstd", b"packed")
REPLY = HelloReply(512, 7, 4, R1, author="ann@example.org", committed_at=1.5, base_known=True)
STRANGER = HelloReply(512, 7, 4, R1, author="ann@example.org", committed_at=1.5)
WINDOW = WindowHashed(((1, H),), last=False)
LAST = WindowHashed(((9, H),), last=True, page_count=9, root=R2)
AFTER_LAST = WindowHashed((), last=True, page_count=9, root=R2)
PUSH = PushPlanned(512, 9, 4, R1, R2, force=True, message="nightly")
PULL = PullPlanned(512, 3, 2, R0, R2, at=4)

Step = tuple[Any, tuple[Any, ...], str]
"""A message or event, the effects it has, and the state after it."""


def run(machine: Machine, *steps: Step) -> None:
    for event, effects, state in steps:
        outside = isinstance(event, MESSAGES)
        assert machine.handle(MessageReceived(event) if outside else event) == effects
        assert machine.state_id == state


MESSAGES = (
    Complete,
    ErrorMessage,
    HeadChanged,
    Hello,
    HelloReply,
    PageData,
    PageHashes,
    RangeHashes,
    RangesDiffer,
    RequestPages,
    SyncComplete,
)


def greeting(version: VersionInfo, page_size: int, **more: Any) -> Send:
    return Send(
        HelloReply(
            page_size,
            version.page_count,
            head=version.version,
            root=version.root,
            database=version.database,
            author=version.author,
            committed_at=version.committed_at,
            **{"base_known": False, "limits": LIMITS} | more,
        )
    )


def refused_as_it_was(
    machine: Machine, event: Any, error: type[EdgeReplicaError], say: str
) -> None:
    before, counted = machine.state_id, vars(machine).copy()
    with pytest.raises(error) as caught:
        machine.handle(MessageReceived(event) if isinstance(event, MESSAGES) else event)
    assert caught.value.message == say
    assert machine.state_id == before
    assert vars(machine) == counted
