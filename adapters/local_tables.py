"""Which tables and indexes some pages of a local file belong to, for the words of a conflict.

SQLite's own `dbstat` walks the b-trees (dbstat.html); nothing of the schema is run. Large files
are not walked: a conflict should be told at once, and the pages are named anyway.
"""

from pathlib import Path
from typing import Final

from ..events.limits import TABLES_NAMED_BYTES_MAX, TABLES_NAMED_MAX
from ..events.pages import PageSet, Runs
from .local_connection import SqliteError, connect
from .local_files import connection_closed, connection_opened, database_descriptor, identity_of

_WALK: Final = "SELECT name, pageno FROM dbstat WHERE aggregate = FALSE"


def tables_of(path: Path, runs: Runs) -> tuple[str, ...] | None:
    """The names of the tables and indexes that the pages `runs` belong to, in order; None where
    that cannot be told (a large file, a damaged or locked one)."""
    if not runs:
        return ()
    wanted = PageSet()
    wanted.add(runs)
    names: set[str] = set()
    with database_descriptor(path) as descriptor:
        identity = identity_of(descriptor)
        if path.stat().st_size > TABLES_NAMED_BYTES_MAX:
            return None
        connection_opened(identity)
        connection = None
        try:
            connection = connect(path, "ro", busy_timeout_seconds=0)
            for name, page in connection.execute(_WALK):
                if page in wanted:
                    names.add(name)
        except SqliteError:
            return None
        finally:
            if connection is not None:
                connection.close()
            connection_closed(identity)
    return tuple(sorted(names)[:TABLES_NAMED_MAX])
