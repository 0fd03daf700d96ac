"""The whole of EdgeReplica at work, in a temporary directory: what `edgereplica demo` shows.

A server, an application database in WAL mode that stays open, and the real commands as processes
of their own, so that what is shown is what a user gets, start-up included. (They have to be: the
application uses Python's SQLite and a sync another one, and two libraries in one process do not see
each other's locks.) The pulled files are compared with the application's byte by byte.
"""

import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, Self

from ..events.errors import EdgeReplicaError, NetworkError, error_from_wire
from ..events.limits import SERVER_START_SECONDS_MAX, SERVER_STOP_SECONDS_MAX
from . import sample_database
from .settings import Settings

Say = Callable[[str], None]

_PROGRAM = (sys.executable, "-m", "edgereplica.cli.main")
_SEED = 2026
_EDITS = (0.01, 0.001)
"""The share of the pages that the application changes before the second and the third push."""

_COMMIT_BYTES = (*range(24, 28), *range(92, 100))
"""Bytes of page 1 that SQLite itself writes at each commit (fileformat2 §1.3: the file change
counter, version-valid-for and library version). Nobody's data; an update in place has its own."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command: pages and bytes as it reported them, `seconds` of wall time with start-up."""

    name: str
    pages: int
    pages_moved: int
    bytes_on_wire: int
    seconds: float


@dataclass(frozen=True, slots=True)
class DemoReport:
    """`differences` is empty when every pulled file equals the pushed one."""

    database_bytes: int
    page_size: int
    steps: tuple[Step, ...]
    differences: tuple[str, ...]
    kept_in: str | None

    @property
    def equal(self) -> bool:
        return not self.differences

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"equal": self.equal}

    def lines(self) -> list[str]:
        """The report as a person reads it."""
        mib = 1024 * 1024
        head = (
            f"{'':<28}{'pages':>10}{'moved':>10}{'on the wire':>15}{'of the file':>13}{'time':>10}"
        )
        rows = [
            f"{s.name:<28}{s.pages:>10,}{s.pages_moved:>10,}{s.bytes_on_wire / mib:>11.2f} MiB"
            f"{s.bytes_on_wire / (s.pages * self.page_size):>13.1%}{s.seconds:>8.2f} s"
            for s in self.steps
        ]
        size = f"database of {self.database_bytes / mib:.1f} MiB, pages of {self.page_size} bytes"
        verdict = ["every pulled file equals the pushed database, byte by byte"]
        if self.differences:
            verdict = [f"DIFFERENT: {difference}" for difference in self.differences]
        kept = [f"the files are kept in {self.kept_in}"] if self.kept_in else []
        return ["", size, head, *rows, *verdict, *kept]


def run_demo(*, size_mib: int, keep: bool = False, say: Say | None = None) -> DemoReport:
    """Run it all with a database of at least `size_mib` MiB; `say` hears each step as a line.

    Raises the error of the first command that fails. Everything is removed afterwards unless
    `keep`.
    """
    directory = Path(tempfile.mkdtemp(prefix="edgereplica-demo-"))
    try:
        with _Server(directory) as server:
            stage = _Stage(directory, server.url, say or (lambda _: None))
            return stage.play(size_mib * 1024 * 1024, keep=keep)
    finally:
        if not keep:
            shutil.rmtree(directory)


