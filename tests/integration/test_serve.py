"""A whole server as a process, and what must not happen when it starts, runs twice or stops."""

import asyncio
import base64
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration.stub_sync import StubSync

from edgereplica.app import bootstrap
from edgereplica.app.bootstrap import build
from edgereplica.app.maintenance import maintain_once
from edgereplica.app.passwords import Passwords
from edgereplica.app.serve import listen, running_server, url_of
from edgereplica.app.settings import load_settings
from edgereplica.events.errors import FileBusy, InvalidArgument, NetworkError, StorageError
from edgereplica.events.limits import SHUTDOWN_GRACE_SECONDS

PROGRAM = """
import sys
from pathlib import Path
from edgereplica.app.serve import run_server
from edgereplica.app.settings import load_settings
run_server(load_settings(Path(sys.argv[1])), port=int(sys.argv[2]), log_format="json")
"""


@contextmanager
def server(data_dir: Path, port: int = 0, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(data_dir), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def address(process: subprocess.Popen[str]) -> tuple[str, int]:
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("listening on http://127.0.0.1:"), line + process.stderr.read()
    return "127.0.0.1", int(line.rsplit(":", 1)[1])


def health(host: str, port: int) -> bytes:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    connection.request("GET", "/healthz")
    answer = connection.getresponse().read()
    connection.close()
    return answer


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_ends_cleanly(tmp_path: Path, signum: int) -> None:
    data_dir = tmp_path / "deep" / "data"
    with server(data_dir) as process:
        at = address(process)
        assert health(*at) == b"ok"
        idle = socket.create_connection(at)
        process.send_signal(signum)
        out, err = process.communicate(timeout=30)
        idle.close()
    assert process.returncode == 0, err
    assert err == ""
    assert "Traceback" not in out
    assert not data_dir.joinpath("edgereplica.db-wal").exists(), "the database was closed"


def test_the_data_directory_is_private(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with server(data_dir) as process:
        address(process)
        modes = {path.name: path.stat().st_mode & 0o777 for path in data_dir.iterdir()}
        assert data_dir.stat().st_mode & 0o777 == 0o700
    assert modes.pop("objects") == 0o700
    assert {"edgereplica.db", "edgereplica.db-wal", "session.key", "server.lock"} <= modes.keys()
    assert set(modes.values()) == {0o600}


def test_a_second_server_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"

    async def second() -> None:
        async with build(load_settings(data_dir), make_sync=lambda _: StubSync()):
            raise AssertionError("two servers share a data directory")

    with server(data_dir) as process:
        at = address(process)
        with pytest.raises(FileBusy, match="another server"):
            asyncio.run(second())
        assert health(*at) == b"ok"
        process.kill()
        process.wait()
        with pytest.raises(AssertionError):
            asyncio.run(second())


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    taken = listen("127.0.0.1", 0)
    port = taken[0].getsockname()[1]
    with pytest.raises(NetworkError, match=str(port)):
        listen("127.0.0.1", port)
    with pytest.raises(NetworkError):
        listen("no.such.host.invalid", 0)
    for held in taken:
        held.close()


def test_urls() -> None:
    for host in ("127.0.0.1", "localhost"):
        sockets = listen(host, 0)
        port = sockets[0].getsockname()[1]
        assert {held.getsockname()[1] for held in sockets} == {port}
        assert url_of(host, sockets) == f"http://{host}:{port}"
        assert url_of("::1", sockets) == f"http://[::1]:{port}"
        for held in sockets:
            held.close()


def test_nothing_waits_for_nagle(tmp_path: Path) -> None:
    """asyncio leaves Nagle's algorithm on for sockets whose protocol number is 0."""
    for held in listen("127.0.0.1", 0):
        assert held.proto == socket.IPPROTO_TCP
        held.close()


def test_the_end_is_told_to_the_sync_side_first(tmp_path: Path) -> None:
    sync = StubSync()

    async def main() -> None:
        async with running_server(load_settings(tmp_path), make_sync=lambda _: sync):
            assert sync.ended_with_grace == []
        assert sync.ended_with_grace == [SHUTDOWN_GRACE_SECONDS]

    asyncio.run(main())


def test_malformed_keys_refuse_to_start(tmp_path: Path) -> None:
    async def start() -> None:
        async with build(load_settings(tmp_path), make_sync=lambda _: StubSync()):
            raise AssertionError("started")

    key = tmp_path / "session.key"
    key.touch(0o600)
    key.write_text("nonsense")
    with pytest.raises(InvalidArgument, match=r"session\.key"):
        asyncio.run(start())
    key.unlink()
    with pytest.raises(AssertionError):
        asyncio.run(start())
    assert len(base64.b64decode(key.read_text())) == 32


def test_sessions_outlive_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        settings = load_settings(tmp_path)
        token = ""
        for _ in range(2):
            passwords = Passwords(memory_kib=64, iterations=1)
            parts = {"make_sync": lambda _: StubSync(), "passwords": passwords}
            async with build(settings, **parts) as built:
                token = token or (await built.admin.signup("a@b.c", "long enough")).session_token
                assert (await built.admin.session(token)).email == "a@b.c"

    asyncio.run(main())


def test_migrating_and_rebuilding_from_the_command_line(tmp_path: Path) -> None:
    off = load_settings(tmp_path, auto_migrate=False)

    async def start() -> int:
        async with build(off, make_sync=lambda _: StubSync()) as built:
            await built.admin.signup("a@b.c", "long enough")
            before = await built.core.repo.all("SELECT * FROM memberships")
            await built.core.repo.execute("DELETE FROM memberships")
            # Beside a running server, as an operator would.
            folded = await asyncio.to_thread(bootstrap.rebuild, off)
            assert await built.core.repo.all("SELECT * FROM memberships") == before
            return folded

    with pytest.raises(StorageError, match="no database"):
        bootstrap.rebuild(load_settings(tmp_path / "nothing"))
    with pytest.raises(StorageError, match="there is no database") as refused:
        maintain_once(load_settings(tmp_path / "nothing"))
    assert "--data-dir" in refused.value.details["hint"]
    with pytest.raises(StorageError, match="admin migrate"):
        asyncio.run(start())
    with pytest.raises(StorageError, match="admin migrate"):
        bootstrap.rebuild(off)
    assert bootstrap.migrate(off) != []
    assert bootstrap.migrate(off) == []
    assert asyncio.run(start()) == 3
