"""The embedded server's data directory: what stands where, who may read it, who holds it.

    DATA_DIR/
    ├── edgereplica.db      the repository (SQLite, with -wal and -shm)
    ├── objects/            page storage, unless PAGE_STORE_URL says otherwise
    ├── session.key         the root key, unless SESSION_KEY says otherwise (app.settings)
    └── server.lock         held by the one server that runs on it, with all its workers

A directory made here has mode 0700. One that was there keeps its mode; the database, the key and
the objects are private by their own.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..events.errors import FileBusy, StorageError


@contextmanager
def _directory_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"the data directory {path}: {error.strerror}") from error


def prepare(data_dir: Path) -> None:
    """Make the directory and the private places in it, as far as they are missing."""
    with _directory_errors(data_dir):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        objects_path(data_dir).mkdir(mode=0o700, exist_ok=True)
        # SQLite gives -wal and -shm the mode of the database file.
        os.close(os.open(database_path(data_dir), os.O_RDWR | os.O_CREAT, 0o600))


def database_path(data_dir: Path) -> Path:
    return data_dir / "edgereplica.db"


def objects_path(data_dir: Path) -> Path:
    return data_dir / "objects"


@contextmanager
def held(data_dir: Path) -> Iterator[int]:
    """Hold the directory against a second server; `FileBusy` if there is one.

    The lock is the kernel's: it ends with the last process that has its descriptor, which is what
    is yielded, however those processes end.
    """
    with _directory_errors(data_dir):
        lock = os.open(data_dir / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                raise StorageError(f"{data_dir} cannot be locked: {error.strerror}") from error
            raise FileBusy(
                f"another server runs on the data directory {data_dir}",
                hint="stop it first, or name another directory",
            ) from None
        yield lock
    finally:
        os.close(lock)
