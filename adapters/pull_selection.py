"""Which pages of a version a puller still needs.

Everything, at first; less with every page or range that the client is known to hold. One flag a
page, beside the version's map.
"""

import numpy as np
from blake3 import blake3

from ..events.errors import ProtocolViolation
from ..events.limits import RANGE_PAGES_MAX
from ..events.messages import HashRanges, Windows
from ..events.pages import Runs, merge_runs, without_page
from .page_arrays import (
    digest_rows,
    rows_differ,
    runs_of_flags,
    runs_of_pages,
)
from .page_map import PageMap


class PullSelection:
    """The pages of `page_map` to send."""

    def __init__(self, page_map: PageMap) -> None:
        self.page_map = page_map
        self._wanted = np.ones(page_map.page_count, dtype=np.bool_)
        if page_map.lock_page <= page_map.page_count:
            self._wanted[page_map.lock_page - 1] = False

    def count(self) -> int:
        return int(np.count_nonzero(self._wanted))

    def runs(self) -> Runs:
        return runs_of_flags(self._wanted)

    def hold_base(self, base: PageMap) -> None:
        """The client holds exactly the version of `base`."""
        wanted = np.zeros_like(self._wanted)
        wanted[self.page_map.changed_pages(base).astype(np.int64) - 1] = True
        self._wanted &= wanted

    def compare_hashes(self, windows: Windows) -> Runs:
        """The client holds these digests; the pages of them that differ from the version.

        Pages beyond the version are ignored: the client truncates them.
        """
        differing = []
        for first, digests in windows:
            rows = digest_rows(digests)[: max(0, self.page_map.page_count - first + 1)]
            at = slice(first - 1, first - 1 + len(rows))
            differ = rows_differ(rows, self.page_map.digests[at])
            self._wanted[at] = differ
            self._skip_lock_page()
            differing.append((np.flatnonzero(self._wanted[at]) + first).astype(np.uint32))
        pages = np.unique(np.concatenate(differing)) if differing else np.empty(0, np.uint32)
        return runs_of_pages(pages.astype(np.uint32))

    def compare_ranges(self, ranges: HashRanges) -> Runs:
        """The client holds ranges of these hashes; the pages of those that differ."""
        page_count = self.page_map.page_count
        inside = [(first, last, end, combined) for first, last, combined in ranges
                  for end in [min(last, page_count)] if first <= end]  # fmt: skip
        if sum(end - first + 1 for first, _, end, _ in inside) > page_count + RANGE_PAGES_MAX:
            raise ProtocolViolation("ranges overlap")  # each page would be hashed many times
        differing = []
        for first, last, end, combined in inside:
            at = slice(first - 1, end)
            same = end == last and blake3(self.page_map.digests[at].data).digest() == combined
            self._wanted[at] = not same
            if not same:
                differing.append((first, end))
        self._skip_lock_page()
        return without_page(merge_runs(differing, page_count), self.page_map.lock_page)

    def mark_sent(self, runs: Runs) -> None:
        for first, last in runs:
            self._wanted[first - 1 : last] = False

    def _skip_lock_page(self) -> None:
        if self.page_map.lock_page <= self.page_map.page_count:
            self._wanted[self.page_map.lock_page - 1] = False
