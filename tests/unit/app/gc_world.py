"""A server's storage in memory with sessions that stop anywhere, and a model of what it must hold.

Sessions are the real ends of pushes and pulls. The collector's every call of the repository and of
the store passes a hook, where a test puts a crash or lets sessions go on.
"""

from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from blake3 import blake3

from edgereplica.adapters import migrations
from edgereplica.adapters.clock import ManualClock
from edgereplica.adapters.event_log import EventLog
from edgereplica.adapters.ids import SeededIds
from edgereplica.adapters.memory_repo import MemoryRepo
from edgereplica.adapters.memory_store import MemoryStore
from edgereplica.adapters.page_storage import PageStorage
from edgereplica.adapters.ports import Buffer, ObjectInfo, Repo, Row, Statement
from edgereplica.app.compaction import Compactor
from edgereplica.app.gc import GarbageCollector, GcReport
from edgereplica.app.history import DatabaseHistory, History
from edgereplica.app.pull_server import PullServerEnd
from edgereplica.app.push_server import PushServerEnd
from edgereplica.app.quotas import stored_bytes
from edgereplica.app.sync_services import SyncServices
from edgereplica.app.tokens import VerifiedClaims
from edgereplica.events.domain import DatabaseCreated, OrganizationCreated, UserSignedUp
from edgereplica.events.errors import Unauthenticated
from edgereplica.events.messages import Complete, Hello
from edgereplica.events.pages import count_pages, pages_of
from edgereplica.fsm.effects import (
    AbandonPush,
    CommitPush,
    CompareHashes,
    OpenPull,
    OpenPush,
    ReadMore,
    ReadPages,
    StagePages,
)

SIZE = 512
GRACE_SECONDS = 1000.0
STAGED_SECONDS = 5000.0
Pages = tuple[int, ...]
"""A version as the model knows it: for each page the seed of its content."""


def page(seed: int) -> bytes:
    return blake3(seed.to_bytes(8, "little")).digest(length=SIZE)


def digests(pages: Pages) -> bytes:
    return b"".join(blake3(page(seed)).digest() for seed in pages)


def root(pages: Pages) -> bytes:
    return blake3(digests(pages)).digest()


class Crash(BaseException):
    """The process ends here."""


Hook = Callable[[], Awaitable[None]]


class HookedRepo:
    """A repository that calls `hook` before and after everything."""

    def __init__(self, inner: Repo, hook: Hook) -> None:
        self._inner = inner
        self._hook = hook

    async def execute(self, sql: str, *parameters: Any) -> int:
        await self._hook()
        changed = await self._inner.execute(sql, *parameters)
        await self._hook()
        return changed

    async def first(self, sql: str, *parameters: Any) -> Row | None:
        await self._hook()
        return await self._inner.first(sql, *parameters)

    async def all(self, sql: str, *parameters: Any) -> list[Row]:
        await self._hook()
        return await self._inner.all(sql, *parameters)

    async def batch(self, statements: Sequence[Statement] | AsyncIterable[Statement]) -> None:
        await self._hook()
        await self._inner.batch(statements)
        await self._hook()

    async def close(self) -> None:
        """The world closes what it made."""


class HookedStore:
    """A store that calls `hook` before and after everything."""

    def __init__(self, inner: MemoryStore, hook: Hook) -> None:
        self._inner = inner
        self._hook = hook

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        await self._hook()
        await self._inner.put(key, parts)
        await self._hook()

    async def get(self, key: str) -> bytes:
        await self._hook()
        return await self._inner.get(key)

    async def get_range(self, key: str, offset: int, length: int) -> memoryview:
        await self._hook()
        return await self._inner.get_range(key, offset, length)

    async def get_tail(self, key: str, length: int) -> tuple[memoryview, int]:
        await self._hook()
        return await self._inner.get_tail(key, length)

    async def delete(self, key: str) -> None:
        await self._hook()
        await self._inner.delete(key)
        await self._hook()

    async def list(self, prefix: str) -> list[ObjectInfo]:
        await self._hook()
        return await self._inner.list(prefix)

    async def check(self) -> None:
        """Always ready."""


@dataclass
class Push:
    """A push whose pages are staged; what is left is its commit."""

    end: PushServerEnd
    database: str
    pages: Pages
    force: bool

    async def commit(self, world: "World") -> None:
        done = await self.end.commit(CommitPush(Complete(len(self.pages), root(self.pages))))
        await self.end.close()
        versions = world.versions.setdefault(self.database, [])
        if done.version == len(versions) + 1:
            versions.append(self.pages)
        assert versions[done.version - 1] == self.pages

    async def cut(self) -> None:
        await self.end.abandon(AbandonPush())
        await self.end.close()


@dataclass
class Pull:
    """A pull that has opened a version; what is left is to read it."""

    end: PullServerEnd
    pages: Pages

    async def read(self) -> None:
        read = await self.end.read(ReadPages(None))
        found: dict[int, bytes] = {}
        while not read.exhausted:
            for number, at in zip(pages_of(read.runs), range(count_pages(read.runs)), strict=True):
                found[number] = read.data[at * SIZE : (at + 1) * SIZE]
            read = await self.end.read_more(ReadMore())
        assert found == {n: page(seed) for n, seed in enumerate(self.pages, 1)}
        await self.end.close()


