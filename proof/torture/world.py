"""A deployment to torture: a server process, a client's file, what must be true after a fault."""

import asyncio
import os
import resource
import shutil
import socket
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import closing
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, Self

from blake3 import blake3
from tests.helpers_local import masked, pages_by_sqlite
from tests.helpers_server import START_SECONDS_MAX, Account

from edgereplica.app.replica import AsyncReplica
from edgereplica.app.serve import run_server
from edgereplica.app.settings import load_settings

from .client import processes

REMEMBERED_MAX = 20
"""Versions whose content is known well enough to look at them again later."""
LOOK_BACK = 0.3
"""How often that is done."""
SIDE_FILES = ("-wal", "-journal")
SCRATCH = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
"""For what is only looked at: in memory, because the disk has enough to do."""
GROW, SHRINK = 0, 1
"""Kinds of an edit."""
UNHURRIED: dict[str, Any] = {
    "sync_opens_per_token_per_minute": 10**6,
    "sync_opens_per_address_per_minute": 10**6,
}
"""Settings of a server whose clients open more sessions in a minute than any user does."""


class Violation(Exception):
    """Something that must hold did not."""


class TooFewFiles(Exception):
    """A process may not have as many files open as a check needs."""


def need_open_files(count: int, pid: int = 0) -> None:
    """Let the process (0: this one) have `count` files and connections open.

    Raises `TooFewFiles` if its hard limit does not allow that.
    """
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard) and hard < count:
        raise TooFewFiles(
            f"{count:,} files and connections have to be open at a time, the hard limit is "
            f"{hard:,}: start this from a shell in which `ulimit -n {count}` succeeds"
        )
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, hard))


class Server:
    """`run_server` in a child process on a port that stays the same through restarts."""

    def __init__(self, data_dir: Path, **settings: Any) -> None:
        self.data_dir, self.settings = data_dir, {**UNHURRIED, **settings}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.base = f"http://127.0.0.1:{self.port}"
        self.process: Any = None

    def start(self) -> None:
        ready, child_end = processes.Pipe(duplex=False)
        self.process = processes.Process(
            target=_serve, args=(self.data_dir, self.port, self.settings, child_end), daemon=True
        )
        self.process.start()
        child_end.close()
        try:
            if not ready.poll(START_SECONDS_MAX) or ready.recv() != "listening":
                raise Violation("the server did not start")
        except EOFError:
            raise Violation("the server died at its start") from None
        except BaseException:
            self.kill()
            raise
        finally:
            ready.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def limit_file_size(self, bytes_max: int | None) -> None:
        """No file of the server may grow beyond this: a full disk, for the server alone."""
        _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        soft = hard if bytes_max is None else bytes_max
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (soft, hard))

    def need_open_files(self, count: int) -> None:
        need_open_files(count, self.process.pid)

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


