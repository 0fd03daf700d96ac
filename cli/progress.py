"""A progress bar on a terminal's standard error; on anything else only what must be seen.

It is a callable that takes `app.replica.Progress` values (duck-typed, so that nothing is imported).
It draws at most ten times a second and erases itself. It also remembers the phases, of earlier
attempts too, which tell what Ctrl-C may have interrupted.
"""

import sys
import time
from types import TracebackType
from typing import Protocol, Self

from ..events.limits import PROGRESS_INTERVAL_SECONDS
from .console import human_bytes, human_seconds, is_terminal, note, printable

_BAR_CELLS = 24
_ERASE = "\r\x1b[K"
_VERBS = {
    "reading": "reading",
    "sending": "sending",
    "receiving": "receiving",
    "applying": "applying",
    "committing": "committing",
}


class ProgressLike(Protocol):
    """The shape of `app.replica.Progress`. Pages and bytes count from the start of the sync."""

    @property
    def phase(self) -> str: ...
    @property
    def pages_done(self) -> int: ...
    @property
    def pages_total(self) -> int: ...
    @property
    def bytes_sent(self) -> int: ...
    @property
    def bytes_received(self) -> int: ...
    @property
    def note(self) -> str: ...


class ProgressBar:
    """Use as a context manager around one sync. `quiet` draws nothing, whatever the terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.phase = ""
        self.phases: set[str] = set()
        self._draws = not quiet and is_terminal(sys.stderr)
        self._drawn = False
        self._next_draw = 0.0
        self._phase_started = 0.0
        self._done_at_start = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._erase()

    def __call__(self, progress: ProgressLike) -> None:
        if progress.phase == "retrying":
            self._erase()
            note(progress.note or "connection lost; trying again")
            return
        now = time.monotonic()
        if progress.phase != self.phase:
            self.phase = progress.phase
            self.phases.add(progress.phase)
            self._phase_started, self._done_at_start = now, progress.pages_done
            self._next_draw = 0.0
        if self._draws and now >= self._next_draw:
            self._next_draw = now + PROGRESS_INTERVAL_SECONDS
            self._draw(progress, now - self._phase_started)

    def _draw(self, progress: ProgressLike, elapsed_seconds: float) -> None:
        from shutil import get_terminal_size

        line = self._line(progress, elapsed_seconds)
        columns = get_terminal_size().columns
        sys.stderr.write(_ERASE + line[: max(columns - 1, 0)])
        sys.stderr.flush()
        self._drawn = True

    def _line(self, progress: ProgressLike, elapsed_seconds: float) -> str:
        verb = _VERBS.get(progress.phase, printable(progress.phase))
        done, total = progress.pages_done, progress.pages_total
        words = [f"{verb:<10}"]
        if total > 0:
            share = min(done / total, 1.0)
            full = int(share * _BAR_CELLS)
            words.append(f"[{'#' * full}{'.' * (_BAR_CELLS - full)}] {share:4.0%}")
            words.append(f"{done:,}/{total:,} pages")
        else:
            words.append(f"{done:,} pages")
        moved = progress.bytes_sent + progress.bytes_received
        if moved and elapsed_seconds > 0:
            words.append(human_bytes(moved))
        fresh = done - self._done_at_start
        if fresh > 0 and elapsed_seconds >= 0.5:
            rate = fresh / elapsed_seconds
            words.append(f"{rate:,.0f} pages/s")
            if total > done:
                words.append(f"{human_seconds((total - done) / rate)} left")
        return "  ".join(words)

    def _erase(self) -> None:
        if self._drawn:
            sys.stderr.write(_ERASE)
            sys.stderr.flush()
            self._drawn = False
