"""Pushes and pulls through the server's real ends, without sockets between.

What is measured is the server with its repository and its store: `DATABASE_URL` and
`PAGE_STORE_URL` choose them as they do for `serve`; without them, a data directory.
"""

import copy
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from edgereplica.adapters import migrations
from edgereplica.adapters.clock import SystemClock
from edgereplica.adapters.event_log import EventLog
from edgereplica.adapters.hashing import hash_pages, root_of
from edgereplica.adapters.ids import SystemIds
from edgereplica.adapters.object_store import MeteredStore, StoreUsage
from edgereplica.adapters.page_storage import PageStorage
from edgereplica.adapters.ports import Clock, Repo
from edgereplica.app.history import DatabaseHistory
from edgereplica.app.places import Place
from edgereplica.app.pull_server import PullServerEnd
from edgereplica.app.push_server import PushServerEnd
from edgereplica.app.settings import load_settings
from edgereplica.app.sync_services import SyncServices
from edgereplica.app.tokens import VerifiedClaims
from edgereplica.events.domain import DatabaseCreated, OrganizationCreated, UserSignedUp
from edgereplica.events.messages import Complete, Hello
from edgereplica.events.pages import Runs, pages_of, runs_of
from edgereplica.fsm.effects import (
    CommitPush,
    CompareHashes,
    OpenPull,
    OpenPush,
    ReadMore,
    ReadPages,
    StagePages,
)

PAGE_SIZE = 4096
_BATCH_PAGES = 256


async def _good(claims: VerifiedClaims) -> VerifiedClaims:
    return claims


