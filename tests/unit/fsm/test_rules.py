"""The rules that a machine's page states, one by one: what is refused, and what is waited for."""

from typing import Any

import pytest
from tests.exploring import memory

from edgereplica.events.errors import InvalidArgument, ProtocolViolation
from edgereplica.events.messages import (
    Complete,
    Hello,
    HelloReply,
    PageData,
    PageHashes,
    RangeHashes,
    RangesDiffer,
    RequestPages,
    SyncComplete,
)
from edgereplica.events.pages import Runs
from edgereplica.events.session import (
    DrilledDown,
    Event,
    HashesCompared,
    MessageReceived,
    PagesStaged,
    PagesStored,
    PullPlanned,
    PushCommitted,
    PushOpened,
    PushPlanned,
    RangesCompared,
    ReplicaPrepared,
    VersionInfo,
    WindowHashed,
)
from edgereplica.fsm.client_pull import ClientPull
from edgereplica.fsm.client_push import ClientPush
from edgereplica.fsm.effects import (
    ApplyVersion,
    Close,
    CommitPush,
    CompareHashes,
    HashWindow,
    Send,
    StagePages,
    StorePages,
)
from edgereplica.fsm.machine import Machine
from edgereplica.fsm.server_push import ServerPush

H, R0, R1, R2 = b"\xaa" * 32, bytes(32), b"\x01" * 32, b"\x02" * 32
EMPTY = VersionInfo(0, R0, 512, 0)
HELLO = {1: Hello(512, force=True), 2: Hello(512, 9)}
COMPLETE = {1: Complete(force=True), 2: Complete(9, R2)}


def said(machine: Machine, message: Any) -> tuple[Any, ...]:
    return machine.handle(MessageReceived(message))


def refused(machine: Machine, event: Event, words: str) -> None:
    before = memory(machine)
    with pytest.raises(ProtocolViolation, match=words):
        machine.handle(event)
    assert memory(machine) == before


def pages(*runs: tuple[int, int]) -> PageData:
    return PageData(runs, "raw", bytes(512 * sum(last - first + 1 for first, last in runs)))


def opened(wire: int, requested: Runs = ()) -> ServerPush:
    """A push whose client has announced pages 1..9 and was asked for some of them."""
    machine = ServerPush()
    said(machine, HELLO[wire])
    machine.handle(PushOpened(EMPTY, base_known=False))
    said(machine, PageHashes(((1, H * 9),)))
    machine.handle(HashesCompared(requested))
    return machine


BOTH = pytest.mark.parametrize("wire", [1, 2])


@BOTH
@pytest.mark.parametrize("sent", [((1, 1),), ((4, 5),), ((2, 3), (9, 9)), ((2, 4),), ((1, 9),)])
def test_a_page_that_was_not_requested_is_refused_with_its_whole_frame(
    wire: int, sent: Runs
) -> None:
    machine = opened(wire, ((2, 3),))
    refused(machine, MessageReceived(pages(*sent)), "was not requested")
    assert said(machine, pages((2, 3))) == (StagePages(((2, 3),), "raw", bytes(1024)),)


@BOTH
def test_a_page_is_taken_once(wire: int) -> None:
    machine = opened(wire, ((2, 3),))
    said(machine, pages((2, 2)))
    refused(machine, MessageReceived(pages((2, 2))), "page 2 was not requested")


@BOTH
def test_the_commit_waits_for_the_last_page(wire: int) -> None:
    machine = opened(wire, ((2, 3),))
    assert said(machine, COMPLETE[wire]) == ()
    assert machine.state_id == "settling"
    said(machine, pages((3, 3)))
    assert machine.handle(PagesStaged(1, 512)) == ()
    said(machine, pages((2, 2)))
    assert machine.handle(PagesStaged(1, 512)) == (CommitPush(COMPLETE[wire]),)
    send, close = machine.handle(PushCommitted(1, R2))
    assert send == Send(SyncComplete(2, 1024, 1, R2))
    assert close == Close(1000, "committed")


@BOTH
def test_nothing_but_data_follows_complete(wire: int) -> None:
    machine = opened(wire, ((2, 3),))
    said(machine, COMPLETE[wire])
    late = (COMPLETE[wire], HELLO[wire], PageHashes(((9, H),)), RangeHashes(((2, 3, H),)))
    for message in late:
        refused(machine, MessageReceived(message), "not allowed in state settling")


