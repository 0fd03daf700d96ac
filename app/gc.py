"""Garbage collection: objects that nothing refers to are deleted, and what is too old is let go.

For each organization, under a lease that one runner at a time holds:

1. Read the pins of running sessions. List the objects. Mark what is referred to.
2. An object that nothing refers to becomes a candidate; the row keeps the time and the number of
   the last pin. One that is referred to again is no candidate any more.
3. A candidate is deleted in a later run, once the grace is over, if still nothing refers to it and
   none of the pins read in step 1 is as old as its row.
4. Only now take references away: staged segments that were not resumed in time, versions that
   retention does not keep, deleted databases. Only such as the mark of this run has seen.

Why nothing is lost. Say an object is deleted in a run. No session older than its row was running
when that run began, so whatever such sessions committed was in the mark, and it did not refer to
the object. A session younger than the row could only know the object through a reference that was
made after the row and was gone before the mark; but references are only taken away in step 4, by
runs whose mark has seen them and which therefore dropped the row. That is also why a runner that
slept through its lease is harmless: it asks for the lease between mark and deletion, and what
nobody can know of at that moment, nobody will ever know of. Keys are never used twice.

An expired pin counts only when its row is gone, and then its session can commit nothing (`pins`).
So clocks, of servers or of the store, decide how soon something goes and never what.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..adapters.event_log import Append, EventLog
from ..adapters.leases import Lease, Leases, fenced
from ..adapters.ports import Clock, Ids, ObjectInfo, ObjectStore, Repo, Row, Statement
from ..events.domain import StagedSegmentExpired, VersionsExpired
from ..events.errors import ConcurrentAppend, NotFound, StorageError
from ..events.limits import (
    CLOCK_SKEW_SECONDS_MAX,
    EVENTS_PER_READ_MAX,
    GC_DELETES_IN_FLIGHT_MAX,
    GC_GRACE_SECONDS,
    STAGED_TTL_SECONDS,
    STATEMENTS_IN_FLIGHT_MAX,
)
from .gc_mark import Marked, Marker
from .history import DatabaseHistory, History
from .retention import expiring

MAINTENANCE = "maintenance"
"""The lease of whoever takes references away: garbage collection and compaction."""


@dataclass(frozen=True, slots=True)
class GcReport:
    """What one run did, or with `dry_run` would do now. `failed` names organizations of which
    nothing was taken because storage failed, and why."""

    dry_run: bool = False
    organizations: int = 0
    objects: int = 0
    object_bytes: int = 0
    candidates: int = 0
    deleted: int = 0
    deleted_bytes: int = 0
    staged_expired: int = 0
    versions_expired: int = 0
    databases_released: int = 0
    failed: tuple[tuple[str, str], ...] = ()


class GarbageCollector:
    """Runs over one repository and one object store."""

    def __init__(
        self,
        repo: Repo,
        log: EventLog,
        histories: DatabaseHistory,
        objects: ObjectStore,
        clock: Clock,
        ids: Ids,
        *,
        grace_seconds: float = GC_GRACE_SECONDS,
        staged_ttl_seconds: float = STAGED_TTL_SECONDS,
        look_seconds: float = 0,
    ) -> None:
        """`look_seconds`: leave organizations alone that were looked at since and have nothing
        that could be deleted now."""
        self._repo = repo
        self._log = log
        self._histories = histories
        self._objects = objects
        self._clock = clock
        self._ids = ids
        self._grace_seconds = grace_seconds
        self._staged_ttl_seconds = staged_ttl_seconds
        self._look_seconds = look_seconds

    async def run(self, *, dry_run: bool = False) -> GcReport:
        """One run over everything. `LeaseTaken` if another one is at work.

        A dry run changes nothing and asks for no lease: what it reports is a guess if a real one
        runs at the same time.
        """
        if dry_run:
            return await self._run(None)
        lease = await Leases(self._repo, self._clock, self._ids.new_id).take(MAINTENANCE)
        try:
            await self._repo.execute(
                "DELETE FROM pins WHERE expires_at < ?", self._clock.now() - CLOCK_SKEW_SECONDS_MAX
            )
            return await self._run(lease)
        finally:
            await lease.release()

    async def _run(self, lease: Lease | None) -> GcReport:
        report = GcReport(dry_run=lease is None)
        async for org_id in self._organizations():
            try:
                report = await self._collect(org_id, lease, report)
            except StorageError as error:
                failed = (*report.failed, (org_id, error.message))
                report = replace(report, failed=failed)
        return report

    async def _organizations(self) -> AsyncIterator[str]:
        after, now = "", self._clock.now()
        while True:
            rows = await self._repo.all(
                "SELECT o.org_id FROM organizations o LEFT JOIN gc_looks l ON l.org_id = o.org_id "
                "WHERE o.org_id > ? AND (l.looked_at IS NULL OR l.looked_at <= ? OR EXISTS ("
                "SELECT 1 FROM gc_candidates c WHERE c.org_id = o.org_id AND c.seen_at <= ?)) "
                "ORDER BY o.org_id LIMIT ?",
                after,
                now - self._look_seconds,
                now - self._grace_seconds - CLOCK_SKEW_SECONDS_MAX,
                EVENTS_PER_READ_MAX,
            )
            for row in rows:
                yield row["org_id"]
            if len(rows) < EVENTS_PER_READ_MAX:
                return
            after = rows[-1]["org_id"]

    async def _collect(self, org_id: str, lease: Lease | None, report: GcReport) -> GcReport:
        now = self._clock.now()
        marker = Marker(
            self._repo,
            self._objects,
            self._histories,
            now,
            self._is_old,
            remember=lease is not None,
            meanwhile=lease.keep if lease is not None else _nothing,
        )
        marked = await marker.mark(org_id)
        sql = "SELECT object_key, seen_at, last_pin_no FROM gc_candidates WHERE org_id = ?"
        candidates = {row["object_key"]: row for row in await self._repo.all(sql, org_id)}
        if lease is not None:
            await lease.renew()
        fresh, doomed = self._judge(marked, candidates)
        staged = self._staged_too_long(marked)
        if lease is not None:
            await self._sweep(doomed)
            await self._note(marked, candidates, fresh, doomed, lease)
            await self._let_go(marked, staged, lease)
            await self._note_look(marked, doomed, staged, lease)
        return replace(
            report,
            organizations=report.organizations + 1,
            objects=report.objects + marked.objects,
            object_bytes=report.object_bytes + marked.object_bytes,
            candidates=report.candidates + len(fresh),
            deleted=report.deleted + len(doomed),
            deleted_bytes=report.deleted_bytes + sum(info.size_bytes for info in doomed),
            staged_expired=report.staged_expired + len(staged),
            versions_expired=report.versions_expired + sum(n for _, n in marked.expiring),
            databases_released=report.databases_released + len(marked.deleted),
        )

    def _is_old(self, info: ObjectInfo) -> bool:
        return info.modified_at <= self._clock.now() - self._grace_seconds

    def _judge(
        self, marked: Marked, candidates: Mapping[str, Row]
    ) -> tuple[list[ObjectInfo], list[ObjectInfo]]:
        """Objects that are candidates from now on, and objects to delete."""
        fresh: list[ObjectInfo] = []
        doomed: list[ObjectInfo] = []
        oldest_pin = min((pin["pin_no"] for pin in marked.pins), default=None)
        due = self._clock.now() - self._grace_seconds - CLOCK_SKEW_SECONDS_MAX
        for info in marked.unreferenced:
            row = candidates.get(info.key)
            if row is None:
                if self._is_old(info):
                    fresh.append(info)
            elif row["seen_at"] <= due and (oldest_pin is None or oldest_pin > row["last_pin_no"]):
                doomed.append(info)
        return fresh, doomed

    def _staged_too_long(self, marked: Marked) -> list[str]:
        """Staged segments whose push was not resumed in time, or never will be."""
        due = self._clock.now() - self._staged_ttl_seconds - CLOCK_SKEW_SECONDS_MAX
        gone = {row["database_id"] for row in marked.databases if row["deleted_at"] is not None}
        busy = marked.busy
        return [
            row["segment_id"]
            for row in marked.staged
            if row["database_id"] not in busy
            and (row["staged_at"] <= due or row["database_id"] in gone)
        ]

    async def _sweep(self, doomed: Sequence[ObjectInfo]) -> None:
        gate = asyncio.Semaphore(GC_DELETES_IN_FLIGHT_MAX)

        async def delete(key: str) -> None:
            async with gate:
                await self._objects.delete(key)

        deletes = [delete(info.key) for info in doomed]
        for result in await asyncio.gather(*deletes, return_exceptions=True):
            if result is not None:
                raise result

    async def _note(
        self,
        marked: Marked,
        candidates: Mapping[str, Row],
        fresh: Sequence[ObjectInfo],
        doomed: Sequence[ObjectInfo],
        lease: Lease,
    ) -> None:
        """Write down who is a candidate, and forget who is none any more."""
        now = self._clock.now()
        gone = {info.key for info in doomed}
        gone |= candidates.keys() - {info.key for info in marked.unreferenced}
        statements = [
            Statement(
                "INSERT INTO gc_candidates (object_key, org_id, seen_at, last_pin_no) "
                "VALUES (?, ?, ?, ?)",
                (info.key, marked.org_id, now, marked.last_pin_no),
            )
            for info in fresh
        ]
        for key in sorted(gone):
            statements.append(Statement("DELETE FROM gc_candidates WHERE object_key = ?", (key,)))
            statements.append(Statement("DELETE FROM gc_map_segments WHERE map_key = ?", (key,)))
        kept = marked.with_maps | marked.busy
        statements += [
            Statement("UPDATE gc_released SET freed = 1 WHERE database_id = ?", (one,))
            for one in (row["database_id"] for row in marked.databases if row["freed"] == 0)
            if one not in kept
        ]
        await self._write(statements, lease)

    async def _let_go(self, marked: Marked, staged: Sequence[str], lease: Lease) -> None:
        """Take references away: only such as the mark has seen."""
        for start in range(0, len(staged), STATEMENTS_IN_FLIGHT_MAX):
            appends = []
            for segment_id in staged[start : start + STATEMENTS_IN_FLIGHT_MAX]:
                event = StagedSegmentExpired(segment_id=segment_id)
                appends.append(Append(event.stream, await self._log.last(event.stream), [event]))
            with fenced():
                await self._log.append(appends, lease.held())
        insert = "INSERT INTO gc_released (database_id, freed) VALUES (?, 0)"
        await self._write([Statement(insert, (one,)) for one in marked.deleted], lease)
        expired = [await self._expire(marked, seen, lease) for seen, _ in marked.expiring]
        marked.expiring = [one for one in expired if one is not None]

    async def _expire(
        self, marked: Marked, seen: VersionsExpired, lease: Lease
    ) -> tuple[VersionsExpired, int] | None:
        """Let versions go that the mark has `seen` going, if the rule of this moment lets them go:
        a mark takes long, and whoever was told of a new rule meanwhile counts on it. What was let
        go, if anything, and how many; a database that never stands still waits for the next run."""
        pinned = marked.lowest_pinned(seen.database_id)

        def due(history: History) -> VersionsExpired | None:
            now_due = expiring(history, self._clock.now(), pinned)
            if now_due is None or min(now_due.through, seen.through) < history.oldest:
                return None
            return min(now_due, seen, key=lambda one: one.through)

        try:
            history = await self._histories.open(seen.database_id, marked.org_id)
            with fenced():
                let_go = await self._histories.append_decided(history, due, lease.held())
        except (NotFound, ConcurrentAppend):
            return None  # deleted meanwhile, or restless
        if let_go is None:
            return None
        history, event = let_go
        return event, event.through - history.oldest + 1

    async def _note_look(
        self, marked: Marked, doomed: Sequence[ObjectInfo], staged: Sequence[str], lease: Lease
    ) -> None:
        """Write down that the organization was looked at, and what it holds apart from what its
        pushes say: a push that committed while the objects were listed counts twice until the next
        look, none is left out."""
        held = marked.object_bytes - sum(info.size_bytes for info in doomed)
        let_go = set(staged)
        forgotten = (r["stored_bytes"] for r in marked.staged if r["segment_id"] in let_go)
        correction = held - (marked.uploaded_bytes - sum(forgotten))
        look = (
            "INSERT INTO gc_looks (org_id, looked_at, correction_bytes) VALUES (?, ?, ?) "
            "ON CONFLICT (org_id) DO UPDATE SET looked_at = excluded.looked_at, "
            "correction_bytes = excluded.correction_bytes"
        )
        parameters = (marked.org_id, self._clock.now(), correction)
        await self._write([Statement(look, parameters)], lease)

    async def _write(self, statements: Sequence[Statement], lease: Lease) -> None:
        for start in range(0, len(statements), STATEMENTS_IN_FLIGHT_MAX):
            some = statements[start : start + STATEMENTS_IN_FLIGHT_MAX]
            with fenced():
                await self._repo.batch([*some, *lease.held()])


async def _nothing() -> None:
    """What a dry run does meanwhile: it holds no lease."""
