"""The server's end of a pull, event by event: exactly which effects it asks for, in which order.

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
    R1,
    REFUSAL,
    TOLD,
    H,
    greeting,
    run,
)

from edgereplica.events.messages import (
    Complete,
    Hello,
    PageData,
    PageHashes,
    RangeHashes,
    RangesDiffer,
    SyncComplete,
)
from edgereplica.events.session import (
    HashesCompared,
    PagesRead,
    PullOpened,
    RangesCompared,
)
from edgereplica.fsm.effects import (
    Close,
    CompareHashes,
    CompareRanges,
    OpenPull,
    ReadMore,
    ReadPages,
    Send,
)
from edgereplica.fsm.server_pull import ServerPull
from edgereplica.fsm.server_push import ServerPush


def comparing(wire: int, limits: Any = None) -> ServerPull:
    machine = ServerPull(limits)
    opened = PullOpened(HEAD, base_known=True, pages_changed=3)
    reply = greeting(HEAD, 1024, base_known=True, pages_changed=3, limits=OWN if limits else LIMITS)
    run(
        machine,
        (HELLO[wire], (OpenPull(HELLO[wire]),), "opening"),
        (opened, (reply,), "comparing"),
    )
    return machine


@pytest.mark.parametrize("limits", [None, OWN])
def test_a_pull_from_its_greeting_to_its_end(limits: Any) -> None:
    machine = comparing(2, limits)
    assert (machine.pages, machine.wire_bytes) == (0, 0)
    run(
        machine,
        (RangeHashes(((1, 7, H),)), (CompareRanges(((1, 7, H),)),), "comparing"),
        (RangesCompared(((1, 7),)), (Send(RangesDiffer(((1, 7),))),), "comparing"),
        (RangesCompared(()), (Send(RangesDiffer(())),), "comparing"),
        (PageHashes(((1, H),)), (CompareHashes(((1, H),)),), "comparing"),
        (HashesCompared(((1, 1),)), (), "comparing"),
        (Complete(), (ReadPages(None),), "streaming"),
        (
            PagesRead(((2, 3), (5, 5)), "zstd", b"packed"),
            (Send(PageData(((2, 3), (5, 5)), "zstd", b"packed")), ReadMore()),
            "streaming",
        ),
        (
            PagesRead(((7, 7),), "raw", b"raw"),
            (Send(PageData(((7, 7),), "raw", b"raw")), ReadMore()),
            "streaming",
        ),
        (
            PagesRead(),
            (Send(SyncComplete(4, 9, 4, R1)), Close(1000, "delivered")),
            "delivered",
        ),
    )
    assert (machine.pages, machine.wire_bytes) == (4, 9)


def test_v1_is_sent_a_difference_at_once_and_told_of_ranges_only_if_they_differ() -> None:
    run(
        comparing(1),
        (PageHashes(((1, H),)), (CompareHashes(((1, H),)),), "comparing"),
        (HashesCompared(()), (), "comparing"),
        (HashesCompared(((1, 1),)), (ReadPages(((1, 1),)),), "comparing"),
        (
            PagesRead(((1, 1),), "raw", b"x"),
            (Send(PageData(((1, 1),), "raw", b"x")), ReadMore()),
            "comparing",
        ),
        (PagesRead(), (), "comparing"),
        (RangesCompared(()), (), "comparing"),
        (RangesCompared(((2, 3),)), (Send(RangesDiffer(((2, 3),))),), "comparing"),
    )


def test_an_empty_database_pulled_has_the_clients_page_size() -> None:
    run(
        ServerPull(),
        (HELLO[2], (OpenPull(HELLO[2]),), "opening"),
        (PullOpened(NOTHING, False), (greeting(NOTHING, 512),), "comparing"),
    )


def test_a_pull_of_what_is_held_is_in_sync() -> None:
    hello = Hello(1024, 7, root=R1)
    opened = PullOpened(HEAD, base_known=False, pages_changed=0)
    run(
        ServerPull(),
        (hello, (OpenPull(hello),), "opening"),
        (opened, (greeting(HEAD, 1024, pages_changed=0), IN_SYNC), "in_sync"),
    )


def test_a_pull_that_ends_early_ends_with_a_word() -> None:
    streaming = (Complete(), (ReadPages(None),), "streaming")
    for steps in ((), (streaming,)):
        run(comparing(2), *steps, (LOST, (), "lost"))
        run(comparing(2), *steps, (FAILED, TOLD, "refused"))
        run(comparing(2), *steps, (REFUSAL, (Close(1000, "refused"),), "refused"))


def test_a_server_without_a_greeting_speaks_no_version() -> None:
    for machine in (ServerPush(), ServerPull()):
        assert not machine.speaks_v1
        assert machine.greeting is None
    assert ServerPull().version is None
    assert (ServerPush().conflict, ServerPush().ending) == (None, None)
