"""A deployment to torture: a server process, a client's file, what must be true after a fault."""

import asyncio
import multiprocessing
import os
import resource
import socket
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, Self

from tests.helpers_local import masked, pages_by_sqlite
from tests.helpers_server import START_SECONDS_MAX, Account

from edgereplica.app.replica import AsyncReplica
from edgereplica.app.serve import run_server
from edgereplica.app.settings import load_settings
from edgereplica.events.errors import EdgeReplicaError

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    ["proof.torture.world", "edgereplica.app.push_session", "edgereplica.app.pull_session"]
)


class Violation(Exception):
    """Something that must hold did not."""


class Server:
    """`run_server` in a child process on a port that stays the same through restarts."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.base = f"http://127.0.0.1:{self.port}"
        self.process: Any = None
        self.restarts = -1

    def start(self) -> None:
        ready, child_end = _processes.Pipe(duplex=False)
        self.process = _processes.Process(
            target=_serve, args=(self.data_dir, self.port, child_end), daemon=True
        )
        self.process.start()
        child_end.close()
        try:
            if not ready.poll(START_SECONDS_MAX) or ready.recv() != "listening":
                raise Violation("the server did not start")
        except EOFError:
            raise Violation("the server died at its start") from None
        finally:
            ready.close()
        self.restarts += 1

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def limit_file_size(self, bytes_max: int) -> None:
        """No file of the server may grow beyond this: a full disk, for the server alone."""
        _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (bytes_max, hard))

    def __enter__(self) -> Self:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class _Ready:
    """Standard error of a server: tells the parent when it listens."""

    def __init__(self, ready: Connection) -> None:
        self._ready = ready

    def write(self, text: str) -> int:
        if text.startswith("listening on"):
            self._ready.send("listening")
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""


def _serve(data_dir: Path, port: int, ready: Connection) -> None:
    log = os.open(data_dir.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stderr = _Ready(ready)  # type: ignore[assignment]
    run_server(load_settings(data_dir=data_dir), port=port)


@dataclass
class Sync:
    """A push or pull in a child process; `end` is what it told before it ended, if anything."""

    process: Any
    told: Connection

    def end(self) -> tuple[str, Any] | None:
        """("done", result) or ("failed", error code), or None: it died first."""
        self.process.join()
        try:
            found = self.told.recv() if self.told.poll() else None
        except EOFError:
            found = None
        self.told.close()
        return found


def start_sync(
    way: str,
    path: Path,
    server: str,
    token: str,
    file_bytes_max: int | None = None,
    **arguments: Any,
) -> Sync:
    told, child_end = _processes.Pipe(duplex=False)
    process = _processes.Process(
        target=_sync, args=(way, path, server, token, file_bytes_max, arguments, child_end)
    )
    process.start()
    child_end.close()
    return Sync(process, told)


def _sync(
    way: str,
    path: Path,
    server: str,
    token: str,
    file_bytes_max: int | None,
    arguments: dict[str, Any],
    told: Connection,
) -> None:
    if file_bytes_max is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))
    replica = AsyncReplica(path, server=server, token=token, retries=0)
    try:
        told.send(("done", asyncio.run(getattr(replica, way)(**arguments))))
    except EdgeReplicaError as error:
        told.send(("failed", error.code))


class World:
    """One database on a server, its origin file, and every content that was ever pushed."""

    def __init__(self, root: Path, server: Server, dice: Random, rows: int = 900) -> None:
        self.root, self.server, self.dice = root, server, dice
        self.account = Account.signup(server.base, f"user-{dice.randrange(1 << 48)}@example.org")
        self.database = self.account.create_database("main")
        self.tokens = {way: self.account.token(self.database, way) for way in ("push", "pull")}
        self.origin = root / "origin.db"
        self._pulls = 0
        make(self.origin, rows, dice)
        self.content: dict[int, list[bytes]] = {}
        """Version → its pages, masked."""
        self.push()

    def replica(self, path: Path, way: str, server: str | None = None, **more: Any) -> AsyncReplica:
        return AsyncReplica(
            path,
            server=server or self.server.base,
            token=self.tokens[way],
            **{"retries": 0, "compress": "never", **more},
        )

    def push(self, **arguments: Any) -> Any:
        result = asyncio.run(self.replica(self.origin, "push").push(**arguments))
        self.content[result.version] = snapshot(self.origin)
        return result

    def head(self) -> int:
        return asyncio.run(self.replica(self.origin, "pull").status()).head or 0

    def edit(self) -> None:
        """An ordinary transaction of the application; now and then it grows, shrinks, vacuums."""
        edit(self.origin, self.dice)

    def check(self, acknowledged: int | None = None) -> int:
        """The server holds exactly what was pushed; the head.

        It is the last known version, or the origin's content as one version more.
        """
        self._pulls += 1
        path = self.root / f"check-{self._pulls}.db"
        result = asyncio.run(self.replica(path, "pull").pull())
        found, known = snapshot(path), max(self.content)
        for leftover in self.root.glob(f"{path.name}*"):
            leftover.unlink()
        version = result.version
        if acknowledged is not None and version != acknowledged:
            raise Violation(f"version {acknowledged} was acknowledged, the head is {version}")
        if version not in (known, known + 1):
            raise Violation(f"the head is {version}, after {known}")
        expected = self.content.get(version) or snapshot(self.origin)
        if found != expected:
            raise Violation(f"version {version} is torn")
        self.content = {version: found}
        return int(version)

    def retry(self) -> None:
        """Push again, undisturbed: it must succeed, and the server hold the origin's content."""
        result = self.push()
        if self.check() != result.version or self.content[result.version] != snapshot(self.origin):
            raise Violation("the retry did not bring the origin to the server")


def snapshot(path: Path) -> list[bytes]:
    """The file's pages by SQLite, what a mere opening may rewrite blanked."""
    return masked(pages_by_sqlite(path))


def make(path: Path, rows: int, dice: Random, wal: bool = False) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as app:
        app.execute(f"PRAGMA journal_mode = {'wal' if wal else 'delete'}")
        app.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, stamp INTEGER, x BLOB)")
        app.execute("BEGIN")
        app.executemany(
            "INSERT INTO t (stamp, x) VALUES (0, ?)", ((dice.randbytes(400),) for _ in range(rows))
        )
        app.execute("COMMIT")


def edit(path: Path, dice: Random) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as app:
        app.execute("PRAGMA synchronous = off")
        app.execute("BEGIN")
        for _ in range(dice.choice((1, 5, 60))):
            row = (dice.randbytes(400), dice.randrange(1, 900))
            app.execute("UPDATE t SET x = ? WHERE id = ?", row)
        kind = dice.randrange(12)
        if kind == 0:
            app.execute("INSERT INTO t (stamp, x) SELECT 1, x FROM t WHERE id % 5 = 0")
        elif kind == 1:
            app.execute("DELETE FROM t WHERE id > 900")
        app.execute("COMMIT")
        if kind == 1:
            app.execute("VACUUM")


def median_seconds(samples: list[float]) -> float:
    return sorted(samples)[len(samples) // 2]


def timed(work: Any) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started
