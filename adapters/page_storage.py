"""Page storage: the pages of every version, in segments and page maps over one object store.

This is the port that the sync session uses. It opens the map of a version from the chain of map
objects that its history names, opens a stage for a push, and a reader for a pull. It knows nothing
of the log: which versions there are, and which segments are staged, its callers say. Nothing here
is ever overwritten or deleted.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from weakref import WeakValueDictionary

from ..events.errors import NotFound
from ..events.limits import (
    MAP_CACHE_BYTES_MAX,
    MAP_READS_IN_FLIGHT_MAX,
    PAGE_SIZE_BYTES_MIN,
)
from .map_format import DecodedMap, decode_map
from .page_map import Lineage, MapDelta, PageMap
from .page_reader import PageBatch, PageReader
from .ports import Ids, ObjectStore
from .push_stage import PushStage, Sealed
from .segment_writer import Abandoned, OnSegment, StagedSegment
from .segments import corrupt, missing
from .staged_content import HeldContent, read_footers

__all__ = [
    "Abandoned",
    "PageBatch",
    "PageMap",
    "PageReader",
    "PageStorage",
    "PushStage",
    "Sealed",
    "StagedSegment",
    "VersionRef",
]


@dataclass(frozen=True, slots=True)
class VersionRef:
    """What page storage must know of a version; built from its `VersionCommitted`."""

    database_id: str
    org_id: str
    version: int
    page_size: int
    page_count: int
    root: bytes
    map_key: str
    map_is_snapshot: bool


MapKeys = tuple[str, ...]
"""The objects of a map, from its snapshot on over the deltas that follow."""


class MapCacheUsage(NamedTuple):
    """Maps asked for and found, asked for and not found, and the bytes that are held."""

    hits: int
    misses: int
    held_bytes: int


class MapCache:
    """Recently used maps, up to a number of bytes; the least recently used is dropped first.

    A map is known by all the objects that it was read from (`Lineage.map_keys`), not by its own
    alone: compaction may move what lies under a delta and leave the delta's object as it is, and
    the segments of before are then collected. Whoever asks for the chain that the log names now
    does not find a map that was read from another.

    A map that somebody still holds is found even when it was dropped or never fitted: two sessions
    on one version share its memory.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._maps: OrderedDict[MapKeys, PageMap] = OrderedDict()
        self._alive: WeakValueDictionary[MapKeys, PageMap] = WeakValueDictionary()
        self._bytes = 0
        self._hits = self._misses = 0

    @property
    def nbytes(self) -> int:
        return self._bytes

    @property
    def usage(self) -> MapCacheUsage:
        return MapCacheUsage(self._hits, self._misses, self._bytes)

    def look_up(self, keys: MapKeys) -> PageMap | None:
        """As `get`, and counted: a map that was asked for itself."""
        found = self.get(keys)
        if found is None:
            self._misses += 1
        else:
            self._hits += 1
        return found

    def get(self, keys: MapKeys) -> PageMap | None:
        """The map that was read from exactly the objects `keys`."""
        found = self._maps.get(keys)
        if found is not None:
            self._maps.move_to_end(keys)
            return found
        return self._alive.get(keys)

    def put(self, page_map: PageMap) -> None:
        """Keep a map whose lineage names the objects it was read from, or written to."""
        keys = page_map.lineage.map_keys
        self._alive[keys] = page_map
        if keys in self._maps or page_map.nbytes > self._bytes_max:
            return
        self._maps[keys] = page_map
        self._bytes += page_map.nbytes
        while self._bytes > self._bytes_max:
            _, dropped = self._maps.popitem(last=False)
            self._bytes -= dropped.nbytes


