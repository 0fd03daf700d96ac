"""AdminService over the wire: JSON, binary and GET, and who may call what."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from tests.integration.stub_sync import StubSync

from edgereplica.app.passwords import Passwords
from edgereplica.app.serve import running_server
from edgereplica.app.settings import load_settings
from edgereplica.events.limits import RPC_MESSAGE_BYTES_MAX
from edgereplica.proto.gen.edgereplica.admin.v1 import admin_pb as pb
from edgereplica.proto.gen.edgereplica.admin.v1.admin_connect import AdminServiceClient

SERVICE = "/edgereplica.admin.v1.AdminService/"
PASSWORD = "correct horse battery"
METHODS = [
    "Whoami",
    "Signup",
    "Login",
    "StartOAuth",
    "CompleteOAuth",
    "CreateDatabase",
    "ListDatabases",
    "DeleteDatabase",
    "IssueSyncToken",
]
NEED_A_SESSION = [
    ("Whoami", {}),
    ("CreateDatabase", {"name": "main"}),
    ("ListDatabases", {}),
    ("DeleteDatabase", {"databaseId": "x"}),
    ("IssueSyncToken", {"databaseId": "x", "direction": "DIRECTION_PUSH"}),
]


@dataclass
class Client:
    http: httpx.AsyncClient
    url: str
    sync: StubSync

    async def call(
        self, method: str, body: dict[str, Any], token: str | None = None
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"} if token is not None else {}
        return await self.http.post(SERVICE + method, json=body, headers=headers)

    async def ok(self, method: str, body: dict[str, Any], token: str | None = None) -> Any:
        answer = await self.call(method, body, token)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def code(self, method: str, body: dict[str, Any], token: str | None = None) -> str:
        answer = await self.call(method, body, token)
        assert answer.status_code >= 400, answer.text
        return answer.json()["code"]

    async def signup(self, email: str = "ann@example.org") -> str:
        answer = await self.ok("Signup", {"email": email, "password": PASSWORD})
        return answer["sessionToken"]


@pytest.fixture
def with_server(tmp_path: Path) -> Callable[[Callable[[Client], Awaitable[None]]], None]:
    def run(check: Callable[[Client], Awaitable[None]]) -> None:
        async def main() -> None:
            sync = StubSync()
            passwords = Passwords(memory_kib=64, iterations=1)
            settings = load_settings(tmp_path / "data", dev=True)
            async with (
                running_server(settings, make_sync=lambda _: sync, passwords=passwords) as url,
                httpx.AsyncClient(base_url=url) as http,
            ):
                await check(Client(http, url, sync))

        asyncio.run(asyncio.wait_for(main(), 60))

    return run


Run = Callable[[Callable[[Client], Awaitable[None]]], None]


def test_the_life_of_an_account_in_json(with_server: Run) -> None:
    async def check(client: Client) -> None:
        opened = await client.ok("Signup", {"email": "Ann@example.org", "password": PASSWORD})
        assert opened["whoami"]["email"] == "Ann@example.org"
        assert opened["whoami"]["role"] == "admin"
        again = await client.ok("Login", {"email": "ann@EXAMPLE.org", "password": PASSWORD})
        assert again["whoami"] == opened["whoami"]
        token = again["sessionToken"]
        assert await client.ok("Whoami", {}, token) == {"whoami": opened["whoami"]}
        made = await client.ok("CreateDatabase", {"name": "main"}, token)
        assert (made["name"], made["orgId"]) == ("main", opened["whoami"]["orgId"])
        assert int(made["createdAtUnix"]) > 1_700_000_000
        assert await client.ok("ListDatabases", {}, token) == {"databases": [made]}
        issued = await client.ok(
            "IssueSyncToken",
            {"databaseId": made["id"], "direction": "DIRECTION_PULL", "ttlSeconds": "60"},
            token,
        )
        assert set(issued) == {"token", "expUnix"}
        assert await client.ok("DeleteDatabase", {"databaseId": made["id"]}, token) == {}
        assert client.sync.deleted == [made["id"]]
        assert await client.ok("ListDatabases", {}, token) == {}

    with_server(check)


def test_the_generated_client_in_binary(with_server: Run) -> None:
    async def check(client: Client) -> None:
        async with AdminServiceClient(client.url) as rpc:
            opened = await rpc.signup(pb.SignupRequest(email="a@b.c", password=PASSWORD))
            headers = {"authorization": f"Bearer {opened.session_token}"}
            for use_get in (False, True):
                answer = await rpc.whoami(pb.WhoamiRequest(), headers=headers, use_get=use_get)
                assert answer.whoami == opened.whoami
                listed = await rpc.list_databases(
                    pb.ListDatabasesRequest(), headers=headers, use_get=use_get
                )
                assert list(listed.databases) == []
            made = await rpc.create_database(pb.CreateDatabaseRequest(name="m"), headers=headers)
            issue = pb.IssueSyncTokenRequest(database_id=made.id, direction=pb.Direction.PUSH)
            issued = await rpc.issue_sync_token(issue, headers=headers)
            assert issued.exp_unix > 1_700_000_000
            with pytest.raises(ConnectError) as refused:
                await rpc.create_database(pb.CreateDatabaseRequest(name="m"), headers=headers)
            assert refused.value.code == Code.ALREADY_EXISTS

    with_server(check)


def test_field_numbers_are_those_of_the_original() -> None:
    """Bytes written out by hand from the issue's list of fields."""
    assert pb.SignupRequest(email="a", password="b").to_binary() == b"\x0a\x01a\x12\x01b"
    assert pb.LoginRequest(email="a", password="b").to_binary() == b"\x0a\x01a\x12\x01b"
    who = pb.WhoamiInfo(user_id="u", email="e", org_id="o", role="r")
    assert who.to_binary() == b"\x0a\x01u\x12\x01e\x1a\x01o\x22\x01r"
    assert pb.WhoamiResponse(whoami=who).to_binary() == b"\x0a\x0c" + who.to_binary()
    auth = pb.AuthResponse(session_token="t", whoami=who)
    assert auth.to_binary() == b"\x0a\x01t\x12\x0c" + who.to_binary()
    assert pb.StartOAuthRequest(provider="p").to_binary() == b"\x0a\x01p"
    start = pb.StartOAuthResponse(redirect_url="r", state="s")
    assert start.to_binary() == b"\x0a\x01r\x12\x01s"
    assert pb.CompleteOAuthRequest(state="s", code="c").to_binary() == b"\x0a\x01s\x12\x01c"
    database = pb.Database(id="i", org_id="o", name="n", created_at_unix=5)
    assert database.to_binary() == b"\x0a\x01i\x12\x01o\x1a\x01n\x20\x05"
    assert pb.CreateDatabaseRequest(name="n").to_binary() == b"\x0a\x01n"
    listed = pb.ListDatabasesResponse(databases=[database])
    assert listed.to_binary() == b"\x0a\x0b" + database.to_binary()
    assert pb.DeleteDatabaseRequest(database_id="d").to_binary() == b"\x0a\x01d"
    issue = pb.IssueSyncTokenRequest(database_id="d", direction=pb.Direction.PULL, ttl_seconds=7)
    assert issue.to_binary() == b"\x0a\x01d\x10\x02\x18\x07"
    issued = pb.IssueSyncTokenResponse(token="t", exp_unix=9)
    assert issued.to_binary() == b"\x0a\x01t\x10\x09"


def test_without_a_session_nothing_that_needs_one(with_server: Run) -> None:
    async def check(client: Client) -> None:
        token = await client.signup()
        made = await client.ok("CreateDatabase", {"name": "main"}, token)
        issue = {"databaseId": made["id"], "direction": "DIRECTION_PUSH"}
        sync_token = (await client.ok("IssueSyncToken", issue, token))["token"]
        for method, body in NEED_A_SESSION:
            for bad in (None, "garbage", token[:-1], token + "A", sync_token):
                assert await client.code(method, body, bad) == "unauthenticated"
            for header in (
                token,
                f"Basic {token}",
                "Bearer",
                f"Bearer\t{token}",
                "Bearer x\xff",
                "Bearer \u00e9",
            ):
                answer = await client.http.post(
                    SERVICE + method,
                    json=body,
                    headers={"authorization": header.encode("latin-1")},
                )
                expected = "unauthenticated" if header.isascii() else "invalid_argument"
                assert answer.json()["code"] == expected
        assert await client.ok("Whoami", {}, f"  {token}")

    with_server(check)


def test_only_calls_without_side_effects_are_open_to_get(with_server: Run) -> None:
    async def check(client: Client) -> None:
        token = await client.signup()
        headers = {"authorization": f"Bearer {token}"}
        for method in METHODS:
            for message in ("{}", base64.urlsafe_b64encode(b"{}").decode()):
                parameters = {"connect": "v1", "encoding": "json", "message": message}
                if message != "{}":
                    parameters["base64"] = "1"
                answer = await client.http.get(SERVICE + method, params=parameters, headers=headers)
                expected = 200 if method in {"Whoami", "ListDatabases"} else 405
                assert answer.status_code == expected, method

    with_server(check)


