"""What a sync starts from: the file's content against what its sidecar remembers.

The sidecar is a hint. Where it fits, only changed pages are hashed, or nothing is read at all;
where it does not, the whole file is hashed. `ignore_sidecar` is for the second try after the
server found a hint to be wrong.
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ..adapters.hashing import FINGERPRINT_BYTES, fingerprints, hash_pages
from ..adapters.local_changes import LocalChanges, find_changes
from ..adapters.local_snapshot import LocalSnapshot
from ..adapters.local_state import FileState, unchanged
from ..adapters.sidecar import Sidecar, SidecarHeader
from ..events.limits import CLOCK_TICK_SECONDS, DIGEST_BYTES, SETTLE_ATTEMPTS_MAX
from ..events.pages import Runs, pages_of, runs_of
from .local_content import LocalContent, StaleSidecar
from .page_entries import PageEntries


class Fingerprints:
    """The local pages' fingerprints under one secret seed, filled as pages pass by.

    They begin with those in `joined`, and grow with the pages that are noted.
    """

    def __init__(
        self, page_size: int, joined: bytearray | None = None, seed: int | None = None
    ) -> None:
        self.seed = secrets.randbits(64) if seed is None else seed
        self._page_size = page_size
        self._entries = PageEntries(FINGERPRINT_BYTES, joined)

    @property
    def joined(self) -> bytearray:
        return self._entries.joined

    def note(self, first: int, data: memoryview) -> None:
        """`data` are the pages from `first` on."""
        self._entries.put(first, fingerprints(data, self._page_size, self.seed, first))

    def cut(self, page_count: int) -> None:
        """Forget the pages behind `page_count`."""
        self._entries.cut(page_count)

    def settle(self, page_count: int) -> None:
        """All `page_count` pages have been noted."""
        self._entries.settle(page_count)


class LocalPlan(msgspec.Struct, eq=False):
    """The file at `path` as a sync finds it.

    `base` is what the sidecar says was last synced (None: never, or not with this file's
    content). `content` is None if there is no file, or an empty one. `changed` says whether the
    content differs from the base's; True where there is no base. `remembered` is whose sidecar the
    base is, if not the file's own.
    """

    path: Path
    exists: bool
    base: SidecarHeader | None
    content: LocalContent | None
    state: FileState | None
    prints: Fingerprints | None
    changed: bool
    snapshot: LocalSnapshot | None = None
    remembered: Path | None = None

    @property
    def page_size(self) -> int:
        return self.content.page_size if self.content else 4096

    @property
    def page_count(self) -> int:
        return self.content.page_count if self.content else 0

    @property
    def known_root(self) -> bytes | None:
        """The root of the content, where it is known without reading the whole file."""
        if self.base is None or self.content is None:
            return None
        return self.content.root() if self.changed else self.base.root

    def root(self) -> bytes:
        """The root of the content, whatever it costs."""
        assert self.content is not None
        return self.known_root or self.content.root()

    def load_prints(self) -> Fingerprints:
        """The content's fingerprints: those noted, or the sidecar's if nothing was read."""
        if self.prints is None:
            self.load_sidecar()
        assert self.prints is not None
        return self.prints

    def load_sidecar(self) -> bytearray:
        """The digests that the sidecar remembers; its fingerprints become the plan's.

        `StaleSidecar` if its arrays are not what its header says.
        """
        sidecar = Sidecar.load(self.remembered or self.path)
        if sidecar is None or sidecar.header != self.base:
            raise StaleSidecar(f"the sidecar of {self.path} is damaged")
        self.prints = Fingerprints(self.page_size, sidecar.fingerprints, sidecar.header.seed)
        return sidecar.hashes

    def is_of_another_database(self, database: str) -> bool:
        """Whether the sidecar is of a database that is not `database`; False if either is unknown
        (empty)."""
        known = self.base.database if self.base is not None else ""
        return bool(known and database) and known != database

    def is_ahead_of(self, head: int | None) -> bool:
        """Whether the sidecar is of a version later than `head`, a server's newest: it has been
        restored from an older backup. False if either is unknown (wire v1)."""
        base = self.base.version if self.base is not None else None
        return base is not None and head is not None and base > head

    def is_remembered_as(self, version: int | None, database: str) -> bool:
        """Whether the sidecar already says that this very state is `version`."""
        base = self.base
        return (
            base is not None
            and not self.changed
            and (base.version, base.database, base.state) == (version, database, self.state)
        )

    def close_snapshot(self) -> None:
        """Let go of the file; what was read stays known."""
        if self.snapshot is not None:
            self.snapshot.close()


def empty_plan(path: Path) -> LocalPlan:
    """No file, or an empty one: nothing that could be kept or lost."""
    return LocalPlan(path, path.exists(), None, None, None, None, changed=False)


@contextmanager
def open_plan(
    path: Path,
    *,
    busy_timeout_seconds: float,
    checksum: bool = False,
    ignore_sidecar: bool = False,
    remembered: Path | None = None,
) -> Iterator[LocalPlan]:
    """The plan for an existing file; its snapshot is open until the block ends."""
    remembered = remembered or path
    header = None if ignore_sidecar else Sidecar.load_header(remembered)
    if header is not None and not checksum and unchanged(path, header.state):
        yield _unchanged_plan(path, header, remembered)
        return
    with _settled_snapshot(path, busy_timeout_seconds) as snapshot:
        sidecar = None if header is None else Sidecar.load(remembered)
        yield _read_plan(path, snapshot, sidecar, checksum)


def _settled_snapshot(path: Path, busy_timeout_seconds: float) -> LocalSnapshot:
    """A snapshot whose state can be told from every later one by the file's time.

    That takes until the next tick of the file system's clock, some milliseconds, after the last
    write; a file that is written all the time is taken as it is.
    """
    for _ in range(SETTLE_ATTEMPTS_MAX):
        snapshot = LocalSnapshot.open(path, busy_timeout_seconds=busy_timeout_seconds)
        if snapshot.state.settled:
            return snapshot
        snapshot.close()
        time.sleep(CLOCK_TICK_SECONDS)
    return LocalSnapshot.open(path, busy_timeout_seconds=busy_timeout_seconds)


def _unchanged_plan(path: Path, header: SidecarHeader, remembered: Path) -> LocalPlan:
    """Nothing of the file is read; the sidecar's arrays only if they are asked for."""
    plan = LocalPlan(path, True, header, None, header.state, None, changed=False)
    plan.remembered = remembered
    plan.content = LocalContent(
        None, header.page_size, header.page_count, digests=plan.load_sidecar, changed=()
    )
    return plan


