"""A client's disk: the database as a list of pages, the sidecar as another, and what a disk does.

It keeps the promises that `local_snapshot` and `local_apply` make (each tested with its own crash
tests): a push reads one state, an installation happens at one moment, is durable, and is refused if
the file was written to meanwhile. Everything else may be lost: with the power goes what an
application committed without a sync, and the sidecar, which is never synced.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from random import Random

from edgereplica.adapters.hashing import hash_pages, root_of
from edgereplica.app.local_content import LocalContent
from edgereplica.events.errors import LocalFileError
from edgereplica.events.pages import Runs, runs_of

Pages = tuple[bytes, ...]


@dataclass(frozen=True)
class Content:
    """A database: pages of `page_size` bytes, immutable; the same content is the same value."""

    page_size: int
    pages: Pages

    @cached_property
    def digests(self) -> bytes:
        return hash_pages(b"".join(self.pages), self.page_size, 1)

    @cached_property
    def root(self) -> bytes:
        return root_of(self.digests)


@dataclass(frozen=True, slots=True)
class Synced:
    """The sidecar. `version` is None where the server named none (wire v1)."""

    version: int | None
    content: Content
    root: bytes


class LocalDisk:
    """Counts a command's reads and writes of the local file; the one numbered `fails_at` fails."""

    def __init__(self, counts: Counter[str], fails_at: int | None = None) -> None:
        self._counts = counts
        self._fails_at = fails_at
        self._calls = 0

    def call(self) -> None:
        self._calls += 1
        if self._calls == self._fails_at:
            self._counts["client I/O errors"] += 1
            raise LocalFileError("input/output error")


@dataclass(slots=True)
class Replica:
    """A file and its sidecar: what a client's disk holds through its crashes."""

    content: Content | None = None
    synced: Synced | None = None
    writes: int = 0
    """Counts the changes of the file, so that an installation notices one under its feet."""
    unsynced: list[Content | None] = field(default_factory=list)
    """What the file held before commits that a loss of power may take back, oldest first."""
    backups: list[tuple[Content | None, Synced | None]] = field(default_factory=list)

    def write(self, content: Content) -> None:
        """The application commits, without a sync."""
        self.unsynced.append(self.content)
        self.content = content
        self.writes += 1

    def install(self, content: Content) -> None:
        self.content = content
        self.unsynced.clear()

    def remember(self, synced: Synced) -> None:
        self.backups.append((self.content, self.synced))
        self.synced = synced

    def lose_power(self, rng: Random) -> None:
        """Anything that was not synced may be gone: commits from the last one back, the sidecar."""
        if self.unsynced and rng.random() < 0.5:
            kept = rng.randrange(len(self.unsynced))
            self.content = self.unsynced[kept]
            del self.unsynced[kept:]
            self.writes += 1
        if rng.random() < 0.5:
            self.synced = rng.choice((None, *(synced for _, synced in self.backups)))

    def become(self, content: Content | None, synced: Synced | None) -> None:
        """Put a copy of a file and its sidecar here, as from a backup or another machine."""
        self.content, self.synced = content, synced
        self.unsynced.clear()
        self.writes += 1


class Snapshot:
    """What `LocalContent` wants of a `LocalSnapshot`."""

    def __init__(self, content: Content, disk: LocalDisk) -> None:
        self._content = content
        self._disk = disk

    def read(self, first: int, last: int) -> memoryview:
        self._disk.call()
        return memoryview(b"".join(self._content.pages[first - 1 : last]))

    def read_runs(self, runs: Runs) -> bytes:
        return b"".join(bytes(self.read(first, last)) for first, last in runs)

    def check_not_replaced(self) -> None:
        pass

    def close(self) -> None:
        pass


def local_content(content: Content, synced: Synced | None, disk: LocalDisk) -> LocalContent:
    """As `local_plan` does: relative to the synced version where page sizes allow it."""
    changed: Runs | None = None
    digests: bytearray | None = None
    if synced is not None and synced.content.page_size == content.page_size:
        old = synced.content.pages
        changed = runs_of(
            number
            for number, page in enumerate(content.pages, 1)
            if number > len(old) or (page is not old[number - 1] and page != old[number - 1])
        )
        digests = bytearray(content.digests)
    return LocalContent(
        Snapshot(content, disk),  # type: ignore[arg-type]
        content.page_size,
        len(content.pages),
        digests=digests,
        changed=changed,
    )
