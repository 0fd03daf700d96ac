"""Floods against a real server: what is refused, in what words, and that honest work goes on."""

import asyncio
import http.client
import json
import socket
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.helpers_server import PASSWORD, SERVICE, Account, ServerProcess

from edgereplica import Replica
from edgereplica.adapters.websocket_client import connect
from edgereplica.events.errors import (
    InvalidArgument,
    LimitExceeded,
    NetworkError,
    PermissionDenied,
    RateLimited,
)
from edgereplica.events.messages import ErrorMessage, Hello, HelloReply
from edgereplica.events.wire_v2 import WireV2

HONEST, ATTACKER = "127.0.0.1", "127.0.0.2"


@pytest.fixture
def local_file(tmp_path: Path) -> Path:
    file = tmp_path / "app.db"
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("CREATE TABLE t (x)")
        db.executemany("INSERT INTO t VALUES (randomblob(900))", [()] * 4000)
    return file


@contextmanager
def server(tmp_path: Path, **settings: int | str) -> Iterator[ServerProcess]:
    environment = {name.upper(): str(value) for name, value in settings.items()}
    with ServerProcess(tmp_path / "data", environment=environment) as running:
        yield running


def tokens_of(base: str, email: str = "ann@example.org") -> dict[str, str]:
    account = Account.signup(base, email)
    database = account.create_database("main")
    return {way: account.token(database, way) for way in ("push", "pull")}


def refusal(url: str, token: str = "x", **headers: str) -> tuple[int, dict[str, str], Any]:
    """A WebSocket handshake's answer: status, headers, body."""
    host = url.removeprefix("ws://").partition("/")[0]
    with closing(http.client.HTTPConnection(host, timeout=30)) as connection:
        connection.request(
            "GET",
            "/sync",
            headers={
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
                "Authorization": f"Bearer {token}",
            }
            | headers,
        )
        answer = connection.getresponse()
        said = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, said, json.load(answer)


