"""The client's end of a push, event by event: exactly which effects it asks for, in which order.

`test_rules.py` says what must not happen; this says what does, down to the word of a close, so
that an effect that loses one of its parts is seen here and not in a session that hangs.
"""

from tests.unit.fsm.scripts import (
    AFTER_LAST,
    DRY_RUN,
    IN_SYNC,
    LAST,
    PUSH,
    R0,
    R1,
    R2,
    REPLY,
    STRANGER,
    WINDOW,
    H,
    Step,
    refused_as_it_was,
    run,
)

from edgereplica.events.errors import ProtocolViolation, Unimplemented
from edgereplica.events.limits import (
    ANNOUNCED_WINDOWS_MAX,
    BATCH_DECODED_BYTES_MAX,
)
from edgereplica.events.messages import (
    Complete,
    ErrorMessage,
    Hello,
    HelloReply,
    PageData,
    PageHashes,
    RangeHashes,
    RangesDiffer,
    RequestPages,
    SyncComplete,
)
from edgereplica.events.session import (
    ContentHashed,
    DrilledDown,
    PagesLoaded,
    PushPlanned,
)
from edgereplica.fsm.client_push import ClientPush
from edgereplica.fsm.effects import (
    CheckSource,
    Close,
    CountPages,
    DrillDown,
    HashContent,
    HashWindow,
    Listen,
    LoadPages,
    Send,
)

PUSH_HELLO = Send(Hello(512, 9, base=4, base_root=R1, root=R2, force=True))


def pushing(*steps: Step, plan: PushPlanned = PUSH, hello: Send = PUSH_HELLO) -> ClientPush:
    machine = ClientPush()
    run(machine, (plan, (hello,), "greeting"), *steps)
    return machine


def test_a_push_to_its_acknowledgement() -> None:
    done = SyncComplete(2, 6, 5, R2)
    ending = Complete(9, R2, True, "nightly")
    machine = pushing(
        (REPLY, (HashWindow(relative_to_base=True),), "announcing"),
        (WINDOW, (Send(PageHashes(((1, H),))), HashWindow(relative_to_base=True)), "announcing"),
        (
            RequestPages(((1, 2),)),
            (CountPages(((1, 2),)), LoadPages(((1, 2),)), HashWindow(relative_to_base=True)),
            "announcing",
        ),
        (
            PagesLoaded(((1, 1),), "zstd", b"x", ((2, 2),)),
            (Send(PageData(((1, 1),), "zstd", b"x")), LoadPages(((2, 2),))),
            "announcing",
        ),
        (
            PagesLoaded(((2, 2),), "raw", b"y"),
            (Send(PageData(((2, 2),), "raw", b"y")),),
            "announcing",
        ),
        (LAST, (Send(PageHashes(((9, H),))), CheckSource(), Send(ending)), "finishing"),
        (RequestPages(()), (), "finishing"),
        (done, (), "pushed"),
    )
    assert (machine.outcome, machine.ending, machine.unanswered) == (done, ending, 0)
    assert machine.reply == REPLY


def test_a_server_may_ask_for_smaller_batches_but_not_for_larger() -> None:
    for said, asked in ((1000, 1000), (BATCH_DECODED_BYTES_MAX * 2, BATCH_DECODED_BYTES_MAX)):
        reply = HelloReply(512, 7, 4, R1, base_known=True, limits={"batch_decoded_bytes_max": said})
        pushing(
            (reply, (HashWindow(relative_to_base=True),), "announcing"),
            (AFTER_LAST, (CheckSource(), Send(Complete(9, R2, True, "nightly"))), "finishing"),
            (
                RangesDiffer(((9, 9),)),
                (CountPages(((9, 9),)), LoadPages(((9, 9),), asked)),
                "finishing",
            ),
            (
                PagesLoaded(((8, 8),), "raw", b"y", ((9, 9),)),
                (Send(PageData(((8, 8),), "raw", b"y")), LoadPages(((9, 9),), asked)),
                "finishing",
            ),
        )


def test_pages_of_another_size_are_not_relative_to_the_base() -> None:
    other = HelloReply(1024, 7, 4, R1, base_known=True)
    pushing((other, (HashWindow(relative_to_base=False),), "announcing"))
    empty = HelloReply(512, 0, 0, R0)
    pushing((empty, (HashWindow(relative_to_base=False),), "announcing"))


def test_a_push_of_what_the_server_has_is_in_sync() -> None:
    same = HelloReply(512, 9, 4, R2)
    machine = pushing((same, (IN_SYNC,), "unchanged"))
    assert machine.reply == same
    machine = pushing(
        (STRANGER, (HashContent(),), "examining"),
        (ContentHashed(R1), (IN_SYNC,), "unchanged"),
    )
    assert machine.reply == STRANGER


def test_a_file_without_the_history_of_the_database_is_a_conflict_or_forced() -> None:
    plan = PushPlanned(512, 9, None, None, None)
    hello = Send(Hello(512, 9))
    machine = pushing(
        (STRANGER, (HashContent(),), "examining"),
        (ContentHashed(R2), (Close(1000, "refused"),), "refused"),
        plan=plan,
        hello=hello,
    )
    assert machine.refusal == ErrorMessage(
        "this file shares no history with the database, which already has versions",
        code="conflict",
        details={
            "base": None,
            "head": 4,
            "author": "ann@example.org",
            "committed_at": 1.5,
        },
    )
    assert machine.refusal is not None and not machine.refusal.retryable
    ranges = ((1, 9, H),)
    pushing(
        (STRANGER, (HashContent(),), "examining"),
        (ContentHashed(R2), (DrillDown(None),), "drilling"),
        (DrilledDown(ranges), (Send(RangeHashes(ranges)),), "drilling"),
        (RangesDiffer(((4, 9),)), (DrillDown(((4, 9),)),), "drilling"),
        (DrilledDown(()), (HashWindow(relative_to_base=False),), "announcing"),
    )


