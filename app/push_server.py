"""The server's hands in a push: compare, verify and stage pages, commit a version.

What is staged is invisible until `CommitPush` has appended a `VersionCommitted` whose parent is
still the head; right before that the token is asked for again, for it may have been revoked while
the pages came. The root is computed over this side's own records and must be the one the client
named. A forced push that finds the head moved takes the new head as its parent: its content is
whole, so nothing of the other version is mixed in.
"""

from collections.abc import Mapping

from ..adapters.page_storage import PushStage, Sealed, StagedSegment
from ..adapters.pins import Pin, guarding
from ..events.domain import SegmentStaged, VersionCommitted, segment_stream
from ..events.errors import Conflict, PermissionDenied
from ..events.limits import CONFLICT_RUNS_MAX, SEGMENTS_RESUMED_MAX
from ..events.messages import Hello
from ..events.pages import digest, page_size
from ..events.session import (
    Failed,
    HashesCompared,
    PagesStaged,
    PushCommitted,
    PushOpened,
    RangesCompared,
)
from ..fsm.effects import (
    AbandonPush,
    CommitPush,
    CompareHashes,
    CompareRanges,
    OpenPush,
    StagePages,
)
from .driver import Handler
from .history import History
from .quotas import Quotas
from .sync_services import (
    Opened,
    PageAllowance,
    SyncServices,
    open_database,
    pin_database,
    remembered,
)
from .tokens import VerifiedClaims