def login(base: str, email: str, password: str, **headers: str) -> tuple[int, dict[str, str], Any]:
    request = urllib.request.Request(
        base + SERVICE + "Login",
        json.dumps({"email": email, "password": password}).encode(),
        {"Content-Type": "application/json"} | headers,
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, {k.lower(): v for k, v in error.headers.items()}, json.load(error)


def test_a_token_for_the_other_direction_is_told_as_one(tmp_path: Path, local_file: Path) -> None:
    async def direction(url: str, token: str, said: str | None) -> None:
        transport = await connect(url, token, said)
        await transport.close(1000, "")

    with server(tmp_path) as running:
        tokens = tokens_of(running.base)
        for said, other in (("push", "pull"), ("pull", "push")):
            with pytest.raises(PermissionDenied, match=f"for a {other}, not for a {said}"):
                asyncio.run(direction(running.sync_url, tokens[other], said))
            asyncio.run(direction(running.sync_url, tokens[said], said))
            asyncio.run(direction(running.sync_url, tokens[said], None))
        with pytest.raises(InvalidArgument):
            asyncio.run(direction(running.sync_url, tokens["pull"], "sideways"))
        before = local_file.read_bytes()
        with pytest.raises(PermissionDenied):
            Replica(local_file, server=running.base, token=tokens["pull"]).push()
        with pytest.raises(PermissionDenied):
            Replica(tmp_path / "new.db", server=running.base, token=tokens["push"]).pull()
        assert local_file.read_bytes() == before
        assert not (tmp_path / "new.db").exists()


def test_only_pages_of_allowed_origins_may_open_a_session(tmp_path: Path) -> None:
    with server(tmp_path, allowed_origins="https://app.example.org, http://[::1]:3000") as running:
        url = running.sync_url
        for origin in ("https://evil.example.org", "https://app.example.org:444", "null", ""):
            status, _, body = refusal(url, Origin=origin)
            assert (status, body["code"]) == (403, "permission_denied"), origin
        for origin in ("https://app.example.org", "HTTPS://APP.example.org", "http://[::1]:3000"):
            assert refusal(url, Origin=origin)[0] == 401, "the token is asked for next"
        assert refusal(url)[0] == 401
    with server(tmp_path / "default") as running:
        assert refusal(running.sync_url, Origin="https://app.example.org")[0] == 403


def test_opening_sessions_is_limited_for_each_token_and_address(tmp_path: Path) -> None:
    async def open_and_close(url: str, token: str) -> None:
        transport = await connect(url, token, "pull")
        await transport.close(1000, "")

    limits = {"sync_opens_per_token_per_minute": 3, "sync_opens_per_address_per_minute": 12}
    with server(tmp_path, **limits) as running:
        tokens = tokens_of(running.base)
        for _ in range(3):
            asyncio.run(open_and_close(running.sync_url, tokens["pull"]))
        with pytest.raises(RateLimited) as caught:
            asyncio.run(open_and_close(running.sync_url, tokens["pull"]))
        assert caught.value.details["retry_after_seconds"] >= 1
        status, headers, body = refusal(running.sync_url, tokens["pull"])
        assert (status, body["code"]) == (429, "resource_exhausted")
        assert int(headers["retry-after"]) >= 1
        assert "3 a minute" in body["message"]
        assert refusal(running.sync_url, tokens["push"], Origin="x")[0] == 403, "another token"
        codes = [refusal(running.sync_url, "garbage")[0] for _ in range(9)]
        assert set(codes) == {401, 429}, "attempts without a good token count for the address"
        assert codes == sorted(codes)


def test_behind_a_trusted_proxy_each_client_counts_for_itself(tmp_path: Path) -> None:
    limits = {"login_attempts_per_address_per_minute": 4, "trusted_proxies": "127.0.0.1"}
    with server(tmp_path, **limits) as running:

        def attempt(forwarded: str, number: int) -> int:
            email = f"{number}@example.org"
            return login(running.base, email, "wrong pass", **{"X-Forwarded-For": forwarded})[0]

        assert [attempt("198.51.100.7", n) for n in range(5)] == [401] * 4 + [429]
        assert attempt("198.51.100.8", 9) == 401
        # What the client itself wrote before the proxy's entry makes no difference.
        assert attempt("203.0.113.1, 198.51.100.7", 9) == 429
    with server(tmp_path / "untrusted", login_attempts_per_address_per_minute=4) as running:
        codes = [attempt(f"198.51.100.{n}", n) for n in range(5)]
        assert codes == [401] * 4 + [429], "a header that anybody may write is not believed"


def test_logins_are_refused_with_resource_exhausted_and_retry_after(tmp_path: Path) -> None:
    with server(tmp_path, login_attempts_per_account_per_minute=3) as running:
        Account.signup(running.base, "ann@example.org")
        for email in ("ann@example.org", "nobody@example.org"):
            answers = [login(running.base, email, "wrong password") for _ in range(4)]
            assert [status for status, _, _ in answers] == [401] * 3 + [429]
            _, headers, body = answers[-1]
            assert body["code"] == "resource_exhausted"
            assert 1 <= int(headers["retry-after"]) <= 20
        known, unknown = (
            login(running.base, email, PASSWORD)[2]["message"]
            for email in ("ann@example.org", "nobody@example.org")
        )
        assert known == unknown, "not even the right password tells"


def test_sessions_at_once_are_limited(tmp_path: Path) -> None:
    async def main(url: str, tokens: dict[str, str]) -> None:
        held = [await connect(url, tokens["pull"], "pull") for _ in range(3)]
        for way in ("pull", "push"):
            with pytest.raises(RateLimited, match="at most 3") as caught:
                await connect(url, tokens[way], way)
            assert caught.value.details["retry_after_seconds"] >= 1
        await held.pop().close(1000, "")
        while True:  # the server hears of it soon
            try:
                held.append(await connect(url, tokens["push"], "push"))
                break
            except RateLimited:
                await asyncio.sleep(0.05)
        for transport in held:
            await transport.close(1000, "")

    for limit in ("sessions_per_database_max", "sessions_per_address_max"):
        with server(tmp_path / limit, **{limit: 3}) as running:
            asyncio.run(main(running.sync_url, tokens_of(running.base)))


def test_a_client_that_never_says_hello_is_closed(tmp_path: Path) -> None:
    """Without a word: it has not said in which version it would understand one."""

    async def ending(url: str, token: str) -> str:
        transport = await connect(url, token, "pull")
        with pytest.raises(NetworkError) as caught:
            await transport.receive()
        return caught.value.message

    with server(tmp_path, session_hello_seconds=1) as running:
        tokens = tokens_of(running.base)
        assert "1008 limit_exceeded" in asyncio.run(ending(running.sync_url, tokens["pull"]))


def test_a_client_that_falls_silent_is_told_and_closed(tmp_path: Path) -> None:
    async def said(url: str, token: str) -> list[object]:
        transport = await connect(url, token, "push")
        codec = WireV2()
        for frame in codec.encode(Hello(page_size=4096, page_count=1)):
            await transport.send(frame)
        frames = [codec.decode(await transport.receive()) for _ in range(2)]
        with pytest.raises(NetworkError, match="1008"):
            await transport.receive()
        return frames

    with server(tmp_path, session_idle_seconds=1) as running:
        tokens = tokens_of(running.base)
        reply, error = asyncio.run(said(running.sync_url, tokens["push"]))
        assert isinstance(reply, HelloReply)
        assert isinstance(error, ErrorMessage)
        assert error.code == "limit_exceeded"
        assert dict(error.details or {}) == {"limit": "session_idle_seconds", "value": 1}


def slow_socket(address: tuple[str, int], first: bytes) -> socket.socket:
    peer = socket.socket()
    peer.bind((ATTACKER, 0))
    peer.settimeout(30)
    peer.connect(address)
    peer.sendall(first)
    return peer


def test_idle_and_dribbling_connections_starve_nobody(tmp_path: Path, local_file: Path) -> None:
    """500 handshakes that never end, 500 sessions that say a byte now and then."""
    limits = {"session_hello_seconds": 60, "connections_per_address_max": 600}
    with server(tmp_path, **limits) as running, ExitStack() as stack:
        host, _, port = running.base.removeprefix("http://").rpartition(":")
        at = (host, int(port))
        tokens = tokens_of(running.base)
        handshake = (
            "GET /sync HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            f"Authorization: Bearer {tokens['pull']}\r\n\r\n"
        ).encode()
        for _ in range(500):
            stack.enter_context(slow_socket(at, b"GET /sync HTTP/1.1\r\nHo"))
        accepted = []
        for _ in range(500):
            peer = stack.enter_context(slow_socket(at, handshake))
            if peer.recv(4096).startswith(b"HTTP/1.1 101"):
                accepted.append(peer)
        assert 0 < len(accepted) <= 64, "no address has more sessions than it may"
        stop = threading.Event()

        def dribble() -> None:
            while not stop.wait(0.2):
                for peer in accepted:
                    with suppress(OSError):  # on a slow machine it is cut by now
                        peer.send(b"\x00")

        dribbling = threading.Thread(target=dribble)
        dribbling.start()
        try:
            mine = tokens_of(running.base, "honest@example.org")
            pushed = Replica(local_file, server=running.base, token=mine["push"], retries=0).push()
            assert pushed.outcome == "pushed"
            copy = tmp_path / "copy.db"
            Replica(copy, server=running.base, token=mine["pull"], retries=0).pull()
            assert copy.read_bytes()[100:] == local_file.read_bytes()[100:]
        finally:
            stop.set()
            dribbling.join()


def test_a_flood_of_logins_does_not_starve_a_sync(tmp_path: Path, local_file: Path) -> None:
    """While passwords are checked without pause, pushes and pulls go on to their end."""
    limits = {
        "login_attempts_per_account_per_minute": 10**6,
        "login_attempts_per_address_per_minute": 10**6,
    }
    with server(tmp_path, **limits) as running:
        tokens = tokens_of(running.base)
        stop = threading.Event()
        codes: list[int] = []

        def flood() -> None:
            while not stop.is_set():
                codes.append(login(running.base, "ann@example.org", "wrong password")[0])

        floods = [threading.Thread(target=flood) for _ in range(80)]
        for thread in floods:
            thread.start()
        try:
            while 429 not in codes:  # until the queue is full: 80 want in, 64 fit
                stop.wait(0.01)
            for number in range(3):
                with closing(sqlite3.connect(local_file)) as db, db:
                    db.execute("UPDATE t SET x = randomblob(900)")
                replica = Replica(local_file, server=running.base, token=tokens["push"])
                assert replica.push().version == number + 1
                before = len(codes)
                while len(codes) == before:  # the flood is still on
                    stop.wait(0.01)
        finally:
            stop.set()
            for thread in floods:
                thread.join()
        assert set(codes) == {401, 429}


@pytest.mark.parametrize("content_type", ["application/json", "application/grpc-web+json"])
def test_json_nested_without_end_does_not_end_the_server(tmp_path: Path, content_type: str) -> None:
    """It once overflowed the stack of the process, before anybody was asked who he is."""
    body = b"[" * 30_000 + b"]" * 30_000
    if content_type != "application/json":
        body = b"\0" + len(body).to_bytes(4, "big") + body
    with server(tmp_path) as running:
        host = running.base.removeprefix("http://")
        with closing(http.client.HTTPConnection(host, timeout=30)) as connection:
            connection.request("POST", f"{SERVICE}Login", body, {"Content-Type": content_type})
            connection.getresponse().read()
        assert running.process.poll() is None
        Account.signup(running.base, "ann@example.org")


def test_errors_of_limits_are_limits() -> None:
    assert issubclass(RateLimited, LimitExceeded)
    assert RateLimited.retryable
    assert not LimitExceeded.retryable
