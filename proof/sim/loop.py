"""An event loop whose time is a number.

The real loop's queue of callbacks and timers, without a selector: when nothing is ready, time
jumps to the next timer. When there is no timer either, everybody waits for somebody: `Deadlock`.
"""

import asyncio


class Deadlock(Exception):
    """Nothing is ready and nothing will ever be."""


class _NoSelector:
    """Where the loop would wait for sockets, it lets time pass instead."""

    def __init__(self, loop: "SimLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[object]:
        if timeout is None:
            raise Deadlock("nobody can go on")
        self._loop.now += timeout
        return []


class SimLoop(asyncio.BaseEventLoop):
    """`now` is in seconds since the run began."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._selector = _NoSelector(self)
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self.now

    def _process_events(self, event_list: list[object]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass
