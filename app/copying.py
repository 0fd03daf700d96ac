"""`edgereplica admin copy`: everything from one place to another, embedded or scaled out.

Objects go first, so that no event of the target ever refers to one that is not there; then the log,
in its order, with the projections it makes; then the tables that no log makes (credentials and the
like; what collection freed, or all that was ever pushed would count toward a quota). What is going
on (leases, pins, the other notes of garbage collection) stays behind. At the end every kept version
is read from the target and checked against its root.

Run again it goes on: what the target holds must be a beginning of the source's log, and is refused
as another's otherwise. Both servers have to stand still; a data directory is locked, of PostgreSQL
it is noticed at the end.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ..adapters import migrations
from ..adapters.clock import SystemClock
from ..adapters.ids import SystemIds
from ..adapters.map_format import map_prefix
from ..adapters.ports import ObjectInfo, ObjectStore, Repo, Row, Statement
from ..adapters.projections import EMPTY_ALL, project
from ..adapters.segments import segment_prefix
from ..events import domain
from ..events.errors import AlreadyExists, InvalidArgument, StorageError
from ..events.limits import (
    COPY_OBJECTS_IN_FLIGHT_MAX,
    COPY_PREFIXES_AT_ONCE_MAX,
    EVENTS_PER_READ_MAX,
)
from .places import Place
from .verifying import Verified, verify

_CREATED_TABLE: Final = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)")
_EMPTIED_TABLE: Final = re.compile(r"DELETE FROM (\w+)")

PASSING: Final = frozenset(
    {
        "leases",
        "pins",
        "gc_candidates",
        "gc_released",
        "gc_map_segments",
        "stream_snapshots",
        "stream_snapshot_chunks",
        "compaction_checks",
    }
)
"""Tables that say what is going on, which ends with the servers."""


@dataclass(slots=True)
class CopyReport:
    """What the target holds now. `*_copied` of it came with this run, the rest with earlier ones;
    pages and versions were read back and verified."""

    events: int = 0
    events_copied: int = 0
    objects: int = 0
    objects_copied: int = 0
    bytes_copied: int = 0
    rows: int = 0
    databases: int = 0
    versions: int = 0
    pages: int = 0
    phase: str = field(default="objects", repr=False)

    def to_dict(self) -> dict[str, Any]:
        report = asdict(self)
        del report["phase"]
        return report


Progress = Callable[[CopyReport], None]


def copy(source: Place, target: Place, progress: Progress = lambda _: None) -> CopyReport:
    """Make `target` hold what `source` holds; see the module's docstring.

    `AlreadyExists` if the target holds something else, `FileBusy` if a server runs on one of them,
    `StorageError` if the source is not migrated or changed meanwhile, or if what was copied does
    not read back as what the log says.
    """
    if source == target:
        raise InvalidArgument("source and target are the same place")
    source.require("--from")
    return asyncio.run(_copy(source, target, progress))


async def _copy(source: Place, target: Place, progress: Progress) -> CopyReport:
    clock = SystemClock()
    target.prepare()
    async with AsyncExitStack() as stack:
        stack.enter_context(source.held())
        stack.enter_context(target.held())
        theirs = await stack.enter_async_context(source.repo())
        ours = await stack.enter_async_context(target.repo())
        if names := await migrations.pending(theirs):
            raise StorageError(
                f"the source lacks {', '.join(names)}: `edgereplica admin migrate` applies them"
            )
        await migrations.migrate(ours, clock.now())
        copied = await _common_events(theirs, ours)
        report = CopyReport(events=copied.count)
        store = target.store()
        await _copy_objects(theirs, source.store(), store, report, progress)
        report.phase = "events"
        await _copy_events(theirs, ours, copied.position, report, progress)
        for table in other_tables():
            report.rows += await _copy_table(theirs, ours, table)
        report.phase = "verifying"

        def verified(done: Verified) -> None:
            report.databases, report.versions = done.databases, done.versions
            report.pages = done.pages
            progress(report)

        verified(await verify(ours, store, clock, SystemIds(clock), verified))
        if await _count(theirs) != report.events or await _count(ours) != report.events:
            raise StorageError(
                "the source or the target changed while it was copied: "
                "stop the servers and run the copy again"
            )
        return report


def other_tables() -> list[str]:
    """The tables to copy row by row: not the log, not made of it, and not passing."""
    made = {"events", *(_EMPTIED_TABLE.findall(" ".join(s.sql for s in EMPTY_ALL)))}
    created = _CREATED_TABLE.findall("\n".join(migrations.known().values()))
    return [table for table in created if table not in made | PASSING]


async def _events(repo: Repo, after: int) -> AsyncIterator[list[Row]]:
    """The log behind position `after`, in pieces."""
    while True:
        rows = await repo.all(
            "SELECT position, stream, seq, kind, data, recorded_at FROM events "
            "WHERE position > ? ORDER BY position LIMIT ?",
            after,
            EVENTS_PER_READ_MAX,
        )
        if rows:
            yield rows
        if len(rows) < EVENTS_PER_READ_MAX:
            return
        after = rows[-1]["position"]


async def _count(repo: Repo) -> int:
    row = await repo.first("SELECT COUNT(*) AS events FROM events")
    return int(row["events"]) if row else 0


@dataclass(slots=True)
class _Common:
    """How many events the target holds, and the last one's position in the source."""

    count: int = 0
    position: int = 0


