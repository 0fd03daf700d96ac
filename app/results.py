"""What a push, a pull and a status tell their caller: values, ready for `--json`."""

from collections.abc import Callable
from typing import Literal

from ..events.value import Value


class PushResult(Value, frozen=True):
    """`pages_changed` differ from the head, `pages_sent` travelled, `pages_resumed` the server
    held already from an interrupted push or elsewhere; bytes are those on the wire."""

    outcome: Literal["pushed", "unchanged", "dry_run"]
    version: int | None
    root: str
    head_before: int | None
    page_size: int
    page_count: int
    pages_changed: int
    pages_sent: int
    pages_resumed: int
    bytes_sent: int
    bytes_received: int
    seconds: float
    would_conflict: bool = False


class PullResult(Value, frozen=True):
    outcome: Literal["pulled", "unchanged", "dry_run"]
    version: int | None
    root: str
    page_size: int
    page_count: int
    pages_received: int
    bytes_sent: int
    bytes_received: int
    seconds: float
    backup_path: str | None = None
    would_refuse: str | None = None
    """A dry run's word for what an unforced pull would be refused for (an error's code)."""


class ReplicaStatus(Value, frozen=True):
    """What push and pull would do, from the file, its sidecar and the server."""

    path: str
    exists: bool
    database: str | None
    server: str | None
    base: int | None
    head: int | None
    head_author: str
    head_committed_at: float | None
    page_size: int
    page_count: int
    pages_changed_locally: int | None
    push: Literal["nothing", "push", "conflict"]
    pull: Literal["nothing", "pull", "refused"]
    seconds: float


class Progress(Value, frozen=True):
    """A step of a running sync. `phase` is one of reading, sending, committing, receiving,
    applying, retrying; from committing (push) and applying (pull) on, the new version may stand
    already."""

    phase: str
    pages_done: int = 0
    pages_total: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    note: str = ""


ProgressHook = Callable[[Progress], None]