class PageStorage:
    """The pages of all databases in one object store."""

    def __init__(
        self, objects: ObjectStore, ids: Ids, *, cache_bytes: int = MAP_CACHE_BYTES_MAX
    ) -> None:
        self.objects = objects
        self.ids = ids
        self._cache = MapCache(cache_bytes)
        self._opening: dict[MapKeys, asyncio.Lock] = {}

    @property
    def cache_usage(self) -> MapCacheUsage:
        return self._cache.usage

    async def open_map(self, history: Sequence[VersionRef], version: int) -> PageMap:
        """The map of `version`; 0 is the empty map. `history` ascends and holds the version and
        its ancestors down to the nearest snapshot.

        Reads at most one snapshot and `MAP_DELTAS_PER_SNAPSHOT_MAX` deltas. `NotFound` if the
        history has no such version, `StorageError` if an object is missing or damaged, or if the
        map's root is not the version's.
        """
        if version == 0:
            return PageMap.empty(history[-1].page_size if history else PAGE_SIZE_BYTES_MIN)
        upto = [ref for ref in history if ref.version <= version]
        if not upto or upto[-1].version != version:
            raise NotFound(f"there is no version {version}")
        chain = _chain(upto)
        keys = tuple(ref.map_key for ref in chain)
        # One at a time for one map: the others then find it in the cache.
        lock = self._opening.setdefault(keys, asyncio.Lock())
        try:
            async with lock:
                page_map = self._cache.look_up(keys) or await self._load(chain, keys)
        finally:
            if not lock.locked():
                self._opening.pop(keys, None)
        return page_map

    async def _load(self, chain: Sequence[VersionRef], keys: MapKeys) -> PageMap:
        """The map of the last of `chain`, from the nearest map that is cached or the snapshot."""
        known = len(chain)
        while known and (page_map := self._cache.get(keys[:known])) is None:
            known -= 1
        objects = await self._read_maps(chain[known:])
        deltas: list[MapDelta] = []
        previous = chain[known - 1].root if known else None
        for ref, decoded in objects:
            content = decoded.content
            if isinstance(content, PageMap):
                page_map = replace(content, lineage=Lineage(ref.version))
            elif decoded.parent_root == previous:
                deltas.append(content)
            else:
                raise corrupt(ref.map_key, "it is relative to another version")
            previous = ref.root
        wanted = chain[-1]
        if page_map is None:
            raise corrupt(wanted.map_key, "no snapshot lies under it")
        page_map = page_map.overlay(*deltas)
        lineage = replace(page_map.lineage, version=wanted.version, map_keys=keys)
        page_map = replace(page_map, lineage=lineage)
        if page_map.root() != wanted.root:
            raise corrupt(wanted.map_key, f"its root is not that of version {wanted.version}")
        self._cache.put(page_map)
        return page_map

    async def _read_maps(self, refs: Sequence[VersionRef]) -> list[tuple[VersionRef, DecodedMap]]:
        gate = asyncio.Semaphore(MAP_READS_IN_FLIGHT_MAX)

        async def read(ref: VersionRef) -> DecodedMap:
            async with gate:
                try:
                    data = await self.objects.get(ref.map_key)
                except NotFound as error:
                    raise missing(ref.map_key) from error
            decoded = decode_map(data, ref.map_key)
            content = decoded.content
            said = (isinstance(content, PageMap), content.page_size, content.page_count)
            if said != (ref.map_is_snapshot, ref.page_size, ref.page_count) or (
                decoded.root != ref.root
            ):
                raise corrupt(ref.map_key, f"it is not the map of version {ref.version}")
            return decoded

        tasks = [asyncio.create_task(read(ref)) for ref in refs]
        try:
            maps = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return list(zip(refs, maps, strict=True))

    async def open_stage(
        self,
        *,
        org_id: str,
        database_id: str,
        base: PageMap,
        page_size: int,
        staged_segment_ids: Sequence[str],
        on_segment: OnSegment,
    ) -> PushStage:
        """A stage for a push of pages of `page_size` bytes on `base`.

        `staged_segment_ids` are segments that earlier pushes left: what their footers say need not
        be sent again. Those that are gone or damaged are in the stage's `unreadable_segments`.
        """
        staged, unreadable = await read_footers(self.objects, org_id, staged_segment_ids)
        return PushStage(
            self.objects,
            self.ids,
            HeldContent(base, page_size, staged),
            org_id=org_id,
            database_id=database_id,
            base=base,
            on_segment=on_segment,
            on_sealed=self._cache.put,
            unreadable_segments=unreadable,
        )

    def reader(self, page_map: PageMap, org_id: str) -> PageReader:
        """Reads pages of `page_map`, whose segments belong to `org_id`."""
        return PageReader(self.objects, page_map, org_id)


def _chain(upto: Sequence[VersionRef]) -> list[VersionRef]:
    """The versions whose maps make that of the last: from the nearest snapshot on."""
    chain: list[VersionRef] = []
    for ref in reversed(upto):
        chain.append(ref)
        if ref.map_is_snapshot:
            return chain[::-1]
    raise corrupt(upto[0].map_key, "a version before it has no snapshot")
