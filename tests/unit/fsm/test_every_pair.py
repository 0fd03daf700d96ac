"""Every (state, event) pair of every machine, both wire versions, from situations really reached.

The event is taken as the machine's table says, or it is refused with a typed error and the machine
remembers exactly what it did before.
"""

import copy
from typing import Any

import pytest
from tests.exploring import examples, explore, memory

from edgereplica.events.errors import EdgeReplicaError, ProtocolViolation
from edgereplica.events.session import Event, Failed, MessageReceived, PeerLost
from edgereplica.fsm.diagrams import Step, events_of, session_triggers, steps
from edgereplica.fsm.effects import Close, Send
from edgereplica.fsm.machine import Machine, trigger_of
from edgereplica.fsm.registry import MACHINES

BOTH = [(name, version) for name in MACHINES for version in (1, 2)]


def declared(name: str, state: str, event: Event) -> list[Step]:
    trigger = trigger_of(event)
    return [s for s in steps(MACHINES[name]) if (s.source, s.event) == (state, trigger)]


@pytest.mark.parametrize(("name", "wire_version"), BOTH)
def test_every_pair_is_taken_as_declared_or_refused_without_a_trace(
    name: str, wire_version: int
) -> None:
    for situation in explore(name, wire_version):
        machine, refused, taken = situation.enter(), [], []
        before = copy.deepcopy(memory(machine))
        for event in examples(wire_version):
            possible = declared(name, situation.state, event)
            try:
                effects = machine.handle(event)
            except ProtocolViolation as error:
                assert error.message
            except EdgeReplicaError:
                assert possible, f"{situation} {event}: refused with another error"
            else:
                assert machine.state_id in {step.target for step in possible}, (situation, event)
                taken.append((event, (effects, memory(machine))))
                machine = situation.enter()
                continue
            assert memory(machine) == before, (situation, event)
            refused.append(event)
        # What `memory` does not see would show in what follows: all refusals, then one event.
        for event, answer in taken[:1]:
            disturbed = situation.enter()
            assert [_answer(disturbed, other) for other in refused] == [None] * len(refused)
            assert _answer(disturbed, event) == answer, (situation, event)


def _answer(machine: Machine, event: Event) -> Any:
    try:
        return machine.handle(event), memory(machine)
    except EdgeReplicaError:
        return None


@pytest.mark.parametrize("name", MACHINES)
def test_every_declared_transition_is_reachable(name: str) -> None:
    """None is hidden behind an earlier one, and no guard is always false."""
    taken: set[int] = set()
    states = {state.id: state for state in MACHINES[name].states}

    def never_from(state: str, event: str) -> list[str]:
        return [
            f"{state} on {event} to {transition.target.id}"
            for transition in states[state].transitions
            if transition.event == event and id(transition) not in taken
        ]

    class Listener:
        def after_transition(self, transition: Any) -> None:
            taken.add(id(transition))

    for wire_version in (1, 2):
        for situation in explore(name, wire_version):
            for event in examples(wire_version):
                if not never_from(situation.state, trigger_of(event)):
                    continue
                machine = situation.enter()
                machine.add_listener(Listener())
                _answer(machine, event)
    never = [
        line
        for state in states
        for event in session_triggers()
        for line in never_from(state, event)
    ]
    assert not never


@pytest.mark.parametrize("name", MACHINES)
def test_nothing_is_declared_behind_an_unguarded_transition(name: str) -> None:
    for state in MACHINES[name].states:
        for event in events_of(MACHINES[name]):
            found = [s for s in steps(MACHINES[name]) if (s.source, s.event) == (state.id, event)]
            assert all(step.guards for step in found[:-1]), (state.id, event)


@pytest.mark.parametrize(("name", "wire_version"), BOTH)
def test_every_session_can_end_at_any_time(name: str, wire_version: int) -> None:
    """The driver counts on it: `Failed` and `PeerLost` are never refused before the end."""
    for situation in explore(name, wire_version):
        machine = situation.enter()
        if machine.finished:
            continue
        effects = machine.handle(Failed("storage", "no", 1011, retryable=True))
        assert machine.state_id == "refused"
        closes = [effect for effect in effects if isinstance(effect, Close)]
        assert len(closes) == 1
        if name.startswith("server"):
            assert closes[0].code == 1011
            assert isinstance(effects[0], Send), "the error is told before the close"
            assert effects.index(closes[0]) == 1
        gone = situation.enter()
        assert not [e for e in gone.handle(PeerLost("gone")) if isinstance(e, Send | Close)]
        assert gone.state_id == ("applying" if situation.state == "applying" else "lost")


@pytest.mark.parametrize(("name", "wire_version"), BOTH)
def test_final_states_take_nothing(name: str, wire_version: int) -> None:
    finals = {state.id for state in MACHINES[name].states if state.final}
    reached = {s.state for s in explore(name, wire_version) if s.state in finals}
    assert {"refused", "lost"} <= reached
    for situation in explore(name, wire_version):
        if situation.state in finals:
            machine = situation.enter()
            assert machine.finished
            for event in examples(wire_version):
                with pytest.raises(ProtocolViolation):
                    machine.handle(event)


@pytest.mark.parametrize("name", MACHINES)
def test_every_state_is_reached_in_some_version(name: str) -> None:
    reached = {s.state for version in (1, 2) for s in explore(name, version)}
    assert reached == {state.id for state in MACHINES[name].states}


def test_the_examples_hold_every_event_there_is() -> None:
    for wire_version in (1, 2):
        assert {trigger_of(event) for event in examples(wire_version)} == set(session_triggers())


@pytest.mark.parametrize("name", MACHINES)
def test_the_strict_flags_are_written_out(name: str) -> None:
    """What the base class defaults to would drop an unknown event without a word."""
    machine = MACHINES[name]
    assert machine.allow_event_without_transition is False
    assert machine.catch_errors_as_events is False


@pytest.mark.parametrize("wire_version", [1, 2])
def test_no_transition_of_a_pull_stores_anything(wire_version: int) -> None:
    """A token for pulling cannot write, whatever its bearer sends."""
    for situation in explore("server_pull", wire_version):
        for event in examples(wire_version):
            answer = _answer(situation.enter(), event)
            names = {type(effect).__name__ for effect in answer[0]} if answer else set()
            assert names <= {
                "Send", "Close", "OpenPull", "CompareHashes", "CompareRanges", "ReadPages",
                "ReadMore",
            }  # fmt: skip


def test_a_message_is_known_by_its_kind() -> None:
    kinds = {type(e.message) for e in examples(2) if isinstance(e, MessageReceived)}
    assert len({trigger_of(MessageReceived(m)) for m in map(_example_of, kinds)}) == len(kinds)


def _example_of(kind: type) -> Any:
    return next(
        e.message for e in examples(2) if isinstance(e, MessageReceived) and type(e.message) is kind
    )