async def _common_events(source: Repo, target: Repo) -> _Common:
    """What the target's log has in common with the source's: all of it, or it is refused."""
    common, last = _Common(), 0
    async for rows in _events(source, 0):
        held = await target.all(
            "SELECT position, stream, seq, kind, data, recorded_at FROM events "
            "WHERE position > ? ORDER BY position LIMIT ?",
            last,
            len(rows),
        )
        for theirs, ours in zip(rows, held, strict=False):
            if any(theirs[name] != ours[name] for name in theirs if name != "position"):
                raise _unrelated()
            common.count, common.position = common.count + 1, theirs["position"]
            last = ours["position"]
        if len(held) < len(rows):
            break
    if await _count(target) != common.count:
        raise _unrelated()
    return common


def _unrelated() -> AlreadyExists:
    return AlreadyExists(
        "the target already holds something else; it must be empty, or an earlier copy of this "
        "source that no server has run on"
    )


async def _copy_events(
    source: Repo, target: Repo, position: int, report: CopyReport, progress: Progress
) -> None:
    async for rows in _events(source, position):
        statements: list[Statement] = []
        for row in rows:
            columns = ("stream", "seq", "kind", "data", "recorded_at")
            statements.append(
                Statement(
                    "INSERT INTO events (stream, seq, kind, data, recorded_at) "
                    "VALUES (?, ?, ?, ?, ?)",
                    tuple(row[name] for name in columns),
                )
            )
            event = domain.decode(row["kind"], row["data"])
            statements.extend(project(event, row["recorded_at"]))
        await target.batch(statements)
        report.events += len(rows)
        report.events_copied += len(rows)
        progress(report)


async def _copy_table(source: Repo, target: Repo, table: str) -> int:
    """Make `table` the same, in one transaction; its rows."""
    rows = await source.all(f"SELECT * FROM {table}")  # noqa: S608 - a name of our migrations
    statements = [Statement(f"DELETE FROM {table}")]  # noqa: S608
    for row in rows:
        names, places = ", ".join(row), ", ".join("?" * len(row))
        insert = f"INSERT INTO {table} ({names}) VALUES ({places})"  # noqa: S608
        statements.append(Statement(insert, tuple(row.values())))
    await target.batch(statements)
    return len(rows)


async def _copy_objects(
    log: Repo, source: ObjectStore, target: ObjectStore, report: CopyReport, progress: Progress
) -> None:
    in_flight = asyncio.Semaphore(COPY_OBJECTS_IN_FLIGHT_MAX)

    async def copy_one(info: ObjectInfo) -> None:
        async with in_flight:
            data = await source.get(info.key)
            await target.put(info.key, [data])
        report.objects_copied += 1
        report.bytes_copied += len(data)
        progress(report)

    async def copy_prefix(prefix: str) -> None:
        wanted, held = await asyncio.gather(source.list(prefix), target.list(prefix))
        sizes = {info.key: info.size_bytes for info in held}
        report.objects += len(wanted)
        async with asyncio.TaskGroup() as group:
            for info in wanted:
                size = sizes.get(info.key)
                if size is None:
                    group.create_task(copy_one(info))
                elif size != info.size_bytes:
                    raise AlreadyExists(f"the target holds another object {info.key}")

    prefixes = await _prefixes(log)
    for start in range(0, len(prefixes), COPY_PREFIXES_AT_ONCE_MAX):
        try:
            async with asyncio.TaskGroup() as group:
                for prefix in prefixes[start : start + COPY_PREFIXES_AT_ONCE_MAX]:
                    group.create_task(copy_prefix(prefix))
        except BaseExceptionGroup as failures:
            raise _first(failures) from None


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _prefixes(log: Repo) -> list[str]:
    """Under what keys objects lie: segments by organization, maps by database."""
    orgs = await log.all("SELECT org_id FROM organizations ORDER BY org_id")
    databases = await log.all("SELECT database_id FROM databases ORDER BY database_id")
    segments = [segment_prefix(row["org_id"]) for row in orgs]
    return segments + [map_prefix(row["database_id"]) for row in databases]
