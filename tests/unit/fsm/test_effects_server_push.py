"""The server's end of a push, event by event: exactly which effects it asks for, in which order.

`test_rules.py` says what must not happen; this says what does, down to the word of a close, so
that an effect that loses one of its parts is seen here and not in a session that hangs.
"""

from typing import Any

import pytest
from tests.unit.fsm.scripts import (
    FAILED,
    HEAD,
    HELLO,
    IN_SYNC,
    LIMITS,
    LOST,
    NOTHING,
    OWN,
    PAGES,
    R1,
    R2,
    REFUSAL,
    TOLD,
    H,
    greeting,
    run,
)

from edgereplica.events.errors import EdgeReplicaError
from edgereplica.events.limits import (
    PAGES_PER_FRAME_MAX,
)
from edgereplica.events.messages import (
    Complete,
    ErrorMessage,
    Hello,
    PageData,
    PageHashes,
    RangeHashes,
    RangesDiffer,
    RequestPages,
    SyncComplete,
)
from edgereplica.events.session import (
    Failed,
    HashesCompared,
    MessageReceived,
    PagesStaged,
    PushCommitted,
    PushOpened,
    RangesCompared,
)
from edgereplica.fsm.effects import (
    AbandonPush,
    Close,
    CommitPush,
    CompareHashes,
    CompareRanges,
    OpenPull,
    OpenPush,
    Send,
    StagePages,
)
from edgereplica.fsm.server_pull import ServerPull
from edgereplica.fsm.server_push import ServerPush

ENDING = {1: Complete(force=True), 2: Complete(9, R2, False, "nightly")}


def receiving(wire: int, *, base_known: bool = True, limits: Any = None) -> ServerPush:
    machine = ServerPush(limits)
    said = OWN if limits else LIMITS
    run(
        machine,
        (HELLO[wire], (OpenPush(HELLO[wire]),), "opening"),
        (
            PushOpened(HEAD, base_known),
            (greeting(HEAD, 1024, base_known=base_known, limits=said),),
            "receiving",
        ),
    )
    return machine


def test_a_push_from_its_greeting_to_its_version() -> None:
    machine = receiving(2, limits=OWN)
    ranges = ((5, 9, H),)
    run(
        machine,
        (PageHashes(((1, H * 3),)), (CompareHashes(((1, H * 3),)),), "receiving"),
        (HashesCompared(((2, 3),)), (Send(RequestPages(((2, 3),))),), "receiving"),
        (RangeHashes(ranges), (CompareRanges(ranges),), "receiving"),
        (RangesCompared(()), (Send(RangesDiffer(())),), "receiving"),
        (PAGES, (StagePages(((2, 3),), "zstd", b"packed"),), "receiving"),
        (PagesStaged(2, 6), (), "receiving"),
        (ENDING[2], (CommitPush(ENDING[2]),), "committing"),
        (
            PushCommitted(5, R2),
            (Send(SyncComplete(2, 6, 5, R2)), Close(1000, "committed")),
            "committed",
        ),
    )
    assert (machine.pages, machine.wire_bytes, machine.ending) == (2, 6, ENDING[2])
    assert machine.finished


@pytest.mark.parametrize("wire", [1, 2])
def test_the_last_pages_are_counted_with_the_others(wire: int) -> None:
    ended = ENDING[wire]
    run(
        receiving(wire),
        (PageHashes(((1, H * 3),)), (CompareHashes(((1, H * 3),)),), "receiving"),
        (HashesCompared(((2, 3),)), (Send(RequestPages(((2, 3),))),), "receiving"),
        (PageData(((2, 2),), "raw", b"a"), (StagePages(((2, 2),), "raw", b"a"),), "receiving"),
        (ended, (), "settling"),
        (PageData(((3, 3),), "raw", b"b"), (StagePages(((3, 3),), "raw", b"b"),), "settling"),
        (PagesStaged(1, 100), (CommitPush(ended),), "committing"),
        (
            PushCommitted(5, R2),
            (Send(SyncComplete(1, 100, 5, R2)), Close(1000, "committed")),
            "committed",
        ),
    )


def test_a_database_without_versions_has_the_clients_page_size() -> None:
    run(
        ServerPush(),
        (HELLO[2], (OpenPush(HELLO[2]),), "opening"),
        (PushOpened(NOTHING, False), (greeting(NOTHING, 512),), "receiving"),
    )


def test_a_push_of_the_head_is_in_sync() -> None:
    hello = Hello(1024, 7, root=R1)
    run(
        ServerPush(),
        (hello, (OpenPush(hello),), "opening"),
        (PushOpened(HEAD, False), (greeting(HEAD, 1024), IN_SYNC), "in_sync"),
    )


