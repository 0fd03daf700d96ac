"""What a server of the model stands on: memory, a data directory, or PostgreSQL and S3.

A storage outlives the servers on it. Each history begins on an empty one, and says so by a tenant
of its own where the ground is shared.
"""

import itertools
from pathlib import Path
from typing import Protocol

from edgereplica.adapters.memory_repo import MemoryRepo
from edgereplica.adapters.memory_store import MemoryStore
from edgereplica.adapters.object_store import open_store
from edgereplica.adapters.ports import Clock, ObjectStore, Repo
from edgereplica.adapters.postgres_repo import PostgresRepo
from edgereplica.adapters.sqlite_repo import SqliteRepo


class Storage(Protocol):
    number: int
    """Tells histories on one ground apart."""
    store: ObjectStore

    async def open_repo(self) -> Repo:
        """As a server does when it starts."""
        ...

    async def close_repo(self, repo: Repo) -> None:
        """As the system does when a server's process is no more."""
        ...


class InMemory:
    number = 0

    def __init__(self, clock: Clock) -> None:
        self._repo = MemoryRepo()
        self.store: ObjectStore = MemoryStore(clock)

    async def open_repo(self) -> Repo:
        return self._repo

    async def close_repo(self, repo: Repo) -> None:
        """It is what lies on the disk, so it stays."""


class Embedded:
    """SQLite and a local directory, as `edgereplica serve` has them."""

    number = 0

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._path = folder / "repo.db"
        self.store: ObjectStore = open_store(folder / "objects")

    async def open_repo(self) -> Repo:
        return await SqliteRepo.open(self._path, readers=1)

    async def close_repo(self, repo: Repo) -> None:
        await repo.close()


class ScaledOut:
    """PostgreSQL and S3. Histories share the database, and each has a prefix in the bucket.

    S3's address and keys are taken from the environment, as the server takes them.
    """

    _numbers = itertools.count(1)

    def __init__(self, database_url: str, bucket_url: str) -> None:
        self.number = next(self._numbers)
        self._database_url = database_url
        self.store: ObjectStore = open_store(f"{bucket_url}/{self.number}")

    async def open_repo(self) -> Repo:
        return await PostgresRepo.open(self._database_url)

    async def close_repo(self, repo: Repo) -> None:
        await repo.close()
