"""Compaction: databases whose pages lie scattered over many small segments are put in order.

Two things make a long history of small pushes slow and dear. Each push leaves a segment and a map
of its own: small segments of the kept versions are merged, blocks as they are, and the maps that
name them are rewritten. And the head's pages lie all over them: once that is bad enough, the head
is written anew in page order.

A rewritten map says the same of its version as before, digest by digest; the log says where it
lies now (`MapsRewritten`), so every server switches in one step. The old objects are garbage from
then on and go like any other: a session that still reads them has a pin. Compaction has one too,
for what it reads itself, and holds the lease of whoever takes references away (`gc`).
"""

from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from ..adapters.leases import Lease, Leases, fenced
from ..adapters.map_format import decode_map
from ..adapters.page_storage import PageStorage
from ..adapters.pins import Pin, Pins, guarding
from ..adapters.ports import Clock, Repo, Statement
from ..adapters.repack import BlockMerger, NewMap, Shape, rewrite_in_page_order, shape_of
from ..adapters.segments import missing, segment_key, segment_prefix
from ..events.domain import MapsRewritten, RewrittenMap
from ..events.errors import NotFound, StorageError
from ..events.limits import (
    COMPACT_BLOCKS_FACTOR_MAX,
    COMPACT_MAP_BYTES_IN_MEMORY_MAX,
    COMPACT_MAPS_IN_MEMORY_MAX,
    COMPACT_MAPS_PER_EVENT_MAX,
    COMPACT_PIECES_MAX,
    COMPACT_SMALL_SEGMENT_BYTES,
    COMPACT_WASTE_PERCENT_MAX,
    EVENTS_PER_READ_MAX,
    SEGMENT_BYTES_MAX,
)
from .gc import MAINTENANCE
from .history import DatabaseHistory, History, Outline
from .sync_services import version_ref


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What one run did. `failed` names databases that were left as they were, and why."""

    databases_looked_at: int = 0
    databases_compacted: int = 0
    heads_rewritten: int = 0
    maps_rewritten: int = 0
    segments_merged: int = 0
    failed: tuple[tuple[str, str], ...] = ()


class Compactor:
    """Runs over one repository and one page storage."""

    def __init__(
        self,
        repo: Repo,
        histories: DatabaseHistory,
        storage: PageStorage,
        clock: Clock,
        *,
        pieces_max: int = COMPACT_PIECES_MAX,
        small_segment_bytes: int = COMPACT_SMALL_SEGMENT_BYTES,
    ) -> None:
        self._repo = repo
        self._histories = histories
        self._storage = storage
        self._clock = clock
        self._pieces_max = pieces_max
        self._small_segment_bytes = small_segment_bytes

    async def run(self) -> CompactionReport:
        """Compact every database that has changed since it was last looked at and needs it.

        `LeaseTaken` if somebody else looks after storage now.
        """
        new_id = self._storage.ids.new_id
        lease = await Leases(self._repo, self._clock, new_id).take(MAINTENANCE)
        report = CompactionReport()
        try:
            async for database_id, org_id in self._changed():
                await lease.renew()
                try:
                    report = await self._compact(database_id, org_id, lease, report)
                except NotFound:
                    continue  # deleted meanwhile
                except StorageError as error:
                    failed = (*report.failed, (database_id, error.message))
                    report = replace(report, failed=failed)
        finally:
            await lease.release()
        return report

    async def _changed(self) -> AsyncIterator[tuple[str, str]]:
        """Databases with more versions than compaction leaves alone, changed since it looked."""
        after = ""
        while True:
            rows = await self._repo.all(
                "SELECT d.database_id, d.org_id, c.seq FROM databases d "
                "LEFT JOIN compaction_checks c ON c.database_id = d.database_id "
                "WHERE d.database_id > ? AND d.deleted_at IS NULL AND d.head_version > ? "
                "ORDER BY d.database_id LIMIT ?",
                after,
                self._pieces_max,
                EVENTS_PER_READ_MAX,
            )
            for row in rows:
                history = await self._histories.peek(row["database_id"])
                if history.seq != row["seq"]:
                    yield row["database_id"], row["org_id"]
            if len(rows) < EVENTS_PER_READ_MAX:
                return
            after = rows[-1]["database_id"]

    async def _compact(
        self, database_id: str, org_id: str, lease: Lease, report: CompactionReport
    ) -> CompactionReport:
        pins = Pins(self._repo, self._clock, self._storage.ids.new_id)
        history = await self._histories.open(database_id, org_id)
        pin = await pins.take(org_id, database_id, history.oldest)
        try:
            history = await self._histories.open(database_id, org_id)
            work = _Work(self, history, pin, lease)
            merged, maps = await work.merge_small_segments()
            head = await work.rewrite_head()
            await self._histories.write_snapshot(database_id)
            seq = (await self._histories.open(database_id, org_id)).seq
            await self._repo.execute(
                "INSERT INTO compaction_checks (database_id, seq) VALUES (?, ?) "
                "ON CONFLICT (database_id) DO UPDATE SET seq = excluded.seq",
                database_id,
                seq if merged or head else history.seq,
            )
        finally:
            await pin.release()
        return replace(
            report,
            databases_looked_at=report.databases_looked_at + 1,
            databases_compacted=report.databases_compacted + bool(merged or head),
            heads_rewritten=report.heads_rewritten + head,
            maps_rewritten=report.maps_rewritten + maps + head,
            segments_merged=report.segments_merged + merged,
        )


class _Work:
    """Compaction of one database, under a pin."""

    def __init__(self, owner: Compactor, history: History, pin: Pin, lease: Lease) -> None:
        self._owner = owner
        self._storage = owner._storage
        self._histories = owner._histories
        self._history = history
        self._pin = pin
        self._lease = lease

    async def merge_small_segments(self) -> tuple[int, int]:
        """Merge if there are many. How many segments were merged and maps rewritten."""
        history = self._history
        added = {name for outline in history.outlines() for name in outline.segments}
        if len(added) <= self._owner._pieces_max:
            return 0, 0
        listed = await self._storage.objects.list(segment_prefix(history.org_id))
        sizes = {info.key.rpartition("/")[2]: info.size_bytes for info in listed}
        # Of the whole organization: a run that died may have left maps with names that no version
        # brought. What this database's maps do not name is not touched.
        small = {name for name, size in sizes.items() if size < self._owner._small_segment_bytes}
        if len(small & added) <= self._owner._pieces_max:
            return 0, 0
        segments = maps = 0
        async for merger, outlines in self._groups(small):
            written, merged = await merger.write()
            await self._switch(outlines, written, merged)
            segments, maps = segments + len(merged), maps + len(written)
        return segments, maps

    async def _groups(
        self, small: Collection[str]
    ) -> AsyncIterator[tuple[BlockMerger, dict[int, Outline]]]:
        """The maps that name `small` segments, as many at a time as fit into memory."""
        history, storage = self._history, self._storage
        merger = BlockMerger(
            storage.objects, storage.ids, history.org_id, history.database_id, small
        )
        outlines, held = dict[int, Outline](), 0
        for outline in history.outlines():
            await self._keep_on()
            try:
                data = await storage.objects.get(outline.map_key)
            except NotFound as error:
                raise missing(outline.map_key) from error
            if not await merger.add(outline.version, decode_map(data, outline.map_key)):
                continue
            outlines[outline.version] = outline
            held += len(data)
            if (
                len(merger) >= COMPACT_MAPS_IN_MEMORY_MAX
                or held >= COMPACT_MAP_BYTES_IN_MEMORY_MAX
                or merger.bytes_added >= SEGMENT_BYTES_MAX
            ):
                yield merger, outlines
                outlines, held = {}, 0
        if outlines:
            yield merger, outlines

    async def rewrite_head(self) -> bool:
        """Write the head in page order, if its pages lie badly."""
        history = await self._histories.open(self._history.database_id, self._history.org_id)
        head = history.head_version
        if not head:
            return False
        refs, number = [], head
        while number >= history.first:
            refs.append(version_ref(history.ancestor(number), history.org_id))
            if refs[-1].map_is_snapshot:
                break
            number -= 1
        page_map = await self._storage.open_map(refs[::-1], head)
        if not self._is_scattered(shape_of(page_map)):
            return False
        new = await rewrite_in_page_order(
            self._storage.objects,
            self._storage.ids,
            page_map,
            history.org_id,
            history.database_id,
            head,
            self._keep_on,
        )
        self._history = history
        await self._switch({head: history.outline(head)}, {head: new}, page_map.segments())
        return True

    async def _keep_on(self) -> None:
        await self._pin.keep()
        await self._lease.keep()

    def _is_scattered(self, shape: Shape) -> bool:
        if shape.blocks <= max(self._owner._pieces_max, shape.blocks_needed):
            return False
        too_many = shape.blocks > COMPACT_BLOCKS_FACTOR_MAX * shape.blocks_needed
        return too_many or shape.waste_percent > COMPACT_WASTE_PERCENT_MAX

    async def _switch(
        self,
        outlines: Mapping[int, Outline],
        written: Mapping[int, NewMap],
        left: Collection[str],
    ) -> None:
        """Let versions refer to their new maps. Segments `left`, and the old maps, may be garbage
        from now on: they are to be judged anew, whatever was thought of them before."""
        database_id, org_id = self._history.database_id, self._history.org_id
        anew = [segment_key(org_id, name) for name in left]
        anew += [outline.map_key for outline in outlines.values()]
        forget = "DELETE FROM gc_candidates WHERE object_key = ?"
        for versions in _chunks(sorted(written)):
            event = MapsRewritten(
                database_id=database_id,
                maps=tuple(_rewritten(v, outlines[v], written[v]) for v in versions),
            )
            await self._lease.renew()
            with fenced(), guarding():
                await self._histories.append(
                    self._history,
                    event,
                    [
                        *(Statement(forget, (key,)) for key in anew),
                        *self._pin.held(),
                        *self._lease.held(),
                    ],
                )


def _rewritten(version: int, old: Outline, new: NewMap) -> RewrittenMap:
    """Of the segments that the map refers to, those are named that came with this version or with
    this rewriting: with all others, each map of a long history would name thousands."""
    named = new.made.union(old.segments)
    return RewrittenMap(
        version=version,
        map_key=new.map_key,
        map_is_snapshot=new.is_snapshot,
        segments=tuple(name for name in new.segments if name in named),
    )


def _chunks(versions: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(versions), COMPACT_MAPS_PER_EVENT_MAX):
        yield versions[start : start + COMPACT_MAPS_PER_EVENT_MAX]
