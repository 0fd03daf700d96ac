"""The local file's content as both directions see it: pages, digests, windows, drill-downs.

A `LocalContent` stands on one open snapshot (or on none, when the file is known to be unchanged)
and on what the sidecar remembers of the version last synced. Digests are computed when they are
first needed and kept, 32 bytes a page.
"""

from collections import deque
from collections.abc import Callable, Iterator

from ..adapters.hashing import hash_pages, root_of
from ..adapters.local_snapshot import LocalSnapshot
from ..events.errors import EdgeReplicaError, ProtocolViolation
from ..events.limits import (
    ANNOUNCED_WINDOWS_MAX,
    DIGEST_BYTES,
    DRILL_DOWN_PAGES,
    HASH_WINDOW_BYTES,
    HASH_WINDOW_PAGES,
    RANGES_PER_FRAME_MAX,
    SPOOL_BYTES_IN_MEMORY_MAX,
)
from ..events.messages import HashRanges, Windows
from ..events.pages import Runs, count_pages, pages_of, split_runs
from ..events.session import WindowHashed


class StaleSidecar(EdgeReplicaError):
    """What the sidecar says does not fit the server. Internal: the sync is run again without."""


PageHook = Callable[[int, memoryview], None]


class LocalContent:
    """`digests` are joined (or a function that gets them, called once); None: not hashed yet.
    `changed` None: no known base to be relative to.

    `on_pages(first, data)` sees every page that is read for hashing, in order.
    """

    def __init__(
        self,
        snapshot: LocalSnapshot | None,
        page_size: int,
        page_count: int,
        *,
        digests: bytearray | Callable[[], bytearray] | None = None,
        changed: Runs | None = None,
        on_pages: PageHook | None = None,
    ) -> None:
        self.page_size = page_size
        self.page_count = page_count
        self.changed = changed
        self._snapshot = snapshot
        self._load_digests = digests if callable(digests) else None
        self._digests = digests if isinstance(digests, bytearray) else bytearray()
        self._on_pages = on_pages
        self._spool: dict[int, bytes] | None = None
        # What is announced is asked for at once: it need not be read twice.
        self._recent: deque[tuple[int, memoryview]] = deque(maxlen=ANNOUNCED_WINDOWS_MAX)

    @property
    def everything(self) -> Runs:
        return ((1, self.page_count),) if self.page_count else ()

    @property
    def digests(self) -> bytearray:
        """All digests, joined; hashes what has not been hashed yet."""
        if self._load_digests is not None:
            self._digests, self._load_digests = self._load_digests(), None
        hashed = len(self._digests) // DIGEST_BYTES
        if hashed < self.page_count:
            for group in self._groups(((hashed + 1, self.page_count),)):
                for first, last in group:
                    self._digests_of(first, last)
        return self._digests

    def take_digests(self) -> bytearray:
        """All digests, given away: the content is not asked for them again. Saves a copy."""
        taken = self.digests
        self._digests = bytearray()
        return taken

    def root(self) -> bytes:
        return root_of(self.digests)

    # Reading

    def read(self, runs: Runs) -> bytes:
        """The content of `runs`, joined in order."""
        if self._spool is not None:
            if not all(page in self._spool for page in pages_of(runs)):
                raise StaleSidecar("the server asked for pages that did not change")
            return b"".join([self._spool[page] for page in pages_of(runs)])
        if self._snapshot is None:
            raise StaleSidecar("the server asked for pages of a file that did not change")
        return self._read_recent(runs) or self._snapshot.read_runs(runs)

    def _read_recent(self, runs: Runs) -> bytes | None:
        """One run out of a window that was read for hashing a moment ago, if it is still held."""
        if len(runs) == 1:
            first, last = runs[0]
            for start, data in self._recent:
                at, end = (first - start) * self.page_size, (last - start + 1) * self.page_size
                if at >= 0 and end <= len(data):
                    return bytes(data[at:end])
        return None

    def pieces(self) -> Iterator[tuple[int, memoryview]]:
        """All pages in order, a few megabytes at a time: (first page, joined data)."""
        assert self._snapshot is not None
        for group in self._groups(self.everything):
            for first, last in group:
                yield first, self._snapshot.read(first, last)

    def spool_changes(self) -> bool:
        """Hold the changed pages in memory if they are few, and let go of the file.

        A read transaction keeps the application's checkpoints from finishing, so it should not
        last as long as a slow link does.
        """
        if self.changed is None or self._snapshot is None:
            return False
        size = self.page_size
        if count_pages(self.changed) * size > SPOOL_BYTES_IN_MEMORY_MAX:
            return False
        data = self._snapshot.read_runs(self.changed)
        self._spool = {
            page: data[i * size : (i + 1) * size] for i, page in enumerate(pages_of(self.changed))
        }
        self._snapshot.close()
        return True

    def check_source(self) -> None:
        """`FileReplaced` unless the path still names the file that was read."""
        if self._snapshot is not None:
            self._snapshot.check_not_replaced()

    # Announcing

    def _groups(self, runs: Runs) -> Iterator[Runs]:
        pages_max = max(1, min(HASH_WINDOW_PAGES, HASH_WINDOW_BYTES // self.page_size))
        return split_runs(runs, pages_max)

    def windows(self, runs: Runs) -> Iterator[WindowHashed]:
        """`runs` as announced windows, each of at most 4 MiB of pages; the last has the root."""
        groups = self._groups(runs)
        group = next(groups, None)
        while group is not None:
            windows: Windows = tuple(
                (first, self._digests_of(first, last)) for first, last in group
            )
            group = next(groups, None)
            if group is not None:
                yield WindowHashed(windows, last=False)
            else:
                yield WindowHashed(windows, True, self.page_count, self.root())
                return
        yield WindowHashed((), True, self.page_count, self.root())

    def _digests_of(self, first: int, last: int) -> bytes:
        low, high = (first - 1) * DIGEST_BYTES, last * DIGEST_BYTES
        if self._load_digests is not None:
            return bytes(self.digests[low:high])
        if high > len(self._digests):
            # What is not hashed yet is hashed in order, so that it is read once.
            assert self._snapshot is not None
            assert low == len(self._digests)
            data = self._snapshot.read(first, last)
            self._digests += hash_pages(data, self.page_size, first)
            self._recent.append((first, data))
            if self._on_pages is not None:
                self._on_pages(first, data)
        return bytes(self._digests[low:high])


class DrillDown:
    """A comparison by ranges, from coarse to fine: what to say in each round.

    `next_round(None)` begins; each later round is given the pages whose ranges differed. A round
    without ranges is the end, and `differing` then holds the pages to announce one by one.
    """

    def __init__(self, content: LocalContent, *, to_single_pages: bool = False) -> None:
        self._content = content
        self._steps = iter((*DRILL_DOWN_PAGES, 1) if to_single_pages else DRILL_DOWN_PAGES)
        self.differing: Runs = ()

    def next_round(self, runs: Runs | None) -> HashRanges:
        page_count = self._content.page_count
        if runs and runs[-1][1] > page_count:
            raise ProtocolViolation(f"page {runs[-1][1]} of a file of {page_count} pages differs")
        self.differing = self._content.everything if runs is None else runs
        step = next(self._steps, None)
        if step is None or count_pages(self.differing) > step * RANGES_PER_FRAME_MAX:
            return ()
        return tuple(self._ranges(step))

    def _ranges(self, step: int) -> Iterator[tuple[int, int, bytes]]:
        digests = memoryview(self._content.digests)
        for first, last in self.differing:
            for start in range(first, last + 1, step):
                end = min(start + step - 1, last)
                yield start, end, root_of(digests[(start - 1) * DIGEST_BYTES : end * DIGEST_BYTES])
