"""Connections to a local database: the one place where sqlean opens a user's file.

`sqlean` is a drop-in for `sqlite3` that carries `sqlite_dbpage`. A connection made here changes
nothing by itself: no pragma that is stored, no schema that is run. Transactions are explicit
(`isolation_level=None`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import sqlean

from .local_errors import SQLITE_BUSY, from_os_error, from_sqlite_error, primary_code
from .local_holders import describe_holders

Connection = Any
Mode = Literal["ro", "rw"]
SqliteError: type[Exception] = sqlean.Error

_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./")


def connect(
    path: Path, mode: Mode, *, busy_timeout_seconds: float, immutable: bool = False
) -> Connection:
    """A connection that has not read anything yet. Raises sqlean's errors.

    `immutable` tells SQLite that nobody writes: for media on which no lock or `-shm` can be made.
    """
    connection = sqlean.connect(
        _uri(path, mode, immutable),
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=busy_timeout_seconds,
    )
    connection.execute("PRAGMA trusted_schema=OFF")
    return connection


def _uri(path: Path, mode: Mode, immutable: bool) -> str:
    quoted = "".join(chr(b) if b in _PLAIN else f"%{b:02X}" for b in os.fsencode(path))
    return f"file:{quoted}?mode={mode}" + ("&immutable=1" if immutable else "")


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite or the system says about `path` into errors of `events.errors`."""
    try:
        yield
    except SqliteError as error:
        holders = describe_holders(path) if primary_code(error) == SQLITE_BUSY else ""
        raise from_sqlite_error(path, error, holders) from error
    except OSError as error:
        raise from_os_error(path, error) from error


def begin_read(connection: Connection) -> None:
    """Open a read transaction and make it real: a bare BEGIN reads nothing yet.

    The pragma reads page 1 without parsing the schema, so that a foreign one is never touched.
    """
    connection.execute("BEGIN")
    connection.execute("PRAGMA schema_version").fetchone()
