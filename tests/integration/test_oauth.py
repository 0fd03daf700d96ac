"""Logging in with both providers, against a real one on this machine, and all that may go wrong."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import pytest
from tests.identity_provider.provider import CLIENT_SECRET, IdentityProvider, identity_provider
from tests.integration.stub_sync import StubSync

from edgereplica.adapters.clock import ManualClock
from edgereplica.app import oauth_state
from edgereplica.app.passwords import Passwords
from edgereplica.app.serve import running_server
from edgereplica.app.settings import load_settings

ADMIN = "/edgereplica.admin.v1.AdminService/"
ACCOUNT = "/edgereplica.admin.v1.AccountService/"
PASSWORD = "correct horse battery"
BOTH = pytest.mark.parametrize("provider", ["github", "google"])


@dataclass
class World:
    http: httpx.AsyncClient
    idp: IdentityProvider
    clock: ManualClock

    async def call(
        self, method: str, body: dict[str, Any], token: str = "", service: str = ADMIN
    ) -> tuple[str, Any]:
        """The Connect code ("ok") and the answer."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        answer = await self.http.post(service + method, json=body, headers=headers)
        said = answer.json()
        return ("ok" if answer.status_code == 200 else said["code"]), said

    async def ok(
        self, method: str, body: dict[str, Any], token: str = "", service: str = ADMIN
    ) -> Any:
        code, said = await self.call(method, body, token, service)
        assert code == "ok", said
        return said

    async def begun(self, provider: str) -> tuple[str, str, str]:
        """A login that the user has consented to: secret state, public state, code."""
        start = await self.ok("StartOAuth", {"provider": provider})
        callback = dict(parse_qsl(urlsplit(self.idp.consent(start["redirectUrl"])).query))
        return start["state"], callback["state"], callback["code"]

    async def login(self, provider: str) -> tuple[str, Any]:
        state, _, code = await self.begun(provider)
        return await self.call("CompleteOAuth", {"state": state, "code": code})

    async def linking(self, provider: str, token: str) -> tuple[str, Any]:
        begin = {"provider": provider, "purpose": "O_AUTH_PURPOSE_LINK"}
        start = await self.ok("BeginOAuth", begin, token, ACCOUNT)
        callback = dict(parse_qsl(urlsplit(self.idp.consent(start["redirectUrl"])).query))
        complete = {"state": start["state"], "code": callback["code"]}
        return await self.call("CompleteLink", complete, token, ACCOUNT)

    async def signup(self, email: str) -> Any:
        return await self.ok("Signup", {"email": email, "password": PASSWORD})


Run = Callable[[Callable[[World], Awaitable[None]]], None]


@pytest.fixture
def world(tmp_path: Path) -> Run:
    def run(check: Callable[[World], Awaitable[None]]) -> None:
        async def main() -> None:
            with identity_provider() as idp:
                clock = ManualClock(idp.clock)
                settings = load_settings(
                    tmp_path / "data",
                    dev=True,
                    oauth_redirect_base="https://sync.example.org/",
                    **idp.settings(),
                )
                passwords = Passwords(memory_kib=64, iterations=1)
                async with (
                    running_server(
                        settings, make_sync=lambda _: StubSync(), passwords=passwords, clock=clock
                    ) as url,
                    httpx.AsyncClient(base_url=url, timeout=60) as http,
                ):
                    await check(World(http, idp, clock))

        asyncio.run(asyncio.wait_for(main(), 60))

    return run


@BOTH
def test_the_first_login_makes_an_account_and_the_second_finds_it(
    world: Run, provider: str
) -> None:
    async def check(w: World) -> None:
        code, first = await w.login(provider)
        assert code == "ok", first
        assert first["whoami"]["email"] == "octo@example.org"
        assert first["whoami"]["role"] == "admin"
        who = await w.ok("Whoami", {}, first["sessionToken"])
        assert who["whoami"] == first["whoami"]
        w.idp.person.email = "moved@example.org"
        code, second = await w.login(provider)
        assert code == "ok"
        assert second["whoami"] == first["whoami"], "the subject counts, not the address"

    world(check)


