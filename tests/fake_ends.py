"""Both ends of a sync on plain Python values: for tests of machines, driver and protocol alone.

`FakeDatabase` is the server's side (versions, and content by digest, which survives an interrupted
push); `FakeFile` the client's. They do what `app.push_server`, `app.pull_client` and their kin do,
in the fewest lines that can be checked by eye.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from edgereplica.events.errors import PageHashMismatch, RootMismatch
from edgereplica.events.messages import HelloReply
from edgereplica.events.pages import Runs, pages_of, runs_of, split_runs
from edgereplica.events.session import (
    ContentHashed,
    DrilledDown,
    Event,
    Failed,
    HashesCompared,
    PagesLoaded,
    PagesRead,
    PagesStaged,
    PagesStored,
    PullOpened,
    PullPlanned,
    PushCommitted,
    PushOpened,
    PushPlanned,
    RangesCompared,
    ReplicaPrepared,
    VersionApplied,
    VersionInfo,
    WindowHashed,
)
from edgereplica.fsm import effects as fx

Pages = list[bytes]
Handlers = Mapping[type, Callable[[Any], Awaitable[Event | None]]]
WINDOW_PAGES = 3
LOADED_PAGES = 2
DRILL_STEPS = (8, 2)


def digest(page: bytes) -> bytes:
    return blake3(page).digest()


def root(pages: Pages) -> bytes:
    return blake3(b"".join(map(digest, pages))).digest()


def joined(pages: Mapping[int, bytes], runs: Runs) -> bytes:
    return b"".join(pages[page] for page in pages_of(runs))


@dataclass
class Version:
    page_size: int
    pages: Pages


@dataclass
class FakeDatabase:
    versions: list[Version] = field(default_factory=list)
    content: dict[bytes, bytes] = field(default_factory=dict)
    commits_refused_with: Exception | None = None

    def commit(self, page_size: int, pages: Pages) -> int:
        self.content |= {digest(page): page for page in pages}
        self.versions.append(Version(page_size, pages))
        return len(self.versions)

    @property
    def head(self) -> Pages:
        return self.versions[-1].pages if self.versions else []

    def info(self, number: int, page_size: int) -> VersionInfo:
        if number == 0:
            return VersionInfo(0, root([]), page_size, 0)
        version = self.versions[number - 1]
        return VersionInfo(
            number, root(version.pages), version.page_size, len(version.pages), "db", "ann", 1.0
        )

    def known(self, hello: Any) -> int | None:
        """The client's base, if this history has it."""
        number = hello.base
        if number is None or number > len(self.versions):
            return None
        info = self.info(number, hello.page_size)
        same = info.root == hello.base_root and info.page_size == hello.page_size
        return number if same else None