class _Stage:
    """The user's side of the demo: the commands, the application, the comparisons."""

    def __init__(self, directory: Path, url: str, say: Say) -> None:
        self._app = directory / "app.db"
        self._directory = directory
        self._say = say
        self._environment = _environment(
            EDGEREPLICA_CONFIG=str(directory / "config.toml"),
            EDGEREPLICA_SERVER=url,
            EDGEREPLICA_PASSWORD=secrets.token_urlsafe(16),
        )
        self._tokens: dict[str, str] = {}
        self._steps: list[Step] = []
        self._differences: list[str] = []

    def play(self, size_bytes: int, *, keep: bool) -> DemoReport:
        self._say(f"making an application database of {size_bytes / 1024 / 1024:.0f} MiB …")
        sample_database.create(self._app, size_bytes, seed=_SEED)
        with self._application():
            self._log_in()
            self._go_round()
        with closing(sqlite3.connect(self._app)) as connection:
            page_size = int(connection.execute("PRAGMA page_size").fetchone()[0])
        return DemoReport(
            self._app.stat().st_size,
            page_size,
            tuple(self._steps),
            tuple(self._differences),
            str(self._directory) if keep else None,
        )

    def _go_round(self) -> None:
        """Push, change, push, pull, and once more; ends at the first difference."""
        self._sync("push", self._app, "first push")
        self._edit(_EDITS[0])
        self._sync("push", self._app, "push after 1 % changed")
        fresh = self._directory / "fresh.db"
        self._sync("pull", fresh, "pull into a fresh file")
        if not self._equals(fresh, "the fresh pull", updated_in_place=False):
            return
        self._edit(_EDITS[1])
        self._sync("push", self._app, "push after 0.1 % changed")
        self._sync("pull", fresh, "pull into the older copy")
        self._equals(fresh, "the updated copy", updated_in_place=True)

    @contextmanager
    def _application(self) -> Iterator[None]:
        """Hold the database open as a running application does, so that its WAL stays."""
        with closing(sqlite3.connect(self._app)) as connection:
            connection.execute("SELECT count(*) FROM customers").fetchone()
            yield

    def _log_in(self) -> None:
        self._run("signup", "demo@example.org")
        database = self._run("db", "create", "main")["id"]
        for direction in ("push", "pull"):
            minted = self._run("db", "token", database, "--direction", direction)
            self._tokens[direction] = minted["token"]

    def _edit(self, share: float) -> None:
        edits = sample_database.scatter_edits(self._app, share, _SEED + len(self._steps))
        self._say(f"the application makes {edits:,} changes with SQL …")

    def _sync(self, direction: str, file: Path, name: str) -> None:
        started = time.monotonic()
        token = self._tokens[direction]
        result = self._run("sync", direction, "--db", str(file), EDGEREPLICA_SYNC_TOKEN=token)
        moved = result["pages_sent"] if direction == "push" else result["pages_received"]
        wire = result["bytes_sent"] + result["bytes_received"]
        seconds = time.monotonic() - started
        self._steps.append(Step(name, result["page_count"], moved, wire, seconds))

    def _equals(self, pulled: Path, name: str, *, updated_in_place: bool) -> bool:
        """Empty the WALs into their files, then compare the files' bytes."""
        for file in (self._app, pulled) if updated_in_place else (self._app,):
            with closing(sqlite3.connect(file)) as connection:
                busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if busy:
                self._differences.append(f"{file.name} could not be checkpointed")
        # A fresh pull is compared as it lies on the disk: no SQLite has touched it.
        masked = _COMMIT_BYTES if updated_in_place else ()
        if not _same_bytes(self._app, pulled, masked):
            self._differences.append(f"{name} is not the pushed database")
        return not self._differences

    def _run(self, *words: str, **more: str) -> Any:
        self._say(f"$ edgereplica {' '.join(words)}")
        done = subprocess.run(
            [*_PROGRAM, *words, "--json"],
            check=False,
            capture_output=True,
            text=True,
            env={**self._environment, **more},
        )
        if done.returncode != 0:
            raise _failure(words, done.stderr)
        return json.loads(done.stdout)


class _Server:
    """`edgereplica serve` on a free port, as a process; its log goes to a file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> Self:
        data = self._directory / "server"
        self._process = subprocess.Popen(
            [*_PROGRAM, "serve", "--port", "0", "--data-dir", str(data)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
        )
        urls: Queue[str | None] = Queue()
        self._reader = Thread(target=self._read_log, args=(urls,), daemon=True)
        self._reader.start()
        try:
            url = urls.get(timeout=SERVER_START_SECONDS_MAX)
        except Empty:
            url = None
        if url is None:
            self.__exit__()
            log = (self._directory / "server.log").read_text(encoding="utf-8")
            raise NetworkError(f"the demo's server did not start: {log.strip() or 'no word of it'}")
        self.url = url
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(SERVER_STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def _read_log(self, urls: "Queue[str | None]") -> None:
        """Copy the server's words to its log, and the address it says it listens on to `urls`."""
        stream = self._process.stderr
        assert stream is not None
        with stream, (self._directory / "server.log").open("w", encoding="utf-8") as log:
            for line in stream:
                log.write(line)
                log.flush()
                _, found, url = line.partition("listening on ")
                if found:
                    urls.put(url.strip())
        urls.put(None)


def _environment(**more: str) -> dict[str, str]:
    """This process's environment without any setting of a real client or server."""
    ours = {name.upper() for name in Settings.model_fields}
    kept = {
        key: value
        for key, value in os.environ.items()
        if key.upper() not in ours and not key.startswith("EDGEREPLICA_")
    }
    return kept | more


def _failure(words: tuple[str, ...], said: str) -> EdgeReplicaError:
    command = " ".join(words[:2])
    try:
        error: Mapping[str, Any] = json.loads(said.splitlines()[-1])["error"]
        return error_from_wire(error["code"], f"`edgereplica {command}`: {error['message']}")
    except (ValueError, LookupError, TypeError):
        return EdgeReplicaError(f"`edgereplica {command}` failed: {said.strip()}")


def _same_bytes(one: Path, other: Path, masked: tuple[int, ...]) -> bool:
    """Whether two files hold the same bytes, those at `masked` in their first 100 aside."""
    with one.open("rb") as a, other.open("rb") as b:
        heads = [bytearray(file.read(100)) for file in (a, b)]
        for head in heads:
            for at in masked:
                head[at : at + 1] = b"\0"
        if heads[0] != heads[1]:
            return False
        while True:
            pieces = a.read(1 << 20), b.read(1 << 20)
            if pieces[0] != pieces[1]:
                return False
            if not pieces[0]:
                return True
