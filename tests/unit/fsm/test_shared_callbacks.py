"""Machines of one class share what the library finds for them, and nothing else."""

import pytest
from statemachine import State

from edgereplica.events.messages import Hello
from edgereplica.events.session import MessageReceived
from edgereplica.fsm.effects import OpenPush
from edgereplica.fsm.machine import StrictMachine
from edgereplica.fsm.server_push import ServerPush


def test_two_machines_of_a_class_keep_their_own_memory() -> None:
    hellos = [Hello(512, pages, base=0) for pages in (1, 2)]
    first, second = machines = [ServerPush(), ServerPush()]
    for machine, hello in zip(machines, hellos, strict=True):
        assert machine.handle(MessageReceived(hello)) == (OpenPush(hello),)
    assert [machine.greeting for machine in machines] == hellos
    third = ServerPush()
    assert (third.state_id, third.greeting) == ("awaiting_hello", None)
    assert first._callbacks is second._callbacks is third._callbacks


def test_what_could_not_be_called_is_refused_when_the_first_machine_is_made() -> None:
    class Odd(StrictMachine[str]):
        waiting = State(initial=True)
        ended = State(final=True)
        hello = waiting.to(ended, on="note")

        def note(self, e: Hello, more: int) -> None:
            self.emit(f"{e} {more}")

    with pytest.raises(TypeError, match=r"Odd\.note takes an event"):
        Odd()


def test_a_subclass_has_its_own_actions() -> None:
    class Base(StrictMachine[str]):
        waiting = State(initial=True)
        ended = State(final=True)
        hello = waiting.to(ended, on="note")

        def note(self, e: Hello) -> None:
            self.emit("base")

    class Derived(Base):
        def note(self, e: Hello) -> None:
            self.emit("derived")

    said = [kind().handle(MessageReceived(Hello(512, 1))) for kind in (Base, Derived, Base)]
    assert said == [("base",), ("derived",), ("base",)]