class PushServerEnd:
    def __init__(self, database: FakeDatabase) -> None:
        self.database = database
        self.digests: dict[int, bytes] = {}
        self.unhashed: dict[int, bytes] = {}
        self.page_size = 0
        self.head = 0
        self.abandoned = False

    @property
    def handlers(self) -> Handlers:
        return {
            fx.OpenPush: self.open,
            fx.CompareHashes: self.compare_hashes,
            fx.CompareRanges: self.compare_ranges,
            fx.StagePages: self.stage,
            fx.CommitPush: self.commit,
            fx.AbandonPush: self.abandon,
        }

    async def open(self, effect: fx.OpenPush) -> PushOpened:
        hello, base = effect.hello, self.database.known(effect.hello)
        self.head, self.page_size = len(self.database.versions), hello.page_size
        if base:
            self.digests = dict(enumerate(map(digest, self.database.versions[base - 1].pages), 1))
        conflict = None
        if self.head and not hello.force and base != self.head:
            conflict = Failed("conflict", "not the head", 1008, details={"head": self.head})
        info = self.database.info(self.head, hello.page_size)
        return PushOpened(info, base is not None, conflict)

    async def compare_hashes(self, effect: fx.CompareHashes) -> HashesCompared:
        missing = set()
        for first, joined_digests in effect.windows:
            for i in range(len(joined_digests) // 32):
                self.digests[first + i] = joined_digests[32 * i : 32 * i + 32]
                if self.digests[first + i] not in self.database.content:
                    missing.add(first + i)
        return HashesCompared(runs_of(sorted(missing)))

    async def compare_ranges(self, effect: fx.CompareRanges) -> RangesCompared:
        differing: set[int] = set()
        for first, last, combined in effect.ranges:
            held = self.database.head[first - 1 : last]
            if len(held) == last - first + 1 and root(held) == combined:
                self.digests |= dict(enumerate(map(digest, held), first))
            else:
                differing |= set(range(first, last + 1))
        return RangesCompared(runs_of(sorted(differing)))

    async def stage(self, effect: fx.StagePages) -> PagesStaged:
        numbers = list(pages_of(effect.runs))
        for i, number in enumerate(numbers):
            page = effect.data[i * self.page_size : (i + 1) * self.page_size]
            if self.digests.setdefault(number, digest(page)) != digest(page):
                raise PageHashMismatch(f"page {number}")
            self.database.content[digest(page)] = page
        return PagesStaged(len(numbers), len(effect.data))

    async def commit(self, effect: fx.CommitPush) -> PushCommitted:
        if self.database.commits_refused_with is not None:
            raise self.database.commits_refused_with
        count = effect.complete.page_count
        count = max(self.digests, default=0) if count is None else count
        pages = [self.database.content[self.digests[number]] for number in range(1, count + 1)]
        if effect.complete.root not in (None, root(pages)):
            raise RootMismatch("another root")
        return PushCommitted(self.database.commit(self.page_size, pages), root(pages))

    async def abandon(self, effect: fx.AbandonPush) -> None:
        self.abandoned = True


class PullServerEnd:
    BATCH_PAGES = 2

    def __init__(self, database: FakeDatabase) -> None:
        self.database = database
        self.pages: Pages = []
        self.page_size = 0
        self.held: set[int] = set()
        self.batches: Iterator[Runs] = iter(())

    @property
    def handlers(self) -> Handlers:
        return {
            fx.OpenPull: self.open,
            fx.CompareHashes: self.compare_hashes,
            fx.CompareRanges: self.compare_ranges,
            fx.ReadPages: self.read,
            fx.ReadMore: self.read_more,
        }

    async def open(self, effect: fx.OpenPull) -> PullOpened:
        hello, base = effect.hello, self.database.known(effect.hello)
        number = hello.at if isinstance(hello.at, int) else len(self.database.versions)
        info = self.database.info(number, hello.page_size)
        self.pages = self.database.versions[number - 1].pages if number else []
        self.page_size = info.page_size
        if base is None or info.page_size != hello.page_size:
            return PullOpened(info, base_known=False)
        old = self.database.versions[base - 1].pages if base else []
        pairs = enumerate(zip(old, self.pages, strict=False), 1)
        self.held = {n for n, (before, after) in pairs if before == after}
        return PullOpened(info, True, len(self.pages) - len(self.held))

    async def compare_hashes(self, effect: fx.CompareHashes) -> HashesCompared:
        differing = set()
        for first, joined_digests in effect.windows:
            for i in range(len(joined_digests) // 32):
                number = first + i
                same = number <= len(self.pages) and (
                    digest(self.pages[number - 1]) == joined_digests[32 * i : 32 * i + 32]
                )
                (self.held.add if same else self.held.discard)(number)
                if not same and number <= len(self.pages):
                    differing.add(number)
        return HashesCompared(runs_of(sorted(differing)))

    async def compare_ranges(self, effect: fx.CompareRanges) -> RangesCompared:
        differing: set[int] = set()
        for first, last, combined in effect.ranges:
            numbers = set(range(first, last + 1))
            pages = self.pages[first - 1 : last]
            if len(pages) == len(numbers) and root(pages) == combined:
                self.held |= numbers
            else:
                differing |= numbers
        return RangesCompared(runs_of(sorted(differing)))

    async def read(self, effect: fx.ReadPages) -> PagesRead:
        runs = effect.runs
        if runs is None:
            runs = runs_of(n for n in range(1, len(self.pages) + 1) if n not in self.held)
        self.held |= set(pages_of(runs))
        self.batches = split_runs(runs, self.BATCH_PAGES)
        return await self.read_more(fx.ReadMore())

    async def read_more(self, effect: fx.ReadMore) -> PagesRead:
        runs = next(self.batches, None)
        if runs is None:
            return PagesRead()
        return PagesRead(runs, "raw", joined(dict(enumerate(self.pages, 1)), runs))


@dataclass
class FakeFile:
    """`base` is what the sidecar remembers: the version last synced, and its pages."""

    page_size: int = 512
    pages: Pages = field(default_factory=list)
    base: tuple[int, Pages] | None = None

    @property
    def changed(self) -> Runs:
        assert self.base is not None
        old = self.base[1]
        return runs_of(
            n for n, page in enumerate(self.pages, 1) if n > len(old) or old[n - 1] != page
        )

    def push_plan(self, **more: Any) -> PushPlanned:
        return PushPlanned(
            page_size=self.page_size,
            page_count=len(self.pages),
            base=self.base[0] if self.base else None,
            base_root=root(self.base[1]) if self.base else None,
            root=root(self.pages) if self.base else None,
            **more,
        )

    def pull_plan(self, **more: Any) -> PullPlanned:
        return PullPlanned(
            page_size=self.page_size,
            page_count=len(self.pages),
            base=self.base[0] if self.base else None,
            base_root=root(self.base[1]) if self.base else None,
            root=root(self.pages) if self.base else None,
            fresh=not self.pages,
            **more,
        )


class ClientEnd:
    """What push and pull share: announcing what the file holds."""

    def __init__(self, file: FakeFile) -> None:
        self.file = file
        self.windows: Iterator[WindowHashed] | None = None
        self.steps = iter(DRILL_STEPS)
        self.differing: Runs | None = None
        self.rounds = 0

    @property
    def everything(self) -> Runs:
        return ((1, len(self.file.pages)),) if self.file.pages else ()

    def announced(self, runs: Runs) -> Iterator[WindowHashed]:
        groups = list(split_runs(runs, WINDOW_PAGES))
        for i, group in enumerate(groups):
            windows = tuple(
                (first, b"".join(map(digest, self.file.pages[first - 1 : last])))
                for first, last in group
            )
            last_one = i == len(groups) - 1
            yield WindowHashed(
                windows, last_one, len(self.file.pages), root(self.file.pages) if last_one else b""
            )
        if not groups:
            yield WindowHashed((), True, len(self.file.pages), root(self.file.pages))

    async def hash_window(self, effect: fx.HashWindow) -> WindowHashed:
        if self.windows is None:
            self.windows = self.announced(self.to_announce(effect))
        return next(self.windows)

    def to_announce(self, effect: fx.HashWindow) -> Runs:
        if self.differing is not None:
            return self.differing
        return self.file.changed if effect.relative_to_base else self.everything

    async def drill_down(self, effect: fx.DrillDown) -> DrilledDown:
        self.differing = self.everything if effect.runs is None else effect.runs
        step = next(self.steps, None)
        if step is None or not self.differing:
            return DrilledDown(())
        self.rounds += 1
        return DrilledDown(
            tuple(
                (at, end, root(self.file.pages[at - 1 : end]))
                for first, last in self.differing
                for at in range(first, last + 1, step)
                for end in [min(at + step - 1, last)]
            )
        )


class PushClientEnd(ClientEnd):
    def __init__(self, file: FakeFile) -> None:
        super().__init__(file)
        self.sent: list[int] = []
        self.counted: list[int] = []

    @property
    def handlers(self) -> Handlers:
        return {
            fx.HashContent: self.hash_content,
            fx.HashWindow: self.hash_window,
            fx.DrillDown: self.drill_down,
            fx.LoadPages: self.load,
            fx.CheckSource: self.check_source,
            fx.CountPages: self.count,
        }

    async def hash_content(self, effect: fx.HashContent) -> ContentHashed:
        return ContentHashed(root(self.file.pages))

    async def load(self, effect: fx.LoadPages) -> PagesLoaded:
        first, *others = split_runs(effect.runs, LOADED_PAGES)
        self.sent += pages_of(first)
        rest = tuple(run for group in others for run in group)
        return PagesLoaded(first, "raw", joined(dict(enumerate(self.file.pages, 1)), first), rest)

    async def check_source(self, effect: fx.CheckSource) -> None:
        return

    async def count(self, effect: fx.CountPages) -> None:
        self.counted += pages_of(effect.runs)


class PullClientEnd(ClientEnd):
    def __init__(self, file: FakeFile, *, speaks_v1: bool = False) -> None:
        super().__init__(file)
        self.speaks_v1 = speaks_v1
        self.reply: HelloReply | None = None
        self.received: dict[int, bytes] = {}
        self.applied = 0

    @property
    def handlers(self) -> Handlers:
        return {
            fx.PrepareReplica: self.prepare,
            fx.HashWindow: self.hash_window,
            fx.DrillDown: self.drill_down,
            fx.StorePages: self.store,
            fx.ApplyVersion: self.apply,
        }

    async def prepare(self, effect: fx.PrepareReplica) -> ReplicaPrepared:
        self.reply = effect.reply
        if not self.file.pages or self.file.page_size != self.reply.page_size:
            return ReplicaPrepared("nothing")
        if self.reply.base_known:
            return ReplicaPrepared("windows" if self.file.changed else "nothing")
        return ReplicaPrepared("windows" if self.speaks_v1 else "ranges")

    def to_announce(self, effect: fx.HashWindow) -> Runs:
        assert self.reply is not None
        if self.differing is None and self.reply.base_known:
            return self.file.changed
        return super().to_announce(effect)

    async def store(self, effect: fx.StorePages) -> PagesStored:
        assert self.reply is not None
        numbers, size = list(pages_of(effect.runs)), self.reply.page_size
        assert len(effect.data) == len(numbers) * size
        for i, number in enumerate(numbers):
            self.received[number] = effect.data[i * size : (i + 1) * size]
        return PagesStored(len(numbers), len(effect.data))

    async def apply(self, effect: fx.ApplyVersion) -> VersionApplied:
        assert self.reply is not None
        held = self.file.pages if self.file.page_size == self.reply.page_size else []
        pages = dict(enumerate(held, 1)) | self.received
        new = [pages[number] for number in range(1, self.reply.page_count + 1)]
        if effect.root not in (None, root(new)):
            raise RootMismatch("another root")
        self.file.pages, self.file.page_size = new, self.reply.page_size
        self.file.base = (effect.version or 0, new) if effect.version else None
        self.applied += 1
        return VersionApplied(effect.version or 0)
