"""The machines' declared tables, run by a loop of a few lines instead of by python-statemachine.

Where python-statemachine takes 2 ms to make a machine and 0.2 ms for an event, this takes a
fiftieth. States, transitions, guards and actions are the product's own, read from the class as the
drawings in `specs/machines/` are (`fsm.diagrams.steps`); only the choice of the transition is made
here. The simulation plays some of its seeds with both and wants the same trace, so neither can
drift from the other.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from inspect import signature
from types import FunctionType
from typing import Any

from statemachine import State

from edgereplica.app import history
from edgereplica.events.errors import ProtocolViolation
from edgereplica.events.pages import PageSet
from edgereplica.events.session import MessageReceived
from edgereplica.fsm.client_pull import ClientPull
from edgereplica.fsm.client_push import ClientPush
from edgereplica.fsm.database_lifecycle import DatabaseLifecycle
from edgereplica.fsm.diagrams import steps
from edgereplica.fsm.effects import Effect
from edgereplica.fsm.machine import MESSAGE_TRIGGERS, Machine, StrictMachine, trigger_name
from edgereplica.fsm.server_pull import ServerPull
from edgereplica.fsm.server_push import ServerPush

Call = Callable[[Any, Any], Any]
_PLAIN = (int, str, bytes, tuple, type(None))
Rows = dict[tuple[str, str], list[tuple[tuple[Call, ...], tuple[Call, ...], str]]]


class TableMachine:
    """What the driver and the ends want of a `Machine`."""

    _rows: Rows
    _finals: frozenset[str]
    _fields: dict[str, Any]
    _mutable_fields: dict[str, Any]
    title: str
    state_id: str

    def __init__(self, **fields: Any) -> None:
        memory = self.__dict__
        memory.update(self._fields)
        for name, value in self._mutable_fields.items():
            memory[name] = value() if callable(value) else dict(value)
        memory.update(fields)
        self._effects: list[Effect] = []

    def handle(self, event: Any) -> tuple[Effect, ...]:
        payload = event.message if isinstance(event, MessageReceived) else event
        trigger = _triggers.get(type(payload)) or _learn(type(payload))
        try:
            for guards, actions, target in self._rows.get((self.state_id, trigger), ()):
                for guard in guards:
                    if not guard(self, payload):
                        break
                else:
                    for action in actions:
                        action(self, payload)
                    self.state_id = target
                    return tuple(self._effects)
        finally:
            self._effects = []
        raise ProtocolViolation(
            f"{trigger} is not allowed in state {self.state_id} of a {self.title}"
        )

    def emit(self, *effects: Effect) -> None:
        self._effects.extend(effects)

    @property
    def finished(self) -> bool:
        return self.state_id in self._finals

    @property
    def current_state_value(self) -> str:
        return self.state_id

    @current_state_value.setter
    def current_state_value(self, value: str) -> None:
        self.state_id = value


_triggers: dict[type, str] = dict(MESSAGE_TRIGGERS)


def _learn(kind: type) -> str:
    """What `trigger_of` says of every event of a kind, from now on without asking."""
    name = _triggers[kind] = trigger_name(kind)
    return name


class _Bare(Machine):
    """A machine with nothing of its own: what is in an instance besides are a machine's fields."""

    only = State(initial=True, final=True)


@lru_cache
def table_class(machine: type[StrictMachine[Any]]) -> type[TableMachine]:
    """A class with the methods and fields of `machine` and the few lines above."""
    methods = {
        name: value
        for kind in reversed(machine.__mro__[: machine.__mro__.index(StrictMachine)])
        for name, value in vars(kind).items()
        if isinstance(value, FunctionType | property | classmethod) and name != "__init__"
    }
    real = machine()
    ours = vars(real).keys() - vars(_Bare()).keys() - {state.id for state in machine.states}
    fields = {name: vars(real)[name] for name in ours} | {"refusal": None}
    fields["state_id"] = real.state_id
    plain = {name: value for name, value in fields.items() if isinstance(value, _PLAIN)}
    rows: Rows = {}
    for step in steps(machine):
        guards = tuple(_guard(machine, name) for name in step.guards)
        actions = tuple(_call(machine, name) for name in step.actions)
        rows.setdefault((step.source, step.event), []).append((guards, actions, step.target))
    states = {state.id: state for state in machine.states}
    members = (
        methods
        | states
        | {
            "_rows": rows,
            "_finals": frozenset(state.id for state in machine.states if state.final),
            "_fields": plain,
            "_mutable_fields": {n: _fresh(fields[n]) for n in fields if n not in plain},
            "title": machine.title,
        }
    )
    return type(f"Table{machine.__name__}", (TableMachine,), members)


def _fresh(value: Any) -> Any:
    """What makes a new field of what a new machine has in it."""
    if isinstance(value, PageSet):
        assert not value
        return PageSet
    assert isinstance(value, dict), f"{value!r}: say how to make another"
    return value


def _guard(machine: type[StrictMachine[Any]], name: str) -> Call:
    call = _call(machine, name.removeprefix("not "))
    if name.startswith("not "):
        return lambda self, e: not call(self, e)
    return call


def _call(machine: type[StrictMachine[Any]], name: str) -> Call:
    function: Any = getattr(machine, name)
    if isinstance(function, property):
        assert function.fget is not None
        getter = function.fget
        return lambda self, e: getter(self)
    if len(signature(function).parameters) == 1:
        return lambda self, e: function(self)
    checked: Call = function
    return checked


class Machines:
    """Makes the machines of a run: the product's, or their tables."""

    def __init__(self, real: bool) -> None:
        self.real = real

    def client_push(self, wire_version: int) -> ClientPush:
        return ClientPush(wire_version) if self.real else self._table(ClientPush, wire_version)

    def client_pull(self, wire_version: int) -> ClientPull:
        return ClientPull(wire_version) if self.real else self._table(ClientPull, wire_version)

    def server_push(self) -> ServerPush:
        return ServerPush() if self.real else self._table(ServerPush)

    def server_pull(self) -> ServerPull:
        return ServerPull() if self.real else self._table(ServerPull)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let histories ask the table of a database's life, if it is the tables' run."""
        if self.real:
            yield
            return
        names = vars(history)
        names["DatabaseLifecycle"] = table_class(DatabaseLifecycle)
        try:
            yield
        finally:
            names["DatabaseLifecycle"] = DatabaseLifecycle

    @staticmethod
    def _table(machine: type[Machine], wire_version: int | None = None) -> Any:
        kind = table_class(machine)
        return kind() if wire_version is None else kind(wire_version=wire_version)
