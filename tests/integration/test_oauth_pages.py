"""The callback page: what it shows, what it refuses, and what its headers forbid."""

import asyncio
import html
import re
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests.identity_provider.provider import identity_provider
from tests.integration.stub_sync import StubSync

from edgereplica.app import bootstrap
from edgereplica.app.serve import running_server
from edgereplica.app.settings import load_settings
from edgereplica.events.errors import InvalidArgument

ACCOUNT = "/edgereplica.admin.v1.AccountService/"
Run = Callable[[Callable[[httpx.AsyncClient], Awaitable[None]]], None]
STATE = "ab" * 32
HOSTILE = [
    "<script>alert(1)</script>",
    "';rm -rf ~;'",
    "$(id)",
    "`id`",
    "a b",
    "a\nb",
    "-x",
    "--server=http://evil",
    "\u202e",
    "x" * 3000,
    "",
]


@pytest.fixture
def server(tmp_path: Path) -> Run:
    """A server without providers: the page needs none."""

    def run(check: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        async def main() -> None:
            settings = load_settings(tmp_path / "data", dev=True)
            async with (
                running_server(settings, make_sync=lambda _: StubSync()) as url,
                httpx.AsyncClient(base_url=url) as http,
            ):
                await check(http)

        asyncio.run(asyncio.wait_for(main(), 60))

    return run


def command_in(page: str) -> str:
    found = re.search(r'<pre id="command">(.*?)</pre>', page, re.DOTALL)
    assert found
    return html.unescape(found[1])


def check_headers(answer: httpx.Response) -> None:
    policy = answer.headers["content-security-policy"]
    (nonce,) = set(re.findall(r"'nonce-([^']+)'", policy))
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert all(found == nonce for found in re.findall(r'nonce="([^"]*)"', answer.text))
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("provider", ["github", "google"])
@pytest.mark.parametrize("code", ["0123abcd", "4/0AX4XfWh-_.~+=", "a"])
def test_it_shows_the_ready_command(server: Run, provider: str, code: str) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        query = {"state": STATE, "code": code}
        nonces = set()
        for _ in range(2):
            answer = await http.get(f"/oauth/{provider}/callback", params=query)
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/html")
            words = shlex.split(command_in(answer.text))
            assert words == ["edgereplica", "oauth", "complete", "--state", STATE, "--code", code]
            check_headers(answer)
            nonces.add(answer.headers["content-security-policy"])
        assert len(nonces) == 2

    server(check)


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: text[:12])
def test_what_no_provider_sends_is_neither_shown_nor_copied(server: Run, hostile: str) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        for query in ({"state": STATE, "code": hostile}, {"state": hostile, "code": "abc"}):
            answer = await http.get("/oauth/github/callback", params=query)
            assert answer.status_code == 400
            assert "<pre" not in answer.text
            assert not hostile or hostile not in answer.text
            check_headers(answer)

    server(check)


def test_without_state_or_code_it_is_a_bad_request(server: Run) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        for query in ({}, {"state": STATE}, {"code": "abc"}, {"other": "x"}):
            answer = await http.get("/oauth/google/callback", params=query)
            assert answer.status_code == 400
            check_headers(answer)

    server(check)


def test_an_error_is_shown_escaped(server: Run) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        for state in (STATE, ""):
            for error in ("access_denied", *HOSTILE[:-1]):
                query = {
                    "state": state,
                    "error": error,
                    "error_description": "<img src=x onerror=1>",
                }
                answer = await http.get("/oauth/github/callback", params=query)
                assert answer.status_code == 400
                assert html.escape(error[:300]) in answer.text
                assert "<img" not in answer.text
                assert "<script" not in answer.text
                check_headers(answer)

    server(check)


def test_other_addresses_are_not_found(server: Run) -> None:
    async def check(http: httpx.AsyncClient) -> None:
        for path in (
            "/oauth",
            "/oauth/",
            "/oauth/github",
            "/oauth/gitlab/callback?state=s&code=c",
            "/oauth/github/callback/x",
            "/oauth/GitHub/callback?state=s&code=c",
            "/oauth/../oauth/x",
        ):
            assert (await http.get(path)).status_code == 404, path
        answer = await http.post("/oauth/github/callback?state=s&code=c")
        assert answer.status_code == 405

    server(check)


def test_a_login_that_waits_on_loopback_is_sent_there_and_nowhere_else(tmp_path: Path) -> None:
    async def main() -> None:
        with identity_provider() as idp:
            base = {"oauth_redirect_base": "https://sync.example.org"}
            settings = load_settings(tmp_path / "data", dev=True, **base, **idp.settings())
            async with (
                running_server(settings, make_sync=lambda _: StubSync()) as url,
                httpx.AsyncClient(base_url=url) as http,
            ):
                begin = {
                    "provider": "github",
                    "purpose": "O_AUTH_PURPOSE_LOGIN",
                    "loopbackPort": 43210,
                }
                start = (await http.post(ACCOUNT + "BeginOAuth", json=begin)).json()
                for decision in ("allow", "deny"):
                    callback = urlsplit(idp.consent(start["redirectUrl"], decision))
                    path = f"{callback.path}?{callback.query}"
                    answer = await http.get(path)
                    assert answer.status_code == 303
                    check_headers(answer)
                    where = urlsplit(answer.headers["location"])
                    assert (where.netloc, where.path) == ("127.0.0.1:43210", "/callback")
                    sent, came = parse_qs(callback.query), parse_qs(where.query)
                    assert came["state"] == sent["state"]
                    assert came.get("code") == sent.get("code")
                    assert came.get("error") == sent.get("error")
                other = path.replace("/github/", "/google/")
                assert (await http.get(other)).status_code == 400, "another provider's login"

    asyncio.run(asyncio.wait_for(main(), 60))


def start(tmp_path: Path, **settings: str) -> None:
    async def main() -> None:
        async with bootstrap.build(load_settings(tmp_path / "data", dev=True, **settings)):
            pass

    asyncio.run(main())


def test_a_configured_provider_needs_the_servers_address(tmp_path: Path) -> None:
    both = {"github_client_id": "i", "github_client_secret": "s"}
    with pytest.raises(InvalidArgument, match="OAUTH_REDIRECT_BASE is missing"):
        start(tmp_path, **both)
    start(tmp_path, **both, oauth_redirect_base="https://sync.example.org")
    start(tmp_path, **both, oauth_redirect_base="http://127.0.0.1:8787")
    start(tmp_path, github_client_id="only half")
    for wrong in ("http://sync.example.org", "sync.example.org", "https://", "https://a/?b=c"):
        with pytest.raises(InvalidArgument, match="OAUTH_REDIRECT_BASE"):
            start(tmp_path, **both, oauth_redirect_base=wrong)
    with pytest.raises(InvalidArgument, match="GITHUB_TOKEN_URL"):
        base = "https://sync.example.org"
        start(tmp_path, **both, oauth_redirect_base=base, github_token_url="http://ghe.example")
