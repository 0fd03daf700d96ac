"""Who else has a local database open, so that a refusal can name them, and a pull knows of them.

Two sources: the kernel's lock table as `fcntl(F_GETLK)` tells it (exact, any user's process), and
`/proc/*/fd` (idle connections in rollback mode hold no lock; readable for one's own processes, for
root everybody's). What cannot be seen is left out: the names serve a message, decisions are left
to SQLite's locks wherever those suffice.
"""

import fcntl
import os
import struct
import sys
from pathlib import Path
from typing import Final

from ..events.errors import LocalFileError
from .local_files import (
    Identity,
    close_descriptor,
    database_descriptor,
    identity_of,
    sibling,
)

_PENDING_BYTE: Final = 0x4000_0000  # os_unix.c: PENDING, RESERVED, then 510 SHARED bytes
_LOCK_BYTES: Final = 512
_WAL_WRITE_LOCK_BYTE: Final = 120  # of the -shm file; fileformat2 §4, walformat §2.3.1
_WAL_LOCK_BYTES: Final = 9  # with the last of them, each connection says that it is there
_PROC: Final = Path("/proc")
_HOLDERS_NAMED_MAX: Final = 5


def locking_pid(descriptor: int, start: int = _PENDING_BYTE, length: int = _LOCK_BYTES) -> int:
    """A process other than this one with a POSIX lock in the range; 0 if there is none.

    -1 for one that this process cannot name (another PID namespace). Takes no lock.
    """
    linux = sys.platform == "linux"
    layout = struct.Struct("hhqqi0q" if linux else "qqihh")
    query = (
        (fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        if linux
        else (start, length, 0, fcntl.F_WRLCK, os.SEEK_SET)
    )
    answer = layout.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, layout.pack(*query)))
    kind, pid = (answer[0], answer[4]) if linux else (answer[3], answer[2])
    if kind == fcntl.F_UNLCK:
        return 0
    return int(pid) or -1


def opening_pids(identity: Identity) -> list[int]:
    """The other processes seen to have the file open."""
    found = []
    for process in _PROC.glob("[0-9]*"):
        if int(process.name) != os.getpid() and _has_open(process, identity):
            found.append(int(process.name))
    return sorted(found)


def _has_open(process: Path, identity: Identity) -> bool:
    try:
        for entry in (process / "fd").iterdir():
            status = entry.stat()
            if (status.st_dev, status.st_ino) == identity:
                return True
    except OSError:  # the process ended, or is not ours to look into
        return False
    return False


def describe_holders(path: Path) -> str:
    """Who has the database at `path` open, writers first: "pid 12 (app), pid 40 (cron)", or ""."""
    try:
        with database_descriptor(path) as descriptor:
            identity = identity_of(descriptor)
            lockers = [_index_locking_pid(path, identity, 1), locking_pid(descriptor)]
    except (OSError, LocalFileError):
        return ""
    pids = dict.fromkeys([*lockers, *opening_pids(identity)])
    named = [_name(pid) for pid in pids if pid > 0]
    rest = len(named) - _HOLDERS_NAMED_MAX
    return ", ".join(named[:_HOLDERS_NAMED_MAX]) + (f" and {rest} more" if rest > 0 else "")


def may_be_open_elsewhere(path: Path) -> bool:
    """Whether another process may have the database at `path` open; True where nobody can say.

    Not seen are idle connections to a file with a rollback journal from other containers and
    machines, and those of other users.
    """
    if not (_PROC / "self" / "fd").is_dir():
        return True
    with database_descriptor(path) as descriptor:
        identity = identity_of(descriptor)
        return bool(
            locking_pid(descriptor)
            or _index_locking_pid(path, identity, _WAL_LOCK_BYTES)
            or opening_pids(identity)
        )


def _index_locking_pid(path: Path, identity: Identity, locks: int) -> int:
    """As `locking_pid`, for the first `locks` locks of the log's index."""
    try:
        index = os.open(sibling(path, "-shm"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # not in WAL mode
        return 0
    try:
        return locking_pid(index, _WAL_WRITE_LOCK_BYTE, locks)
    finally:
        close_descriptor(index, identity)


def _name(pid: int) -> str:
    try:
        return f"pid {pid} ({(_PROC / str(pid) / 'comm').read_text().strip()})"
    except OSError:
        return f"pid {pid}"
