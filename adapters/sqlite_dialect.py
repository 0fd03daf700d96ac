"""What both SQLite repositories share: how rows and failures look through the `Repo` port."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from ..events.errors import AlreadyExists, StorageError

_UNIQUE = {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY}
_FAILED_COLUMN = re.compile(r"constraint failed: (\w+)\.")


@contextmanager
def repo_errors() -> Iterator[None]:
    """Turn SQLite's exceptions into those the `Repo` port promises."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        found = _FAILED_COLUMN.search(str(error))
        table = found[1] if found else ""
        if error.sqlite_errorcode in _UNIQUE:
            raise AlreadyExists(f"{table} already holds this key", table=table) from error
        raise StorageError(f"the database refused a row: {error}", table=table) from error
    except sqlite3.Error as error:
        raise StorageError(f"the database failed: {error}") from error