@dataclass
class World:
    repo: Repo = field(default_factory=MemoryRepo)
    clock: ManualClock = field(default_factory=ManualClock)
    versions: dict[str, list[Pages]] = field(default_factory=dict)
    refuses_commits: bool = False

    async def _good(self, claims: VerifiedClaims) -> VerifiedClaims:
        """What a push asks when everything is uploaded, right before it commits."""
        if self.refuses_commits:
            raise Unauthenticated("not now")
        return claims

    async def start(self) -> None:
        await migrations.migrate(self.repo)
        self.ids = SeededIds(1, self.clock)
        self.store = MemoryStore(self.clock)
        self.log = EventLog(self.repo, self.clock)
        self.histories = DatabaseHistory(self.log)
        storage = PageStorage(self.store, self.ids, cache_bytes=0)
        self.services = SyncServices(
            self.repo, self.log, self.histories, storage, self.clock, self._good
        )
        user = UserSignedUp(user_id="u", email="u@e", provider="password", subject="u@e")
        await self.log.append([(user.stream, 0, [user])])
        org = OrganizationCreated(org_id="o", name="o", personal=True)
        await self.log.append([(org.stream, 0, [org])])
        for name in ("d1", "d2"):
            event = DatabaseCreated(database_id=name, org_id="o", name=name, created_by="u")
            await self.log.append([(event.stream, 0, [event])])

    async def history(self, database: str) -> History:
        return await self.histories.peek(database)

    def claims(self, database: str) -> VerifiedClaims:
        return VerifiedClaims(
            *("sync", "u", "o", "u@e", "admin", 1 << 40, b"", "", 0), database_id=database
        )

    async def push(self, database: str, pages: Pages, base: int | None = None) -> Push:
        """Begin a push of `pages`, forced if it builds on another version than the head."""
        history = await self.history(database)
        head = history.head_version
        base = head if base is None else base
        # A client remembers the root of its base, whether the server still keeps it or not.
        base_root = root(self.versions[database][base - 1]) if base else None
        end = PushServerEnd(self.services, self.claims(database))
        hello = Hello(SIZE, len(pages), base=base, base_root=base_root, force=base != head)
        opened = await end.open(OpenPush(hello))
        assert opened.conflict is None
        wanted = await end.compare_hashes(CompareHashes(((1, digests(pages)),)))
        for number in pages_of(wanted.runs):
            data = page(pages[number - 1])
            await end.stage(StagePages(((number, number),), "raw", data))
        return Push(end, database, pages, hello.force)

    async def commit(self, database: str, pages: Pages, base: int | None = None) -> None:
        await (await self.push(database, pages, base)).commit(self)

    async def uploaded(self, database: str, pages: Pages) -> Push:
        """A push that is about to commit: its segment and its map are in the store."""
        push = await self.push(database, pages)
        self.refuses_commits = True
        with pytest.raises(Unauthenticated):
            await push.end.commit(CommitPush(Complete(len(pages), root(pages))))
        self.refuses_commits = False
        return push

    async def pull(self, database: str, version: int) -> Pull:
        end = PullServerEnd(self.services, self.claims(database))
        await end.open(OpenPull(Hello(SIZE, 0, at=version)))
        return Pull(end, self.versions[database][version - 1])

    async def check(self) -> None:
        """Every version that may be read can be read, byte for byte."""
        for database, versions in self.versions.items():
            history = await self.history(database)
            if history.deleted:
                continue
            assert history.head_version == len(versions)
            for number in range(history.oldest, history.head_version + 1):
                await (await self.pull(database, number)).read()

    def collector(
        self,
        hook: Hook | None = None,
        look_seconds: float = 0,
        clock: ManualClock | None = None,
    ) -> GarbageCollector:
        """A collector as another process would have it: nothing is shared but repo and store.

        It may have a clock of its own.
        """

        async def nothing() -> None: ...

        repo, clock = HookedRepo(self.repo, hook or nothing), clock or self.clock
        log = EventLog(repo, clock)
        return GarbageCollector(
            repo,
            log,
            DatabaseHistory(log),
            HookedStore(self.store, hook or nothing),
            clock,
            self.ids,
            grace_seconds=GRACE_SECONDS,
            staged_ttl_seconds=STAGED_SECONDS,
            look_seconds=look_seconds,
        )

    def compactor(self, hook: Hook | None = None) -> Compactor:
        """Another process's compactor, which finds every segment small and three too many."""

        async def nothing() -> None: ...

        repo = HookedRepo(self.repo, hook or nothing)
        return Compactor(
            repo,
            DatabaseHistory(EventLog(repo, self.clock)),
            PageStorage(HookedStore(self.store, hook or nothing), self.ids, cache_bytes=0),
            self.clock,
            pieces_max=3,
        )

    async def collect(self) -> GcReport:
        report = await self.collector().run()
        assert report.failed == (), report.failed
        assert await self.counted() == sum(map(len, self.store.objects.values()))
        return report

    async def counted(self) -> int:
        """What the quota takes the organization to store."""
        return await stored_bytes(self.repo, "o")
