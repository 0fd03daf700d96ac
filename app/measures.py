"""What a server measures of itself: the calls that its parts make.

`Measures` does nothing: it stands where nobody listens. `app.metrics` is the one that counts, and
is imported only where metrics are wanted.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..events.errors import EdgeReplicaError

if TYPE_CHECKING:
    from ..adapters.object_store import StoreUsage
    from ..adapters.page_storage import MapCacheUsage

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class CountedMachine(Protocol):
    pages: int

    @property
    def state_id(self) -> str: ...


class CountedTransport(Protocol):
    bytes_received: int
    bytes_sent: int


@dataclass(frozen=True, slots=True, eq=False)
class RunningSession:
    """A sync session, to be looked at while it runs. `direction` is "push" or "pull"."""

    direction: str
    machine: CountedMachine
    transport: CountedTransport


class Measures:
    """Listens to nothing."""

    def watch_storage(
        self, usage: "Callable[[], StoreUsage]", cache: "Callable[[], MapCacheUsage]"
    ) -> None:
        """`usage` and `cache` tell the figures of the page store and of the cache of maps."""

    def session_started(self, session: RunningSession) -> None:
        """`session` runs until it is said to have ended."""

    def session_ended(self, session: RunningSession, *, code: str | None, conflict: bool) -> None:
        """`code` is that of the error it ended with; `conflict`: a push found another head
        than its base."""

    def refused(self, where: str, code: str) -> None:
        """A handshake ("handshake") or a call ("rpc") was refused with an error of that code."""

    @contextmanager
    def commit(self) -> Iterator[None]:
        """Stands around the commit of a push."""
        yield


class CountRefusals:
    """A Connect interceptor that tells what calls are refused; it stands inside of the one that
    turns errors into Connect's."""

    def __init__(self, measures: Measures) -> None:
        self._measures = measures

    async def intercept_unary(
        self,
        call_next: Callable[[_Request, Any], Awaitable[_Response]],
        request: _Request,
        ctx: Any,
        /,
    ) -> _Response:
        try:
            return await call_next(request, ctx)
        except EdgeReplicaError as error:
            self._measures.refused("rpc", error.code)
            raise
