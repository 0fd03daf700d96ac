"""A deterministic application database: what the demo shows and the benchmarks measure.

A small shop with text, numbers, JSON, blobs and indexes, about 2:1 under zstd level 1, of any size
from 1 MiB up. The same seed gives the same rows with every Python and every SQLite (the layout of
pages may differ between SQLite versions). `scatter_edits` changes it as an application would, with
SQL. Nothing else imports this module, so it costs nobody's start-up. Comparing, measuring and
cleaning up are left to the callers.
"""

import json
import sqlite3
from array import array
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from blake3 import blake3

_SCHEMA: Final = """
CREATE TABLE customers (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL, city TEXT NOT NULL,
  balance_cents INTEGER NOT NULL, rating REAL NOT NULL, created_at INTEGER NOT NULL,
  profile TEXT NOT NULL CHECK (json_valid(profile)));
CREATE TABLE orders (
  id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers (id),
  status TEXT NOT NULL, total_cents INTEGER NOT NULL, placed_at INTEGER NOT NULL,
  items TEXT NOT NULL CHECK (json_valid(items)), note TEXT NOT NULL);
CREATE TABLE documents (
  id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers (id),
  title TEXT NOT NULL, body TEXT NOT NULL, edited_at INTEGER NOT NULL);
CREATE TABLE attachments (
  id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL REFERENCES orders (id),
  kind TEXT NOT NULL, data BLOB NOT NULL);
"""
_INDEXES: Final = """
CREATE UNIQUE INDEX customers_email ON customers (email);
CREATE INDEX orders_customer ON orders (customer_id);
CREATE INDEX orders_status ON orders (status, placed_at);
CREATE INDEX documents_title ON documents (title);
CREATE INDEX attachments_order ON attachments (order_id);
"""
_INSERTS: Final = {
    "customers": "INSERT INTO customers VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    "orders": "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?)",
    "documents": "INSERT INTO documents VALUES (?, ?, ?, ?, ?)",
    "attachments": "INSERT INTO attachments VALUES (?, ?, ?, ?)",
}
_DAY_ROWS: Final = {"customers": 12, "orders": 70, "documents": 15, "attachments": 3}
"""Rows of one simulated day: about 64 KiB, the grain in which a database grows."""

_STATUSES: Final = ("new", "paid", "sent", "done", "void")
_CITIES: Final = ("Lisbon", "Oslo", "Nairobi", "Osaka", "Quito", "Leeds", "Ghent", "Perth")
_KINDS: Final = ("photo", "scan", "label")
_EPOCH: Final = 1_700_000_000
_SENTENCES: Final = 16_384
_STATEMENTS_PER_TRANSACTION: Final = 64
_CACHE_KIB: Final = 64 * 1024

Row = tuple[int | float | str | bytes, ...]


class _Dice:
    """Endless numbers and bytes that depend on the seed alone: BLAKE3's extendable output."""

    def __init__(self, seed: int, purpose: str) -> None:
        self._source = blake3(f"edgereplica sample {purpose} {seed}".encode())
        self._offset = 0
        self._numbers = self._endless()

    def bytes(self, count: int) -> bytes:
        taken = self._source.digest(length=count, seek=self._offset)
        self._offset += count
        return taken

    def _endless(self) -> Iterator[int]:
        while True:
            block = array("I", self.bytes(65_536))
            yield from block

    def below(self, bound: int) -> int:
        return next(self._numbers) % bound


