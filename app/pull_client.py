"""The client's hands in a pull: say what is held, keep what comes aside, verify, install.

Pages of a new file go straight to their place in a temporary file beside it; pages for an existing
file are spooled (in memory while they are few). Nothing that others see changes before
`ApplyVersion` has found the root right. What the server says of a version's size takes no room:
that is made for pages that come (`PageEntries`).
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from ..adapters.hashing import NO_DIGEST, hash_pages, root_of
from ..adapters.local_apply import apply_version
from ..adapters.local_changes import require_unchanged
from ..adapters.local_errors import local_errors
from ..adapters.local_fresh import FreshFile
from ..adapters.local_state import FileState
from ..adapters.ports import Buffer
from ..events.errors import EdgeReplicaError, ProtocolViolation, RootMismatch
from ..events.limits import DIGEST_BYTES, PULLED_BYTES_IN_MEMORY_MAX, V1_ANNOUNCED_PAGES_MAX
from ..events.messages import HelloReply
from ..events.pages import count_pages, lock_byte_page
from ..events.session import (
    Announcement,
    DrilledDown,
    PagesStored,
    ReplicaPrepared,
    VersionApplied,
    WindowHashed,
)
from ..fsm.effects import ApplyVersion, HashWindow, PrepareReplica, StorePages
from ..fsm.effects import DrillDown as DrillDownEffect
from .compression import decode
from .driver import Handler
from .local_content import DrillDown, LocalContent, PageHook
from .page_entries import PageEntries


class Spool:
    """Pages kept aside in the order of arrival, as (first page, joined data) pieces.

    In memory while they are few, then in a file beside the database.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: list[tuple[int, memoryview]] = []
        self._bytes_held = 0
        self._file: IO[bytes] | None = None
        self._filed: list[tuple[int, int]] = []

    def write(self, first: int, data: memoryview) -> None:
        """`data` is kept, not copied, as long as it stays in memory."""
        self._held.append((first, data))
        self._bytes_held += len(data)
        if self._file is not None or self._bytes_held > PULLED_BYTES_IN_MEMORY_MAX:
            self._move_to_file()

    def _move_to_file(self) -> None:
        with local_errors(self._directory):
            if self._file is None:
                self._file = tempfile.TemporaryFile(  # noqa: SIM115 - see `close`
                    "w+b", prefix=".edgereplica-", dir=str(self._directory)
                )
            for first, data in self._held:
                self._file.write(data)
                self._filed.append((first, len(data)))
        self._held = []
        self._bytes_held = 0

    def pieces(self) -> Iterator[tuple[int, Buffer]]:
        if self._file is not None:
            self._file.seek(0)
            for first, length in self._filed:
                yield first, self._file.read(length)
        yield from self._held

    def close(self) -> None:
        self._held = []
        if self._file is not None:
            self._file.close()


