"""Events that leave the state as it is: taken without the library's engine, just the same."""

from contextlib import suppress
from typing import Any

import pytest
from _pytest.outcomes import Failed
from statemachine import State
from tests.exploring import examples, explore, memory

from edgereplica.events.errors import EdgeReplicaError
from edgereplica.events.messages import Hello
from edgereplica.events.session import Event, MessageReceived
from edgereplica.fsm.database_lifecycle import DatabaseLifecycle
from edgereplica.fsm.machine import Machine, StrictMachine, trigger_of
from edgereplica.fsm.oauth_login import OAuthLogin
from edgereplica.fsm.registry import MACHINES

BOTH = [(name, version) for name in MACHINES for version in (1, 2)]


def answer(machine: Machine, event: Event) -> tuple[Any, ...]:
    try:
        effects = machine.handle(event)
    except EdgeReplicaError as error:
        return type(error), str(error), memory(machine)
    return effects, memory(machine)


@pytest.mark.parametrize(("name", "wire_version"), BOTH)
def test_the_engine_would_have_done_the_same(
    name: str, wire_version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0
    short_way = StrictMachine._take_in_place

    def counted(machine: StrictMachine[Any], trigger: str, payload: Any) -> bool:
        nonlocal taken
        done = short_way(machine, trigger, payload)
        taken += done
        return done

    for situation in explore(name, wire_version):
        machines = situation.enter(), situation.enter()
        for event in examples(wire_version):
            answers = []
            for machine, way in zip(machines, (counted, lambda *_: False), strict=True):
                with monkeypatch.context() as patch:
                    patch.setattr(StrictMachine, "_take_in_place", way)
                    answers.append(answer(machine, event))
            assert answers[0] == answers[1], (situation, event)
            if isinstance(answers[0][0], tuple):  # taken; a refusal leaves the machine as it was
                machines = situation.enter(), situation.enter()
    assert taken


@pytest.mark.parametrize("kind", [*MACHINES.values(), OAuthLogin, DatabaseLifecycle])
def test_machines_declare_nothing_that_only_the_engine_would_call(
    kind: type[StrictMachine[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other tests listen to machines, and callbacks are kept for a class.
    monkeypatch.setattr("edgereplica.fsm.machine._FOUND", {})
    called = kind()._callbacks
    for state in kind.states_map.values():
        assert not list(called[state.enter.key])
        assert not list(called[state.exit.key])
        for transition in state.transitions:
            others = transition.before, transition.after, transition.validators
            assert not [callback for group in others for callback in called[group.key]]
            assert transition.source == transition.target or not transition.internal


@pytest.mark.parametrize("name", MACHINES)
def test_batches_of_pages_never_reach_the_engine(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the short way is for: most of a long session."""
    batches = {"pages_loaded", "pages_staged", "pages_stored", "pages_read", "page_data"}
    taken = set()
    for situation in explore(name, 2):
        for event in examples(2):
            if trigger_of(event) in batches:
                machine = situation.enter()
                with monkeypatch.context() as patch:
                    patch.setattr(machine, "send", lambda *_, **__: pytest.fail("to the engine"))
                    with suppress(EdgeReplicaError, Failed):
                        machine.handle(event)
                        taken.add(trigger_of(event))
    assert taken


def test_a_listener_hears_of_every_transition() -> None:
    class Listener:
        heard = 0

        def after_transition(self) -> None:
            self.heard += 1

    class Waiting(StrictMachine[str]):
        waiting = State(initial=True)
        ended = State(final=True)
        hello = waiting.to(waiting, internal=True)
        peer_lost = waiting.to(ended)

    machine, listener = Waiting(), Listener()
    machine.handle(MessageReceived(Hello(512, 1)))
    machine.add_listener(listener)
    machine.handle(MessageReceived(Hello(512, 1)))
    assert listener.heard == 1


def test_a_guard_that_raises_changes_nothing() -> None:
    class Odd(StrictMachine[str]):
        waiting = State(initial=True)
        ended = State(final=True)
        hello = waiting.to(waiting, internal=True, cond="is_good", on="note") | waiting.to(ended)

        def is_good(self, e: Hello) -> bool:
            self.emit("never seen")
            raise EdgeReplicaError("no")

        def note(self, e: Hello) -> None:
            self.emit("noted")

    machine = Odd()
    with pytest.raises(EdgeReplicaError, match="no"):
        machine.handle(MessageReceived(Hello(512, 1)))
    assert (machine.state_id, machine._effects) == ("waiting", [])
