"""A user's machine, as the tests of `edgereplica sync` have it: a home, tokens, small databases."""

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

from tests.helpers_server import START_SECONDS_MAX, Account, ServerProcess, clean_environment

EDGEREPLICA = str(Path(sys.executable).with_name("edgereplica"))


class User:
    """One user's machine: a home, a database on the server, tokens for it."""

    def __init__(self, home: Path, base: str, account: Account | None = None) -> None:
        self.home, self.base = home, base
        name = f"{home.name.replace('_', '-')}@example.org"
        self.account = account or Account.signup(base, name)
        self.database = self.account.create_database("main")
        self.tokens = self.tokens_for(self.database)

    def tokens_for(self, database: str) -> dict[str, str]:
        tokens = {way: self.account.token(database, way) for way in ("push", "pull")}
        return tokens | {"status": tokens["pull"]}

    def command(self, way: str, file: Path, *words: str) -> list[str]:
        return [EDGEREPLICA, "sync", way, "--db", str(file), *words]

    def environment(self, way: str, **more: str) -> dict[str, str]:
        known = {"EDGEREPLICA_SERVER": self.base, "EDGEREPLICA_SYNC_TOKEN": self.tokens[way]}
        return clean_environment(self.home, **{**known, **more})

    def run(
        self, way: str, file: Path, *words: str, options: dict[str, Any] | None = None, **more: str
    ) -> "subprocess.CompletedProcess[str]":
        """`options` are those of `subprocess.run`, `more` environment variables."""
        return subprocess.run(
            self.command(way, file, *words),
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
            env=self.environment(way, **more),
            **(options or {}),
        )

    def start(self, way: str, file: Path, *words: str, **more: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(way, file, *words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(way, **more),
        )

    def ok(self, way: str, file: Path, *words: str, **more: str) -> dict[str, Any]:
        done = self.run(way, file, *words, "--json", **more)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def refused(self, way: str, file: Path, *words: str, **more: Any) -> tuple[int, dict[str, Any]]:
        """(exit code, the error as `--json` says it) of a command that fails."""
        done = self.run(way, file, *words, "--json", **more)
        return done.returncode, error_in(done.stderr)


def error_in(stderr: str) -> dict[str, Any]:
    """The error of a `--json` command; retries may have been said before it."""
    assert stderr, "no error was said"
    said: dict[str, Any] = json.loads(stderr.splitlines()[-1])
    found: dict[str, Any] = said["error"]
    return found


def make_notes(file: Path, rows: int = 2000) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = wal")
        db.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, stamp INTEGER, text TEXT)")
        db.execute("BEGIN")
        db.executemany(
            "INSERT INTO notes (stamp, text) VALUES (?, ?)",
            [(0, f"note {number} " * 20) for number in range(rows)],
        )
        db.execute("COMMIT")


def execute(file: Path, sql: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None, timeout=30)) as db:
        db.executescript(sql)


def dump(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as db:
        return list(db.iterdump())


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Until `condition` holds; AssertionError naming `what` if it never does."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        Event().wait(0.01)


def sessions_ended(server: ServerProcess) -> int:
    """How many sync sessions the server has seen the end of, by its log."""
    return server.log_path.read_text(errors="replace").count("sync ended")