@BOTH
def test_the_provider_is_asked_with_pkce_and_never_sees_the_secret(
    world: Run, provider: str
) -> None:
    async def check(w: World) -> None:
        start = await w.ok("StartOAuth", {"provider": provider})
        query = {k: v[0] for k, v in parse_qs(urlsplit(start["redirectUrl"]).query).items()}
        assert query["code_challenge_method"] == "S256"
        assert query["code_challenge"] == oauth_state.code_challenge(start["state"])
        assert query["state"] == oauth_state.public_state(start["state"])
        assert query["redirect_uri"] == f"https://sync.example.org/oauth/{provider}/callback"
        assert start["state"] not in start["redirectUrl"]
        assert (
            len({start["state"], (await w.ok("StartOAuth", {"provider": provider}))["state"]}) == 2
        )

    world(check)


@BOTH
def test_a_stolen_callback_address_finishes_nothing(world: Run, provider: str) -> None:
    async def check(w: World) -> None:
        secret, public, code = await w.begun(provider)
        refused, said = await w.call("CompleteOAuth", {"state": public, "code": code})
        assert (refused, "where it was" in said["message"]) == ("unauthenticated", True)
        other = (await w.ok("StartOAuth", {"provider": provider}))["state"]
        refused, _ = await w.call("CompleteOAuth", {"state": other, "code": code})
        assert refused == "unauthenticated", "a code belongs to its login (PKCE)"
        assert (await w.call("CompleteOAuth", {"state": secret, "code": code}))[0] == "ok"

    world(check)


@BOTH
def test_a_state_is_good_once(world: Run, provider: str) -> None:
    """Each attempt brings a code of its own, which the provider would take."""

    async def check(w: World) -> None:
        start = await w.ok("StartOAuth", {"provider": provider})
        codes = []
        for _ in range(6):
            callback = urlsplit(w.idp.consent(start["redirectUrl"]))
            codes.append(dict(parse_qsl(callback.query))["code"])
        bodies = [{"state": start["state"], "code": code} for code in codes]
        results = await asyncio.gather(*(w.call("CompleteOAuth", body) for body in bodies[:5]))
        assert sorted(code for code, _ in results) == ["ok"] + ["unauthenticated"] * 4
        refused, said = await w.call("CompleteOAuth", bodies[5])
        assert (refused, "tried before" in said["message"]) == ("unauthenticated", True)
        assert sum(grant.used for grant in w.idp.grants.values()) == 1

    world(check)


def test_a_state_expires(world: Run) -> None:
    async def check(w: World) -> None:
        secret, _, code = await w.begun("github")
        w.clock.advance(600)
        refused, said = await w.call("CompleteOAuth", {"state": secret, "code": code})
        assert (refused, "expired" in said["message"]) == ("unauthenticated", True)
        assert not [request for request in w.idp.requests if "token" in request]
        w.clock.advance(7200)
        await w.begun("github")
        refused, said = await w.call("CompleteOAuth", {"state": secret, "code": code})
        assert (refused, "no such login" in said["message"]) == ("unauthenticated", True)

    world(check)


@BOTH
def test_an_address_with_an_account_is_never_merged(world: Run, provider: str) -> None:
    async def check(w: World) -> None:
        squatter = await w.signup("OCTO@example.org")
        refused, said = await w.login(provider)
        assert refused == "already_exists"
        assert f"oauth link {provider}" in said["message"]
        code, linked = await w.linking(provider, squatter["sessionToken"])
        assert (code, linked) == ("ok", {"provider": provider, "email": "octo@example.org"})
        code, opened = await w.login(provider)
        assert (code, opened["whoami"]) == ("ok", squatter["whoami"])
        assert (await w.linking(provider, squatter["sessionToken"]))[0] == "ok", "again is nothing"

    world(check)


