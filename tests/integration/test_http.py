"""What holds for every request: health, request ids, refusals, and what a broken part may say."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from tests.integration.stub_sync import StubSync
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from edgereplica.adapters.sqlite_repo import SqliteRepo
from edgereplica.app.serve import running_server
from edgereplica.app.settings import load_settings
from edgereplica.events.errors import StorageError
from edgereplica.events.limits import FRAME_BYTES_MAX

Check = Callable[[httpx.AsyncClient, str], Awaitable[None]]


@pytest.fixture
def with_server(tmp_path: Path) -> Callable[[Check], None]:
    def run(check: Check) -> None:
        async def main() -> None:
            settings = load_settings(tmp_path / "data", dev=True)
            async with (
                running_server(settings, make_sync=lambda _: StubSync()) as url,
                httpx.AsyncClient(base_url=url) as http,
            ):
                await check(http, url)

        asyncio.run(asyncio.wait_for(main(), 60))

    return run


def test_health_and_readiness(with_server: Callable[[Check], None]) -> None:
    async def check(http: httpx.AsyncClient, _: str) -> None:
        health = await http.get("/healthz")
        assert (health.status_code, health.content) == (200, b"ok")
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"ready": True, "failed": {}})
        for answer in (health, ready):
            assert answer.headers["cache-control"] == "no-store"
            assert "server" not in answer.headers

    with_server(check)


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        ((b"x-any", b"\xff"), (b"x-any", b"good"), 400),
        ((b"content-type", b"application/grpc"), (b"content-type", b"application/json"), 415),
    ],
)
def test_the_first_of_two_headers_of_one_name_is_looked_at_too(
    with_server: Callable[[Check], None],
    first: tuple[bytes, bytes],
    second: tuple[bytes, bytes],
    status: int,
) -> None:
    async def check(http: httpx.AsyncClient, _: str) -> None:
        path = "/edgereplica.admin.v1.AdminService/Whoami"
        answer = await http.post(path, content=b"{}", headers=[first, second])
        assert answer.status_code == status
        assert "Traceback" not in answer.text
        assert "codec" not in answer.text

    with_server(check)


@pytest.mark.parametrize("broken", ["repo", "page_storage"])
def test_readiness_names_what_failed(
    with_server: Callable[[Check], None], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    async def fail(*_: object) -> None:
        raise StorageError("the disk with the secret name failed")

    if broken == "page_storage":
        monkeypatch.setattr("edgereplica.adapters.object_store.LocalObjectStore.check", fail)

    async def check(http: httpx.AsyncClient, _: str) -> None:
        if broken == "repo":
            monkeypatch.setattr(SqliteRepo, "batch", fail)
        answer = await http.get("/readyz")
        assert answer.status_code == 503
        assert answer.json() == {"ready": False, "failed": {broken: "storage"}}
        assert (await http.get("/healthz")).status_code == 200

    with_server(check)


def test_readiness_does_not_wait_for_ever(
    with_server: Callable[[Check], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgereplica.app.http.READY_SECONDS_MAX", 0.01)

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    async def check(http: httpx.AsyncClient, _: str) -> None:
        monkeypatch.setattr(SqliteRepo, "batch", hang)
        answer = await http.get("/readyz")
        assert answer.json()["failed"]["repo"] == "timeout"

    with_server(check)


def test_every_answer_has_a_request_id(with_server: Callable[[Check], None]) -> None:
    async def check(http: httpx.AsyncClient, _: str) -> None:
        seen = set()
        for method, path in (
            ("GET", "/healthz"),
            ("GET", "/nothing"),
            ("PUT", "/healthz"),
            ("POST", "/edgereplica.admin.v1.AdminService/Whoami"),
            ("POST", "/edgereplica.admin.v1.AdminService/Nothing"),
        ):
            answer = await http.request(method, path, json={})
            seen.add(answer.headers["x-request-id"])
            kept = await http.request(method, path, headers={"x-request-id": "Mine-1_a.b"})
            assert kept.headers["x-request-id"] == "Mine-1_a.b"
        assert len(seen) == 5
        for bad in ("", "a b", "x" * 65, "a\tb", "<script>", "\xe9"):
            answer = await http.get("/healthz", headers={"x-request-id": bad.encode("latin-1")})
            assert answer.headers["x-request-id"] not in {bad, ""}

    with_server(check)


def test_what_is_not_there(with_server: Callable[[Check], None]) -> None:
    async def check(http: httpx.AsyncClient, _: str) -> None:
        for path in ("/", "/nothing", "/healthz/x", "/schema", "/openapi.json", "/%2e%2e/etc"):
            answer = await http.get(path)
            assert answer.status_code == 404, path
            assert answer.json()["code"] == "unimplemented"
        assert (await http.delete("/readyz")).status_code == 405

    with_server(check)


def test_the_sync_socket_is_mounted(with_server: Callable[[Check], None]) -> None:
    async def check(_: httpx.AsyncClient, url: str) -> None:
        address = url.replace("http", "ws", 1) + "/sync"
        async with connect(address, max_size=None, compression="deflate") as socket:
            assert socket.response is not None
            assert "x-request-id" in socket.response.headers
            assert "sec-websocket-extensions" not in socket.response.headers, "no deflate"
            await socket.send(b"\x01" * FRAME_BYTES_MAX)
            assert await socket.recv() == b"\x01" * FRAME_BYTES_MAX
        async with connect(address) as socket:
            with pytest.raises(ConnectionClosed) as closed:
                await socket.send(b"\x01" * (FRAME_BYTES_MAX + 1))
                await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009

    with_server(check)


def test_a_sync_side_that_breaks_closes_with_1011(with_server: Callable[[Check], None]) -> None:
    async def check(http: httpx.AsyncClient, url: str) -> None:
        async with connect(url.replace("http", "ws", 1) + "/sync") as socket:
            await socket.send(b"fail")
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1011
        assert (await http.get("/healthz")).text == "ok"

    with_server(check)
