"""One committed state of a live database, read inside one read transaction.

SQLite's locks make the state stand still; the bytes are read directly, three times as fast as
through `sqlite_dbpage`. Why that is safe:

* Rollback journal: the transaction holds a SHARED lock, and nobody writes to the file under it.
* WAL: the state is the database file with the committed frames of the log laid over it; which
  frames, and why both stand still, is in `local_log`.

Where the log's index cannot be read, pages come through `sqlite_dbpage` in the same transaction.
The writer of a WAL database is never blocked. A connection that finds a log is opened read-only,
so that closing it does not checkpoint: the file is left as it was found.

Which pages differ in content is found by `local_changes`; this module only narrows it down.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from ..events.errors import FileReplaced, InvalidArgument, NotADatabase
from ..events.pages import Run, Runs, count_pages, lock_byte_page
from ..events.value import replace
from .local_connection import (
    Connection,
    Mode,
    SqliteError,
    begin_read,
    connect,
    sqlite_errors,
)
from .local_errors import SQLITE_CANTOPEN, SQLITE_CORRUPT, SQLITE_READONLY, primary_code
from .local_files import (
    Identity,
    close_descriptor,
    connection_closed,
    connection_opened,
    identity_of,
    open_database,
    read_at,
    resolved,
    sibling,
)
from .local_header import HEADER_BYTES, PAGE_SIZE_DEFAULT_BYTES, Header, parse_header
from .local_log import PinnedLog, changed_since
from .local_state import UNKNOWN, FileState, make_state, read_header, settle
from .local_wal import read_salts


class LocalSnapshot:
    """A read transaction on the database at `path`. Close it, or use it as a context manager.

    `page_size` in bytes; `page_count` 0 for an empty file; `state` is the identity of what is
    read. One snapshot may pass from thread to thread, but is used by one at a time.
    """

    page_size: int
    page_count: int
    state: FileState

    def __init__(self, path: Path, busy_timeout_seconds: float) -> None:
        self.path = resolved(path)
        self._busy_timeout_seconds = busy_timeout_seconds
        self._connection: Connection = None
        self._registered = False
        self._immutable = False
        self._log: PinnedLog | None = None
        self._through_sqlite = False
        self._lock_page = 0
        self._file = open_database(self.path)
        self._identity: Identity = identity_of(self._file)

    @classmethod
    def open(cls, path: Path, *, busy_timeout_seconds: float) -> "LocalSnapshot":
        """Begin the transaction.

        Raises NotADatabase, FileBusy (a writer in rollback mode that does not end in time),
        FileReplaced, LocalFileError.
        """
        snapshot = cls(path, busy_timeout_seconds)
        try:
            with sqlite_errors(snapshot.path):
                snapshot._begin()
        except BaseException:
            snapshot.close()
            raise
        return snapshot

    def __enter__(self) -> "LocalSnapshot":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Beginning

    def _begin(self) -> None:
        header = read_header(self.path, self._file)
        connection_opened(self._identity)
        self._registered = True
        self._connect(header)
        if os.fstat(self._file).st_size == 0:
            self.page_size, self.page_count = PAGE_SIZE_DEFAULT_BYTES, 0
            self.state = make_state(os.fstat(self._file), None, page_count=0)
            self.check_not_replaced()
            return
        header = read_header(self.path, self._file)
        if header is None:
            raise FileReplaced(f"{self.path} was cut to nothing while it was opened")
        self.page_size = header.page_size
        self._lock_page = lock_byte_page(self.page_size)
        if not self._immutable and (header.is_wal or sibling(self.path, "-wal").exists()):
            self._pin_log()
            # Pinning begins the transaction anew: a shorter file may have been checkpointed since.
            header = read_header(self.path, self._file) or header
        self._identify(header)
        self.check_not_replaced()

    def _connect(self, header: Header | None) -> None:
        """Connect and begin to read, in the mode that leaves the fewest traces.

        Read-only wherever a log or none is needed. A WAL database without a log is opened for
        writing, so that SQLite clears away the empty `-wal` and `-shm` that reading it creates;
        so is one whose journal must be rolled back first.
        """
        wal = header is not None and header.is_wal
        without_log = wal and not read_salts(sibling(self.path, "-wal"))
        writable = os.access(self.path, os.W_OK)
        closed_folder = not os.access(self.path.parent, os.W_OK)
        if without_log and writable and not closed_folder:
            self._try_begin("rw")
            return
        try:
            self._try_begin("ro")
        except SqliteError as error:
            code = primary_code(error)
            if code in (SQLITE_CANTOPEN, SQLITE_READONLY) and without_log and closed_folder:
                self._try_begin("ro", immutable=True)
            elif code == SQLITE_READONLY and writable:
                self._try_begin("rw")
            else:
                if code == SQLITE_CORRUPT and header is not None and not wal:
                    self._count_in_file(header)  # says it better, if it is that
                raise

    def _try_begin(self, mode: Mode, immutable: bool = False) -> None:
        self._connection = connect(
            self.path,
            mode,
            busy_timeout_seconds=self._busy_timeout_seconds,
            immutable=immutable,
        )
        try:
            begin_read(self._connection)
        except SqliteError:
            self._connection.close()
            self._connection = None
            raise
        self._immutable = immutable

    def _pin_log(self) -> None:
        try:
            self._log = PinnedLog(self.path, self._identity)
        except OSError:  # the index lies in SQLite's own memory, or belongs to somebody else
            self._through_sqlite = True
            return
        self._through_sqlite = not self._log.pin(self._connection)

    def _identify(self, file_header: Header) -> None:
        """Set `page_count` and `state`."""
        log = None if self._through_sqlite or self._log is None else self._log.header
        status = os.fstat(self._file)
        if self._through_sqlite:
            (self.page_count,) = self._connection.execute("PRAGMA page_count").fetchone()
        elif log is not None and log.frames:
            self.page_count = log.page_count
            start = bytes(self.read(1, 1)[:HEADER_BYTES])
            page_one = parse_header(self.path, start)
            self.page_count = page_one.page_count(self.path, log.page_count, torn=False)
        else:
            self.page_count = self._count_in_file(file_header)
        self.state = make_state(status, file_header, page_count=self.page_count)
        if self._through_sqlite:
            self.state = replace(self.state, wal_frames=UNKNOWN, wal_backfilled=UNKNOWN)
        elif log is not None and log.frames:
            self.state = replace(
                self.state,
                wal_salts=log.salts,
                wal_checksum=log.checksum,
                wal_frames=log.frames,
                wal_backfilled=log.backfilled,
            )

    def _count_in_file(self, header: Header) -> int:
        pages, torn = divmod(os.fstat(self._file).st_size, header.page_size)
        return header.page_count(self.path, pages, bool(torn))

    def state_in_file(self) -> FileState | None:
        """The same state without the log, if a checkpoint has put all of it into the file by now
        and nobody has committed since; else None."""
        if self._log is None or self._through_sqlite:
            return None
        with sqlite_errors(self.path):
            settle(self._file)
            now = self._log.observe()
            status, header = os.fstat(self._file), read_header(self.path, self._file)
        if now is None or now.backfilled < now.frames:
            return None
        return make_state(status, header, page_count=self.page_count)

    # Reading

    def read(self, first: int, last: int) -> memoryview:
        """Pages first..last, joined. The lock-byte page reads as zeros."""
        buffer = memoryview(bytearray((last - first + 1) * self.page_size))
        self.read_into(first, buffer)
        return buffer

    def read_runs(self, runs: Iterable[Run]) -> bytes:
        """The pages of `runs`, joined in their order."""
        wanted = tuple(runs)
        buffer = bytearray(count_pages(wanted) * self.page_size)
        self.read_runs_into(wanted, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, first: int, buffer: memoryview) -> None:
        """Fill `buffer`, whole pages long, with the pages from `first` on."""
        count, rest = divmod(len(buffer), self.page_size)
        if rest or not count:
            raise InvalidArgument(f"a buffer of {len(buffer)} bytes does not hold whole pages")
        self.read_runs_into(((first, first + count - 1),), buffer)

    def read_runs_into(self, runs: Runs, buffer: memoryview) -> None:
        """Fill `buffer` with the pages of `runs`, joined in their order; it has just that length.

        Raises InvalidArgument for pages the snapshot does not have.
        """
        size = self.page_size
        start = 0
        with sqlite_errors(self.path):
            for first, last in runs:
                if not 1 <= first <= last <= self.page_count:
                    raise InvalidArgument(f"pages {first}..{last} are not in 1..{self.page_count}")
                end = start + (last - first + 1) * size
                self._fill(first, last, buffer[start:end])
                start = end
        if start != len(buffer):
            raise InvalidArgument(f"{start} bytes of pages for a buffer of {len(buffer)}")

    def _fill(self, first: int, last: int, buffer: memoryview) -> None:
        if self._through_sqlite:
            self._read_through_sqlite(first, buffer)
        else:
            self._read_file_and_log(first, last, buffer)
        if first <= self._lock_page <= last:
            start = (self._lock_page - first) * self.page_size
            buffer[start : start + self.page_size] = bytes(self.page_size)

    def _read_file_and_log(self, first: int, last: int, buffer: memoryview) -> None:
        size = self.page_size
        in_log = [] if self._log is None else self._log.frames_of(first, last)
        if len(in_log) <= last - first:
            done = read_at(self._file, (first - 1) * size, buffer)
            if done < len(buffer):
                if self._log is None:
                    raise FileReplaced(f"{self.path} was cut short while it was read")
                buffer[done:] = bytes(len(buffer) - done)  # these pages are in the log, or unused
        for page, frame in in_log:
            assert self._log is not None
            start = (page - first) * size
            self._log.read_frame(frame, buffer[start : start + size])

    def _read_through_sqlite(self, first: int, buffer: memoryview) -> None:
        size = self.page_size
        for number in range(len(buffer) // size):
            row = self._connection.execute(
                "SELECT data FROM sqlite_dbpage WHERE pgno=?", (first + number,)
            ).fetchone()
            if row is None or len(row[0]) != size:
                raise NotADatabase(f"{self.path} is damaged: no page {first + number}")
            buffer[number * size : (number + 1) * size] = row[0]

    def changed_since(self, known: FileState) -> Runs | None:
        """Runs of the pages that may differ from the state `known`, or None: any may.

        () means that nothing changed. At most the log's index is read for it.
        """
        log = None if self._through_sqlite else self._log
        with sqlite_errors(self.path):
            return changed_since(log, known, self.state)

    # The end

    def check_not_replaced(self) -> None:
        """Raise FileReplaced if `path` now names another file than the one that is read."""
        try:
            status = self.path.stat()
        except FileNotFoundError as error:
            raise FileReplaced(f"{self.path} was removed while it was read") from error
        except OSError as error:
            raise FileReplaced(f"{self.path} went away while it was read: {error}") from error
        if (status.st_dev, status.st_ino) != self._identity:
            raise FileReplaced(f"{self.path} was replaced by another file while it was read")
        if self._immutable and (status.st_size, status.st_mtime_ns) != (
            self.state.size_bytes,
            self.state.mtime_ns,
        ):
            raise FileReplaced(f"{self.path} was written by somebody else while it was read")

    def close(self) -> None:
        """End the transaction. The descriptors go last: closing them earlier drops the locks."""
        with sqlite_errors(self.path):
            try:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
            finally:
                self._close_descriptors()

    def _close_descriptors(self) -> None:
        if self._registered:
            self._registered = False
            connection_closed(self._identity)
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._file >= 0:
            close_descriptor(self._file, self._identity)
            self._file = -1
