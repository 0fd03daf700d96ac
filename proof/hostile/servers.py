"""A whole client against a server that lies: what it costs, and that nothing is overwritten.

Pulls, pushes and status, through the Python API in one process of its own and now and then through
the command line, against a server that greets as it should and then says whatever it likes
(`lies`). The peak memory of the client may grow by 64 MiB over honest small pulls; files stay byte
for byte what they were; each sync ends with a documented error, or with a result where the server
is believed by design (`sync_complete` of a v1 push, a status, a dry run).
"""

import json
import select
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final, Self

from tests.helpers_server import clean_environment

from edgereplica.adapters.hashing import hash_pages, root_of
from edgereplica.adapters.local_files import pushed_path, sidecar_path
from edgereplica.events.errors import EdgeReplicaError
from edgereplica.events.limits import PAGES_PER_DATABASE_MAX
from proof.evidence import ROOT
from proof.running import Counts, Job

from .lies import ANYWHERE, GREETED, Liar, handshakes
from .stub import Stub, message
from .victims import Violation

GROWN_KIB_MAX: Final = 64 * 1024
ANSWER_SECONDS_MAX: Final = 60
COMMAND_EVERY: Final = 12
"""Of so many syncs one is made through the command line."""
HANDSHAKE_EVERY: Final = 15
"""… and one is not even greeted."""
EDGEREPLICA: Final = str(Path(sys.executable).with_name("edgereplica"))
PROMISES: Final = (10_000, 4 << 20, PAGES_PER_DATABASE_MAX)
"""Pages that are promised: more than any file here has, and never all sent."""
BELIEVED: Final = {
    "pull": {"dry_run"},
    "push": {"dry_run", "pushed"},
    "status": {"pull", "refused", "nothing"},
}
"""How a sync may end on a server's word alone."""


def servers(job: Job) -> Counts:
    names = ("syncs", "pulls", "pushes", "status asked", "by the command line", "refused",
             "believed", "files changed", "undocumented endings")  # fmt: skip
    found = Counts(dict.fromkeys(names, 0))
    with Stub() as stub:
        files = _Files(job.root / "files", stub)
        with _Client(stub.base) as client:
            files.sync_honestly(client)
            measured = {"client": _Peak(client.peak_kib)}
            command = _Command(stub, job.root)
            measured["command line"] = _Peak(command.honest_kib(files))
            for number in job.rounds():
                attempt = _Attempt.thrown(job.dice, number * job.parts + job.part)
                path = files.lay(attempt.place)
                before = files.content(path)
                attempt.tell(stub, job.dice)
                if number % COMMAND_EVERY == COMMAND_EVERY - 1:
                    ended, peak = command.run(attempt, path)
                    measured["command line"].note(peak, attempt)
                    found["by the command line"] += 1
                else:
                    ended = client.run(attempt, path)
                    measured["client"].note(client.peak_kib, attempt)
                if stub.failure is not None:
                    raise stub.failure
                found["syncs"] += 1
                found[{"pull": "pulls", "push": "pushes"}.get(attempt.way, "status asked")] += 1
                found[_judge(attempt, ended)] += 1
                if files.content(path) != before:
                    raise Violation(f"{attempt} changed the file, or left something beside it")
            for name, peak in measured.items():
                found[f"most KiB grown: {name}"] = peak.grown_kib
    return found


@dataclass
class _Peak:
    """How far a peak has risen over that of honest syncs."""

    honest_kib: int
    grown_kib: int = 0

    def note(self, peak_kib: int, attempt: "_Attempt") -> None:
        self.grown_kib = max(self.grown_kib, peak_kib - self.honest_kib)
        if self.grown_kib > GROWN_KIB_MAX:
            raise Violation(f"{attempt} cost {self.grown_kib} KiB of memory")