def test_an_identity_has_one_account(world: Run) -> None:
    async def check(w: World) -> None:
        ann, bob = await w.signup("ann@example.org"), await w.signup("bob@example.org")
        assert (await w.linking("github", ann["sessionToken"]))[0] == "ok"
        refused, said = await w.linking("github", bob["sessionToken"])
        assert (refused, "another account" in said["message"]) == ("already_exists", True)
        assert (await w.linking("google", bob["sessionToken"]))[0] == "ok", "another provider"

    world(check)


def test_a_link_is_finished_by_who_began_it(world: Run) -> None:
    async def check(w: World) -> None:
        ann, bob = await w.signup("ann@example.org"), await w.signup("bob@example.org")
        for finish in ("CompleteOAuth", "CompleteLink"):
            begin = {"provider": "github", "purpose": "O_AUTH_PURPOSE_LINK"}
            start = await w.ok("BeginOAuth", begin, ann["sessionToken"], ACCOUNT)
            callback = dict(parse_qsl(urlsplit(w.idp.consent(start["redirectUrl"])).query))
            body = {"state": start["state"], "code": callback["code"]}
            service = ADMIN if finish == "CompleteOAuth" else ACCOUNT
            refused, _ = await w.call(finish, body, bob["sessionToken"], service)
            assert refused == "permission_denied"
        secret, _, code = await w.begun("github")
        body = {"state": secret, "code": code}
        refused, _ = await w.call("CompleteLink", body, ann["sessionToken"], ACCOUNT)
        assert refused == "permission_denied"

    world(check)


@BOTH
@pytest.mark.parametrize("verified", [False, "true", 1, None])
def test_only_a_verified_address_counts(world: Run, provider: str, verified: object) -> None:
    async def check(w: World) -> None:
        w.idp.person.verified = verified
        refused, said = await w.login(provider)
        assert (refused, "verified" in said["message"]) == ("permission_denied", True)

    world(check)


@pytest.mark.parametrize(
    "emails",
    [[], [{"email": "a@b.org", "primary": False, "verified": True}], [{"primary": True}], [7]],
)
def test_github_without_a_primary_address(world: Run, emails: list[Any]) -> None:
    async def check(w: World) -> None:
        w.idp.faults.emails = emails
        assert (await w.login("github"))[0] == "permission_denied"

    world(check)


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "another-client"},
        {"aud": ["another-client"]},
        {"azp": "another-client"},
        {"iss": "https://evil.example"},
        {"nonce": "another login's"},
        {"nonce": None},
        {"exp": 1_800_000_000 - 61},
        {"exp": None},
        {"exp": "soon"},
        {"iat": 1_800_000_000 + 3600},
        {"nbf": 1_800_000_000 + 3600},
        {"sub": None},
        {"sub": ""},
    ],
    ids=str,
)
def test_an_id_token_that_does_not_hold(world: Run, claims: dict[str, Any]) -> None:
    async def check(w: World) -> None:
        w.idp.faults.id_token = claims
        assert (await w.login("google"))[0] == "unauthenticated"

    world(check)


@pytest.mark.parametrize("signing", ["none", "HS256", "stranger"])
def test_an_id_token_that_google_did_not_sign(world: Run, signing: str) -> None:
    async def check(w: World) -> None:
        w.idp.faults.signing = signing
        assert (await w.login("google"))[0] == "unauthenticated"

    world(check)


def test_google_may_change_its_keys(world: Run) -> None:
    async def check(w: World) -> None:
        assert (await w.login("google"))[0] == "ok"
        w.idp.key_id = "key-2"
        assert (await w.login("google"))[0] == "unauthenticated", "asked a moment ago"
        w.clock.advance(61)
        w.idp.clock += 61
        assert (await w.login("google"))[0] == "ok"
        assert w.idp.requests.count("GET /google/keys") == 2

    world(check)


@BOTH
def test_a_code_that_the_provider_refuses(world: Run, provider: str) -> None:
    async def check(w: World) -> None:
        w.idp.faults.expired_code = True
        refused, said = await w.login(provider)
        assert (refused, provider in said["message"]) == ("unauthenticated", True)
        assert "canary" not in said["message"]
        w.idp.faults.expired_code = False
        state = (await w.ok("StartOAuth", {"provider": provider}))["state"]
        made_up = {"state": state, "code": "made-up"}
        assert (await w.call("CompleteOAuth", made_up))[0] == "unauthenticated"

    world(check)


