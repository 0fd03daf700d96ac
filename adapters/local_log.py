"""The part of a write-ahead log that one read transaction sees, held in place by its lock.

`PinnedLog.pin` finds it: the log's index is read before and after the transaction begins, until
both readings are the same. SQLite takes its own copy of the index in between, so that copy is this
reading. From then on the transaction's lock guarantees one of two things:

* A checkpoint had already copied every frame into the file (backfilled = frames). The file alone
  is the state, and no checkpoint writes to it. A writer may restart the log at any moment, so its
  frames are not read.
* Otherwise the log cannot be restarted. The frames after the backfilled ones lie over the file;
  a checkpoint may write into the file only pages that are among them.

`changed_since` asks the same index which pages the log has changed since an earlier state.
"""

import os
from pathlib import Path
from typing import Final

from ..events.errors import FileReplaced
from ..events.pages import Runs, runs_of
from .local_connection import Connection, begin_read
from .local_files import Identity, close_descriptor, read_at, sibling
from .local_state import UNKNOWN, FileState
from .local_wal import (
    FRAME_HEADER_BYTES,
    WalIndexHeader,
    frame_offset,
    frame_pages,
    read_frame_mark,
    read_index_header,
)

_READINGS_MAX: Final = 1000
_PAGE_COUNT_AT: Final = 28


class PinnedLog:
    """Made by `pin`; valid as long as the transaction it was pinned for."""

    header: WalIndexHeader

    def __init__(self, database: Path, identity: Identity) -> None:
        """Opens the index: OSError if this process may not, or SQLite keeps it to itself."""
        self._database = database
        self._identity = identity
        self._path = sibling(database, "-wal")
        self._log: int | None = None
        self._page_size = 0
        self._frames: dict[int, int] = {}
        self._index = os.open(sibling(database, "-shm"), os.O_RDONLY | os.O_CLOEXEC)

    def pin(self, connection: Connection) -> bool:
        """Begin the transaction of `connection` anew where the log is known exactly.

        False if commits came too fast to tell; the transaction is open all the same.
        """
        for _ in range(_READINGS_MAX):
            connection.execute("ROLLBACK")
            before = read_index_header(self._index)
            begin_read(connection)
            after = read_index_header(self._index)
            if before is not None and after is not None and before.raw == after.raw:
                self.header = after
                self._page_size = after.page_size
                self._lay_out()
                return True
        return False

    def _lay_out(self) -> None:
        first, last = self.header.backfilled + 1, self.header.frames
        if first <= last:
            pages = frame_pages(self._index, first, last)
            self._frames = dict(zip(pages, range(first, last + 1), strict=True))

    def close(self) -> None:
        """Only after the connection is closed: a closed descriptor takes SQLite's locks along."""
        close_descriptor(self._index, self._identity)
        if self._log is not None:
            os.close(self._log)

    def frames_of(self, first: int, last: int) -> list[tuple[int, int]]:
        """(page, frame) for each page of first..last that must be read from the log."""
        frames = self._frames
        if not frames:
            return []
        if first == last:
            return [(first, frames[first])] if first in frames else []
        if last - first < len(frames):
            return [(page, frames[page]) for page in range(first, last + 1) if page in frames]
        return [(page, frame) for page, frame in frames.items() if first <= page <= last]

    def read_frame(self, frame: int, into: memoryview, offset: int = 0) -> None:
        """Fill `into` with the page that `frame` holds, from byte `offset` of the page on."""
        if self._log is None:
            self._log = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        start = frame_offset(frame, self._page_size) + FRAME_HEADER_BYTES + offset
        if read_at(self._log, start, into) < len(into):
            raise FileReplaced(f"the log of {self._database} was cut short while it was read")

    def observe(self) -> WalIndexHeader | None:
        """The index again; None if a commit was added to it since the log was pinned."""
        now = read_index_header(self._index)
        return now if now is not None and now.raw == self.header.raw else None

    def continues(self, known: FileState) -> bool:
        """Whether the log still holds the frames of `known`, and perhaps more.

        A power failure can take the last frames of a log that is not synced at every commit; new
        ones with the same salts then stand in their places. The checksum tells them apart.
        """
        if self.header.salts != known.wal_salts or known.wal_frames > self.header.frames:
            return False
        if known.wal_frames == self.header.frames:
            return known.wal_checksum == self.header.checksum
        mark = read_frame_mark(self._path, known.wal_frames, self.header.page_size)
        return mark.checksum == known.wal_checksum

    def pages_after(self, frames: int, page_counts: tuple[int, int]) -> Runs | None:
        """The pages in the frames after the first `frames`; None if the log was restarted.

        Of `page_counts`, then and now, the larger pages are all taken as changed; so are those
        after the smallest size in between: a page that was cut off and came back unused is in no
        frame, yet may have become zeros. Every change of size is in a new page 1.
        """
        if frames == self.header.frames:
            return ()
        pages = frame_pages(self._index, frames + 1, self.header.frames)
        smallest, place = min(page_counts), -1
        count = bytearray(4)
        for _ in range(pages.count(1)):
            place = pages.index(1, place + 1)
            self.read_frame(frames + 1 + place, memoryview(count), _PAGE_COUNT_AT)
            smallest = min(smallest, int.from_bytes(count, "big"))
        again = read_index_header(self._index)
        if again is None or again.salts != self.header.salts:
            return None
        changed = sorted(page for page in set(pages) if page <= smallest)
        if smallest == page_counts[1]:
            return runs_of(changed)
        return (*runs_of(changed), (smallest + 1, page_counts[1]))


def changed_since(log: PinnedLog | None, known: FileState, now: FileState) -> Runs | None:
    """Runs of the pages that may differ between `known` and `now`; None: any may.

    Two cases can be told from the log: it went on from where `known` left it; or `known` stood
    whole in the database file, nobody wrote to that file since, and all there is in the log came
    later.
    """
    same_page_size = now.page_size == known.page_size
    if (now.device, now.inode) != (known.device, known.inode) or not same_page_size:
        return None
    if UNKNOWN in (now.wal_frames, known.wal_frames):
        return None
    counts = (known.page_count, now.page_count)
    same_file = known.same_file_bytes(now)
    untouched = same_file and known.settled and known.complete_in_file
    if log is None or now.wal_frames == 0:
        return () if untouched else None
    if log.continues(known):
        checkpointed = now.wal_backfilled > known.wal_backfilled
        return log.pages_after(known.wal_frames, counts) if same_file or checkpointed else None
    if untouched and now.wal_backfilled == 0:
        return log.pages_after(0, counts)
    return None