def test_the_codes_of_the_rules(with_server: Run) -> None:
    async def check(client: Client) -> None:
        ann, bob = await client.signup("ann@x.org"), await client.signup("bob@x.org")
        database_id = (await client.ok("CreateDatabase", {"name": "main"}, ann))["id"]
        push = {"databaseId": database_id, "direction": "DIRECTION_PUSH"}
        for code, method, body, token in [
            ("invalid_argument", "Signup", {"email": "nobody", "password": PASSWORD}, None),
            ("invalid_argument", "Signup", {"email": "c@x.org", "password": "short"}, None),
            ("invalid_argument", "Signup", {"email": "c@x.org", "password": "x" * 1025}, None),
            ("invalid_argument", "Signup", {}, None),
            ("already_exists", "Signup", {"email": "ANN@X.ORG", "password": PASSWORD}, None),
            ("unauthenticated", "Login", {"email": "ann@x.org", "password": "wrong one"}, None),
            ("unauthenticated", "Login", {"email": "eve@x.org", "password": PASSWORD}, None),
            ("unauthenticated", "Login", {}, None),
            ("unimplemented", "StartOAuth", {"provider": "github"}, None),
            ("invalid_argument", "StartOAuth", {}, None),
            ("unimplemented", "CompleteOAuth", {"state": "s", "code": "c"}, None),
            ("invalid_argument", "CreateDatabase", {"name": "no spaces"}, ann),
            ("already_exists", "CreateDatabase", {"name": "main"}, ann),
            ("not_found", "DeleteDatabase", {"databaseId": database_id}, bob),
            ("not_found", "DeleteDatabase", {"databaseId": "missing"}, ann),
            ("not_found", "IssueSyncToken", push, bob),
            ("invalid_argument", "IssueSyncToken", {"databaseId": database_id}, ann),
            ("invalid_argument", "IssueSyncToken", push | {"direction": 7}, ann),
        ]:
            assert await client.code(method, body, token) == code, (method, body)
        assert client.sync.deleted == []

    with_server(check)


def test_what_cannot_be_read_is_refused_without_an_echo(with_server: Run) -> None:
    async def check(client: Client) -> None:
        path = SERVICE + "Login"
        as_json = {"content-type": "application/json"}
        for body in (b"canary{", b'{"password": ["canary"]}', b"[" * 9999, b'"\xff"', b""):
            answer = await client.http.post(path, content=body, headers=as_json)
            assert answer.status_code in {400, 401}, answer.text
        binary = {"content-type": "application/proto"}
        answer = await client.http.post(path, content=b"\xff\xff", headers=binary)
        assert answer.json()["code"] == "invalid_argument"
        for headers, status in (
            ({"content-type": "text/plain"}, 415),
            ({"content-type": "application/grpc"}, 415),
            ({"content-type": "application/grpc+proto"}, 415),
            ({**as_json, "content-encoding": "br"}, 501),
        ):
            answer = await client.http.post(path, content=b"{}", headers=headers)
            assert answer.status_code == status, headers
        answer = await client.http.get(SERVICE + "Whoami?message=%ff&encoding=json&\xff")
        assert answer.status_code < 500
        assert (await client.http.post(SERVICE + "Nothing", json={})).status_code == 404
        assert (await client.http.get("/healthz")).text == "ok", "and the server lives"

    with_server(check)


def test_the_size_of_a_request_is_bounded(with_server: Run) -> None:
    async def check(client: Client) -> None:
        large = {"email": "a@b.c", "password": "x" * RPC_MESSAGE_BYTES_MAX}
        assert await client.code("Login", large) == "resource_exhausted"
        import gzip

        bomb = gzip.compress(json.dumps({"password": "x" * 50_000_000}).encode())
        assert len(bomb) < RPC_MESSAGE_BYTES_MAX
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        answer = await client.http.post(SERVICE + "Login", content=bomb, headers=headers)
        assert answer.json()["code"] == "resource_exhausted"

    with_server(check)


def test_what_breaks_inside_says_nothing(with_server: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("the canary in the coal mine")

    async def check(client: Client) -> None:
        monkeypatch.setattr("edgereplica.app.admin.AdminService.login", broken)
        for _ in range(2):
            answer = await client.call("Login", {"email": "a@b.c", "password": PASSWORD})
            assert answer.status_code == 500
            assert answer.json() == {"code": "internal", "message": "internal error"}
            assert "canary" not in str(answer.headers)
        connections = client.http._transport._pool.connections  # type: ignore[attr-defined]
        assert len(connections) == 1, "the kept-alive connection survives"

    with_server(check)