class _Shop:
    """Makes the rows of the shop, day after day."""

    def __init__(self, dice: _Dice) -> None:
        self._dice = dice
        words = [self._word() for _ in range(4096)]
        self._names = [word.capitalize() for word in words[:1024]]
        self._sentences = [
            " ".join(words[dice.below(4096)] for _ in range(4 + dice.below(10))) + ". "
            for _ in range(_SENTENCES)
        ]
        self._next_id = dict.fromkeys(_INSERTS, 1)

    def _word(self) -> str:
        below = self._dice.below
        return "".join(
            "bcdfghklmnprstvz"[below(16)] + "aeiou"[below(5)] for _ in range(1 + below(4))
        )

    def _text(self, sentences: int) -> str:
        below = self._dice.below
        return "".join([self._sentences[below(_SENTENCES)] for _ in range(sentences)])

    def row(self, table: str) -> Row:
        """The next new row of `table`."""
        number = self._next_id[table]
        self._next_id[table] = number + 1
        return (number, *self.values(table, number))

    def values(self, table: str, number: int) -> Row:
        """Everything in a row but its id; references point to rows that exist by then."""
        if table == "customers":
            return self._customer(number)
        if table == "orders":
            return self._order(number)
        below = self._dice.below
        if table == "documents":
            title = f"{self._names[below(1024)]} {self._names[below(1024)]}"
            customer = 1 + below(self._next_id["customers"] - 1)
            return (customer, title, self._text(8 + below(32)), _EPOCH + number * 977)
        order = 1 + below(self._next_id["orders"] - 1)
        return (order, _KINDS[below(3)], self._dice.bytes(512 + below(5120)))

    def _customer(self, number: int) -> Row:
        below, dice = self._dice.below, self._dice
        first, last = self._names[below(1024)], self._names[below(1024)]
        profile = {
            "session": dice.bytes(24).hex(),
            "language": ("en", "pt", "no", "sw", "ja", "es", "nl")[below(7)],
            "visits": below(5000),
            "about": self._text(2),
        }
        return (
            f"{first} {last}",
            f"{first}.{last}.{number}@example.org".lower(),
            _CITIES[below(8)],
            below(10_000_000),
            below(5000) / 1000,
            _EPOCH + number * 601,
            json.dumps(profile),
        )

    def _order(self, number: int) -> Row:
        below, dice = self._dice.below, self._dice
        items = [
            {"sku": dice.bytes(5).hex(), "name": self._names[below(1024)], "quantity": below(9)}
            for _ in range(1 + below(4))
        ]
        customer = 1 + below(self._next_id["customers"] - 1)
        return (
            customer,
            _STATUSES[below(5)],
            below(500_000),
            _EPOCH + number * 97,
            json.dumps(items),
            self._text(1 + below(4)),
        )

    def add_day(self, connection: sqlite3.Connection) -> None:
        for table, count in _DAY_ROWS.items():
            connection.executemany(_INSERTS[table], [self.row(table) for _ in range(count)])

    def resume(self, connection: sqlite3.Connection) -> None:
        """Number new rows after those the database already has."""
        for table in _INSERTS:
            self._next_id[table] = _last_id(connection, table) + 1


