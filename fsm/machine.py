"""What all machines share: strictness, and `handle(event) -> effects`.

A machine is a python-statemachine `StateChart` with the strict flags written out: an event without
a transition raises, and so does an error inside a guard or action. `handle` adds that a refused
event changes nothing: guards and the first lines of an action may raise, and only then does an
action change the machine's memory. Machines do no I/O, read no clock and draw no random number.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

from statemachine import StateChart
from statemachine.callbacks import CallbacksRegistry
from statemachine.exceptions import TransitionNotAllowed
from statemachine.transition import Transition

from ..events.errors import ProtocolViolation
from ..events.limits import (
    BATCH_DECODED_BYTES_MAX,
    FRAME_BYTES_MAX,
    PAGES_PER_DATABASE_MAX,
    PAGES_PER_FRAME_MAX,
)
from ..events.messages import (
    Complete,
    ErrorMessage,
    HeadChanged,
    Hello,
    HelloReply,
    PageData,
    PageHashes,
    RangeHashes,
    RangesDiffer,
    RequestPages,
    SyncComplete,
)
from ..events.session import Failed, MessageReceived
from .effects import Close, Effect, Send

_Effect = TypeVar("_Effect")

MESSAGE_TRIGGERS: dict[type, str] = {
    Hello: "hello",
    HelloReply: "hello_reply",
    PageHashes: "page_hashes",
    RangeHashes: "range_hashes",
    RangesDiffer: "ranges_differ",
    RequestPages: "request_pages",
    PageData: "page_data",
    Complete: "complete",
    SyncComplete: "sync_complete",
    HeadChanged: "head_changed",
    ErrorMessage: "error",
}


def server_limits() -> dict[str, int]:
    """What a v2 server tells its client about the bounds it enforces."""
    return {
        "frame_bytes_max": FRAME_BYTES_MAX,
        "batch_decoded_bytes_max": BATCH_DECODED_BYTES_MAX,
        "pages_per_frame_max": PAGES_PER_FRAME_MAX,
        "pages_per_database_max": PAGES_PER_DATABASE_MAX,
    }


def check_reply(reply: HelloReply, wire_version: int, *, named_base: bool) -> None:
    """Refuse a v2 greeting that leaves out what a client must be able to hold the server to."""
    if wire_version > 1 and (reply.head is None or reply.root is None):
        raise ProtocolViolation("hello_reply names no version or no root")
    if reply.base_known and not named_base:
        raise ProtocolViolation("hello_reply knows a base that was never named")


def trigger_of(event: Any) -> str:
    """The name under which a machine knows `event`: the message's kind, or the event's name."""
    if isinstance(event, MessageReceived):
        return MESSAGE_TRIGGERS[type(event.message)]
    return trigger_name(type(event))


def trigger_name(kind: type) -> str:
    """PushOpened → push_opened"""
    return _snake_case(kind.__name__)


@functools.cache
def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


_FOUND: dict[type, CallbacksRegistry] = {}
"""Of every class of which there was a machine: its guards and actions, bound to none."""


def _for_any_machine(kind: type, registry: CallbacksRegistry) -> CallbacksRegistry:
    """Let what `registry` calls be methods of whichever machine it is called for."""
    for executor in registry._registry.values():
        for wrapper in executor:
            wrapper._callback = _method(kind, wrapper._callback.__name__)
    return registry


def _method(kind: type, name: str) -> Callable[..., Any]:
    """The method `name` of machines of `kind`, called as the library calls: by keyword."""
    function = getattr(kind, name)
    # Decorators that wrap it are called too, but what it takes is what it was declared with.
    declared = function
    while hasattr(declared, "__wrapped__"):
        declared = declared.__wrapped__
    match declared.__code__.co_varnames[: declared.__code__.co_argcount]:
        case ("self",):
            return lambda *_, machine, **__: function(machine)
        case ("self", "e"):
            return lambda *_, machine, e, **__: function(machine, e)
    raise TypeError(f"{kind.__name__}.{name} takes an event `e`, or nothing")


@functools.cache
def _declared(kind: type[StateChart[Any]], state: str, trigger: str) -> tuple[Transition, ...]:
    """The transitions for `trigger` of machines of `kind` in `state`, in the order of trying."""
    return tuple(t for t in kind.states_map[state].transitions if t.match(trigger))


class StrictMachine(StateChart[Any], Generic[_Effect]):
    """The base of every machine. Subclasses declare states, transitions and guards."""

    allow_event_without_transition = False
    catch_errors_as_events = False

    title: ClassVar[str] = ""

    def __init__(self) -> None:
        self._effects: list[_Effect] = []
        super().__init__()

    def _register_callbacks(self, listeners: list[object]) -> None:
        """Find guards and actions once for a class.

        The library looks each of them up for every machine, which takes longer than most sessions
        spend in theirs. It has no door for this: hence the narrow bound on it in pyproject.toml.
        """
        kind = type(self)
        found = _FOUND.get(kind)
        if found is None:
            super()._register_callbacks(listeners)
            found = _FOUND[kind] = _for_any_machine(kind, self._callbacks)
        self._callbacks = found

    def handle(self, event: Any) -> tuple[_Effect, ...]:
        """Consume one event; the effects to perform, in order.

        Raises `ProtocolViolation` where the state does not allow the event, and whatever an
        action refuses it with; the machine is then as it was.
        """
        trigger = trigger_of(event)
        payload = event.message if isinstance(event, MessageReceived) else event
        try:
            if not self._take_in_place(trigger, payload):
                self.send(trigger, e=payload)
            return tuple(self._effects)
        except TransitionNotAllowed as error:
            raise ProtocolViolation(
                f"{trigger} is not allowed in state {self.state_id} of a {self.title}"
            ) from error
        finally:
            self._effects = []

    def _take_in_place(self, trigger: str, payload: Any) -> bool:
        """Take the event if its transition leaves the state as it is; else leave it to the library.

        Most events of a long session are of that kind, and the library's search for states to leave
        and to enter would take 0.1 ms for each, twice a batch, a sixth of its time. Guards and
        actions are called as the library calls them, in the declared order. A machine that is
        listened to goes the long way.
        """
        if self.active_listeners:
            return False
        for transition in _declared(type(self), self.current_state_value, trigger):
            if self._callbacks.all(transition.cond.key, machine=self, e=payload):
                if transition.internal:
                    self._callbacks.call(transition.on.key, machine=self, e=payload)
                return bool(transition.internal)
        return False

    def emit(self, *effects: _Effect) -> None:
        self._effects.extend(effects)

    @property
    def state_id(self) -> str:
        return str(next(iter(self.configuration)).id)

    @property
    def finished(self) -> bool:
        return bool(next(iter(self.configuration)).final)


class Machine(StrictMachine[Effect]):
    """The base of the machines of a sync session, which `app.driver` runs."""

    def __init__(self) -> None:
        self.refusal: ErrorMessage | None = None
        super().__init__()

    # Actions that several machines share.

    def tell_failure(self, e: Failed) -> None:
        self.emit(
            Send(ErrorMessage(e.message, e.code, e.retryable, e.details)),
            Close(e.close_code, e.code),
        )

    def close_on_failure(self, e: Failed) -> None:
        """A client does not argue: it closes, and its caller raises the error."""
        self.emit(Close(1000, e.code))

    def hear_refusal(self, e: ErrorMessage) -> None:
        """The peer gave up; on a client, whoever runs the machine raises `refusal` as an error."""
        self.refusal = e
        self.emit(Close(1000, "refused"))
