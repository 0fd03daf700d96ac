"""What is referred to: the mark of garbage collection, for one organization at a time.

Versions refer to map objects, and maps to segments; a staged segment is referred to by its row.
The log alone says of most segments that they are in use. Only for those that it does not speak of
are the maps asked, and what a map says is read once in its life and remembered in a table.

Memory goes with the segments of an organization; histories and maps pass one database at a time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

from ..adapters.map_format import decode_map, map_prefix
from ..adapters.ports import ObjectInfo, ObjectStore, Repo, Row, Statement
from ..adapters.segments import missing, segment_prefix
from ..events.domain import VersionsExpired
from ..events.errors import NotFound, StorageError
from ..events.limits import MAP_READS_IN_FLIGHT_MAX
from .history import DatabaseHistory
from .quotas import uploaded_bytes
from .retention import expiring


@dataclass(slots=True)
class Marked:
    """An organization as a run found it.

    `unreferenced` are objects that nothing refers to, or that are too young to be asked about;
    `last_pin_no` is the last pin that may know of them. `expiring` is what retention takes, with
    the number of versions. `uploaded_bytes` is what pushes said they had uploaded before anything
    was listed. `with_maps` are databases that have map objects.
    """

    org_id: str
    pins: Sequence[Row]
    databases: Sequence[Row] = ()
    staged: Sequence[Row] = ()
    objects: int = 0
    object_bytes: int = 0
    unreferenced: list[ObjectInfo] = field(default_factory=list)
    uploaded_bytes: int = 0
    with_maps: set[str] = field(default_factory=set)
    deleted: list[str] = field(default_factory=list)
    expiring: list[tuple[VersionsExpired, int]] = field(default_factory=list)
    last_pin_no: int = 0

    @property
    def busy(self) -> set[str]:
        """Databases with running sessions."""
        return {pin["database_id"] for pin in self.pins}

    def lowest_pinned(self, database_id: str) -> int | None:
        used = [pin["version"] for pin in self.pins if pin["database_id"] == database_id]
        return min(used, default=None)


@dataclass(frozen=True, slots=True)
class Marker:
    """Marks one organization after another. With `remember` it writes down what maps refer to.

    `meanwhile` is called again and again, since a mark can take long.
    """

    repo: Repo
    objects: ObjectStore
    histories: DatabaseHistory
    now: float
    is_old: Callable[[ObjectInfo], bool]
    remember: bool
    meanwhile: Callable[[], Awaitable[None]]

    async def mark(self, org_id: str) -> Marked:
        """Pins first, then what there is, then what is referred to, then the last pin.

        `StorageError` if a map that a version needs is missing or damaged: then nobody may say
        that something is garbage.
        """
        repo = self.repo
        sql = "SELECT pin_no, database_id, version FROM pins WHERE org_id = ?"
        found = Marked(org_id, await repo.all(sql, org_id))
        found.databases = await repo.all(
            "SELECT d.database_id, d.deleted_at, r.freed FROM databases d "
            "LEFT JOIN gc_released r ON r.database_id = d.database_id WHERE d.org_id = ?",
            org_id,
        )
        found.uploaded_bytes = await uploaded_bytes(repo, org_id)
        segments = {_name(info): info for info in await self._list(found, segment_prefix(org_id))}
        found.staged = await repo.all(
            "SELECT segment_id, database_id, stored_bytes, staged_at FROM staged_segments "
            "WHERE org_id = ?",
            org_id,
        )
        live = {row["segment_id"] for row in found.staged}
        for row in found.databases:
            if not row["freed"]:
                live |= await self._mark_database(found, row["database_id"], row["freed"] is None)
        # A segment too young to be a candidate need not be looked for in any map.
        unknown = {name for name, info in segments.items() if self.is_old(info)} - live
        for row in found.databases:
            if unknown and row["freed"] is None:
                unknown -= await self._segments_of(row["database_id"])
        found.unreferenced += [segments[name] for name in unknown]
        sql = "SELECT MAX(pin_no) AS last FROM pins WHERE org_id = ?"
        last = await repo.first(sql, org_id)
        found.last_pin_no = (last["last"] if last else 0) or 0
        return found

    async def _list(self, found: Marked, prefix: str) -> list[ObjectInfo]:
        listed = await self.objects.list(prefix)
        found.objects += len(listed)
        found.object_bytes += sum(info.size_bytes for info in listed)
        return listed

    async def _mark_database(self, found: Marked, database_id: str, refers: bool) -> set[str]:
        """Judge a database's map objects; the segments that its versions added, as the log says.

        A deleted database `refers` to its objects until a run has released it.
        """
        listed = await self._list(found, map_prefix(database_id))
        if listed:
            found.with_maps.add(database_id)
        maps, segments = set[str](), set[str]()
        if refers:
            history = await self.histories.peek(database_id)
            for outline in history.outlines():
                maps.add(outline.map_key)
                segments.update(outline.segments)
            if history.deleted:
                found.deleted.append(database_id)
            event = expiring(history, self.now, found.lowest_pinned(database_id))
            if event is not None:
                count = event.through - history.oldest + 1
                found.expiring.append((event, count))
        found.unreferenced += [info for info in listed if info.key not in maps]
        await self.meanwhile()
        await asyncio.sleep(0)  # a server goes on serving
        return segments

    async def _segments_of(self, database_id: str) -> set[str]:
        """All segments in which pages of the database's versions lie, as their maps say."""
        history = await self.histories.peek(database_id)
        keys = [outline.map_key for outline in history.outlines()]
        sql = "SELECT map_key, segments FROM gc_map_segments WHERE database_id = ?"
        rows = await self.repo.all(sql, database_id)
        known = {row["map_key"]: row["segments"].split() for row in rows}
        unread = [key for key in keys if key not in known]
        gate = asyncio.Semaphore(MAP_READS_IN_FLIGHT_MAX)
        reads = [self._read_map(key, gate) for key in unread]
        results = await asyncio.gather(*reads, return_exceptions=True)
        for key, result in zip(unread, results, strict=True):
            if isinstance(result, StorageError) and history.deleted and is_missing(result):
                known[key] = []  # taken by a run that nobody remembers (`admin copy`)
                continue
            if isinstance(result, BaseException):
                raise result
            known[key] = list(result)
        if self.remember and unread and not history.deleted:
            await self._remember(database_id, unread, known)
        return {segment for key in keys for segment in known[key]}

    async def _read_map(self, key: str, gate: asyncio.Semaphore) -> tuple[str, ...]:
        async with gate:
            await self.meanwhile()
            try:
                data = await self.objects.get(key)
            except NotFound as error:
                raise missing(key) from error
            decoded = await asyncio.to_thread(decode_map, data, key)
        return decoded.content.table.segments

    async def _remember(
        self, database_id: str, keys: Collection[str], known: dict[str, list[str]]
    ) -> None:
        await self.repo.batch(
            [
                Statement(
                    "INSERT INTO gc_map_segments (map_key, database_id, segments) "
                    "VALUES (?, ?, ?) ON CONFLICT (map_key) DO NOTHING",
                    (key, database_id, " ".join(known[key])),
                )
                for key in keys
            ]
        )


def is_missing(error: StorageError) -> bool:
    return error.details.get("reason") == "missing"


def _name(info: ObjectInfo) -> str:
    return info.key.rpartition("/")[2]