@pytest.mark.parametrize("ending", [Complete(), Complete(9), Complete(root=R2)])
def test_a_v2_push_says_what_it_is_to_become(ending: Complete) -> None:
    for requested in ((), ((1, 1),)):
        machine = opened(2, requested)
        with pytest.raises(InvalidArgument):
            said(machine, ending)
        assert machine.state_id == "receiving"
        assert machine.ending is None


def test_v1_opens_the_pages_of_a_differing_range_and_asks_for_what_did_not_come() -> None:
    machine = ServerPush()
    said(machine, HELLO[1])
    machine.handle(PushOpened(EMPTY, base_known=False))
    said(machine, RangeHashes(((1, 9, H),)))
    assert machine.handle(RangesCompared(((1, 9),))) == (Send(RangesDiffer(((1, 9),))),)
    said(machine, pages((1, 2)))
    machine.handle(PagesStaged(2, 1024))
    said(machine, PageHashes(((3, H), (4, H))))
    assert machine.handle(HashesCompared(((4, 4),))) == (Send(RequestPages(((4, 4),))),)
    refused(machine, MessageReceived(pages((3, 3))), "page 3 was not requested")
    assert said(machine, COMPLETE[1]) == (Send(RequestPages(((5, 9),))),)
    said(machine, pages((4, 9)))
    assert machine.handle(PagesStaged(6, 6 * 512)) == (CommitPush(COMPLETE[1]),)


def test_v1_hashes_that_crossed_the_servers_word_are_taken() -> None:
    """The client completed before it heard that its range differs, and answers that word."""
    machine = ServerPush()
    said(machine, HELLO[1])
    machine.handle(PushOpened(EMPTY, base_known=False))
    said(machine, RangeHashes(((1, 2, H),)))
    machine.handle(RangesCompared(((1, 2),)))
    said(machine, COMPLETE[1])
    assert said(machine, PageHashes(((1, H * 2),))) == (CompareHashes(((1, H * 2),)),)
    # One of the pages is held already; it was asked for, so it will come all the same.
    assert machine.handle(HashesCompared(((2, 2),))) == ()
    refused(machine, MessageReceived(PageHashes(((2, H * 2),))), "settling")
    said(machine, pages((1, 2)))
    assert machine.handle(PagesStaged(2, 1024)) == (CommitPush(COMPLETE[1]),)


def test_v2_does_not_open_the_pages_of_a_differing_range() -> None:
    machine = opened(2)
    said(machine, RangeHashes(((1, 9, H),)))
    machine.handle(RangesCompared(((1, 9),)))
    refused(machine, MessageReceived(pages((1, 1))), "was not requested")


@pytest.mark.parametrize("runs", [(), ((1, 3),)])
def test_every_v2_announcement_is_answered_and_v1_only_if_needed(runs: Runs) -> None:
    for wire in (1, 2):
        machine = opened(wire)
        expected = (Send(RequestPages(runs)),) if runs or wire == 2 else ()
        said(machine, PageHashes(((1, H),)))
        assert machine.handle(HashesCompared(runs)) == expected


# --- clients --------------------------------------------------------------------------------------

PUSH = PushPlanned(512, 3, None, None, R2)
PULL = PullPlanned(512, 3, None, None, R2)


def client(machine: Any, plan: Any) -> Any:
    machine.handle(plan)
    return machine


@pytest.mark.parametrize(
    "reply",
    [
        HelloReply(512, 3),
        HelloReply(512, 3, head=1),
        HelloReply(512, 3, root=R1),
        HelloReply(512, 3, root=R2),
    ],
)
def test_a_greeting_that_leaves_something_out_is_refused(reply: HelloReply) -> None:
    for machine in (client(ClientPush(), PUSH), client(ClientPull(), PULL)):
        refused(machine, MessageReceived(reply), "hello_reply")


def test_a_greeting_that_knows_a_base_never_named_is_refused() -> None:
    reply = MessageReceived(HelloReply(512, 3, head=1, root=R1, base_known=True))
    refused(client(ClientPush(), PushPlanned(512, 3, None, None, None)), reply, "hello_reply")
    refused(client(ClientPull(), PullPlanned(512, 3, None, None, None)), reply, "hello_reply")