def _serve(data_dir: Path, port: int, settings: dict[str, Any], ready: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log = os.open(data_dir.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stderr = _Ready(ready)
    run_server(load_settings(data_dir=data_dir, **settings), port=port)


def _end_with_parent() -> None:
    """No server outlives the check that started it, however the check ends."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class World:
    """One database on a server, its origin file, and every content that was ever pushed."""

    def __init__(
        self,
        root: Path,
        server: Server,
        dice: Random,
        rows: int = 900,
        changes: int = 60,
        page_size: int = 4096,
    ) -> None:
        self.account = Account.signup(server.base, f"user-{dice.randrange(1 << 48)}@example.org")
        self._begin(root, server, dice, "main", changes)
        make(self.origin, rows, dice, page_size=page_size)
        self.push()

    def _begin(self, root: Path, server: Server, dice: Random, name: str, changes: int) -> None:
        self.root, self.server, self.dice, self.changes = root, server, dice, changes
        self.database = self.account.create_database(name)
        self.tokens = {way: self.account.token(self.database, way) for way in ("push", "pull")}
        self.origin = root / "origin.db"
        self.content: dict[int, list[bytes]] = {}
        """The head → its pages, masked."""
        self.digests: dict[int, bytes] = {}
        """Some versions before it → the digest of their pages, masked."""

    def beside(self, root: Path, name: str, rows: int) -> "World":
        """Another database of the same account."""
        world = object.__new__(World)
        world.account = self.account
        world._begin(root, self.server, self.dice, name, self.changes)
        make(world.origin, rows, self.dice)
        world.push()
        return world

    def replica(self, path: Path, way: str, server: str | None = None, **more: Any) -> AsyncReplica:
        return AsyncReplica(
            path,
            server=server or self.server.base,
            token=self.tokens[way],
            **{"retries": 0, "compress": "never", **more},
        )

    def push(self) -> Any:
        result = asyncio.run(self.replica(self.origin, "push").push())
        if result.version is None:
            raise Violation("a push over wire v2 did not say which version it made")
        self._note(result.version, snapshot(self.origin))
        return result

    def _note(self, version: int, pages: list[bytes]) -> None:
        self.content = {version: pages}
        self.digests[version] = digest_of(pages)
        for old in sorted(self.digests)[:-REMEMBERED_MAX]:
            del self.digests[old]

    @property
    def known(self) -> int:
        """The head, as far as is known."""
        return max(self.content)

    def edit(self, size: int | None = None) -> None:
        """An ordinary transaction of the application; now and then it grows, shrinks, vacuums."""
        edit(self.origin, self.dice, self.changes, size)

    def check(self, acknowledged: int | None = None, must_be_new: bool = False) -> int:
        """The server holds exactly what was pushed; the head.

        The head is the last known version, or the origin's content as one version more: which it
        must be if that was acknowledged. Now and then one of the versions before it is looked at.
        """
        version, found = self._pulled()
        known = self.known
        if acknowledged is not None and version != acknowledged:
            raise Violation(f"version {acknowledged} was acknowledged, the head is {version}")
        if version not in (known, known + 1) or (must_be_new and version == known):
            raise Violation(f"the head is {version}, after {known}")
        if found != (self.content.get(version) or snapshot(self.origin)):
            raise Violation(f"version {version} is torn")
        self._note(version, found)
        old = self.dice.choice(list(self.digests))
        seldom = self.dice.random() < LOOK_BACK
        if seldom and old != version and digest_of(self._pulled(at=old)[1]) != self.digests[old]:
            raise Violation(f"version {old}, which was acknowledged, is not what it was")
        return version

    def _pulled(self, **arguments: Any) -> tuple[int, list[bytes]]:
        """A version as a reader gets it who has nothing yet."""
        with tempfile.TemporaryDirectory(dir=SCRATCH) as directory:
            path = Path(directory) / "check.db"
            result = asyncio.run(self.replica(path, "pull").pull(**arguments))
            return result.version or 0, snapshot(path)

    def retry(self, protocol: int | None = None, **arguments: Any) -> None:
        """Push again, undisturbed: it must succeed, and the server hold the origin's content."""
        again = self.replica(self.origin, "push", protocol=protocol)
        result = asyncio.run(again.push(**arguments))
        # Over wire v1 nobody tells the number of the version.
        version = self.check(result.version)
        if self.content[version] != snapshot(self.origin):
            raise Violation("the retry did not bring the origin to the server")


def snapshot(path: Path, cut_late: bool = False) -> list[bytes]:
    """The file's pages by SQLite, what a mere opening may rewrite blanked.

    It is a copy that is opened: a file with a hot journal stays as the fault left it, so that
    it is the product that recovers it. How many pages there are SQLite takes from page 1; that the
    file ends with the last of them is checked here, or a truncation that is left out passes.
    A file that may be `cut_late` may have more: with a rollback journal SQLite truncates after the
    commit, and syncs that no more (pager.c, `pager_end_transaction`).
    """
    with tempfile.TemporaryDirectory(dir=SCRATCH) as directory:
        copy = Path(directory) / path.name
        shutil.copyfile(path, copy)
        for suffix in SIDE_FILES:
            side = path.with_name(path.name + suffix)
            if side.exists():
                shutil.copyfile(side, copy.with_name(copy.name + suffix))
        pages = pages_by_sqlite(copy)
        # The last connection is closed: what the log or the journal held is in the file.
        size, whole = copy.stat().st_size, sum(map(len, pages))
        if size != whole and not (cut_late and size > whole):
            raise Violation(f"{path.name} has {size} bytes, its {len(pages)} pages are {whole}")
        return masked(pages)


def journal_mode(path: Path) -> bytes | None:
    """Bytes 18-19 of the file, which say WAL or rollback; None without a file.

    A replica keeps its own, whatever it pulls: `snapshot` does not see them.
    """
    if not path.exists():
        return None
    with path.open("rb") as file:
        return file.read(20)[18:]


def require_tidy(path: Path) -> None:
    """Beside the database, alone in its folder, stands nothing of a sync that did not end."""
    known = {path.name, *(f"{path.name}{suffix}" for suffix in ("-edgereplica", "-wal", "-shm"))}
    left = {found.name for found in path.parent.iterdir()} - known
    if left:
        raise Violation(f"a sync that was cut off left {', '.join(sorted(left))} for good")


def digest_of(pages: Sequence[bytes]) -> bytes:
    return blake3(b"".join(pages)).digest()


def make(path: Path, rows: int, dice: Random, wal: bool = False, page_size: int = 4096) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as app:
        app.execute(f"PRAGMA page_size = {page_size}")
        app.execute(f"PRAGMA journal_mode = {'wal' if wal else 'delete'}")
        app.execute("PRAGMA synchronous = off")
        app.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, stamp INTEGER, x BLOB)")
        app.execute("BEGIN")
        app.executemany(
            "INSERT INTO t (stamp, x) VALUES (0, ?)", ((dice.randbytes(400),) for _ in range(rows))
        )
        app.execute("COMMIT")


def edit(path: Path, dice: Random, changes: int = 60, size: int | None = None) -> None:
    """Change 1 to `changes` rows anywhere; GROW by a fifth, or SHRINK to what it was: as `size`
    says, or seldom."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as app:
        app.execute("PRAGMA synchronous = off")
        (rows,) = app.execute("SELECT count(*) FROM t").fetchone()
        app.execute("BEGIN")
        # One change there always is: the version pushed next is a new one.
        for _ in range(dice.choice((1, max(1, changes // 10), changes))):
            app.execute(
                "UPDATE t SET x = ?, stamp = 0 WHERE id = (SELECT id FROM t WHERE id >= ? LIMIT 1)",
                (dice.randbytes(400), dice.randrange(1, max(2, rows * 4 // 5))),
            )
        kind = dice.randrange(12) if size is None else size
        if kind == GROW:
            app.execute("INSERT INTO t (stamp, x) SELECT 1, x FROM t WHERE id % 5 = 0")
        elif kind == SHRINK:
            app.execute("DELETE FROM t WHERE stamp = 1")
        app.execute("COMMIT")
        if kind == SHRINK:
            app.execute("VACUUM")


def resize(path: Path) -> None:
    """Give the database another page size: whoever has it replaces the file as a whole."""
    with closing(sqlite3.connect(path)) as app:
        (size,) = app.execute("PRAGMA page_size").fetchone()
        app.execute(f"PRAGMA page_size = {1024 if size == 4096 else 4096}")
        app.execute("VACUUM")
