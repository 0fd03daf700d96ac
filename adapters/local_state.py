"""Which state of a local file was read: enough to know it again without reading it.

A `FileState` names one committed state. `unchanged` compares it with what stands on disk now, by
`stat`, the header, and the headers of the log and of its index, and errs only towards "changed". A
database in WAL mode lies in two places: the file, and the frames of the log that no checkpoint has
copied yet.

Which *pages* changed since a state is answered by `local_snapshot`.
"""

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ..events.value import Value
from .local_errors import local_errors
from .local_files import close_descriptor, database_descriptor, read_at, resolved, sibling
from .local_header import PAGE_SIZE_DEFAULT_BYTES, SNIFF_BYTES, Header, parse_header
from .local_wal import read_frame_mark, read_index_header, read_salts

UNKNOWN: Final = -1

_CLOCK_REALTIME_COARSE: Final = 5  # clock_gettime(2): the clock that Linux stamps files with
_WHOLE_SECOND_NS: Final = 1_000_000_000
_TICK_NS_MAX: Final = 20_000_000


class FileState(Value, frozen=True):
    """One committed state of a database file and its log.

    `wal_salts` and `wal_checksum` are None and `wal_frames` 0 where no frame belongs to the state;
    the checksum is the last frame's and covers all before it. `wal_frames` is `UNKNOWN` where
    nobody counted.

    `settled` is false where a write after this state could have got the same modification time.
    That matters where only the time would tell: with a rollback journal every commit also moves
    the change counter, and while the log has the same salts, nothing but a checkpoint of that log
    writes to the file.
    """

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    settled: bool
    change_counter: int
    page_size: int
    page_count: int
    wal_salts: bytes | None
    wal_checksum: bytes | None
    wal_frames: int
    wal_backfilled: int

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "FileState":
        """Raises KeyError or TypeError for what `to_dict` did not write."""
        state = cls(**{name: data[name] for name in cls.__struct_fields__})
        for name in cls.__struct_fields__:
            kinds = bytes | None if name in ("wal_salts", "wal_checksum") else int
            if not isinstance(getattr(state, name), kinds):
                raise TypeError(f"{name} of a file's state has the wrong type")
        return state

    @property
    def complete_in_file(self) -> bool:
        """Whether the database file alone holds this state, without the log."""
        return self.wal_frames == self.wal_backfilled and self.wal_frames != UNKNOWN

    def same_file_bytes(self, other: "FileState") -> bool:
        """Whether the database file itself (its log aside) looks untouched between the two."""
        return (self.device, self.inode, self.size_bytes, self.mtime_ns, self.change_counter) == (
            other.device,
            other.inode,
            other.size_bytes,
            other.mtime_ns,
            other.change_counter,
        )


NO_STATE: Final = FileState(
    device=0,
    inode=0,
    size_bytes=0,
    mtime_ns=0,
    settled=False,
    change_counter=0,
    page_size=PAGE_SIZE_DEFAULT_BYTES,
    page_count=0,
    wal_salts=None,
    wal_checksum=None,
    wal_frames=UNKNOWN,
    wal_backfilled=UNKNOWN,
)
"""No file's: what is compared with it has changed, or cannot be told to be the same."""


def newest_settled_mtime_ns() -> int:
    """The newest modification time that no write from now on can get."""
    if sys.platform == "linux":
        return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) - 1
    return time.time_ns() - _TICK_NS_MAX


def is_settled(mtime_ns: int) -> bool:
    """Whether every write from now on will get a modification time other than `mtime_ns`."""
    newest = newest_settled_mtime_ns()
    if mtime_ns % _WHOLE_SECOND_NS == 0:  # a file system that keeps whole seconds, FAT even two
        newest -= 2 * _WHOLE_SECOND_NS
    return mtime_ns <= newest


def settle(descriptor: int) -> None:
    """Date the open file so that every later write will change its date, if it is not so dated.

    The date moves back by a tick of the clock at most. Only for whoever may say when the content
    was written; where the system does not allow it, the file stays unsettled.
    """
    if not is_settled(os.fstat(descriptor).st_mtime_ns):
        newest = newest_settled_mtime_ns()
        with suppress(PermissionError):
            os.utime(descriptor, ns=(newest, newest))


def make_state(
    status: os.stat_result,
    header: Header | None,
    *,
    page_count: int,
    wal_salts: bytes | None = None,
    wal_checksum: bytes | None = None,
    wal_frames: int = 0,
    wal_backfilled: int = 0,
) -> FileState:
    """`status` and `header` (None: an empty file) of the file, and where the log stands."""
    return FileState(
        device=status.st_dev,
        inode=status.st_ino,
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        settled=header is None or not header.is_wal or is_settled(status.st_mtime_ns),
        change_counter=header.change_counter if header else 0,
        page_size=header.page_size if header else PAGE_SIZE_DEFAULT_BYTES,
        page_count=page_count,
        wal_salts=wal_salts,
        wal_checksum=wal_checksum,
        wal_frames=wal_frames,
        wal_backfilled=wal_backfilled,
    )


def read_header(path: Path, descriptor: int) -> Header | None:
    """The header of the open database file; None if the file is empty."""
    start = bytearray(SNIFF_BYTES)
    with local_errors(path):
        count = read_at(descriptor, 0, memoryview(start))
    return parse_header(path, bytes(start[:count])) if count else None


def peek_state(path: Path) -> FileState:
    """What `stat`, the header and the log's header say. No connection is opened, no lock taken.

    `page_count` is the header's and may lag behind the log; `wal_frames` is `UNKNOWN` if there is
    a log.
    """
    path = resolved(path)
    with database_descriptor(path) as descriptor, local_errors(path):
        status = os.fstat(descriptor)
        header = read_header(path, descriptor)
    salts = read_salts(sibling(path, "-wal"))
    frames = UNKNOWN if salts else 0
    return make_state(
        status,
        header,
        page_count=header.counted_pages if header else 0,
        wal_salts=salts,
        wal_frames=frames,
        wal_backfilled=frames,
    )


def unchanged(path: Path, known: FileState) -> bool:
    """Whether the file still is in the state `known`. False also means "cannot tell cheaply"."""
    path = resolved(path)
    now = peek_state(path)
    if not known.same_file_bytes(now) or known.wal_frames == UNKNOWN:
        return False
    if known.wal_salts != now.wal_salts:
        return False
    if known.wal_salts is None:
        return known.settled
    log = sibling(path, "-wal")
    last = read_frame_mark(log, known.wal_frames, known.page_size)
    after = read_frame_mark(log, known.wal_frames + 1, known.page_size)
    if last.checksum != known.wal_checksum or after.salts == known.wal_salts:
        return False
    return _index_agrees(path, known)


def _index_agrees(path: Path, known: FileState) -> bool:
    """Whether SQLite, too, goes by all the frames of `known`.

    A power failure can take frames out of the midst of a log that is not synced at every commit.
    The last one still stands then, behind frames that SQLite no longer counts: the log goes on in
    their places.
    """
    try:
        index = os.open(sibling(path, "-shm"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        with local_errors(path):
            header = read_index_header(index)
    finally:
        close_descriptor(index, (known.device, known.inode))
    said = (header.salts, header.frames, header.checksum) if header is not None else None
    return said == (known.wal_salts, known.wal_frames, known.wal_checksum)
