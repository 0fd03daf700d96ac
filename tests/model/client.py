"""A client's machine: a real SQLite file, an application that writes to it, and deaths.

Only `sqlean` opens the file: the product's own library, because two SQLite libraries in one
process do not see each other's locks (facts). The application's connections are short, for the
same reason: closing a descriptor of the file anywhere in a process drops that process's locks.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import sqlean

from edgereplica.adapters.hashing import masked_page_one
from edgereplica.adapters.local_apply import apply_version
from edgereplica.adapters.local_files import connection_closed, connection_opened
from edgereplica.adapters.local_fresh import FreshFile
from edgereplica.app import pull_client
from edgereplica.events.errors import DiskFull

Pages = tuple[bytes, ...]
DeathPoint = Literal["first_page", "last_page", "installed"]


class ClientKilled(BaseException):
    """The client's process is dead. No code of the product may catch it."""


def masked(pages: Pages) -> Pages:
    """The content without what a connection may rewrite though nothing changed (design §7)."""
    return (masked_page_one(pages[0]), *pages[1:]) if pages else pages


class ClientFile:
    """The database of one client, with what lies beside it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.path = folder / "app.db"

    def pages(self) -> Pages:
        """The committed content, read by SQLite, as it would be pushed."""
        return self.pages_at(self.path)

    @staticmethod
    def pages_at(path: Path) -> Pages:
        if not path.exists() or not path.stat().st_size:
            return ()
        connection = sqlean.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
        try:
            rows = connection.execute("SELECT data FROM sqlite_dbpage ORDER BY pgno").fetchall()
        finally:
            connection.close()
        return tuple(bytes(row[0]) for row in rows)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Another connection has one snapshot, from the beginning of the block to its end."""
        connection = sqlean.connect(str(self.path), isolation_level=None, timeout=0)
        status = self.path.stat()
        identity = status.st_dev, status.st_ino
        connection_opened(identity)  # it stands for another process, and keeps its locks
        try:
            connection.execute("BEGIN")
            before = connection.execute("SELECT data FROM sqlite_dbpage").fetchall()
            yield
            connection.execute("PRAGMA shrink_memory")  # else it would read what it kept
            after = connection.execute("SELECT data FROM sqlite_dbpage").fetchall()
            assert after == before, "a reader's snapshot changed"
        finally:
            connection.close()
            connection_closed(identity)

    def check_length(self) -> None:
        """Nothing lies behind the file's last page. SQLite would not say so: it believes the page
        count in the header. What is in the log comes into the file first, on a copy."""
        if not self.path.exists() or not self.path.stat().st_size:
            return
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            for suffix in ("", "-wal", "-journal"):
                path = self.folder / (self.path.name + suffix)
                if path.exists():
                    shutil.copyfile(path, Path(folder) / path.name)
            copy = Path(folder) / self.path.name
            connection = sqlean.connect(str(copy), isolation_level=None)
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                (count,) = connection.execute("SELECT count(*) FROM sqlite_dbpage").fetchone()
                (page_size,) = connection.execute("PRAGMA page_size").fetchone()
            finally:
                connection.close()
            length = copy.stat().st_size
        assert length == count * page_size, f"{count} pages of {page_size} in {length} bytes"

    def write(self, work: Callable[[Any], None], *, killed: bool) -> bool:
        """Let the application work; False if a lock kept it from that.

        `killed` ends it without closing: what was committed to the log stays in the log.
        """
        connection = sqlean.connect(str(self.path), isolation_level=None, timeout=0)
        try:
            connection.execute("PRAGMA synchronous=OFF")
            work(connection)
            image = self.image() if killed else None
        except sqlean.OperationalError as error:
            if "locked" not in str(error):
                raise
            return False
        finally:
            connection.close()
        if image is not None:
            self.restore(image)
        return True

    def start_anew(self, *, keep_file: bool) -> None:
        """Another database in the file's place, or none, of which no sidecar knows."""
        for path in self._files():
            path.unlink()
        if keep_file:
            self.write(make_tables, killed=False)

    def _files(self) -> list[Path]:
        return [path for path in self.folder.glob("app.db*") if not path.name.endswith("-lock")]

    def image(self) -> "Image":
        """What is on the disk now."""
        return {
            path.name: (path.read_bytes(), path.stat().st_mtime_ns)
            for path in self._files()
            if not path.name.endswith("-shm")
        }

    def restore(self, image: "Image") -> None:
        """Put the disk back to `image`, as after a kill: files keep their identity and times."""
        for path in self._files():
            if path.name not in image:
                path.unlink()
        for name, (data, mtime_ns) in image.items():
            path = self.folder / name
            path.write_bytes(data)
            os.utime(path, ns=(mtime_ns, mtime_ns))

    def backups(self) -> list[Path]:
        return sorted(self.folder.glob("*.backup-*"))

    def clean_up(self) -> None:
        shutil.rmtree(self.folder)


Image = dict[str, tuple[bytes, int]]


def make_tables(connection: Any) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, x BLOB)")


@dataclass(slots=True)
class Death:
    """Where in the installation of a version the client dies, and what it leaves on the disk."""

    file: ClientFile
    point: DeathPoint
    image: Image | None = None

    def strike(self) -> None:
        self.image = self.file.image()
        raise ClientKilled


@contextmanager
def dying(death: Death) -> Iterator[None]:
    """Let the next installation of a version end in `death`."""
    real_install = FreshFile.install

    def apply(path: Path, *, pages: Iterable[Any], **rest: Any) -> Any:
        applied = apply_version(path, pages=_deadly(pages, death), **rest)
        if death.point == "installed":
            death.strike()
        return applied

    def install(fresh: FreshFile, *arguments: Any, **named: Any) -> Any:
        if death.point != "installed":
            death.strike()
        state = real_install(fresh, *arguments, **named)
        death.strike()
        return state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pull_client, "apply_version", apply)
        patch.setattr(FreshFile, "install", install)
        yield


def _deadly(pages: Iterable[Any], death: Death) -> Iterator[Any]:
    for piece in pages:
        yield piece
        if death.point == "first_page":
            death.strike()
    if death.point == "last_page":
        death.strike()


@contextmanager
def full_disk() -> Iterator[None]:
    """Let the next installation of a whole new file fail at its last moment."""

    def fail(fresh: FreshFile) -> None:
        raise DiskFull(f"{fresh.path} does not fit on the disk")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FreshFile, "_make_durable", fail)
        yield
