"""Descriptors and neighbours of a SQLite file, handled so that SQLite's locks survive.

POSIX locks belong to a process and an inode: closing *any* descriptor of a file drops every lock
the process holds on it (fcntl(2)), also those that SQLite holds through a descriptor of its own.
So all code of this package that opens a database file or its `-shm` closes it through
`close_descriptor`, which parks the descriptor while a connection to that database is open here.

Names: `FILE-wal`, `FILE-shm`, `FILE-journal` are SQLite's; `FILE-edgereplica` (sidecar),
`FILE-edgereplica-lock` and, while a sync writes them, `FILE-edgereplica-tmp`,
`FILE-edgereplica-kept` and `FILE-edgereplica-new` are ours; so are `FILE-pulled-edgereplica` and
`FILE-pushed-edgereplica`, sidecars to be of a pull or push that has not come to its end.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ..events.errors import LocalFileError, NotADatabase
from .local_errors import local_errors

FILE_TEMPORARY: Final = "-edgereplica-tmp"
"""Behind the name of a database: the whole new file that a pull writes."""
COPY_TEMPORARY: Final = "-edgereplica-kept"
"""Behind the name of a database: the copy of it that a forced pull keeps, until it is whole."""
SIDECAR_TEMPORARY: Final = "-edgereplica-new"

Identity = tuple[int, int]
"""Device and inode."""

_READ_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

_guard = threading.Lock()
_connections: dict[Identity, int] = {}
_parked: dict[Identity, list[int]] = {}
_open: set[int] = set()


def sibling(path: Path, suffix: str) -> Path:
    """The neighbour of `path` called `path` + `suffix`."""
    return path.with_name(path.name + suffix)


def sidecar_path(path: Path) -> Path:
    return sibling(resolved(path), "-edgereplica")


def pending_path(path: Path) -> Path:
    """The name whose sidecar is the one that a running pull is about to give to `path`."""
    return sibling(resolved(path), "-pulled")


def pushed_path(path: Path) -> Path:
    """The name whose sidecar is that of a push of `path` of which nobody has heard the end."""
    return sibling(resolved(path), "-pushed")


def remove_leftovers(path: Path) -> None:
    """Remove what a sync of `path` that was killed had begun to write aside.

    Only while the sync lock is held: then nobody is writing there.
    """
    for leftover in (
        sibling(resolved(path), FILE_TEMPORARY),
        sibling(resolved(path), COPY_TEMPORARY),
        sibling(resolved(path), SIDECAR_TEMPORARY),
        sibling(pending_path(path), SIDECAR_TEMPORARY),
        sibling(pushed_path(path), SIDECAR_TEMPORARY),
    ):
        with local_errors(leftover):
            leftover.unlink(missing_ok=True)


def resolved(path: Path) -> Path:
    """`path` without symbolic links, as SQLite resolves it before it names the journal."""
    return Path(os.path.realpath(path))


def followed(path: Path) -> Path:
    """`path`, or the file it leads to if any part of it is a symbolic link.

    Such a link may be turned to another file while a sync of this one runs.
    """
    real = resolved(path)
    return path if real == path.absolute() else real


def identity_of(descriptor: int) -> Identity:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def open_database(path: Path) -> int:
    """A descriptor for reading the regular file at `path`; close it with `close_descriptor`."""
    with local_errors(path):
        if not path.is_file():
            path.stat()
            kind = "a directory" if path.is_dir() else "not a regular file"
            raise NotADatabase(f"{path} is {kind}, not a SQLite database", path=str(path))
        with _guard:
            descriptor = os.open(path, _READ_FLAGS)
            _open.add(descriptor)
        return descriptor


def is_open_here(path: Path) -> bool:
    """Whether other code of this very process has the file at `path` open.

    That code's locks would be dropped unseen as soon as a descriptor of this package, or of its
    SQLite library, is closed. Then another process, taking itself for the last one, removes the log
    that an application still writes to (sqlite.org/howtocorrupt.html §2.2.1). Other libraries and
    idle connections cannot be told from harmless ones, so that every foreign descriptor counts.
    """
    with local_errors(path):
        try:
            status = path.stat()
        except FileNotFoundError:
            return False
        with _guard:
            ours = (status.st_dev, status.st_ino) in _connections
            return not ours and _is_held_here(status)


def _is_held_here(status: os.stat_result) -> bool:
    for entry in Path("/dev/fd").iterdir():
        if int(entry.name) not in _open:
            with suppress(OSError):  # that of the listing itself is closed by now
                if os.path.samestat(os.fstat(int(entry.name)), status):
                    return True
    return False


def connection_opened(identity: Identity) -> None:
    """From now on descriptors of this database are parked, not closed."""
    with _guard:
        _connections[identity] = _connections.get(identity, 0) + 1


def connection_closed(identity: Identity) -> None:
    """One connection is gone; with the last one, the parked descriptors go too."""
    with _guard:
        _connections[identity] -= 1
        if _connections[identity] == 0:
            del _connections[identity]
            for descriptor in _parked.pop(identity, []):
                _close(descriptor)


def connection_count(identity: Identity) -> int:
    """How many connections this process has to the database."""
    with _guard:
        return _connections.get(identity, 0)


def close_descriptor(descriptor: int, database: Identity | None = None) -> None:
    """Close, or park while `database` (default: the file itself) has a connection here."""
    with _guard:
        identity = database or identity_of(descriptor)
        if identity in _connections:
            _parked.setdefault(identity, []).append(descriptor)
        else:
            _close(descriptor)


def _close(descriptor: int) -> None:
    _open.discard(descriptor)
    os.close(descriptor)


@contextmanager
def database_descriptor(path: Path) -> Iterator[int]:
    descriptor = open_database(path)
    try:
        yield descriptor
    finally:
        close_descriptor(descriptor)


def read_at(descriptor: int, offset: int, into: memoryview) -> int:
    """Fill `into` from `offset`; the number of bytes read, short only at the end of the file."""
    wanted = len(into)
    done = os.preadv(descriptor, (into,), offset)
    while 0 < done < wanted:
        count = os.preadv(descriptor, (into[done:],), offset + done)
        if count == 0:
            break
        done += count
    return done


def write_at(descriptor: int, offset: int, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)


def open_private(path: Path, flags: int) -> int:
    """Open a file of ours: created 0600, never through a symbolic link."""
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def sync_directory(path: Path) -> None:
    """Make the names in directory `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_stale_journals(path: Path) -> None:
    """Refuse to put a file at `path` where a journal of a vanished database would be applied."""
    for suffix in ("-wal", "-journal"):
        journal = sibling(path, suffix)
        with local_errors(journal):
            if journal.exists() and journal.stat().st_size > 0:
                raise LocalFileError(
                    f"{journal} was left by a database that is no longer there, and SQLite would "
                    f"apply it to the new {path.name}; it may hold data: move it away first",
                    path=str(journal),
                )