@dataclass(frozen=True)
class _Attempt:
    """One sync: which way, of which of the files, and what the server says to it."""

    way: str
    place: str
    protocol: int | None
    force: bool
    dry_run: bool
    liar: Liar
    lie: Any
    """None: the server does not even greet."""

    @classmethod
    def thrown(cls, dice: Random, number: int) -> Self:
        """Every lie has its turn, in both versions; the rest is thrown."""
        all_lies = [(way, lie) for way, some in GREETED.items() for lie in (*some, *ANYWHERE)]
        way, lie = all_lies[number % len(all_lies)]
        version = 2 - (number // len(all_lies)) % 2
        if way == "status":
            version = 2
        places = ("nothing", "synced", "foreign") if way == "pull" else ("changed", "foreign")
        place = dice.choice(places)
        # A server that knows what the client never named is refused at once.
        named = way != "status" and (
            place in ("synced", "changed") or (way, place) == ("pull", "foreign")
        )
        # Pages of the files' own size are kept and compared; small ones are cheap to promise.
        sizes = (512, 4096, 65_536) if place == "nothing" else (4096, 4096, 4096, 512, 65_536)
        liar = Liar(dice, version, dice.choice(sizes), dice.choice(PROMISES),
                    known=dice.random() < (0.6 if named else 0.05))  # fmt: skip
        protocol = version if version == 2 or dice.random() < 0.7 else None
        dry_run = version == 2 and way != "status" and dice.random() < 0.2
        return cls(way, place, protocol, dice.random() < 0.8, dry_run, liar,
                   None if number % HANDSHAKE_EVERY == HANDSHAKE_EVERY - 1 else lie)  # fmt: skip

    def tell(self, stub: Stub, dice: Random) -> None:
        stub.greets = self.lie is not None
        seed = dice.getrandbits(64)  # the client may come back, and is told the same
        if self.lie is None:
            stub.pieces = lambda: handshakes(Random(seed))
        else:
            stub.pieces = lambda: self.lie(replace(self.liar, dice=Random(seed)))

    def __str__(self) -> str:
        lie = "handshake" if self.lie is None else self.lie.__name__
        liar = self.liar
        return (
            f"{self.way} of {self.place} (protocol {self.protocol}, force {self.force}, dry run "
            f"{self.dry_run}) told {lie} in v{liar.version}, {liar.pages} pages of {liar.size}, "
            f"base known {liar.known}:"
        )


def _documented() -> frozenset[str]:
    found: set[str] = set()
    kinds = [EdgeReplicaError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        found.add(kind.code)
    return frozenset(found - {EdgeReplicaError.code})


DOCUMENTED: Final = _documented()
"""The codes of README and `events.errors`, without that for a defect of ours."""


def _judge(attempt: _Attempt, ended: dict[str, Any]) -> str:
    if ended.get("code") in DOCUMENTED:
        return "refused"
    if ended.get("outcome") in BELIEVED[attempt.way]:
        return "believed"
    raise Violation(f"{attempt} ended in {ended}")


class _Files:
    """A file for each situation, made by honest pulls of a small database from the same stub."""

    def __init__(self, root: Path, stub: Stub) -> None:
        self._root, self._stub = root, stub
        root.mkdir()
        self.source = root.with_name("source.db")
        with closing(sqlite3.connect(self.source)) as app:
            app.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT)")
            app.executemany(
                "INSERT INTO t (x) VALUES (?)", [("x" * (n % 900),) for n in range(400)]
            )
            app.commit()
        self.version = self.source.read_bytes()
        self._kept: dict[str, dict[str, bytes]] = {"nothing": {}}

    def tell_the_truth(self) -> None:
        digests = hash_pages(self.version, 4096)
        pages, root = len(self.version) // 4096, root_of(digests)
        self._stub.greets = True
        self._stub.pieces = lambda: (
            message(2, "hello_reply", page_size=4096, page_count=pages, head=3, root=root,
                    database="d"),
            message(2, "page_data_batch", runs=[(1, pages)], codec="raw", data=self.version),
            message(2, "sync_complete", pages_transferred=pages, bytes_transferred=1, version=3,
                    root=root),
        )  # fmt: skip

    def sync_honestly(self, client: "_Client") -> None:
        """Fill the places; what an honest client needs is known afterwards."""
        self.tell_the_truth()
        path = self._root / "a.db"
        for way in ("pull", "pull", "status"):
            ended = client.ask(way, path)
            if "outcome" not in ended or path.read_bytes() != self.version:
                raise Violation(f"an honest {way} ended in {ended}")
        self._kept["synced"] = self._held()
        self._kept["foreign"] = {path.name: self.version}
        with closing(sqlite3.connect(path)) as app:
            app.execute("UPDATE t SET x = 'changed' WHERE id % 7 = 0")
            app.commit()
        self._kept["changed"] = self._held()

    def _held(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in self._root.iterdir()}

    def lay(self, place: str) -> Path:
        """The files of `place`, and nothing else; a push may have remembered something."""
        for left in self._root.iterdir():
            if left.name not in self._kept[place]:
                left.unlink()
        for name, data in self._kept[place].items():
            file = self._root / name
            if not file.exists() or file.read_bytes() != data:
                file.write_bytes(data)
        return self._root / "a.db"

    def content(self, path: Path) -> tuple[bytes | None, frozenset[str]]:
        """The database, and what lies beside it but its sidecar, and that of a push without end."""
        sidecars = {sidecar_path(path).name, sidecar_path(pushed_path(path)).name}
        names = frozenset(file.name for file in self._root.iterdir()) - sidecars
        return path.read_bytes() if path.exists() else None, names


class _Client:
    """A process of `proof.hostile.client`."""

    def __init__(self, base: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "proof.hostile.client", base],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.peak_kib = 0

    def ask(self, way: str, path: Path, **job: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {"protocol": 2, "force": False, "dry_run": False} | job
        self._process.stdin.write(json.dumps({"way": way, "path": str(path), **job}) + "\n")
        self._process.stdin.flush()
        if not select.select((self._process.stdout,), (), (), ANSWER_SECONDS_MAX)[0]:
            raise Violation(f"the client is not done after {ANSWER_SECONDS_MAX} s")
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            raise Violation(f"the client died: {self._process.stderr.read()[-2000:]}")
        said: dict[str, Any] = json.loads(line)
        self.peak_kib = said["peak_kib"]
        return said

    def run(self, attempt: _Attempt, path: Path) -> dict[str, Any]:
        try:
            return self.ask(
                attempt.way, path, protocol=attempt.protocol, force=attempt.force,
                dry_run=attempt.dry_run,
            )  # fmt: skip
        except Violation as violation:
            raise Violation(f"{attempt} {violation}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


_LAUNCHER: Final = """
import os, sys
child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(child, 0)
open(sys.argv[1], "w").write(f"{usage.ru_maxrss}")
os._exit(os.waitstatus_to_exitcode(status) % 256)
"""
"""Runs a command and writes down its largest resident set, in KiB. What it was started from would
count too, and is therefore small."""


class _Command:
    """`edgereplica sync`, each time in a process of its own."""

    def __init__(self, stub: Stub, root: Path) -> None:
        self._stub, self._root = stub, root
        self._peak = root / "peak"

    def honest_kib(self, files: _Files) -> int:
        files.tell_the_truth()
        done, peak = self._start("pull", files.lay("nothing"))
        if done.returncode:
            raise Violation(f"an honest pull: {done.stderr}")
        return peak

    def run(self, attempt: _Attempt, path: Path) -> tuple[dict[str, Any], int]:
        words = [*["--force"] * (attempt.force and attempt.way != "status"),
                 *["--no-backup"] * (attempt.force and attempt.way == "pull"),
                 *["--dry-run"] * attempt.dry_run]  # fmt: skip
        done, peak = self._start(attempt.way, path, *words)
        if not 0 <= done.returncode <= 5 or "Traceback" in done.stderr:
            raise Violation(f"{attempt} exit code {done.returncode}: {done.stderr[-2000:]}")
        try:
            if done.returncode:
                error = json.loads(done.stderr.splitlines()[-1])["error"]
                return {"code": error["code"], "message": error["message"][:300]}, peak
            said = json.loads(done.stdout)
            return {"outcome": said["pull" if attempt.way == "status" else "outcome"]}, peak
        except (ValueError, LookupError, TypeError) as error:
            raise Violation(f"{attempt} said {done.stdout!r} {done.stderr[-2000:]!r}") from error

    def _start(
        self, way: str, path: Path, *words: str
    ) -> tuple["subprocess.CompletedProcess[str]", int]:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(self._peak),
             EDGEREPLICA, "sync", way, "--db", str(path), "--json", "--retries", "0", *words],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=ANSWER_SECONDS_MAX,
            env=clean_environment(
                self._root, EDGEREPLICA_SERVER=self._stub.base, EDGEREPLICA_SYNC_TOKEN="t"
            ),
        )  # fmt: skip
        return done, int(self._peak.read_text())