CONFLICT = Failed("conflict", "somebody was faster", 4409, details={"head": 4})
CONFLICT_TOLD = (
    Send(ErrorMessage("somebody was faster", "conflict", False, {"head": 4})),
    Close(4409, "conflict"),
)


def test_a_conflict_is_told_at_once_to_who_named_a_base() -> None:
    run(
        ServerPush(),
        (HELLO[2], (OpenPush(HELLO[2]),), "opening"),
        (PushOpened(HEAD, True, CONFLICT), CONFLICT_TOLD, "refused"),
    )


@pytest.mark.parametrize(
    "more", [PageHashes(((1, H),)), RangeHashes(((1, 2, H),)), Complete(9, R2)]
)
def test_without_a_base_it_is_told_when_more_is_said(more: Any) -> None:
    hello = Hello(512, 9)
    run(
        ServerPush(),
        (hello, (OpenPush(hello),), "opening"),
        (PushOpened(HEAD, False, CONFLICT), (greeting(HEAD, 1024),), "undecided"),
        (more, CONFLICT_TOLD, "refused"),
    )


def test_a_v1_session_that_says_nothing_pushes_nothing() -> None:
    run(
        receiving(1),
        (ENDING[1], (Send(SyncComplete(0, 0)), Close(1000, "nothing pushed")), "in_sync"),
    )


def test_what_v1_ranges_left_open_is_asked_for_in_parts() -> None:
    full, end = PAGES_PER_FRAME_MAX, PAGES_PER_FRAME_MAX + 10
    ranges = ((1, full, H), (full + 1, end, H))
    machine = receiving(1)
    run(
        machine,
        (RangeHashes(ranges), (CompareRanges(ranges),), "receiving"),
        (RangesCompared(((1, full),)), (Send(RangesDiffer(((1, full),))),), "receiving"),
        (
            RangesCompared(((full + 1, end),)),
            (Send(RangesDiffer(((full + 1, end),))),),
            "receiving",
        ),
        (
            ENDING[1],
            (Send(RequestPages(((1, full),))), Send(RequestPages(((full + 1, end),)))),
            "settling",
        ),
    )
    assert not machine.offered
    assert machine.requested.covers(((1, end),))


@pytest.mark.parametrize("ending", [Complete(), Complete(9), Complete(root=R2)])
def test_what_a_v2_push_must_end_with_is_said(ending: Complete) -> None:
    say = "complete names the page count and the root"
    machine = receiving(2)
    with pytest.raises(EdgeReplicaError) as caught:
        machine.handle(MessageReceived(ending))
    assert caught.value.message == say


def test_a_push_that_ends_before_its_version_leaves_what_came() -> None:
    def committing() -> ServerPush:
        machine = receiving(2)
        run(machine, (ENDING[2], (CommitPush(ENDING[2]),), "committing"))
        return machine

    def settling() -> ServerPush:
        machine = receiving(2)
        run(
            machine,
            (PageHashes(((1, H),)), (CompareHashes(((1, H),)),), "receiving"),
            (HashesCompared(((1, 1),)), (Send(RequestPages(((1, 1),))),), "receiving"),
            (ENDING[2], (), "settling"),
        )
        return machine

    for make in (lambda: receiving(2), settling, committing):
        run(make(), (LOST, (AbandonPush(),), "lost"))
        run(make(), (FAILED, (*TOLD, AbandonPush()), "refused"))
    for make in (lambda: receiving(2), settling):
        machine = make()
        run(machine, (REFUSAL, (Close(1000, "refused"), AbandonPush()), "refused"))
        assert machine.refusal == REFUSAL
    # What is being committed cannot be called back.
    run(committing(), (REFUSAL, (), "committing"))


def test_before_it_receives_there_is_nothing_to_abandon() -> None:
    opening = (HELLO[2], (OpenPush(HELLO[2]),), "opening")
    for machine, steps in (
        (ServerPush, ()),
        (ServerPush, (opening,)),
        (ServerPull, ()),
        (ServerPull, ((HELLO[2], (OpenPull(HELLO[2]),), "opening"),)),
    ):
        run(machine(), *steps, (LOST, (), "lost"))
        run(machine(), *steps, (FAILED, TOLD, "refused"))
        run(machine(), *steps, (REFUSAL, (Close(1000, "refused"),), "refused"))


def test_a_push_begins_with_nothing() -> None:
    machine = ServerPush()
    assert (machine.announced, machine.pages, machine.wire_bytes) == (False, 0, 0)
    assert type(machine.announced) is bool
    assert not machine.requested and not machine.offered
