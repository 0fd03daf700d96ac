"""The client's hands in a push: hash windows, drill down, load what the server asks for."""

from collections.abc import Callable, Iterator, Mapping

from ..events.limits import DIGEST_BYTES
from ..events.pages import count_pages, lock_byte_page, split_runs
from ..events.session import (
    ContentHashed,
    DrilledDown,
    PagesLoaded,
    WindowHashed,
)
from ..fsm.effects import CheckSource, CountPages, HashContent, HashWindow, LoadPages
from ..fsm.effects import DrillDown as DrillDownEffect
from .compression import Compressor
from .driver import Handler
from .local_content import DrillDown, LocalContent


class PushClientEnd:
    """Performs the effects of `ClientPush` on `content`.

    `pages_requested`, `pages_sent` and `pages_announced` count; `on_step` is called when one of
    them moved, and before `complete` is said; `before_complete` then, too.
    """

    def __init__(
        self,
        content: LocalContent,
        compressor: Compressor,
        on_step: Callable[[], None],
        before_complete: Callable[[], None] = lambda: None,
    ) -> None:
        self._content = content
        self._compressor = compressor
        self._on_step = on_step
        self._before_complete = before_complete
        self._drill = DrillDown(content)
        self.drilled = False
        self._windows: Iterator[WindowHashed] | None = None
        self._lock_page = lock_byte_page(content.page_size)
        self.pages_announced = 0
        self.pages_requested = 0
        self.pages_sent = 0

    @property
    def handlers(self) -> Mapping[type, Handler]:
        return {
            HashContent: self.hash_content,
            HashWindow: self.hash_window,
            DrillDownEffect: self.drill_down,
            LoadPages: self.load,
            CheckSource: self.check_source,
            CountPages: self.count,
        }

    async def hash_content(self, effect: HashContent) -> ContentHashed:
        return ContentHashed(self._content.root())

    async def hash_window(self, effect: HashWindow) -> WindowHashed:
        if self._windows is None:
            self._windows = self._content.windows(self._runs(effect))
        window = next(self._windows)
        for first, digests in window.windows:
            last = first + len(digests) // DIGEST_BYTES - 1
            # The lock-byte page is announced with its neighbours, but is no content.
            self.pages_announced += last - first + (not first <= self._lock_page <= last)
        self._on_step()
        return window

    def _runs(self, effect: HashWindow) -> tuple[tuple[int, int], ...]:
        if self.drilled:
            return self._drill.differing
        # What is known of the base may be of another page size: then nothing is relative to it.
        if effect.relative_to_base and self._content.changed is not None:
            return self._content.changed
        return self._content.everything

    async def drill_down(self, effect: DrillDownEffect) -> DrilledDown:
        self.drilled = True
        return DrilledDown(self._drill.next_round(effect.runs))

    async def load(self, effect: LoadPages) -> PagesLoaded:
        pages_max = max(1, effect.bytes_max // self._content.page_size)
        groups = split_runs(effect.runs, pages_max)
        runs = next(groups)
        rest = tuple(run for group in groups for run in group)
        codec, data = self._compressor.encode(self._content.read(runs))
        self.pages_sent += count_pages(runs)
        self._on_step()
        return PagesLoaded(runs, codec, data, rest)

    async def check_source(self, effect: CheckSource) -> None:
        self._content.check_source()
        self._before_complete()
        self._on_step()

    async def count(self, effect: CountPages) -> None:
        self.pages_requested += count_pages(effect.runs)
        self._on_step()
