"""A whole server in this process, with a provider to log in with, and calls of its services."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
from pymacaroons import Macaroon
from tests.identity_provider.provider import IdentityProvider, identity_provider

from edgereplica.app.passwords import Passwords
from edgereplica.app.serve import running_server
from edgereplica.app.settings import load_settings

PASSWORD = "correct horse battery"
PACKAGE = "/edgereplica.admin.v1."
UNLIMITED = {
    "login_attempts_per_address_per_minute": "1000000",
    "login_attempts_per_account_per_minute": "1000000",
    "sync_opens_per_address_per_minute": "1000000",
}
"""All of a test comes from one address."""
ADMIN_CALLS = {
    "Whoami",
    "Signup",
    "Login",
    "StartOAuth",
    "CompleteOAuth",
    "CreateDatabase",
    "ListDatabases",
    "DeleteDatabase",
    "IssueSyncToken",
}


def narrowed(token: str, *caveats: str) -> str:
    """What any holder of `token` can make of it, with another's tool."""
    held = Macaroon.deserialize(token)
    for caveat in caveats:
        held.add_first_party_caveat(caveat)
    return str(held.serialize())


def database_of(path: Path, rows: int = 1) -> Path:
    """A small SQLite database; each row fills a page."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE IF NOT EXISTS t (x)")
    connection.executemany("INSERT INTO t VALUES (randomblob(3000))", [()] * rows)
    connection.commit()
    connection.close()
    return path


@dataclass
class Running:
    url: str
    http: httpx.AsyncClient
    idp: IdentityProvider
    tmp_path: Path

    @property
    def sync_url(self) -> str:
        return self.url.replace("http", "ws", 1) + "/sync"

    async def call(
        self, method: str, body: dict[str, Any] | None = None, token: str | None = None
    ) -> tuple[str, Any]:
        """The Connect code ("ok") and the answer."""
        service = "AdminService" if method in ADMIN_CALLS else "AccountService"
        if method.endswith("Retention"):
            service = "RetentionService"
        headers = {"authorization": f"Bearer {token}"} if token else {}
        path = f"{PACKAGE}{service}/{method}"
        answer = await self.http.post(path, json=body or {}, headers=headers)
        said = answer.json()
        return ("ok" if answer.status_code == 200 else said["code"]), said

    async def ok(
        self, method: str, body: dict[str, Any] | None = None, token: str | None = None
    ) -> Any:
        code, said = await self.call(method, body, token)
        assert code == "ok", (method, said)
        return said

    async def signup(self, email: str) -> tuple[str, Any]:
        """The session token and who it is."""
        said = await self.ok("Signup", {"email": email, "password": PASSWORD})
        return said["sessionToken"], said["whoami"]

    async def login(self, email: str) -> str:
        said = await self.ok("Login", {"email": email, "password": PASSWORD})
        return str(said["sessionToken"])

    async def database(self, token: str, name: str = "main") -> str:
        return str((await self.ok("CreateDatabase", {"name": name}, token))["id"])

    async def sync_token(self, token: str, database: str, direction: str) -> str:
        body = {"databaseId": database, "direction": f"DIRECTION_{direction.upper()}"}
        return str((await self.ok("IssueSyncToken", body, token))["token"])

    def consented(self, redirect_url: str) -> str:
        """The code that the user's consent gives."""
        return dict(parse_qsl(urlsplit(self.idp.consent(redirect_url)).query))["code"]


def run(tmp_path: Path, check: Callable[[Running], Awaitable[None]], **more: str) -> None:
    """Run `check` against a fresh server; real argon2id would only make it slow."""

    async def main() -> None:
        with identity_provider() as idp:
            base = {"oauth_redirect_base": "https://sync.example.org"} | UNLIMITED
            settings = load_settings(tmp_path / "data", dev=True, **(base | idp.settings() | more))
            passwords = Passwords(memory_kib=64, iterations=1)
            async with (
                running_server(settings, passwords=passwords) as url,
                httpx.AsyncClient(base_url=url, timeout=60) as http,
            ):
                await check(Running(url, http, idp, tmp_path))

    asyncio.run(asyncio.wait_for(main(), 240))