class PushServerEnd:
    """Performs the effects of `ServerPush` for the bearer of `claims`."""

    def __init__(self, services: SyncServices, claims: VerifiedClaims) -> None:
        self._services = services
        self._claims = claims
        self._allowance = PageAllowance(claims)
        self._opened: Opened | None = None
        self._stage: PushStage | None = None
        self._pin: Pin | None = None
        self._page_size = 0
        self._base = 0
        self._force = False
        self._highest_announced = 0
        self._staged_bytes = 0
        self._found_staged: dict[str, int] = {}
        self._speaks_v1 = False
        self.committed_version: int | None = None

    @property
    def handlers(self) -> Mapping[type, Handler]:
        return {
            OpenPush: self.open,
            CompareHashes: self.compare_hashes,
            CompareRanges: self.compare_ranges,
            StagePages: self.stage,
            CommitPush: self.commit_measured,
            AbandonPush: self.abandon,
        }

    async def open(self, effect: OpenPush) -> PushOpened:
        hello = effect.hello
        self._quotas.check_pages(hello.page_count or 0)
        opened = remembered(self._services, self._claims)
        if opened is None or _in_sync(opened, hello):
            opened = await open_database(self._services, self._claims)
        if not _in_sync(opened, hello):
            # Pages will be read, or referred to: what is seen from here on must stay.
            seen = opened.known_base(hello), opened.history.head_version
            self._pin, opened = await pin_database(self._services, self._claims, *seen)
        head = opened.history.head
        self._opened = opened
        self._check_version(opened.history.head_version)
        self._page_size = hello.page_size
        self._speaks_v1 = hello.page_count is None
        self._force = hello.force
        base = opened.known_base(hello)
        info = opened.info(head, hello.page_size)
        if _in_sync(opened, hello):
            return PushOpened(info, base_known=base is not None)
        self._check_version(opened.history.head_version + 1)
        conflict = None
        if head is not None and not hello.force and base != head.version:
            conflict = await self._conflict(opened, hello, base)
        else:
            await self._open_stage(opened, hello, base)
        return PushOpened(info, base_known=base is not None, conflict=conflict)

    def _check_version(self, version: int) -> None:
        """A token with `max_version` neither learns of a later version nor makes one."""
        newest = self._claims.max_version
        if newest is not None and version > newest:
            raise PermissionDenied(f"this token is for versions up to {newest}")

    async def _conflict(self, opened: Opened, hello: Hello, base: int | None) -> Failed:
        """What stands between the client's base and the head, in pages if the base is known."""
        if base is None:
            return Failed.from_error(opened.conflict(hello.base))
        storage = self._services.storage
        head = await opened.open_map(storage, opened.history.head_version)
        runs = head.diff(await opened.open_map(storage, base))
        changed = sum(last - first + 1 for first, last in runs)
        return Failed.from_error(
            opened.conflict(
                hello.base,
                pages_changed=changed,
                changed_runs=[list(run) for run in runs[:CONFLICT_RUNS_MAX]],
            )
        )

    async def _open_stage(self, opened: Opened, hello: Hello, base: int | None) -> None:
        """Stage on the client's base if it is known, else on the head; on nothing if its pages
        have another size."""
        await self._check_stored(1)
        comparable = base if base is not None else opened.history.head_version
        version = opened.history.at(comparable) if comparable else None
        if version is None or version.page_size != hello.page_size:
            comparable, base = 0, None
        self._base = comparable
        storage = self._services.storage
        segments = await self._services.repo.all(
            "SELECT segment_id, stored_bytes FROM staged_segments "
            "WHERE database_id = ? AND org_id = ? ORDER BY staged_at DESC LIMIT ?",
            opened.history.database_id,
            opened.history.org_id,
            SEGMENTS_RESUMED_MAX,
        )
        self._found_staged = {row["segment_id"]: row["stored_bytes"] for row in segments}
        self._stage = await storage.open_stage(
            org_id=opened.history.org_id,
            database_id=opened.history.database_id,
            base=await opened.open_map(storage, self._base),
            page_size=hello.page_size,
            staged_segment_ids=list(self._found_staged),
            on_segment=self._note_segment,
        )
        if hello.page_count is None or base is not None:
            self._stage.keep_base()

    async def _note_segment(self, segment: StagedSegment) -> None:
        assert self._opened is not None
        event = SegmentStaged(
            database_id=self._opened.history.database_id,
            org_id=self._opened.history.org_id,
            segment_id=segment.segment_id,
            stored_bytes=segment.stored_bytes,
            pages=segment.pages,
        )
        stream = segment_stream(segment.segment_id)
        with guarding():
            await self._services.log.append([(stream, 0, [event])], self._pinned.held())
        self._staged_bytes += segment.stored_bytes
        await self._check_stored(0)

    @property
    def _quotas(self) -> Quotas:
        return self._services.quotas

    async def _check_stored(self, more_bytes: int) -> None:
        services, org_id = self._services, self._claims.org_id
        await self._quotas.check_stored(services.repo, org_id, more_bytes, services.clock.now())

    def _announced(self, page: int) -> None:
        self._quotas.check_pages(page)
        self._highest_announced = max(self._highest_announced, page)

    @property
    def _pinned(self) -> Pin:
        assert self._pin is not None
        return self._pin

    async def close(self) -> None:
        """End the pin. Not part of the protocol: a session that is cut off leaves it to expire."""
        if self._pin is not None:
            await self._pin.release()

    @property
    def _staging(self) -> PushStage:
        assert self._stage is not None
        return self._stage

    async def compare_hashes(self, effect: CompareHashes) -> HashesCompared:
        await self._pinned.keep()
        for first, digests in effect.windows:
            self._announced(first + len(digests) // 32 - 1)
        return HashesCompared(self._staging.announce(effect.windows))

    async def compare_ranges(self, effect: CompareRanges) -> RangesCompared:
        for _, last, _ in effect.ranges:
            self._announced(last)
        return RangesCompared(self._staging.compare_ranges(effect.ranges))

    async def stage(self, effect: StagePages) -> PagesStaged:
        await self._pinned.keep()
        pages = sum(last - first + 1 for first, last in effect.runs)
        self._allowance.take(pages, self._page_size)
        if not self._speaks_v1:  # a batch of v1 frames is made on this side
            self._quotas.check_batch(pages * self._page_size)
        pages, stored = await self._staging.add(effect.runs, effect.codec, effect.data)
        return PagesStaged(pages, stored)

    async def commit_measured(self, effect: CommitPush) -> PushCommitted:
        with self._services.measures.commit(), self._services.tracing.span("commit"):
            return await self.commit(effect)

    async def commit(self, effect: CommitPush) -> PushCommitted:
        assert self._opened is not None
        await self._pinned.keep()  # before anything is uploaded that nobody would look for
        complete = effect.complete
        page_count = complete.page_count
        if page_count is None:
            page_count = self._highest_announced
        history = self._opened.history
        self._quotas.check_pages(page_count)
        sealed = await self._staging.seal(
            page_count,
            expected_root=complete.root,
            snapshot=self._base != history.head_version,
        )
        while True:
            head = history.head
            if head is not None and head.root == sealed.root:
                return self._done(head.version, sealed.root)
            self._check_version(history.head_version + 1)
            await self._services.still_good(self._claims)
            await self._check_stored(sealed.stored_bytes - self._staged_bytes)
            try:
                version = self._version(history, sealed, complete.message)
                with guarding():
                    await self._services.histories.commit(
                        history, version, self._pinned.held(release=True)
                    )
                self._pinned.released()
            except Conflict:
                history = (await open_database(self._services, self._claims)).history
                if history.head is not None and history.head.root == sealed.root:
                    # This very push, whose first session was thought lost and went on.
                    continue
                if not self._force:
                    raise
                sealed = await self._staging.seal(page_count, snapshot=True)
                continue
            return self._done(history.head_version + 1, sealed.root)

    def _done(self, version: int, root: bytes) -> PushCommitted:
        self.committed_version = version
        return PushCommitted(version, root)

    def _version(self, history: History, sealed: Sealed, message: str) -> VersionCommitted:
        """What earlier pushes staged is this version's from now on: it is no longer counted as
        staged, and so has to be counted here."""
        resumed = sum(self._found_staged.get(segment, 0) for segment in sealed.segments)
        return VersionCommitted(
            database_id=history.database_id,
            version=history.head_version + 1,
            parent=history.head_version,
            page_size=page_size(self._page_size),
            page_count=sealed.page_count,
            root=digest(sealed.root),
            author_id=self._claims.user_id,
            author_email=self._claims.email,
            message=message,
            committed_at=self._now_after(history),
            map_key=sealed.map_key,
            map_is_snapshot=sealed.map_is_snapshot,
            segments=tuple(sealed.segments),
            pages_changed=sealed.pages_changed,
            stored_bytes=sealed.stored_bytes + resumed,
        )

    def _now_after(self, history: History) -> float:
        """Now, but never before the head: the clocks of servers differ, and a history read by time
        has to be in the order of its versions."""
        now = self._services.clock.now()
        return now if history.head is None else max(now, history.head.committed_at)

    async def abandon(self, effect: AbandonPush) -> None:
        if self._stage is not None:
            await self._stage.abandon()


def _in_sync(opened: Opened, hello: Hello) -> bool:
    """Whether the client holds the head."""
    return hello.root is not None and hello.root == opened.head_root
