"""Several servers on one PostgreSQL and one page store, in this process, and what users do."""

import asyncio
import base64
import random
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers_server import PASSWORD, Account, call

from edgereplica.app.bootstrap import Core, SyncEnd, sync_of
from edgereplica.app.passwords import Passwords
from edgereplica.app.replica import AsyncReplica
from edgereplica.app.serve import running_server
from edgereplica.app.settings import Settings, load_settings

SESSION_KEY = base64.b64encode(bytes(range(32))).decode()


def scaled_out(database_url: str, page_store_url: str, **more: Any) -> Settings:
    """Settings of a server that keeps nothing on its machine."""
    return load_settings(
        Path("/nonexistent"),
        database_url=database_url,
        page_store_url=page_store_url,
        session_key=SESSION_KEY,
        **more,
    )


def scaled_out_environment(database_url: str, page_store_url: str) -> dict[str, str]:
    """The same for a process."""
    return {
        "DATABASE_URL": database_url,
        "PAGE_STORE_URL": page_store_url,
        "SESSION_KEY": SESSION_KEY,
    }


@dataclass
class Running:
    """One of the servers."""

    base: str
    core: Core


@asynccontextmanager
async def server(settings: Settings, **parts: Any) -> AsyncIterator[Running]:
    cores: list[Core] = []

    def make_sync(core: Core) -> SyncEnd:
        cores.append(core)
        return sync_of(core)

    parts.setdefault("passwords", Passwords(memory_kib=64, iterations=1))
    async with running_server(settings, make_sync=make_sync, **parts) as base:
        yield Running(base, cores[0])


@dataclass
class User:
    """A user of a database, who may talk to any of the servers."""

    session_token: str
    database: str
    tokens: Mapping[str, str]

    @classmethod
    async def signup(cls, base: str, email: str = "a@example.org") -> "User":
        def run() -> User:
            account = Account.signup(base, email)
            database = account.create_database("main")
            tokens = {way: account.token(database, way) for way in ("push", "pull")}
            return cls(account.session_token, database, tokens)

        return await asyncio.to_thread(run)

    def replica(self, base: str, path: Path, way: str = "push", **options: Any) -> AsyncReplica:
        return AsyncReplica(path, server=base, token=self.tokens[way], **options)

    async def pulled(self, base: str, path: Path) -> bytes:
        """The head, as a fresh file's bytes."""
        await self.replica(base, path, "pull").pull()
        return path.read_bytes()


async def admin_call(base: str, method: str, body: Mapping[str, Any], token: str) -> Any:
    return await asyncio.to_thread(call, base, method, body, token)


async def login(base: str, email: str = "a@example.org") -> Any:
    return await asyncio.to_thread(call, base, "Login", {"email": email, "password": PASSWORD})


def make_database(path: Path, kib: int = 64, seed: int = 1) -> None:
    """A database of about `kib` KiB that does not compress."""
    rng = random.Random(seed)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x BLOB, stamp INTEGER DEFAULT 0)")
        db.executemany("INSERT INTO t (x) VALUES (?)", ((rng.randbytes(1000),) for _ in range(kib)))


def change(path: Path, stamp: int) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE t SET stamp = ? WHERE id = 1", (stamp,))


def rows(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT * FROM t").fetchall()