def _read_plan(
    path: Path, snapshot: LocalSnapshot, sidecar: Sidecar | None, checksum: bool
) -> LocalPlan:
    if sidecar is None or sidecar.header.page_size != snapshot.page_size:
        none_yet = bytearray(snapshot.page_count * FINGERPRINT_BYTES)
        prints = Fingerprints(snapshot.page_size, none_yet)
        content = LocalContent(
            snapshot, snapshot.page_size, snapshot.page_count, on_pages=prints.note
        )
        base = sidecar.header if sidecar is not None else None
        return LocalPlan(path, True, base, content, snapshot.state, prints, True, snapshot)
    changes = find_changes(snapshot, sidecar, read_everything=checksum)
    runs = _with_page_one(snapshot, changes) if changes.differ else ()
    prints = Fingerprints(snapshot.page_size, changes.fingerprints, sidecar.header.seed)
    content = LocalContent(
        snapshot,
        snapshot.page_size,
        snapshot.page_count,
        digests=changes.hashes,
        changed=runs,
    )
    base, state = sidecar.header, snapshot.state
    return LocalPlan(path, True, base, content, state, prints, changes.differ, snapshot)


def _with_page_one(snapshot: LocalSnapshot, changes: LocalChanges) -> Runs:
    """The changed runs, with page 1 if any byte of it differs.

    Masked bytes alone are no change; but a version that is pushed anyway is the file's very bytes.
    """
    if not snapshot.page_count or (changes.runs and changes.runs[0][0] == 1):
        return changes.runs
    digest = hash_pages(snapshot.read(1, 1), snapshot.page_size, 1)
    if digest == changes.hashes[:DIGEST_BYTES]:
        return changes.runs
    changes.hashes[:DIGEST_BYTES] = digest
    return runs_of(pages_of(((1, 1), *changes.runs)))