def create(
    path: Path, size_bytes: int, *, seed: int = 1, page_size_bytes: int = 4096, wal: bool = True
) -> None:
    """Make a new database of at least `size_bytes` (and at most some 128 KiB more) at `path`.

    Every connection is closed on return: the file is whole and no WAL stands beside it. Raises
    FileExistsError if `path` exists.
    """
    if path.exists():
        raise FileExistsError(path)
    shop = _Shop(_Dice(seed, "rows"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {page_size_bytes:d}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        # A half-made sample is thrown away, so nothing here needs to survive a crash.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.executescript(_SCHEMA)
        connection.execute("BEGIN")
        # Indexes are built once most rows stand (faster, as after a restore), then kept up.
        while _size_bytes(connection) < size_bytes * 17 // 20:
            shop.add_day(connection)
        connection.execute("COMMIT")
        connection.executescript(_INDEXES)
        connection.execute("BEGIN")
        while _size_bytes(connection) < size_bytes:
            shop.add_day(connection)
        connection.execute("COMMIT")
        if wal:
            connection.execute("PRAGMA journal_mode = WAL")


def scatter_edits(path: Path, fraction: float, seed: int) -> int:
    """Change about `fraction` of the pages with UPDATE, INSERT and DELETE; the edits made.

    Opens and closes its own connection; whether a WAL remains is SQLite's rule (the last one out
    empties it). The connection does not checkpoint by itself, so with another connection open all
    edits are in the WAL.
    """
    with closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        page_count = int(connection.execute("PRAGMA page_count").fetchone()[0])
        budget_pages = max(1, round(page_count * fraction))
        edits = list(_edits(connection, budget_pages, _Dice(seed, "edits")))
        for start in range(0, len(edits), _STATEMENTS_PER_TRANSACTION):
            connection.execute("BEGIN IMMEDIATE")
            for sql, parameters in edits[start : start + _STATEMENTS_PER_TRANSACTION]:
                connection.execute(sql, parameters)
            connection.execute("COMMIT")
    return len(edits)


def _edits(
    connection: sqlite3.Connection, budget_pages: int, dice: _Dice
) -> Iterator[tuple[str, Row]]:
    """Statements that touch about `budget_pages` pages.

    An UPDATE of a fixed-size column touches one page; a new order about two more in the indexes;
    a deleted order its own page and two in the indexes; a new picture its whole overflow chain.
    """
    shop = _Shop(dice)
    shop.resume(connection)
    last = {table: _last_id(connection, table) for table in _INSERTS}
    spent = 0
    while spent < budget_pages:
        draw = dice.below(100)
        if draw < 2 and budget_pages - spent >= 3:
            yield _INSERTS["orders"], shop.row("orders")
            spent += 2
        elif draw < 4 and budget_pages - spent >= 3:
            yield "DELETE FROM orders WHERE id = ?", (1 + dice.below(last["orders"]),)
            spent += 3
        elif draw < 6 and budget_pages - spent >= 3:
            number = 1 + dice.below(last["attachments"])
            picture = dice.bytes(512 + dice.below(5120))
            yield "UPDATE attachments SET data = ? WHERE id = ?", (picture, number)
            spent += 2
        else:
            yield _update(dice, last)
            spent += 1


def _update(dice: _Dice, last: dict[str, int]) -> tuple[str, Row]:
    """One UPDATE that leaves the row's size alone, on a random row of a random table.

    The weights follow the tables' share of the pages, so that edits are as scattered as they can
    be.
    """
    draw = dice.below(100)
    if draw < 35:
        number = 1 + dice.below(last["documents"])
        sql = "UPDATE documents SET edited_at = edited_at + ? WHERE id = ?"
        return sql, (1 + dice.below(86_400), number)
    if draw < 50:
        number = 1 + dice.below(last["attachments"])
        sql = "UPDATE attachments SET kind = ? || substr(kind, 2) WHERE id = ?"
        return sql, ("abcdefghij"[dice.below(10)], number)
    if draw < 90:
        number = 1 + dice.below(last["orders"])
        sql = "UPDATE orders SET total_cents = 1000 + (total_cents + ?) % 30000 WHERE id = ?"
        return sql, (1 + dice.below(9999), number)
    number = 1 + dice.below(last["customers"])
    sql = "UPDATE customers SET rating = ? WHERE id = ?"
    return sql, (dice.below(5000) / 1000 + 0.0005, number)


def _size_bytes(connection: sqlite3.Connection) -> int:
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    return int(pages) * int(connection.execute("PRAGMA page_size").fetchone()[0])


def _last_id(connection: sqlite3.Connection, table: str) -> int:
    """The largest id of one of our own tables (`table` is a key of `_INSERTS`)."""
    row = connection.execute(_LAST_ID[table]).fetchone()
    return int(row[0] or 0)


_LAST_ID: Final = {
    "customers": "SELECT max(id) FROM customers",
    "orders": "SELECT max(id) FROM orders",
    "documents": "SELECT max(id) FROM documents",
    "attachments": "SELECT max(id) FROM attachments",
}
