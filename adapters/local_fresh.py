"""A whole new database file, written aside and put in place in one step.

The pages are written at their places in `FILE-edgereplica-tmp`; `install` makes them durable and
gives the file its name: by a hard link that never takes the place of a file that appeared
meanwhile, or, to replace a file on purpose, by a rename under SQLite's exclusive lock on the old
one. Killed at any instant, the old file or the new one stands under the name, whole.

Changing pages of an existing file in place is `local_apply`'s business.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ..events.errors import (
    AlreadyExists,
    DiskFull,
    FileBusy,
    FileReplaced,
    InvalidArgument,
)
from ..events.pages import lock_byte_page
from .local_connection import Connection, SqliteError, connect, sqlite_errors
from .local_errors import local_errors
from .local_files import (
    COPY_TEMPORARY,
    FILE_TEMPORARY,
    close_descriptor,
    connection_closed,
    connection_opened,
    database_descriptor,
    identity_of,
    read_at,
    refuse_stale_journals,
    resolved,
    sibling,
    sync_directory,
    write_at,
)
from .local_header import HEADER_BYTES, Header, parse_header
from .local_holders import describe_holders, opening_pids
from .local_state import FileState, make_state, read_header, settle
from .ports import Buffer

_MODE_AT: Final = slice(18, 20)
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


class FreshFile:
    """A file of `page_count` pages on its way to `path`. `install` or `abandon` ends it.

    Whoever may read it is whoever may read the file that it replaces, or the file `like`, of which
    it is a copy; nobody else may before that. Without either, the umask says.

    Raises DiskFull at once if the space is not there, LocalFileError if the folder cannot be
    written.
    """

    def __init__(
        self, path: Path, page_size: int, page_count: int, *, like: Path | None = None
    ) -> None:
        self.path = resolved(path)
        self.page_size = page_size
        self.page_count = page_count
        self._temporary = sibling(self.path, FILE_TEMPORARY)
        if like is not None:  # named for that file, whose next sync removes what is left of it
            self._temporary = self.path.with_name(like.name + COPY_TEMPORARY)
        self._descriptor = -1
        if not self.path.exists():
            refuse_stale_journals(self.path)
        with local_errors(self._temporary):
            model = None if like is None else like.stat()
            private = model is not None or self.path.exists()
            self._check_space()
            self._temporary.unlink(missing_ok=True)  # of a pull that was killed
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            mode = 0o600 if private else 0o666  # less the umask
            self._descriptor = os.open(self._temporary, flags, mode)
            try:
                os.ftruncate(self._descriptor, page_size * page_count)
                if model is not None:
                    self._take_permissions(model)
            except OSError:
                self.abandon()
                raise

    def _check_space(self) -> None:
        needed = self.page_size * self.page_count
        space = os.statvfs(self.path.parent)
        free = space.f_bavail * space.f_frsize
        if needed > free:
            raise DiskFull(
                f"{self.path} needs {needed:,} bytes, and {free:,} are left on its disk",
                path=str(self.path),
                needed_bytes=needed,
                free_bytes=free,
            )

    def write(self, first_page: int, data: Buffer) -> None:
        """Put the joined pages in `data` at `first_page` and on; the lock-byte page is left out."""
        view = memoryview(data)
        count, rest = divmod(len(view), self.page_size)
        if rest or first_page < 1 or first_page + count - 1 > self.page_count:
            raise InvalidArgument(
                f"{len(view)} bytes at page {first_page} are not whole pages of a database of "
                f"{self.page_count} pages of {self.page_size} bytes"
            )
        start = (first_page - 1) * self.page_size
        hole = (lock_byte_page(self.page_size) - first_page) * self.page_size
        with local_errors(self._temporary):
            if 0 <= hole < len(view):
                write_at(self._descriptor, start, view[:hole])
                after = hole + self.page_size
                write_at(self._descriptor, start + after, view[after:])
            else:
                write_at(self._descriptor, start, view)

    def read(self, first: int, last: int) -> memoryview:
        """Pages first..last as written so far, joined; zeros where nothing was written."""
        buffer = memoryview(bytearray((last - first + 1) * self.page_size))
        with local_errors(self._temporary):
            read_at(self._descriptor, (first - 1) * self.page_size, buffer)
        return buffer

    def install(
        self,
        replace: bool = False,
        *,
        busy_timeout_seconds: float = 0,
        check: Callable[[], None] | None = None,
    ) -> FileState:
        """Make the file durable and give it its name; its state as it was installed.

        Without `replace`, AlreadyExists if a file with content has appeared. With it, `check` is
        called while nobody else can write, the old file is locked exclusively, and FileBusy names
        whoever still has it open: a process that kept the old file open would go on in a file
        without a name. The old file's journal mode and permissions are kept.
        """
        try:
            if replace or self._stands_empty():
                return self._replace(busy_timeout_seconds, check, must_be_empty=not replace)
            refuse_stale_journals(self.path)
            state = self._make_durable()
            with local_errors(self.path):
                self._link()
                sync_directory(self.path.parent)
            return state
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Remove what was written aside. Nothing happens after `install`."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with local_errors(self._temporary):
                self._temporary.unlink(missing_ok=True)
                close_descriptor(descriptor)

    def _take_permissions(self, status: os.stat_result) -> None:
        os.fchmod(self._descriptor, status.st_mode & 0o7777)
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()) and not os.geteuid():
            os.fchown(self._descriptor, status.st_uid, status.st_gid)

    def _stands_empty(self) -> bool:
        with local_errors(self.path):
            return self.path.is_file() and self.path.stat().st_size == 0

    def _make_durable(self) -> FileState:
        """Sync the file, dated so that every write of somebody else will change its date.

        And the folder: a journal that was removed there, when the old file left WAL mode, would be
        played into the new file, if a power loss brought it back beside the new name.
        """
        with local_errors(self._temporary):
            settle(self._descriptor)
            os.fsync(self._descriptor)
            sync_directory(self.path.parent)
            header = read_header(self.path, self._descriptor)
            return make_state(os.fstat(self._descriptor), header, page_count=self.page_count)

    def _link(self) -> None:
        try:
            os.link(self._temporary, self.path)
        except FileExistsError as error:
            raise AlreadyExists(
                f"{self.path} appeared while it was being fetched, and was left alone",
                path=str(self.path),
            ) from error
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._rename_over_placeholder()

    def _rename_over_placeholder(self) -> None:
        """For file systems without hard links: reserve the name, then rename over it."""
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError as error:
            raise AlreadyExists(f"{self.path} appeared meanwhile, and was left alone") from error
        self._temporary.replace(self.path)

    # Replacing a file on purpose

    def _replace(
        self, busy_timeout_seconds: float, check: Callable[[], None] | None, must_be_empty: bool
    ) -> FileState:
        with database_descriptor(self.path) as old:
            identity = identity_of(old)
            connection_opened(identity)
            connection: Connection = None
            try:
                with sqlite_errors(self.path):
                    header = read_header(self.path, old)
                    connection = connect(self.path, "rw", busy_timeout_seconds=busy_timeout_seconds)
                    self._refuse_openers(old)
                    seen = _checked(connection, check)
                    with _out_of_wal(connection, header):
                        self._lock_exclusively(connection, header)
                        self._refuse_openers(old)
                        if must_be_empty and os.fstat(old).st_size:
                            raise AlreadyExists(
                                f"{self.path} was filled meanwhile, and was left alone"
                            )
                        if seen is not None and seen != _data_version(connection):
                            raise FileReplaced(
                                f"{self.path} was changed meanwhile, and was left alone"
                            )
                        return self._take_the_name(old, header)
            finally:
                if connection is not None:
                    connection.close()
                connection_closed(identity)

    def _refuse_openers(self, old: int) -> None:
        if opening_pids(identity_of(old)):
            holders = describe_holders(self.path)
            raise FileBusy(
                f"{self.path} must be replaced as a whole, and is open in {holders}: end that "
                "first, it would not see the new file",
                path=str(self.path),
                holders=holders,
            )

    def _lock_exclusively(self, connection: Connection, header: Header | None) -> None:
        """Keep every reader and writer out until the connection is closed.

        A WAL database is taken out of WAL mode first, which SQLite grants only to the last
        connection; its content stays the same. The new file has the old mode again.
        """
        if header is not None and header.is_wal:
            (mode,) = connection.execute("PRAGMA journal_mode=DELETE").fetchone()
            if mode != "delete":
                raise FileBusy(f"{self.path} must be replaced as a whole, and others have it open")
        connection.execute("BEGIN EXCLUSIVE")

    def _take_the_name(self, old: int, header: Header | None) -> FileState:
        status, named = os.fstat(old), self.path.stat()
        if (status.st_dev, status.st_ino) != (named.st_dev, named.st_ino):
            raise FileReplaced(f"{self.path} was replaced meanwhile, and was left alone")
        if header is not None and self.page_count:
            start = bytearray(self.read(1, 1)[:HEADER_BYTES])
            parse_header(self.path, bytes(start))
            start[_MODE_AT] = header.journal_mode
            write_at(self._descriptor, 0, memoryview(start))
        self._take_permissions(status)
        state = self._make_durable()
        self._temporary.replace(self.path)
        sync_directory(self.path.parent)
        return state


def _checked(connection: Connection, check: Callable[[], None] | None) -> int | None:
    """Call `check` while nobody can write, and everybody can read: it may open the file itself.

    The number tells whether anybody has committed since then.
    """
    if check is None:
        return None
    connection.execute("BEGIN IMMEDIATE")
    try:
        check()
        return _data_version(connection)
    finally:
        connection.execute("ROLLBACK")


def _data_version(connection: Connection) -> int:
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return int(version)


@contextmanager
def _out_of_wal(connection: Connection, header: Header | None) -> Iterator[None]:
    """A file that is not replaced after all gets its journal mode back."""
    try:
        yield
    except BaseException:
        if header is not None and header.is_wal:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            with suppress(SqliteError):  # why the file was not replaced says more
                connection.execute("PRAGMA journal_mode=WAL")
        raise
