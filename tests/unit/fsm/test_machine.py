"""What all machines share: how events are named, refused and told."""

import functools
from typing import Any

import pytest
from tests.unit.fsm.scripts import (
    FAILED,
    HEAD,
    HELLO,
    LOST,
    MESSAGES,
    PAGES,
    PULL,
    PUSH,
    R1,
    REFUSAL,
    refused_as_it_was,
    run,
)

from edgereplica.events.errors import ProtocolViolation
from edgereplica.events.limits import (
    BATCH_DECODED_BYTES_MAX,
)
from edgereplica.events.messages import (
    HelloReply,
)
from edgereplica.events.session import (
    MessageReceived,
    PagesRead,
    PullPlanned,
    PushOpened,
    PushPlanned,
    ReplicaPrepared,
    VersionApplied,
)
from edgereplica.fsm.client_pull import ClientPull
from edgereplica.fsm.client_push import ClientPush
from edgereplica.fsm.effects import (
    Close,
    OpenPull,
)
from edgereplica.fsm.machine import MESSAGE_TRIGGERS, trigger_name, trigger_of
from edgereplica.fsm.server_pull import ServerPull
from edgereplica.fsm.server_push import ServerPush


@pytest.mark.parametrize("make", [ClientPush, ClientPull])
def test_a_client_that_fails_closes_and_one_that_is_cut_says_nothing(make: Any) -> None:
    plan = PUSH if make is ClientPush else PULL
    for steps in ([], [plan]):
        for event, effects, state in (
            (FAILED, (Close(1000, "storage"),), "refused"),
            (LOST, (), "lost"),
            (REFUSAL, (Close(1000, "refused"),), "refused"),
        ):
            machine = make()
            assert machine.refusal is None
            for step in steps:
                machine.handle(step)
            run(machine, (event, effects, state))
            assert machine.refusal == (REFUSAL if event is REFUSAL else None)
            assert machine.finished


def test_a_client_begins_with_nothing() -> None:
    for machine in (ClientPush(), ClientPull()):
        assert (machine.wire_version, machine.plan, machine.reply) == (2, None, None)
        assert machine.outcome is None
    assert (ClientPush().batch_bytes_max, ClientPush().ending) == (BATCH_DECODED_BYTES_MAX, None)
    assert (ClientPush().unanswered, ClientPull().pages, ClientPull().wire_bytes) == (0, 0, 0)


@pytest.mark.parametrize(
    ("reply", "say"),
    [
        (HelloReply(512, 3), "hello_reply names no version or no root"),
        (HelloReply(512, 3, head=1), "hello_reply names no version or no root"),
        (HelloReply(512, 3, root=R1), "hello_reply names no version or no root"),
        (
            HelloReply(512, 3, 1, R1, base_known=True),
            "hello_reply knows a base that was never named",
        ),
    ],
)
def test_a_greeting_that_cannot_be_is_named(reply: HelloReply, say: str) -> None:
    for machine, plan in (
        (ClientPush(), PushPlanned(512, 3, None, None, None)),
        (ClientPull(), PullPlanned(512, 3, None, None, None)),
    ):
        machine.handle(plan)
        refused_as_it_was(machine, reply, ProtocolViolation, say)


def test_an_event_that_a_state_does_not_allow_is_named_with_both() -> None:
    say = "page_data is not allowed in state awaiting_hello of a server push"
    refused_as_it_was(ServerPush(), PAGES, ProtocolViolation, say)
    say = "version_applied is not allowed in state planning of a client pull"
    refused_as_it_was(ClientPull(), VersionApplied(1), ProtocolViolation, say)


def test_effects_of_a_refused_event_are_not_those_of_the_next() -> None:
    machine = ServerPull()
    with pytest.raises(ProtocolViolation):
        machine.handle(PagesRead())
    run(machine, (HELLO[2], (OpenPull(HELLO[2]),), "opening"))
    assert not machine.finished


def test_triggers_are_the_names_of_events_in_small_letters() -> None:
    assert trigger_name(PushOpened) == "push_opened"
    assert trigger_of(PushOpened(HEAD, False)) == "push_opened"
    assert trigger_of(MessageReceived(PAGES)) == "page_data"


def test_every_message_is_tried_here() -> None:
    assert set(MESSAGES) == set(MESSAGE_TRIGGERS)


def test_a_wrapped_action_is_called_as_it_was_declared() -> None:
    """Its wrapper takes anything: what it takes is asked of what it wraps."""
    heard: list[Any] = []

    class Wrapped(ClientPull):
        @functools.wraps(ClientPull.prepare_replica)
        def prepare_replica(self, *given: Any, **named: Any) -> None:
            heard.append((given, named))
            ClientPull.prepare_replica(self, *given, **named)

        @functools.wraps(ClientPull.finish)
        def finish(self, *given: Any, **named: Any) -> None:
            heard.append((given, named))
            ClientPull.finish(self, *given, **named)

    machine = Wrapped()
    reply = HelloReply(512, 7, 4, R1)
    machine.handle(PULL)
    machine.handle(MessageReceived(reply))
    machine.handle(ReplicaPrepared("nothing"))
    assert machine.state_id == "receiving"
    assert heard == [((reply,), {}), ((), {})]


def test_an_action_that_takes_something_else_is_refused_at_once() -> None:
    class Strange(ClientPull):
        def finish(self, colour: str) -> None:
            raise AssertionError(colour)

    with pytest.raises(TypeError) as caught:
        Strange()
    assert str(caught.value) == "Strange.finish takes an event `e`, or nothing"
