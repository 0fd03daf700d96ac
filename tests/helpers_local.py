"""Small real databases, and processes that use them, for the tests of the local file.

In the test's own process only `sqlean` may open a database (two SQLite libraries in one process do
not see each other's locks); other processes use the standard library's `sqlite3`.
"""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlean

PAGE_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
SIDE_FILES = ("-wal", "-shm", "-journal")


def open_app(path: Path) -> Any:
    """A connection as an application has it, statements in autocommit."""
    return sqlean.connect(str(path), isolation_level=None, timeout=0)


def build(
    path: Path,
    *,
    rows: int = 200,
    seed: int = 1,
    page_size: int = 4096,
    wal: bool = True,
    auto_vacuum: int = 0,
) -> Path:
    """A database of `rows` rows of 300 random bytes, closed by its application."""
    app = open_app(path)
    app.execute(f"PRAGMA page_size={page_size}")
    app.execute(f"PRAGMA auto_vacuum={auto_vacuum}")
    app.execute(f"PRAGMA journal_mode={'wal' if wal else 'delete'}")
    app.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)")
    fill(app, rows, seed)
    app.close()
    return path


def fill(app: Any, rows: int, seed: int = 1) -> None:
    content = random.Random(seed)
    app.execute("BEGIN")
    app.executemany("INSERT INTO t(x) VALUES (?)", ((content.randbytes(300),) for _ in range(rows)))
    app.execute("COMMIT")


def pages_by_sqlite(path: Path) -> list[bytes]:
    """Every page as SQLite itself reads it: the oracle."""
    app = open_app(path)
    try:
        return [bytes(row[0]) for row in app.execute("SELECT data FROM sqlite_dbpage")]
    finally:
        app.close()


def masked(pages: list[bytes]) -> list[bytes]:
    """`pages` with what a connection or a pull may rewrite in page 1 blanked.

    Those are bytes 18-19, 24-27, 40-43 and 92-99.
    """
    if not pages:
        return []
    one = bytearray(pages[0])
    for low, high in ((18, 20), (24, 28), (40, 44), (92, 100)):
        one[low:high] = bytes(high - low)
    return [bytes(one), *pages[1:]]


@contextmanager
def python(code: str, *arguments: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A Python process running `code`, killed at the end if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        **options,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    """The next line the process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str], text: str = "go") -> None:
    assert process.stdin is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()
