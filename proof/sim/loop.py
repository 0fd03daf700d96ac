"""An event loop whose time is a number.

Callbacks run one after another in the order in which they became ready. When none is ready, time
jumps to the next timer; when there is no timer either, everybody waits for somebody: `Deadlock`.
No selector and no threads. asyncio's own loop would do with a selector that jumps, and did, but
a fifth of a run went into its handles.
"""

import asyncio
import heapq
import sys
from asyncio.events import _set_running_loop
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Deadlock(Exception):
    """Nothing is ready and nothing will ever be."""


class Call(asyncio.TimerHandle):
    """A callback that waits for its turn, without what asyncio's handles do for debugging."""

    __slots__ = ("args", "callback", "context", "due")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
        due: float,
    ) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = context
        self.due = due

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self.due


def _do(future: asyncio.Future[T], func: Callable[..., T], args: tuple[Any, ...]) -> None:
    if future.cancelled():
        return
    try:
        future.set_result(func(*args))
    except Exception as error:  # noqa: BLE001 - it is told to whoever waits
        future.set_exception(error)


class SimLoop(asyncio.BaseEventLoop):
    """`now` is in seconds since the run began."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.tasks: list[asyncio.Task[Any]] = []
        """Every task ever made here, in order."""
        self._stopping = False
        self._turns: deque[Call] = deque()
        self._timers: list[tuple[float, int, Call]] = []
        self._timers_made = 0

    def time(self) -> float:
        return self.now

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coro, loop=self, context=context)
        self.tasks.append(task)
        return task

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        call = Call(callback, args, context, self.now)
        self._turns.append(call)
        return call

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """There is one thread."""
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(
        self, executor: object, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """What the product does in a thread is done here, in its turn."""
        future: asyncio.Future[T] = self.create_future()
        self.call_soon(_do, future, func, args)
        return future

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        call = Call(callback, args, context, when)
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._timers_made, call))
        return call

    def run_forever(self) -> None:
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=self._finish_generator)
        _set_running_loop(self)
        try:
            while not self._stopping:
                self._run_next()
        finally:
            self._stopping = False
            _set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def _finish_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Nobody holds it any more: what it has to clean up is done in its turn."""
        if not self.is_closed():
            self.create_task(generator.aclose())

    def _run_next(self) -> None:
        if self._turns:
            call = self._turns.popleft()
        elif self._timers:
            due, _, call = heapq.heappop(self._timers)
            if call.callback is not None and due > self.now:
                self.now = due
        else:
            raise Deadlock("nobody can go on")
        callback, context = call.callback, call.context
        if callback is None:
            return
        try:
            if context is None:
                callback(*call.args)
            else:
                context.run(callback, *call.args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, the handler is told
            self.call_exception_handler({"message": "a callback raised", "exception": error})

    def _process_events(self, event_list: list[object]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass
