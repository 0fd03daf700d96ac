"""Bring an existing database file to a version, in one SQLite transaction, beside its users.

Pages are written through `sqlite_dbpage`: page 1 last of them, then the row that cuts the file to
its new length. The replica keeps its own journal mode (bytes 18-19 of page 1). Readers in WAL mode
keep their snapshot and see the version at their next transaction; with a rollback journal the
commit waits for them, up to the busy timeout. Killed at any instant, the file is the old version
or the new one.

The applying connection never checkpoints while anybody else has the database open: that is the
application's business, and old SQLite libraries do not bear two checkpoints at once. Alone, it
checkpoints and leaves no log behind, as the last connection of any application does.

Two cases are not done in place. A changed page size, and a version without pages, replace the file
as a whole (`local_fresh`), which is refused while another process has it open.

A live connection notices a new schema by the schema cookie alone, and would go on with the old one
in pages that are other tables' by now. Along one history cookies grow; but an older version, or one
of a history that parted, may have a smaller cookie or the same. So where another process may have
the file open, its cookie does not go back, and does not stay while the schema changes: it then is
one more than it was, as SQLite's own backup does it, and not the version's. Page 1 is compared
without it (`hashing`). Where nobody has it open, the file is the version, byte for byte.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from ..events.errors import EdgeReplicaError, FileReplaced, InvalidArgument
from ..events.pages import lock_byte_page
from ..events.pages import page_size as checked_page_size
from ..events.value import Value, replace
from .local_connection import Connection, SqliteError, begin_read, connect, sqlite_errors
from .local_files import (
    connection_closed,
    connection_count,
    connection_opened,
    database_descriptor,
    identity_of,
    resolved,
)
from .local_fresh import FreshFile
from .local_header import HEADER_BYTES, Header, parse_header
from .local_holders import locking_pid, may_be_open_elsewhere
from .local_snapshot import LocalSnapshot
from .local_state import UNKNOWN, FileState, make_state, read_header
from .ports import Buffer

__all__ = ["AppliedState", "FreshFile", "apply_version"]

_CACHE_KIB: Final = 16 * 1024
_MODE_AT: Final = slice(18, 20)
_COOKIE_AT: Final = slice(40, 44)
_FORMAT_AT: Final = slice(44, 48)
_ENCODING_AT: Final = slice(56, 60)
_TREE_AT: Final = slice(100, None)
_COOKIES: Final = 1 << 32
_INSERT: Final = "INSERT INTO sqlite_dbpage(pgno, data) VALUES (?, ?)"
_SCHEMA_PAGES: Final = "SELECT pageno FROM dbstat WHERE name = 'sqlite_schema'"
_SETTINGS: Final = (
    # A replica whose schema cannot be parsed can be mended by the very pages that are coming.
    "PRAGMA writable_schema=ON",
    "PRAGMA wal_autocheckpoint=0",
    # FULL leaves the removal of a rollback journal to chance: a power loss could bring the journal
    # back, and with it the old version, when the sidecar already names the new one.
    "PRAGMA synchronous=EXTRA",
    f"PRAGMA cache_size=-{_CACHE_KIB}",
)


class AppliedState(Value, frozen=True):
    """`state` is exactly that of the applied version; where another commit came so soon that this
    cannot be told, its `wal_frames` is `UNKNOWN`, and the next sync reads the file."""

    state: FileState
    pages_written: int
    in_place: bool


def apply_version(
    path: Path,
    *,
    page_size: int,
    page_count: int,
    pages: Iterable[tuple[int, Buffer]],
    busy_timeout_seconds: float,
    check: Callable[[], None] | None = None,
) -> AppliedState:
    """Make the file at `path` the version of `page_count` pages that `pages` lead to.

    `pages` yields (first page, joined pages) in any order: at least all that differ from what the
    file holds; all there are if the page size changes. `check` is called with the write lock held,
    before the first write; whatever it raises ends the attempt.

    Raises FileBusy (naming who holds the file), DiskFull, FileReplaced, NotADatabase,
    LocalFileError. After an error the file is what it was.
    """
    path = resolved(path)
    checked_page_size(page_size)
    with database_descriptor(path) as descriptor:
        header = read_header(path, descriptor)
        if page_count == 0 or (header is not None and header.page_size != page_size):
            return _replace_whole(path, page_size, page_count, pages, busy_timeout_seconds, check)
        identity = identity_of(descriptor)
        connection_opened(identity)
        try:
            with sqlite_errors(path):
                connection = connect(path, "rw", busy_timeout_seconds=busy_timeout_seconds)
                try:
                    job = _Application(path, descriptor, connection, page_size, page_count)
                    return job.run(pages, check)
                finally:
                    connection.close()
        finally:
            connection_closed(identity)


def _replace_whole(
    path: Path,
    page_size: int,
    page_count: int,
    pages: Iterable[tuple[int, Buffer]],
    busy_timeout_seconds: float,
    check: Callable[[], None] | None,
) -> AppliedState:
    fresh = FreshFile(path, page_size, page_count)
    try:
        written = 0
        for first, data in pages:
            fresh.write(first, data)
            written += len(data) // page_size
        missing = page_count - written
        if missing > 0 and not (missing == 1 and lock_byte_page(page_size) <= page_count):
            if check is not None:
                check()  # its page size was another when the pages were chosen
            raise InvalidArgument(f"{missing} pages are missing of a file with a new page size")
        state = fresh.install(True, busy_timeout_seconds=busy_timeout_seconds, check=check)
    finally:
        fresh.abandon()
    return AppliedState(state, written, in_place=False)


class _Application:
    """One transaction on an open connection."""

    def __init__(
        self, path: Path, descriptor: int, connection: Connection, page_size: int, page_count: int
    ) -> None:
        self._path = path
        self._descriptor = descriptor
        self._connection = connection
        self._page_size = page_size
        self._page_count = page_count
        self._page_one: bytes | None = None
        self._schema_pages: frozenset[int] | None = frozenset()
        self._schema_written = False
        self._written = 0

    def run(
        self, pages: Iterable[tuple[int, Buffer]], check: Callable[[], None] | None
    ) -> AppliedState:
        connection = self._connection
        for setting in _SETTINGS:
            connection.execute(setting)
        if os.fstat(self._descriptor).st_size == 0:
            connection.execute(f"PRAGMA page_size={self._page_size}")
        connection.execute("BEGIN IMMEDIATE")
        self._check_identity()
        if check is not None:
            check()
        old = self._header_now()
        if old is not None:
            self._schema_pages = self._find_schema_pages()
        if old is not None and old.vacuums_on_commit:
            self._keep_free_pages()
        connection.executemany(_INSERT, self._rows(pages))
        cookie = self._write_page_one(old)
        connection.execute(_INSERT, (self._page_count + 1, None))
        if cookie is not None:
            connection.execute(f"PRAGMA schema_version={cookie:d}")
        (ours,) = connection.execute("PRAGMA data_version").fetchone()
        connection.execute("COMMIT")
        return AppliedState(self._state_after(ours), self._written, in_place=True)

    def _check_identity(self) -> None:
        named = self._path.stat()
        if (named.st_dev, named.st_ino) != identity_of(self._descriptor):
            raise FileReplaced(f"{self._path} was replaced by another file, and was left alone")

    def _read_page_one(self) -> bytes:
        row = self._connection.execute("SELECT data FROM sqlite_dbpage WHERE pgno=1").fetchone()
        return bytes(row[0])

    def _header_now(self) -> Header | None:
        """The header as the transaction sees it; None for a file that was empty."""
        if os.fstat(self._descriptor).st_size == 0:
            return None
        header = parse_header(self._path, self._read_page_one())
        if header.page_size != self._page_size:
            raise FileReplaced(f"{self._path} got another page size meanwhile, and was left alone")
        return header

    def _find_schema_pages(self) -> frozenset[int] | None:
        """The pages that the schema lies in; None where the file is too damaged to tell.

        A connection that met a damaged schema here could not mend it any more: so another one does.
        Nobody else can write meanwhile.
        """
        connection = None
        try:
            connection = connect(self._path, "ro", busy_timeout_seconds=0)
            return frozenset(page for (page,) in connection.execute(_SCHEMA_PAGES))
        except SqliteError:
            return None
        finally:
            if connection is not None:
                connection.close()

    def _keep_free_pages(self) -> None:
        """Keep the commit from moving pages about, as auto_vacuum=FULL has it.

        The pragma takes the other kind for this connection, and writes that into page 1; so page
        1 is written again after it, old or new.
        """
        self._page_one = self._read_page_one()
        self._connection.execute("PRAGMA auto_vacuum=INCREMENTAL")

    def _rows(self, pages: Iterable[tuple[int, Buffer]]) -> Iterator[tuple[int, Buffer]]:
        size, lock_page = self._page_size, lock_byte_page(self._page_size)
        for first, data in pages:
            view = memoryview(data)
            count, rest = divmod(len(view), size)
            if rest or first < 1 or first + count - 1 > self._page_count:
                raise InvalidArgument(
                    f"{len(view)} bytes at page {first} are not whole pages of a version of "
                    f"{self._page_count} pages of {size} bytes"
                )
            for place in range(count):
                page = first + place
                content = view[place * size : (place + 1) * size]
                if page == 1:
                    self._page_one = bytes(content)
                elif page != lock_page:
                    if self._schema_pages is None or page in self._schema_pages:
                        self._schema_written = True
                    self._written += 1
                    yield page, content

    def _write_page_one(self, old: Header | None) -> int | None:
        """Write page 1, all but a changed schema cookie, which is returned.

        With the new cookie in place, the next statement would parse the new schema out of pages
        that SQLite still believes to be what they were, and find the file malformed.
        """
        held = self._read_page_one() if old is not None else None
        cookie = self._cookie_after(held)
        if self._page_one is not None:
            content = bytearray(self._page_one)
            parse_header(self._path, bytes(content[:HEADER_BYTES]))
            content[_COOKIE_AT] = bytes(4)
            if old is not None and held is not None:
                content[_MODE_AT] = old.journal_mode
                content[_COOKIE_AT] = held[_COOKIE_AT]
            self._connection.execute(_INSERT, (1, content))
            self._written += 1
        return cookie

    def _cookie_after(self, held: bytes | None) -> int | None:
        """The cookie that the file gets, as a pragma takes it; None if it stays.

        `held` is page 1 as it is: without it, the version's cookie.
        """
        new = held if self._page_one is None else self._page_one
        if new is None:
            return None
        before = bytes(4) if held is None else held[_COOKIE_AT]
        ahead = (_number(new[_COOKIE_AT]) - _number(before)) % _COOKIES
        if ahead == 0 and not self._schema_differs(held, new):
            return None
        parted = held is not None and not 0 < ahead < _COOKIES // 2
        if parted and may_be_open_elsewhere(self._path):
            ahead = 1
        if ahead == 0:
            return None
        cookie = (_number(before) + ahead) % _COOKIES
        return cookie - _COOKIES if cookie >= _COOKIES // 2 else cookie

    def _schema_differs(self, held: bytes | None, new: bytes) -> bool:
        """Whether what a connection has parsed may be another with page 1 `new` and the pages
        written. The schema's tree is its own pages all the way down from page 1."""
        if held is None:
            return False
        parts = (_FORMAT_AT, _ENCODING_AT, _TREE_AT)
        return self._schema_written or any(held[part] != new[part] for part in parts)

    # After the commit

    def _state_after(self, ours: int) -> FileState:
        """The state this commit made, if nobody has committed since.

        A snapshot is taken; `data_version` then tells whether a foreign commit came in between.
        """
        unknown = replace(
            make_state(os.fstat(self._descriptor), None, page_count=self._page_count),
            page_size=self._page_size,
            wal_frames=UNKNOWN,
            wal_backfilled=UNKNOWN,
        )
        try:
            with (
                sqlite_errors(self._path),
                LocalSnapshot.open(self._path, busy_timeout_seconds=0) as snapshot,
            ):
                begin_read(self._connection)
                (now,) = self._connection.execute("PRAGMA data_version").fetchone()
                self._connection.execute("ROLLBACK")
                if now != ours or snapshot.state.inode != identity_of(self._descriptor)[1]:
                    return unknown
                return self._checkpoint(snapshot)
        except EdgeReplicaError:
            # Somebody took the file at once, or its disk is full: what was applied stands.
            return unknown

    def _checkpoint(self, snapshot: LocalSnapshot) -> FileState:
        """If nobody else has the database open, move the log into the file.

        The snapshot keeps the log from being restarted meanwhile, so that what it then finds in
        the file is this commit. Closing this connection, the last one, removes the log.
        """
        others = connection_count(identity_of(self._descriptor)) - 2
        if snapshot.state.wal_frames == 0 or others or locking_pid(self._descriptor):
            return snapshot.state
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return snapshot.state_in_file() or snapshot.state


def _number(cookie: bytes) -> int:
    return int.from_bytes(cookie, "big")
