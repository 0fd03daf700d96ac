"""The client's end of a pull, event by event: exactly which effects it asks for, in which order.

`test_rules.py` says what must not happen; this says what does, down to the word of a close, so
that an effect that loses one of its parts is seen here and not in a session that hangs.
"""

from tests.unit.fsm.scripts import (
    AFTER_LAST,
    DRY_RUN,
    IN_SYNC,
    LAST,
    LOST,
    PAGES,
    PULL,
    R0,
    R1,
    R2,
    REFUSAL,
    REPLY,
    STRANGER,
    WINDOW,
    H,
    Step,
    refused_as_it_was,
    run,
)

from edgereplica.events.errors import ProtocolViolation, Unimplemented
from edgereplica.events.messages import (
    Complete,
    Hello,
    HelloReply,
    PageData,
    PageHashes,
    RangeHashes,
    RangesDiffer,
    SyncComplete,
)
from edgereplica.events.session import (
    DrilledDown,
    PagesStored,
    PullPlanned,
    ReplicaPrepared,
    VersionApplied,
)
from edgereplica.fsm.client_pull import ClientPull
from edgereplica.fsm.effects import (
    ApplyVersion,
    Close,
    DrillDown,
    HashWindow,
    Listen,
    PrepareReplica,
    Send,
    StorePages,
)

PULL_HELLO = Send(Hello(512, 3, base=2, base_root=R0, root=R2, at=4))


def pulling(*steps: Step, plan: PullPlanned = PULL, hello: Send = PULL_HELLO) -> ClientPull:
    machine = ClientPull()
    run(machine, (plan, (hello,), "greeting"), *steps)
    return machine


PREPARING = (REPLY, (PrepareReplica(REPLY),), "preparing")


def test_a_pull_to_its_version() -> None:
    done = SyncComplete(3, 9, 4, R1)
    machine = pulling(
        PREPARING,
        (ReplicaPrepared("windows"), (HashWindow(),), "announcing"),
        (WINDOW, (Send(PageHashes(((1, H),))), HashWindow()), "announcing"),
        (PAGES, (StorePages(((2, 3),), "zstd", b"packed"),), "announcing"),
        (PagesStored(2, 6), (), "announcing"),
        (LAST, (Send(PageHashes(((9, H),))), Send(Complete())), "receiving"),
        (
            PageData(((7, 7),), "raw", b"raw"),
            (StorePages(((7, 7),), "raw", b"raw"),),
            "receiving",
        ),
        (PagesStored(1, 3), (), "receiving"),
        (done, (ApplyVersion(4, R1),), "applying"),
        (REFUSAL, (), "applying"),
        (LOST, (), "applying"),
        (VersionApplied(4), (Close(1000, "pulled"),), "pulled"),
    )
    assert (machine.pages, machine.wire_bytes, machine.outcome) == (3, 9, done)


def test_a_pull_announces_windows_ranges_or_nothing() -> None:
    ranges = ((1, 3, H),)
    pulling(
        PREPARING,
        (ReplicaPrepared("ranges"), (DrillDown(None),), "drilling"),
        (DrilledDown(ranges), (Send(RangeHashes(ranges)),), "drilling"),
        (RangesDiffer(((1, 2),)), (DrillDown(((1, 2),)),), "drilling"),
        (DrilledDown(()), (HashWindow(),), "announcing"),
        (AFTER_LAST, (Send(Complete()),), "receiving"),
    )
    pulling(PREPARING, (ReplicaPrepared("nothing"), (Send(Complete()),), "receiving"))


def test_a_v1_pull_listens_while_it_announces() -> None:
    reply = HelloReply(512, 7)
    run(
        ClientPull(1),
        (PULL, (PULL_HELLO,), "greeting"),
        (reply, (PrepareReplica(reply),), "preparing"),
        (ReplicaPrepared("windows"), (HashWindow(),), "announcing"),
        (WINDOW, (Send(PageHashes(((1, H),))), Listen(), HashWindow()), "announcing"),
        (AFTER_LAST, (Send(Complete()),), "receiving"),
        (SyncComplete(1, 512), (ApplyVersion(None, None),), "applying"),
    )


def test_a_pull_of_what_is_held_ends_at_the_greeting() -> None:
    same = HelloReply(512, 3, 4, R2)
    machine = pulling((same, (IN_SYNC,), "unchanged"))
    assert machine.reply == same


def test_a_dry_pull_ends_where_it_knows() -> None:
    dry = PullPlanned(512, 3, 2, R0, R2, at=4, dry_run=True)
    counted = HelloReply(512, 7, 4, R1, base_known=True, pages_changed=0)
    machine = pulling((counted, (DRY_RUN,), "measured"), plan=dry)
    assert machine.reply == counted
    fresh = PullPlanned(512, 0, None, None, None, fresh=True, dry_run=True)
    pulling((STRANGER, (DRY_RUN,), "measured"), plan=fresh, hello=Send(Hello(512, 0)))
    pulling(PREPARING, (ReplicaPrepared("nothing"), (DRY_RUN,), "measured"), plan=dry)
    drilling = (ReplicaPrepared("ranges"), (DrillDown(None),), "drilling")
    pulling(PREPARING, drilling, (DrilledDown(()), (DRY_RUN,), "measured"), plan=dry)
    machine = pulling(PREPARING, plan=dry)
    say = "this server does not say what a pull would change"
    refused_as_it_was(machine, ReplicaPrepared("windows"), Unimplemented, say)


def test_what_a_pull_refuses_it_says_and_is_as_it_was() -> None:
    dry = PullPlanned(512, 3, 2, R0, R2, dry_run=True)
    say = "a server of wire v1 cannot say what a pull would move"
    refused_as_it_was(ClientPull(1), dry, Unimplemented, say)
    machine = pulling(PREPARING, (ReplicaPrepared("nothing"), (Send(Complete()),), "receiving"))
    beyond = PageData(((1, 1), (8, 8)), "raw", b"x")
    refused_as_it_was(machine, beyond, ProtocolViolation, "page 8 of a version of 7 pages")
    other = "the server sent another version than it promised"
    for done in (SyncComplete(0, 0, 4, R2), SyncComplete(0, 0, 3, R1), SyncComplete(0, 0)):
        refused_as_it_was(machine, done, ProtocolViolation, other)