class PullClientEnd:
    """Performs the effects of `ClientPull` for the file at `path`.

    `content` is what the file holds (None: nothing worth keeping), `refusal` what stands against
    overwriting it. After a pull, `digests` are those of the version installed.
    """

    def __init__(
        self,
        path: Path,
        content: LocalContent | None,
        *,
        exists: bool,
        refusal: Callable[[HelloReply], EdgeReplicaError | None],
        wire_version: int,
        dry_run: bool,
        busy_timeout_seconds: float,
        planned_state: FileState | None,
        before_install: Callable[[], None],
        on_pages: PageHook,
        on_step: Callable[[], None],
    ) -> None:
        self._path = path
        self._content = content
        self._exists = exists
        self._refusal = refusal
        self._wire_version = wire_version
        self._dry_run = dry_run
        self._busy_timeout_seconds = busy_timeout_seconds
        self._planned_state = planned_state
        self._before_install = before_install
        self._on_pages = on_pages
        self._on_step = on_step
        self._reply: HelloReply | None = None
        self._drill: DrillDown | None = None
        self._windows: Iterator[WindowHashed] | None = None
        self._fresh: FreshFile | None = None
        self._spool: Spool | None = None
        self._digests = PageEntries(DIGEST_BYTES)
        self.pages_received = 0
        self.pages_differing = 0
        self.applied: FileState | None = None

    @property
    def handlers(self) -> Mapping[type, Handler]:
        return {
            PrepareReplica: self.prepare,
            HashWindow: self.hash_window,
            DrillDownEffect: self.drill_down,
            StorePages: self.store,
            ApplyVersion: self.apply,
        }

    @property
    def digests(self) -> bytearray:
        return self._digests.joined

    @property
    def replaced_whole(self) -> bool:
        """Whether the file was written anew, not changed in place."""
        return self._fresh is not None

    @property
    def reply(self) -> HelloReply:
        """What the server greeted with: which version is being pulled."""
        assert self._reply is not None
        return self._reply

    @property
    def page_size(self) -> int:
        assert self._reply is not None
        return self._reply.page_size

    @property
    def page_count(self) -> int:
        assert self._reply is not None
        return self._reply.page_count

    @property
    def pages_expected(self) -> int:
        """How many pages will come, where the server said so; else at most this many."""
        assert self._reply is not None
        changed = self._reply.pages_changed
        return self._reply.page_count if changed is None else changed

    def close(self) -> None:
        """Remove what was kept aside; harmless after an installation."""
        if self._fresh is not None:
            self._fresh.abandon()
        if self._spool is not None:
            self._spool.close()

    async def prepare(self, effect: PrepareReplica) -> ReplicaPrepared:
        reply = self._reply = effect.reply
        content = self._content
        refusal = None if self._dry_run else self._refusal(reply)
        if refusal is not None:
            raise refusal
        if content is None or not self._can_keep(content, reply):
            self._fresh = FreshFile(self._path, reply.page_size, reply.page_count)
            return ReplicaPrepared("nothing")
        announcement = self._announcement(content, reply)
        if announcement == "nothing":
            held = content.take_digests()
        else:
            held = content.digests[: reply.page_count * DIGEST_BYTES]
        self._digests = PageEntries(DIGEST_BYTES, held)
        self._digests.cut(reply.page_count)
        self._spool = Spool(self._path.parent)
        return ReplicaPrepared(announcement)

    @staticmethod
    def is_known_version(content: LocalContent, reply: HelloReply) -> bool:
        """Whether the server holds what the file holds: then nothing is lost with it.

        Content without a base that the server knows all the same is one of its versions. And the
        file may be the very version pulled without knowing it: its push, or a pull, was interrupted
        when all was done but the sidecar.
        """
        if content.changed is None and reply.base_known:
            return True
        return content.page_count == reply.page_count and content.root() == reply.root

    def _can_keep(self, content: LocalContent, reply: HelloReply) -> bool:
        """Whether pages of the file may stay. A long v1 announcement could not be finished: the
        server answers while it is being made, and each would wait for the other to read."""
        if self._wire_version == 1 and content.page_count > V1_ANNOUNCED_PAGES_MAX:
            return False
        return content.page_size == reply.page_size

    def _announcement(self, content: LocalContent, reply: HelloReply) -> Announcement:
        if reply.base_known:
            return "windows" if content.changed else "nothing"
        return "windows" if self._wire_version == 1 else "ranges"

    async def hash_window(self, effect: HashWindow) -> WindowHashed:
        assert self._content is not None
        assert self._reply is not None
        if self._windows is None:
            runs = self._content.everything
            if self._drill is not None:
                runs = self._drill.differing
            elif self._reply.base_known and self._content.changed is not None:
                runs = self._content.changed
            self._windows = self._content.windows(runs)
        return next(self._windows)

    async def drill_down(self, effect: DrillDownEffect) -> DrilledDown:
        assert self._content is not None
        if self._drill is None:
            self._drill = DrillDown(self._content, to_single_pages=self._dry_run)
        ranges = self._drill.next_round(effect.runs)
        if not ranges:
            self.pages_differing = count_pages(self._drill.differing)
        return DrilledDown(ranges)

    async def store(self, effect: StorePages) -> PagesStored:
        assert self._reply is not None
        size, pages = self._reply.page_size, count_pages(effect.runs)
        if self.pages_received + pages > self.page_count:
            raise ProtocolViolation(f"more pages than the {self.page_count} of the version")
        data = memoryview(decode(effect.codec, effect.data, pages * size))
        at = 0
        for first, last in effect.runs:
            piece = data[at : at + (last - first + 1) * size]
            at += len(piece)
            self._digests.put(first, hash_pages(piece, size, first))
            self._write(first, piece)
            self._on_pages(first, piece)
        self.pages_received += pages
        self._on_step()
        return PagesStored(pages, len(effect.data))

    def _write(self, first: int, piece: memoryview) -> None:
        if self._fresh is not None:
            self._fresh.write(first, piece)
        else:
            assert self._spool is not None
            self._spool.write(first, piece)

    async def apply(self, effect: ApplyVersion) -> VersionApplied:
        assert self._reply is not None
        self._digests.settle(self.page_count)
        self._check_complete()
        for announced in (self._reply.root, effect.root):
            if announced is not None and announced != root_of(self.digests):
                raise RootMismatch(
                    "the pulled pages do not have the version's root; nothing was installed"
                )
        self._before_install()
        if self._fresh is not None:
            self.applied = self._fresh.install(
                replace=self._content is not None,
                busy_timeout_seconds=self._busy_timeout_seconds,
                check=None if self._planned_state is None else self._check_unchanged,
            )
        else:
            assert self._spool is not None
            self.applied = apply_version(
                self._path,
                page_size=self.page_size,
                page_count=self.page_count,
                pages=self._spool.pieces(),
                busy_timeout_seconds=self._busy_timeout_seconds,
                check=self._check_unchanged,
            ).state
        return VersionApplied(effect.version or self._reply.head or 0)

    def _check_unchanged(self) -> None:
        """While nobody else can write: nobody has written to the file since it was compared."""
        assert self._planned_state is not None
        require_unchanged(self._path, self._planned_state)

    def _check_complete(self) -> None:
        """Look for pages that neither came nor were held: wire v1 announces no root."""
        assert self._reply is not None
        lock_page = lock_byte_page(self._reply.page_size)
        at = self.digests.find(NO_DIGEST)
        while at >= 0:
            page, inside = divmod(at, DIGEST_BYTES)
            if inside == 0 and page + 1 != lock_page:
                raise RootMismatch(f"page {page + 1} never came; nothing was installed")
            at = self.digests.find(NO_DIGEST, at + 1)
