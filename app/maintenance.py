"""Looking after storage: garbage collection, then compaction, once or again and again.

The one place that makes the two of what a server or a command has. Any number of servers may run
`in_background`: whoever comes second finds the lease taken and leaves it at that.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from ..adapters.clock import SystemClock
from ..adapters.event_log import EventLog
from ..adapters.ids import SystemIds
from ..adapters.page_storage import PageStorage
from ..adapters.ports import Clock, Ids, ObjectStore, Repo
from ..events.errors import EdgeReplicaError, LeaseTaken
from ..events.limits import GC_LOOK_SECONDS
from .compaction import CompactionReport, Compactor
from .gc import GarbageCollector, GcReport
from .history import DatabaseHistory
from .places import Place
from .settings import Settings


@dataclass(frozen=True, slots=True)
class MaintenanceReport:
    """`compaction` is None where none was asked for."""

    collection: GcReport
    compaction: CompactionReport | None

    @property
    def failed(self) -> tuple[tuple[str, str], ...]:
        """Organizations and databases that were left as they were, and why."""
        return self.collection.failed + (self.compaction.failed if self.compaction else ())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


async def maintain(
    repo: Repo,
    store: ObjectStore,
    settings: Settings,
    clock: Clock,
    ids: Ids,
    *,
    dry_run: bool = False,
    compact: bool = True,
    look_seconds: float = 0,
) -> MaintenanceReport:
    """Collect garbage and compact, once. `LeaseTaken` if somebody else is at it.

    Histories are not shared with a server's sessions: its cache is for databases in use.
    """
    log = EventLog(repo, clock)
    histories = DatabaseHistory(log)
    collector = GarbageCollector(
        repo,
        log,
        histories,
        store,
        clock,
        ids,
        grace_seconds=settings.gc_grace_seconds,
        staged_ttl_seconds=settings.staged_ttl_seconds,
        look_seconds=look_seconds,
    )
    collected = await collector.run(dry_run=dry_run)
    if dry_run or not compact:
        return MaintenanceReport(collected, None)
    storage = PageStorage(store, ids, cache_bytes=0)
    return MaintenanceReport(collected, await Compactor(repo, histories, storage, clock).run())


@asynccontextmanager
async def in_background(
    repo: Repo, store: ObjectStore, settings: Settings, clock: Clock, ids: Ids
) -> AsyncIterator[None]:
    """Maintain every `gc_interval_seconds` while the block runs; never, if that is 0."""
    if not settings.gc_interval_seconds:
        yield
        return
    task = asyncio.create_task(_again_and_again(repo, store, settings, clock, ids))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _again_and_again(
    repo: Repo, store: ObjectStore, settings: Settings, clock: Clock, ids: Ids
) -> None:
    log = structlog.get_logger("edgereplica.maintenance")
    while True:
        await clock.sleep(settings.gc_interval_seconds)
        try:
            report = await maintain(repo, store, settings, clock, ids, look_seconds=GC_LOOK_SECONDS)
        except LeaseTaken:
            continue
        except EdgeReplicaError as error:
            # Nobody waits for an answer, and the next run does the same again.
            log.warning("maintenance failed", code=error.code, reason=error.message)
            continue
        collected, compacted = report.collection, report.compaction
        log.info(
            "maintained",
            deleted=collected.deleted,
            deleted_bytes=collected.deleted_bytes,
            candidates=collected.candidates,
            versions_expired=collected.versions_expired,
            databases_compacted=compacted.databases_compacted if compacted else 0,
        )
        for what, reason in report.failed:
            log.warning("left as it is", what=what, reason=reason)


def maintain_once(
    settings: Settings, *, dry_run: bool = False, compact: bool = True
) -> MaintenanceReport:
    """`maintain` on the place of `settings`, whether or not a server runs on it."""

    place = Place.of(settings)
    place.require()

    async def run() -> MaintenanceReport:
        clock = SystemClock()
        async with place.repo() as repo:
            store = place.store()
            ids = SystemIds(clock)
            return await maintain(
                repo, store, settings, clock, ids, dry_run=dry_run, compact=compact
            )

    return asyncio.run(run())