@BOTH
@pytest.mark.parametrize("status", [500, 503, 302, 404])
def test_a_provider_that_fails_is_named(world: Run, provider: str, status: int) -> None:
    async def check(w: World) -> None:
        paths = ["token", "user", "emails"] if provider == "github" else ["token", "keys"]
        for path in paths:
            w.idp.faults.status = {path: status}
            refused, said = await w.login(provider)
            assert refused == "unavailable"
            assert said["message"].startswith(f"{provider} ")
            assert "canary" not in said["message"]
        w.idp.faults.status = {}
        assert (await w.login(provider))[0] == "ok"

    world(check)


@BOTH
@pytest.mark.parametrize(
    "body", [b"", b"[1]", b"{", b"[" * 100_000, b"null", b'"' + b"x" * 2_000_000]
)
def test_a_provider_that_makes_no_sense(world: Run, provider: str, body: bytes) -> None:
    async def check(w: World) -> None:
        for path in ["token", "user"] if provider == "github" else ["token", "keys"]:
            w.idp.faults.raw = {path: body}
            assert (await w.login(provider))[0] == "unavailable"

    world(check)


def test_wrong_client_secrets_are_the_operators_fault(world: Run) -> None:
    async def check(w: World) -> None:
        w.idp.faults.raw = {"token": b'{"error": "incorrect_client_credentials"}'}
        refused, said = await w.login("github")
        assert (refused, "client id and secret" in said["message"]) == ("unavailable", True)

    world(check)


def test_a_slow_provider_is_given_up(world: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edgereplica.adapters.identity_http.ProviderHttp.__init__.__defaults__", (0.2,)
    )

    async def check(w: World) -> None:
        w.idp.faults.slow = {"token"}
        before = time.monotonic()
        refused, said = await w.login("github")
        assert (refused, "in time" in said["message"]) == ("unavailable", True)
        assert time.monotonic() - before < 30

    world(check)


def test_missing_and_oversized_parameters(world: Run) -> None:
    async def check(w: World) -> None:
        secret, _, code = await w.begun("github")
        for body in ({}, {"state": secret}, {"code": code}, {"state": "x" * 3000, "code": "c"}):
            assert (await w.call("CompleteOAuth", body))[0] == "invalid_argument"
        odd = {"state": "never begun", "code": code}
        assert (await w.call("CompleteOAuth", odd))[0] == "unauthenticated"
        assert (await w.call("StartOAuth", {"provider": "gitlab"}))[0] == "invalid_argument"
        begin = {"provider": "github"}
        assert (await w.call("BeginOAuth", begin, service=ACCOUNT))[0] == "invalid_argument"
        begin["purpose"] = "O_AUTH_PURPOSE_LINK"
        assert (await w.call("BeginOAuth", begin, service=ACCOUNT))[0] == "unauthenticated"
        for port in (1, 1023, 65536):
            begin = {"provider": "github", "purpose": "O_AUTH_PURPOSE_LOGIN", "loopbackPort": port}
            assert (await w.call("BeginOAuth", begin, service=ACCOUNT))[0] == "invalid_argument"

    world(check)


def test_nothing_of_a_login_is_logged(
    world: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgereplica.app.logs import configure_logs

    said: list[str] = []

    async def check(w: World) -> None:
        configure_logs("debug", "json")
        for provider in ("github", "google"):
            for faults in ({}, {"token": 500}):
                w.idp.faults.status = faults
                secret, public, code = await w.begun(provider)
                await w.http.get(
                    f"/oauth/{provider}/callback", params={"state": public, "code": code}
                )
                _, answer = await w.call("CompleteOAuth", {"state": secret, "code": code})
                said.extend([secret, code, answer.get("sessionToken", secret)])

    world(check)
    written = "".join(capfd.readouterr())
    assert "CompleteOAuth" in written
    for canary in [*said, CLIENT_SECRET]:
        assert canary not in written