def test_a_v1_push_listens_while_it_announces() -> None:
    machine = ClientPush(1)
    run(
        machine,
        (PUSH, (PUSH_HELLO,), "greeting"),
        (HelloReply(512, 7), (HashWindow(relative_to_base=False),), "announcing"),
        (WINDOW, (Send(PageHashes(((1, H),))), Listen(), HashWindow()), "announcing"),
        (RangesDiffer(((1, 1),)), (CountPages(((1, 1),)), LoadPages(((1, 1),))), "announcing"),
        (RequestPages(((1, 1),)), (CountPages(((1, 1),)), LoadPages(((1, 1),))), "announcing"),
        (
            AFTER_LAST,
            (CheckSource(), Send(Complete(9, R2, True, "nightly"))),
            "finishing",
        ),
        (SyncComplete(1, 512), (), "pushed"),
    )
    assert machine.outcome == SyncComplete(1, 512)


def test_a_client_is_so_many_windows_ahead() -> None:
    announced = Send(PageHashes(((1, H),)))
    on = (WINDOW, (announced, HashWindow(relative_to_base=True)), "announcing")
    machine = pushing(
        (REPLY, (HashWindow(relative_to_base=True),), "announcing"),
        *[on] * (ANNOUNCED_WINDOWS_MAX - 1),
        (WINDOW, (announced,), "announcing"),
        (RequestPages(()), (HashWindow(relative_to_base=True),), "announcing"),
    )
    assert machine.unanswered == ANNOUNCED_WINDOWS_MAX - 1


DRY = PushPlanned(512, 9, 4, R1, R2, dry_run=True)
DRY_HELLO = Send(Hello(512, 9, base=4, base_root=R1, root=R2))


def test_a_dry_push_counts_and_says_no_complete() -> None:
    announcing = (REPLY, (HashWindow(relative_to_base=True),), "announcing")
    machine = pushing(
        announcing,
        (WINDOW, (Send(PageHashes(((1, H),))), HashWindow(relative_to_base=True)), "announcing"),
        (LAST, (Send(PageHashes(((9, H),))),), "finishing"),
        (RequestPages(((1, 2),)), (CountPages(((1, 2),)),), "finishing"),
        (RequestPages(((9, 9),)), (CountPages(((9, 9),)), DRY_RUN), "measured"),
        plan=DRY,
        hello=DRY_HELLO,
    )
    assert (machine.ending, machine.unanswered) == (None, 0)
    pushing(announcing, (AFTER_LAST, (DRY_RUN,), "measured"), plan=DRY, hello=DRY_HELLO)
    pushing(
        announcing,
        (WINDOW, (Send(PageHashes(((1, H),))), HashWindow(relative_to_base=True)), "announcing"),
        (AFTER_LAST, (), "finishing"),
        (RequestPages(()), (DRY_RUN,), "measured"),
        plan=DRY,
        hello=DRY_HELLO,
    )


def test_what_a_push_refuses_it_says_and_is_as_it_was() -> None:
    say = "a server of wire v1 cannot say what a push would move"
    refused_as_it_was(ClientPush(1), DRY, Unimplemented, say)
    asked = pushing(
        (REPLY, (HashWindow(relative_to_base=True),), "announcing"),
        (WINDOW, (Send(PageHashes(((1, H),))), HashWindow(relative_to_base=True)), "announcing"),
    )
    for question in (RequestPages(((1, 10),)), RangesDiffer(((1, 1), (3, 10)))):
        refused_as_it_was(asked, question, ProtocolViolation, "page 10 of a file of 9 pages")
    run(
        asked,
        (
            RangesDiffer(((1, 9),)),
            (CountPages(((1, 9),)), LoadPages(((1, 9),))),
            "announcing",
        ),
        (RangesDiffer(()), (), "announcing"),
        (RequestPages(()), (HashWindow(relative_to_base=True),), "announcing"),
    )
    unasked = "request_pages answers no page_hashes"
    refused_as_it_was(asked, RequestPages(()), ProtocolViolation, unasked)
    ended = Send(Complete(9, R2, True, "nightly"))
    run(asked, (AFTER_LAST, (CheckSource(), ended), "finishing"))
    other = "the server committed something else than was pushed"
    for done in (SyncComplete(0, 0), SyncComplete(0, 0, 5, R1), SyncComplete(0, 0, None, R2)):
        refused_as_it_was(asked, done, ProtocolViolation, other)
    early = pushing(
        (REPLY, (HashWindow(relative_to_base=True),), "announcing"),
        (LAST, (Send(PageHashes(((9, H),))),), "finishing"),
        plan=DRY,
        hello=DRY_HELLO,
    )
    refused_as_it_was(
        early, SyncComplete(0, 0, 5, R2), ProtocolViolation, "sync_complete before complete"
    )
