"""Numbered SQL migrations, and what applies them.

`NNNN_name.sql` holds statements in the dialect common to SQLite and PostgreSQL, each ended by a
semicolon at the end of a line. The one thing the two do not share is an identity column: it is
written `INTEGER PRIMARY KEY AUTOINCREMENT` here and nowhere else, for another adapter to translate.
A file that was released is never edited: the next change is the next file.
"""

import re
from importlib import resources

from ...events.errors import AlreadyExists, StorageError
from ..ports import Repo, Statement

_NAME = re.compile(r"(\d{4}_[a-z0-9_]+)\.sql")
_COMMENT = re.compile(r"--[^\n]*")
_END = re.compile(r";[ \t]*(?:\n|$)")
_TABLE = (
    "CREATE TABLE IF NOT EXISTS schema_migrations "
    "(name TEXT PRIMARY KEY, applied_at DOUBLE PRECISION NOT NULL)"
)


def known() -> dict[str, str]:
    """The migrations this program has: name → SQL, in order."""
    found = {}
    for entry in resources.files(__name__).iterdir():
        match = _NAME.fullmatch(entry.name)
        if match:
            found[match[1]] = entry.read_text(encoding="utf-8")
    return dict(sorted(found.items()))


def statements_of(sql: str) -> list[Statement]:
    pieces = (piece.strip() for piece in _END.split(_COMMENT.sub("", sql)))
    return [Statement(piece) for piece in pieces if piece]


async def pending(repo: Repo) -> list[str]:
    """Names of the migrations still to apply. `StorageError` if the database is newer than this."""
    await repo.execute(_TABLE)
    applied = {row["name"] for row in await repo.all("SELECT name FROM schema_migrations")}
    have = known()
    unknown = sorted(applied - have.keys())
    if unknown:
        raise StorageError(
            f"the database was migrated by newer code ({', '.join(unknown)}); "
            f"this program knows migrations up to {max(have)}: upgrade it",
            unknown=unknown,
        )
    return [name for name in have if name not in applied]


async def migrate(repo: Repo, now: float = 0.0) -> list[str]:
    """Apply what is pending, each in its own transaction; the names of those applied here.

    Two programs may migrate one database at once: whoever comes second finds the row taken, its
    transaction is undone, and it goes on with what is left.
    """
    applied = []
    while todo := await pending(repo):
        name = todo[0]
        mark = Statement(
            "INSERT INTO schema_migrations (name, applied_at) VALUES (?, ?)", (name, now)
        )
        try:
            await repo.batch([mark, *statements_of(known()[name])])
        except AlreadyExists as error:
            if error.details.get("table") != "schema_migrations":
                raise
            continue
        applied.append(name)
    return applied
