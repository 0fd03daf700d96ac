"""What is large in the product, small here, so that a few pages are many batches and segments.

A batch is 1 MiB and a segment 8 MiB, which a database of a dozen small pages never fills: a push
would be one frame of pages in one segment, and nothing would ever break off in the middle of it.
Nor has a history here the hundreds of events after which a snapshot of it is written.
Only what the ends do is made smaller, never what the machines say, so that a recorded session runs
again on machines that know nothing of this.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

from edgereplica.adapters import segment_writer, segments
from edgereplica.adapters.page_reader import PageReader
from edgereplica.adapters.segments import SegmentBuilder
from edgereplica.app import history, history_snapshot, local_content, stored_versions
from edgereplica.events.limits import (
    BATCH_DECODED_BYTES_MAX,
    HASH_WINDOW_PAGES,
    HISTORY_CHUNK_VERSIONS,
    HISTORY_SNAPSHOT_EVENTS,
    SEGMENT_BYTES_MAX,
)


@dataclass(frozen=True, slots=True)
class Sizes:
    batch_bytes: int = BATCH_DECODED_BYTES_MAX
    """Page content in one batch, sent or stored, but for one page at least."""
    window_pages: int = HASH_WINDOW_PAGES
    """Page hashes in one announcement."""
    segment_bytes: int = SEGMENT_BYTES_MAX
    snapshot_events: int = HISTORY_SNAPSHOT_EVENTS
    """New events in a history before it is written down again."""
    chunk_versions: int = HISTORY_CHUNK_VERSIONS
    """Versions in one piece of a history that was written down."""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the product's modules have these sizes."""
        reading: Any = PageReader.batches.__kwdefaults__
        places: tuple[tuple[dict[str, Any], str, Any], ...] = (
            (reading, "decoded_bytes_max", self.batch_bytes),
            (vars(segments), "BATCH_DECODED_BYTES_MAX", self.batch_bytes),
            (vars(local_content), "HASH_WINDOW_PAGES", self.window_pages),
            (vars(segment_writer), "SegmentBuilder", self._builder),
            (vars(history), "HISTORY_SNAPSHOT_EVENTS", self.snapshot_events),
            (vars(history_snapshot), "HISTORY_CHUNK_VERSIONS", self.chunk_versions),
            (vars(stored_versions), "HISTORY_CHUNK_VERSIONS", self.chunk_versions),
        )
        before = [names[name] for names, name, _ in places]
        for names, name, value in places:
            names[name] = value
        try:
            yield
        finally:
            for (names, name, _), value in zip(places, before, strict=True):
                names[name] = value

    def _builder(self) -> SegmentBuilder:
        return SegmentBuilder(self.segment_bytes)


def drawn(rng: Random) -> Sizes:
    """The sizes of one world: in some all as in the product, in most something is small."""
    return Sizes(
        rng.choice((1024, 2048, BATCH_DECODED_BYTES_MAX)),
        rng.choice((4, HASH_WINDOW_PAGES)),
        rng.choice((2048, 2048, SEGMENT_BYTES_MAX)),
        rng.choice((1, 4, HISTORY_SNAPSHOT_EVENTS)),
        rng.choice((2, HISTORY_CHUNK_VERSIONS)),
    )