def page(random_bytes: random.Random) -> bytes:
    """Content that zstd halves, as that of an application's database."""
    return random_bytes.randbytes(PAGE_SIZE // 2) + bytes(PAGE_SIZE // 2)


@dataclass
class Pulled:
    open_seconds: float
    total_seconds: float
    usage: StoreUsage


@dataclass
class World:
    """A repository and a metered store; `services` as a process that has just started has them."""

    repo: Repo
    store: MeteredStore
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        self.ids = SystemIds(self.clock)
        self.log = EventLog(self.repo, self.clock)
        self.org_id = self.ids.new_id()
        self.user_id = self.ids.new_id()

    async def organization(self) -> None:
        email = f"{self.user_id}@example.org"
        user = UserSignedUp(user_id=self.user_id, email=email, provider="password", subject=email)
        org = OrganizationCreated(org_id=self.org_id, name=email, personal=True)
        await self.log.append([(user.stream, 0, [user]), (org.stream, 0, [org])])

    async def database(self) -> str:
        database_id = self.ids.new_id()
        event = DatabaseCreated(
            database_id=database_id, org_id=self.org_id, name=database_id, created_by=self.user_id
        )
        await self.log.append([(event.stream, 0, [event])])
        return database_id

    def services(self) -> SyncServices:
        storage = PageStorage(self.store, self.ids)
        histories = DatabaseHistory(self.log)
        return SyncServices(self.repo, self.log, histories, storage, self.clock, _good)

    def claims(self, database_id: str) -> VerifiedClaims:
        return VerifiedClaims(
            "sync",
            self.user_id,
            self.org_id,
            "bench@example.org",
            "admin",
            1 << 40,
            b"",
            "",
            0,
            database_id=database_id,
        )


class Image:
    """A database file in memory, and what a v2 client with a sidecar says of it."""

    def __init__(self, pages: int, seed: int) -> None:
        self._random = random.Random(seed)
        self._pages = [page(self._random) for _ in range(pages)]
        self._digests = bytearray(hash_pages(b"".join(self._pages), PAGE_SIZE))
        self._changed = list(range(1, pages + 1))
        self.version = 0
        self.root = b""

    def change(self, count: int) -> None:
        """Change page 1, as every SQLite transaction does, and `count` others."""
        others = self._random.sample(range(2, len(self._pages) + 1), count)
        self._changed = sorted({1, *others})
        for number in self._changed:
            self._pages[number - 1] = page(self._random)
            at = (number - 1) * 32
            self._digests[at : at + 32] = hash_pages(self._pages[number - 1], PAGE_SIZE)

    def hello(self) -> Hello:
        base = {"base": self.version, "base_root": self.root} if self.version else {"base": 0}
        return Hello(PAGE_SIZE, len(self._pages), root=root_of(bytes(self._digests)), **base)

    def windows(self) -> tuple[tuple[int, bytes], ...]:
        return tuple(
            (first, bytes(self._digests[(first - 1) * 32 : last * 32]))
            for first, last in runs_of(self._changed)
        )

    def batches(self, runs: Runs) -> Iterator[tuple[Runs, bytes]]:
        wanted, packer = list(pages_of(runs)), zstandard.ZstdCompressor(level=1)
        for start in range(0, len(wanted), _BATCH_PAGES):
            some = wanted[start : start + _BATCH_PAGES]
            joined = b"".join(self._pages[number - 1] for number in some)
            yield runs_of(some), packer.compress(joined)

    def complete(self) -> Complete:
        return Complete(len(self._pages), root_of(bytes(self._digests)))

    def pushed(self, version: int, root: bytes) -> None:
        self.version, self.root = version, root

    def twin(self) -> "Image":
        """The same content as somebody has it who never pushed it."""
        other = copy.copy(self)
        other._pages, other._digests = list(self._pages), bytearray(self._digests)
        other._changed = list(range(1, len(self._pages) + 1))
        other.pushed(0, b"")
        return other


class Client:
    """Pushes an image to one database, and pulls from it."""

    def __init__(self, world: World, database_id: str, image: Image) -> None:
        self._world = world
        self._database_id = database_id
        self.image = image

    async def push(self, services: SyncServices) -> None:
        image = self.image
        end = PushServerEnd(services, self._world.claims(self._database_id))
        opened = await end.open(OpenPush(image.hello()))
        assert opened.conflict is None
        wanted = await end.compare_hashes(CompareHashes(image.windows()))
        for runs, data in image.batches(wanted.runs):
            await end.stage(StagePages(runs, "zstd", data))
        done = await end.commit(CommitPush(image.complete()))
        await end.close()
        image.pushed(done.version, done.root)

    async def pull(self, version: int | None = None) -> Pulled:
        """A fresh pull from a process that has just started; its root is checked."""
        world, services = self._world, self._world.services()
        before, started = world.store.usage, time.perf_counter()
        end = PullServerEnd(services, world.claims(self._database_id))
        opened = await end.open(OpenPull(Hello(PAGE_SIZE, 0, at=version)))
        opened_at = time.perf_counter()
        digests = bytearray(32 * opened.version.page_count)
        unpacker = zstandard.ZstdDecompressor()
        read = await end.read(ReadPages(None))
        while not read.exhausted:
            data = unpacker.decompress(read.data) if read.codec == "zstd" else read.data
            joined, at = hash_pages(data, PAGE_SIZE), 0
            for first, last in read.runs:
                count = (last - first + 1) * 32
                digests[(first - 1) * 32 : last * 32] = joined[at : at + count]
                at += count
            read = await end.read_more(ReadMore())
        await end.close()
        total = time.perf_counter() - started
        assert root_of(bytes(digests)) == opened.version.root
        return Pulled(opened_at - started, total, world.store.usage.since(before))


@asynccontextmanager
async def open_world(data_dir: Path) -> AsyncIterator[World]:
    """The place of the environment, else `data_dir`; with an organization of its own."""
    place = Place.of(load_settings(data_dir=data_dir))
    place.prepare()
    async with place.repo() as repo:
        await migrations.migrate(repo)
        world = World(repo, MeteredStore(place.store()))
        await world.organization()
        yield world