def test_a_file_that_names_only_its_root_may_be_known_by_it() -> None:
    plan = PushPlanned(512, 3, None, None, R2)
    for machine, state in (
        (client(ClientPush(), plan), "announcing"),
        (client(ClientPull(), PULL), "preparing"),
    ):
        said(machine, HelloReply(512, 3, head=1, root=R1, base_known=True))
        assert machine.state_id == state


def test_a_v1_greeting_has_neither_version_nor_root() -> None:
    for machine in (client(ClientPush(1), PUSH), client(ClientPull(1), PULL)):
        said(machine, HelloReply(512, 3))
        assert not machine.finished


def pulling(wire: int) -> ClientPull:
    machine = client(ClientPull(wire), PULL)
    said(machine, HelloReply(512, 3) if wire == 1 else HelloReply(512, 3, 4, R1))
    machine.handle(ReplicaPrepared("nothing"))
    return machine


@pytest.mark.parametrize(
    "ending", [SyncComplete(0, 0), SyncComplete(0, 0, 4, R2), SyncComplete(0, 0, 5, R1)]
)
def test_another_version_than_promised_is_not_applied(ending: SyncComplete) -> None:
    refused(pulling(2), MessageReceived(ending), "another version")


@pytest.mark.parametrize(
    ("wire", "ending"), [(1, SyncComplete(0, 0)), (2, SyncComplete(0, 0, 4, R1))]
)
def test_the_version_promised_is_applied(wire: int, ending: SyncComplete) -> None:
    assert said(pulling(wire), ending) == (ApplyVersion(ending.version, ending.root),)


@BOTH
def test_a_page_beyond_the_version_is_refused(wire: int) -> None:
    machine = pulling(wire)
    refused(machine, MessageReceived(pages((3, 4))), "page 4 of a version of 3 pages")
    assert said(machine, pages((1, 3))) == (StorePages(((1, 3),), "raw", bytes(3 * 512)),)
    machine.handle(PagesStored(3, 1536))
    assert (machine.pages, machine.wire_bytes) == (3, 1536)


def announcing(wire: int) -> ClientPush:
    machine = client(ClientPush(wire), PUSH)
    said(machine, HelloReply(512, 0) if wire == 1 else HelloReply(512, 0, 0, R0))
    return machine


def test_a_v2_client_announces_a_few_windows_ahead_and_one_more_for_each_answer() -> None:
    machine, ahead = announcing(2), 0
    while any(
        isinstance(effect, HashWindow)
        for effect in machine.handle(WindowHashed(((1, H),), last=False))
    ):
        ahead += 1
    # The announcement that asked for no further window is in flight too.
    assert machine.unanswered == ahead + 1
    effects = said(machine, RequestPages(()))
    assert effects == (HashWindow(),)
    assert machine.unanswered == ahead
    machine.handle(WindowHashed(((1, H),), last=True, page_count=3, root=R2))
    assert machine.state_id == "finishing"
    for _ in range(ahead + 1):
        said(machine, RequestPages(()))
    refused(machine, MessageReceived(RequestPages(())), "answers no page_hashes")


def test_a_v1_server_need_not_answer_and_may_ask_as_often_as_it_likes() -> None:
    machine = announcing(1)
    for _ in range(50):
        effects = machine.handle(WindowHashed(((1, H),), last=False))
        assert any(isinstance(effect, HashWindow) for effect in effects)
    for _ in range(60):
        said(machine, RequestPages(((1, 3),)))
    said(machine, RangesDiffer(((2, 2),)))


def test_a_commit_before_complete_is_refused() -> None:
    plan = PushPlanned(512, 3, 1, R1, None, dry_run=True)
    machine = client(ClientPush(), plan)
    said(machine, HelloReply(512, 3, 1, R1, base_known=True))
    machine.handle(WindowHashed(((1, H),), last=True, page_count=3, root=R2))
    assert machine.state_id == "finishing"
    refused(machine, MessageReceived(SyncComplete(0, 0, 2, R2)), "before complete")


def test_a_drill_down_ends_in_windows() -> None:
    machine = client(ClientPull(), PULL)
    said(machine, HelloReply(512, 3, 4, R1))
    machine.handle(ReplicaPrepared("ranges"))
    ranges = ((1, 2, H), (3, 3, H))
    assert machine.handle(DrilledDown(ranges)) == (Send(RangeHashes(ranges)),)
    said(machine, RangesDiffer(((1, 2),)))
    assert machine.handle(DrilledDown(())) == (HashWindow(),)
    assert machine.state_id == "announcing"
