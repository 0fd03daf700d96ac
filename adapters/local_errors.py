"""What the operating system and SQLite say, said as errors of `events.errors`.

`local_errors(path)` wraps whatever touches a local file: no raw OSError or sqlite3 error leaves
the local adapters. `describe_not_a_database` looks at a header that is not SQLite's and says what
it probably is. Who holds a file is found by `local_holders`.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ..events.errors import DiskFull, EdgeReplicaError, FileBusy, LocalFileError, NotADatabase

# https://www.sqlite.org/rescode.html
SQLITE_BUSY: Final = 5
SQLITE_READONLY: Final = 8
SQLITE_CORRUPT: Final = 11
SQLITE_CANTOPEN: Final = 14

_BUSY: Final = frozenset({SQLITE_BUSY, 6, 15})  # BUSY, LOCKED, PROTOCOL
_NO_DATABASE: Final = {
    SQLITE_CORRUPT: "is damaged",
    26: "is not a SQLite database, or is encrypted",
}
_FULL: Final = 13
_WRITE_FAILED: Final = frozenset({10, 778, 4874})
"""IOERR (all that `sqlite_dbpage` passes on), IOERR_WRITE and IOERR_SHMSIZE: SQLite says FULL for
ENOSPC alone, and one of these where a quota or a limit of the process stops it. A failing disk says
the same."""
_PRIMARY_MASK: Final = 0xFF

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SAID: Final = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist: a part of its path is not a directory",
    errno.EACCES: "may not be used by this user (permission denied)",
    errno.EPERM: "may not be used by this user (operation not permitted)",
    errno.EROFS: "lies on a read-only file system",
    errno.ELOOP: "is a symbolic link, which is not followed here",
}

_DISTINCT_BYTES_ENCRYPTED: Final = 200
"""Distinct byte values in a sample of 1 KiB or more above which it looks random."""


@contextmanager
def local_errors(path: Path) -> Iterator[None]:
    """Turn an OSError about `path` into a LocalFileError that says what to do about it."""
    try:
        yield
    except OSError as error:
        raise from_os_error(path, error) from error


def from_os_error(path: Path, error: OSError) -> EdgeReplicaError:
    """`error` as ours; the raw text of the system where nothing better can be said."""
    if error.errno in _NO_SPACE:
        return DiskFull(f"no space left to write {path}: {error.strerror}", path=str(path))
    if error.errno == errno.EISDIR:
        return NotADatabase(f"{path} is a directory, not a SQLite database", path=str(path))
    said = _SAID.get(error.errno or 0)
    return LocalFileError(
        f"{path} {said}" if said else f"{path}: {error.strerror or error}", path=str(path)
    )


def primary_code(error: Exception) -> int:
    """The primary result code of an error raised by sqlean; 0 if it carries none."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & _PRIMARY_MASK if isinstance(code, int) else 0


def from_sqlite_error(path: Path, error: Exception, holders: str = "") -> EdgeReplicaError:
    """`error` as ours. `holders` says who has the file open ("pid 12 (app)"), if known."""
    where, code = str(path), primary_code(error)
    if code in _BUSY:
        held = f"it is held by {holders}" if holders else "another process holds a lock on it"
        return FileBusy(f"{where} is busy: {held}", path=where, holders=holders)
    if code in _NO_DATABASE:
        return NotADatabase(f"{where} {_NO_DATABASE[code]}: {error}", path=where)
    if code == _FULL or getattr(error, "sqlite_errorcode", 0) in _WRITE_FAILED:
        reason = "" if code == _FULL else f": a quota is reached, or the disk fails ({error})"
        return DiskFull(f"no space left to write {where}{reason}", path=where)
    if code == SQLITE_READONLY:
        return LocalFileError(f"{where} cannot be written: {error}", path=where)
    if code == SQLITE_CANTOPEN:
        return LocalFileError(f"{where} cannot be opened by SQLite: {error}", path=where)
    return LocalFileError(f"{where}: {error}", path=where)


def describe_not_a_database(path: Path, start: bytes) -> NotADatabase:
    """The refusal for a file that begins with `start` instead of SQLite's magic."""
    where = str(path)
    if len(start) >= 1024 and len(set(start)) > _DISTINCT_BYTES_ENCRYPTED:
        return NotADatabase(
            f"{where} is not a plain SQLite database: its first bytes look random, as in an "
            "encrypted or compressed file",
            path=where,
        )
    return NotADatabase(f"{where} is not a SQLite database", path=where)
