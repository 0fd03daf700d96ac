"""One push on its way in: what was announced, what arrived, and the segments that it fills.

Nothing of it is visible. Full segments are uploaded while the push goes on and reported through
`on_segment`, so that an interrupted push resumes; `seal` uploads what is left and writes the map
object, and only then may a version refer to them. Which pages a peer may send, and whether the
version may be committed, is for the machine and the session to say.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np

from ..events.errors import (
    LimitExceeded,
    PageHashMismatch,
    ProtocolViolation,
    RootMismatch,
)
from ..events.limits import (
    BATCH_DECODED_BYTES_MAX,
    DIGEST_BYTES,
    MAP_DELTAS_PER_SNAPSHOT_MAX,
    PAGES_PER_DATABASE_MAX,
    RANGE_PAGES_MAX,
)
from ..events.pages import Run, Runs, count_pages, lock_byte_page, merge_runs
from .block_table import CODECS
from .hashing import hash_pages
from .map_format import encode_delta, encode_snapshot, map_key
from .page_arrays import (
    U32,
    Bytes2D,
    digest_rows,
    pages_of_runs,
    rows_differ,
    runs_of_pages,
)
from .page_map import Lineage, PageMap
from .page_table import Entries, PageTable
from .ports import Buffer, Ids, ObjectStore
from .segment_writer import Abandoned, OnSegment, SegmentWriter
from .segments import decode_block
from .staged_content import HeldContent

_KEPT_RUNS_MIN: Final = 1024
"""Runs of kept pages that are not worth joining."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a version is made of, all of it durable.

    `segments` are the ids this version adds to those of its base, `pages_changed` the pages that
    differ from the base, `stored_bytes` what this push uploaded, map included.
    """

    root: bytes
    page_count: int
    page_map: PageMap
    map_key: str
    map_is_snapshot: bool
    segments: tuple[str, ...]
    pages_changed: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class _Final:
    """The finished version, before its map is written."""

    page_map: PageMap
    root: bytes
    changed: U32


class PushStage:
    """Made by `PageStorage.open_stage`; one session uses it, one call at a time."""

    def __init__(
        self,
        objects: ObjectStore,
        ids: Ids,
        held: HeldContent,
        *,
        org_id: str,
        database_id: str,
        base: PageMap,
        on_segment: OnSegment,
        on_sealed: Callable[[PageMap], None],
        unreadable_segments: tuple[str, ...] = (),
    ) -> None:
        self._objects = objects
        self._ids = ids
        self._held = held
        self._org_id = org_id
        self._database_id = database_id
        self._base = base
        self._page_size = held.base.page_size
        self._lock_page = lock_byte_page(self._page_size)
        self._table = PageTable()
        self._kept: list[Run] = []
        self._kept_runs_max = _KEPT_RUNS_MIN
        self._final: _Final | None = None
        self._segments = SegmentWriter(objects, ids, org_id, on_segment)
        self._on_sealed = on_sealed
        self.unreadable_segments = unreadable_segments

    @property
    def staged_pages(self) -> int:
        """Pages that earlier pushes staged and this one may use."""
        return self._held.staged_pages

    def announce(self, windows: Sequence[tuple[int, bytes]]) -> Runs:
        """Take `windows` (first page, joined digests) as digests of the new version.

        Returns the pages whose content has to be sent. The lock-byte page is never among them.
        """
        if not windows:
            return ()
        pages, digests = self._flatten(windows)
        is_lock_page = pages == self._lock_page
        if is_lock_page.any():
            digests = np.where(is_lock_page[:, np.newaxis], np.uint8(0), digests)
        known, before = self._table.get(pages)
        entries = self._held.locate(pages, digests)
        if known.any():
            # Content that arrived already, announced once more.
            again = known & (before.block > 0) & (entries.block == 0)
            again[again] = ~rows_differ(before.digests[again], entries.digests[again])
            entries.block[again], entries.slot[again] = before.block[again], before.slot[again]
        self._table.put(pages, entries)
        return runs_of_pages(pages[(entries.block == 0) & ~is_lock_page])

    def _flatten(self, windows: Sequence[tuple[int, bytes]]) -> tuple[U32, Bytes2D]:
        """Ascending pages without repeats, the last window's word on each, and their digests."""
        digests = digest_rows(b"".join(digests for _, digests in windows))
        runs = tuple((first, first + len(joined) // DIGEST_BYTES - 1) for first, joined in windows)
        if min(first for first, _ in runs) < 1:
            raise ProtocolViolation("pages are numbered from 1")
        self._check_page(max(last for _, last in runs))
        pages = pages_of_runs(runs)
        if (pages[1:] > pages[:-1]).all():
            return pages, digests
        unique, from_end = np.unique(pages[::-1], return_index=True)
        return unique, digests[len(pages) - 1 - from_end]

    @staticmethod
    def _check_page(page: int) -> None:
        if page > PAGES_PER_DATABASE_MAX:
            raise LimitExceeded(
                f"page {page} is beyond what a database may have",
                limit="pages_per_database_max",
                value=PAGES_PER_DATABASE_MAX,
            )

    def compare_ranges(self, ranges: Sequence[tuple[int, int, bytes]]) -> Runs:
        """Which of `ranges` (first, last, range hash) differ from the base, as their pages.

        The pages of the others are taken as announced with the base's digests.
        """
        base = self._held.base
        inside = [r for r in ranges if r[1] <= base.page_count]
        self._check_page(max((last for _, last, _ in ranges), default=1))
        if sum(last - first + 1 for first, last, _ in inside) > base.page_count + RANGE_PAGES_MAX:
            raise ProtocolViolation("ranges overlap")  # each page would be hashed many times
        differing: list[Run] = []
        for first, last, combined in ranges:
            if last > base.page_count or base.range_hash(first, last) != combined:
                differing.append((first, last))
                continue
            self._keep(first, last)
            announced = self._table.pages_within(first, last)
            if len(announced):
                rows = announced.astype(np.int64) - 1
                mine = Entries(base.digests[rows], base.block[rows], base.slot[rows])
                self._table.put(announced, mine)
        if all(a[1] < b[0] for a, b in pairwise(differing)):
            return tuple(differing)
        # By their ends: a frame of 128 KB can name three thousand times the same 65,536 pages.
        return merge_runs(differing, PAGES_PER_DATABASE_MAX)

    def _keep(self, first: int, last: int) -> None:
        """Note pages that keep the base's content. They may be named again and again: what is
        noted stays in proportion to the base."""
        self._kept.append((first, last))
        if len(self._kept) >= self._kept_runs_max:
            self._kept = list(merge_runs(self._kept, PAGES_PER_DATABASE_MAX))
            self._kept_runs_max = 2 * len(self._kept) + _KEPT_RUNS_MIN

    def keep_base(self) -> None:
        """Pages never announced keep the base's content (a push relative to its base)."""
        if self._held.base.page_count:
            self._kept.append((1, self._held.base.page_count))

    async def add(self, runs: Runs, codec: str, data: bytes) -> tuple[int, int]:
        """Stage the pages of `runs` (ascending), joined in `data` and encoded by `codec`.

        Each page is verified against its announced digest (`PageHashMismatch`, and then nothing
        of the batch is kept); the digest of a page never announced is recorded. Waits while too
        many segments are being uploaded, and raises what failed there. Returns how many pages,
        and the bytes of `data`.
        """
        if self._final is not None:
            raise ProtocolViolation("the push is already complete")
        pages = pages_of_runs(runs)
        self._check_batch(pages, codec)
        decoded_bytes = len(pages) * self._page_size
        try:
            decoded = decode_block(CODECS.index(codec), data, decoded_bytes)
        except ValueError as error:
            raise ProtocolViolation(f"the data of {len(pages)} pages: {error}") from None
        joined = hash_pages(decoded, self._page_size)
        digests = digest_rows(joined)
        announced, entries = self._table.get(pages)
        wrong = announced & rows_differ(entries.digests, digests)
        if wrong.any():
            page = int(pages[wrong][0])
            raise PageHashMismatch(f"page {page} is not what was announced", page=page)
        block = np.empty(len(pages), dtype=np.uint32)
        slot = np.empty(len(pages), dtype=np.uint16)
        stored = data if isinstance(data, bytes) else bytes(data)
        for rows, piece in self._pieces(len(pages), codec, stored):
            mine = memoryview(joined)[rows.start * DIGEST_BYTES : rows.stop * DIGEST_BYTES]
            await self._segments.make_room(len(piece))
            number, first = self._segments.append(pages[rows], self._page_size, codec, piece, mine)
            block[rows] = number + len(self._held.table.rows)
            slot[rows] = np.arange(first, first + rows.stop - rows.start)
        self._table.put(pages, Entries(digests, block, slot))
        return len(pages), len(data)

    def _check_batch(self, pages: U32, codec: str) -> None:
        if not len(pages):
            raise ProtocolViolation("a batch without pages")
        self._check_page(int(pages[-1]))
        if codec not in CODECS:
            raise ProtocolViolation(f"unknown codec {codec!r}")
        if codec != "raw" and len(pages) * self._page_size > BATCH_DECODED_BYTES_MAX:
            raise LimitExceeded(
                f"a batch decodes to more than {BATCH_DECODED_BYTES_MAX} bytes",
                limit="batch_decoded_bytes_max",
                value=BATCH_DECODED_BYTES_MAX,
            )
        if (pages[1:] <= pages[:-1]).any() or int(pages[0]) < 1:
            raise ProtocolViolation("a batch's pages do not ascend")
        at = int(np.searchsorted(pages, self._lock_page))
        if at < len(pages) and int(pages[at]) == self._lock_page:
            raise ProtocolViolation(f"page {self._lock_page} is the lock-byte page")

    def _pieces(self, pages: int, codec: str, data: bytes) -> list[tuple[slice, Buffer]]:
        """The batch cut into blocks. Only a raw batch (wire v1) can be longer than one."""
        per_block = BATCH_DECODED_BYTES_MAX // self._page_size
        if codec != "raw" or pages <= per_block:
            return [(slice(0, pages), data)]
        view, size = memoryview(data), self._page_size
        return [
            (slice(at, min(at + per_block, pages)), view[at * size : (at + per_block) * size])
            for at in range(0, pages, per_block)
        ]

    async def seal(
        self, page_count: int, *, expected_root: bytes | None = None, snapshot: bool = False
    ) -> Sealed:
        """Finish the version of `page_count` pages; everything is durable when this returns.

        `ProtocolViolation` if a page has no content, `RootMismatch` if the root is not the
        expected one: then no map is written. `snapshot` demands a map that does not depend on the
        base, for a version whose parent will be another. May be called again after a lost race:
        only the map is written anew.
        """
        final = self._final
        if final is None:
            final = self._final = self._finish(page_count)
        if expected_root is not None and final.root != expected_root:
            raise RootMismatch("the pages received do not have the announced root")
        beneath = self._base.lineage.map_keys
        lineage = self._base.lineage.after_delta(len(final.changed))
        is_snapshot = snapshot or self._wants_snapshot(final)
        if is_snapshot:
            beneath, lineage = (), Lineage(lineage.version)
            parts = encode_snapshot(final.page_map, final.root)
        else:
            delta = final.page_map.delta_from(final.changed)
            parts = encode_delta(delta, final.root, self._base.root())
        key = map_key(self._database_id, lineage.version, self._ids.new_id())
        needed = set(final.page_map.table.segments)
        # Neither refers to the other until a version refers to both.
        results = await asyncio.gather(
            self._segments.finish(needed), self._objects.put(key, parts), return_exceptions=True
        )
        for result in results:
            if result is not None:
                raise result
        lineage = replace(lineage, map_keys=(*beneath, key))
        page_map = replace(final.page_map, lineage=lineage)
        self._on_sealed(page_map)
        return Sealed(
            root=final.root,
            page_count=page_count,
            page_map=page_map,
            map_key=key,
            map_is_snapshot=is_snapshot,
            segments=tuple(sorted(needed.difference(self._base.segments()))),
            pages_changed=len(final.changed),
            stored_bytes=self._segments.stored_bytes + sum(len(part) for part in parts),
        )

    async def abandon(self) -> Abandoned:
        """Keep what arrived for the next push: upload and report every segment not yet reported.

        Also for a sealed push that was not committed. Raises nothing but cancellation; a failure
        of the store is in the result. The stage is spent.
        """
        return await self._segments.abandon()

    def _wants_snapshot(self, final: _Final) -> bool:
        """Whether reading this version's map through deltas would cost more than it saves."""
        lineage = self._base.lineage
        return (
            not lineage.version
            or self._base.page_size != self._page_size
            or lineage.deltas >= MAP_DELTAS_PER_SNAPSHOT_MAX
            or 2 * (lineage.delta_pages + len(final.changed)) >= final.page_map.page_count
        )

    def _finish(self, page_count: int) -> _Final:
        """The version's map, from what was announced and what is kept of the base."""
        self._check_page(page_count)
        self._segments.close()
        table, _ = self._held.table.joined(self._segments.table())
        pages, said = self._table.columns()
        self._table = PageTable()
        end = int(np.searchsorted(pages, page_count, side="right"))
        pages, said = pages[:end], said.at(slice(0, end))
        kept = merge_runs(self._kept, page_count)
        lock_pages = int(0 < self._lock_page <= page_count)
        # Before any array of the claimed size is made: a few bytes can claim 2^26 pages.
        if count_pages(kept) + end < page_count - lock_pages:
            raise ProtocolViolation(f"not all of the {page_count} pages were announced")
        if end == page_count:
            entries = said  # exactly pages 1..page_count: the columns are the map
        else:
            entries = Entries.zeros(page_count)
            base = self._held.base
            for first, last in kept:
                rows = slice(first - 1, last)
                entries.set(rows, Entries(base.digests[rows], base.block[rows], base.slot[rows]))
            entries.set(pages.astype(np.intp) - 1, said)
        del pages, said
        changed = self._prefer_base(entries)
        page_map = PageMap(self._page_size, *entries, table)
        missing = page_map.missing()
        if missing:
            raise ProtocolViolation(
                f"{count_pages(missing)} pages have no content, first page {missing[0][0]}",
                pages_missing=count_pages(missing),
            )
        return _Final(page_map.pruned(), page_map.root(), changed)

    def _prefer_base(self, entries: Entries) -> U32:
        """Let pages equal to the base's lie where the base's lie, as a delta will say; the pages
        that differ."""
        base, count = self._held.base, len(entries.block)
        common = min(base.page_count, count)
        differ = rows_differ(entries.digests[:common], base.digests[:common])
        same = ~differ & (base.block[:common] > 0)
        np.copyto(entries.block[:common], base.block[:common], where=same)
        np.copyto(entries.slot[:common], base.slot[:common], where=same)
        beyond = np.arange(common + 1, count + 1, dtype=np.uint32)
        changed: U32 = np.concatenate([(np.flatnonzero(differ) + 1).astype(np.uint32), beyond])
        content: U32 = changed[changed != self._lock_page]
        return content
