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


class MapCacheUsage(NamedTuple):
    """Maps asked for and found, asked for and not found, and the bytes that are held."""

    hits: int
    misses: int
    held_bytes: int


class MapCache:
    """Recently used maps, up to a number of bytes; the least recently used is dropped first.

    A map that somebody still holds is found even when it was dropped or never fitted: two sessions
    on one version share its memory.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._maps: OrderedDict[str, PageMap] = OrderedDict()
        self._alive: WeakValueDictionary[str, PageMap] = WeakValueDictionary()
        self._bytes = 0
        self._hits = self._misses = 0

    @property
    def nbytes(self) -> int:
        return self._bytes

    @property
    def usage(self) -> MapCacheUsage:
        return MapCacheUsage(self._hits, self._misses, self._bytes)

    def look_up(self, key: str) -> PageMap | None:
        """As `get`, and counted: a map that was asked for itself."""
        found = self.get(key)
        if found is None:
            self._misses += 1
        else:
            self._hits += 1
        return found

    def get(self, key: str) -> PageMap | None:
        found = self._maps.get(key)
        if found is not None:
            self._maps.move_to_end(key)
            return found
        return self._alive.get(key)

    def put(self, key: str, page_map: PageMap) -> None:
        self._alive[key] = page_map
        if key in self._maps or page_map.nbytes > self._bytes_max:
            return
        self._maps[key] = page_map
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
        self._opening: dict[str, asyncio.Lock] = {}

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
        key = upto[-1].map_key
        # One at a time for one map: the others then find it in the cache.
        lock = self._opening.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                page_map = self._cache.look_up(key) or await self._load(upto)
        finally:
            if not lock.locked():
                self._opening.pop(key, None)
        return page_map

    async def _load(self, upto: Sequence[VersionRef]) -> PageMap:
        """The map of the last of `upto`, from the nearest map that is cached or a snapshot."""
        chain: list[VersionRef] = []
        page_map: PageMap | None = None
        for ref in reversed(upto):
            page_map = self._cache.get(ref.map_key)
            if page_map is not None:
                chain.append(ref)
                break
            chain.append(ref)
            if ref.map_is_snapshot:
                break
        else:
            raise corrupt(upto[0].map_key, "a version before it has no snapshot")
        chain.reverse()
        objects = await self._read_maps(chain if page_map is None else chain[1:])
        deltas: list[MapDelta] = []
        previous = chain[0].root if page_map is not None else None
        for ref, decoded in objects:
            content = decoded.content
            if isinstance(content, PageMap):
                page_map = replace(content, lineage=Lineage(ref.version))
            elif decoded.parent_root == previous:
                deltas.append(content)
            else:
                raise corrupt(ref.map_key, "it is relative to another version")
            previous = ref.root
        wanted = upto[-1]
        if page_map is None:
            raise corrupt(wanted.map_key, "no snapshot lies under it")
        page_map = page_map.overlay(*deltas)
        page_map = replace(page_map, lineage=replace(page_map.lineage, version=wanted.version))
        if page_map.root() != wanted.root:
            raise corrupt(wanted.map_key, f"its root is not that of version {wanted.version}")
        self._cache.put(wanted.map_key, page_map)
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
