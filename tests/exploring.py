"""Walks a machine through everything it can be told, to find the situations it can be in.

`examples` holds events of every kind, several of a kind where a guard looks at their content.
`explore` gives each of them to a machine in each situation found so far. Situations are told apart
by state and by the machine's memory, roughly (`_aspects`), so that the walk ends.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

from statemachine import State, StateChart

from edgereplica.events.errors import EdgeReplicaError
from edgereplica.events.messages import (
    Complete,
    ErrorMessage,
    HeadChanged,
    Hello,
    HelloReply,
    PageData,
    PageHashes,
    RangeHashes,
    RangesDiffer,
    RequestPages,
    SyncComplete,
)
from edgereplica.events.pages import PageSet
from edgereplica.events.session import (
    ContentHashed,
    DrilledDown,
    Event,
    Failed,
    HashesCompared,
    MessageReceived,
    PagesLoaded,
    PagesRead,
    PagesStaged,
    PagesStored,
    PeerLost,
    PullOpened,
    PullPlanned,
    PushCommitted,
    PushOpened,
    PushPlanned,
    RangesCompared,
    ReplicaPrepared,
    VersionApplied,
    VersionInfo,
    WindowHashed,
)
from edgereplica.events.value import Value
from edgereplica.fsm.machine import Machine, trigger_of
from edgereplica.fsm.registry import make_machine

R0, R1, R2, D = b"\x00" * 32, b"\x01" * 32, b"\x02" * 32, b"\xdd" * 32
SIZE = 512
EMPTY = VersionInfo(0, R0, SIZE, 0)
HEAD = VersionInfo(1, R1, SIZE, 3, "id", "ann@example.org", 5.0)
CONFLICT = Failed("conflict", "no", 1008, details={"head": 1})


def _page(*numbers: int) -> PageData:
    return PageData(tuple((n, n) for n in numbers), "raw", bytes(SIZE * len(numbers)))


def _messages(wire_version: int) -> list[Any]:
    if wire_version == 1:
        return [
            Hello(SIZE, force=True),
            HelloReply(SIZE, 0),
            HelloReply(SIZE, 3),
            Complete(force=True),
            SyncComplete(1, SIZE),
        ]
    return [
        Hello(SIZE, 3),
        Hello(SIZE, 3, base=1, base_root=R1),
        Hello(SIZE, 3, root=R1),
        HelloReply(SIZE, 0, 0, R0, limits={}),
        HelloReply(SIZE, 3, 1, R1),
        HelloReply(SIZE, 3, 1, R1, base_known=True),
        HelloReply(SIZE, 3, 1, R1, base_known=True, pages_changed=2),
        HelloReply(SIZE, 3, 1, R2),
        HelloReply(SIZE, 3),
        Complete(),
        Complete(3, R2),
        SyncComplete(1, SIZE),
        SyncComplete(1, SIZE, 1, R1),
        SyncComplete(1, SIZE, 2, R2),
    ]


def examples(wire_version: int) -> list[Event]:
    said = [
        *_messages(wire_version),
        PageHashes(((1, D * 3),)),
        PageHashes(((2, D),)),
        RangeHashes(((1, 3, D),)),
        RangesDiffer(()),
        RangesDiffer(((1, 3),)),
        RequestPages(()),
        RequestPages(((2, 3),)),
        RequestPages(((9, 9),)),
        _page(1),
        _page(2, 3),
        _page(1, 2, 3),
        _page(9),
        HeadChanged(2, R2, 3),
        ErrorMessage("no", "conflict"),
    ]
    return [
        *(MessageReceived(message) for message in said),
        PeerLost("gone"),
        Failed("internal", "no", 1011),
        PushOpened(EMPTY, base_known=False),
        PushOpened(HEAD, base_known=True),
        PushOpened(HEAD, base_known=False, conflict=CONFLICT),
        PullOpened(EMPTY, base_known=False),
        PullOpened(HEAD, base_known=True, pages_changed=1),
        HashesCompared(()),
        HashesCompared(((1, 3),)),
        RangesCompared(()),
        RangesCompared(((1, 3),)),
        PagesStaged(1, 9),
        PushCommitted(2, R2),
        PagesRead(),
        PagesRead(((1, 2),), "raw", bytes(2 * SIZE)),
        PushPlanned(SIZE, 3, None, None, None),
        PushPlanned(SIZE, 3, 1, R1, R2),
        PushPlanned(SIZE, 3, None, None, None, force=True),
        PushPlanned(SIZE, 3, 1, R1, None, force=True, dry_run=True),
        PullPlanned(SIZE, 0, None, None, None, fresh=True),
        PullPlanned(SIZE, 3, 1, R1, R2, at=1),
        PullPlanned(SIZE, 3, 1, R1, None, dry_run=True),
        WindowHashed(((1, D),), last=False),
        WindowHashed(((2, D * 2),), True, 3, R2),
        WindowHashed((), True, 3, R2),
        ContentHashed(R1),
        ContentHashed(R2),
        DrilledDown(((1, 2, D), (3, 3, D))),
        DrilledDown(()),
        PagesLoaded(((2, 2),), "raw", bytes(SIZE), ((3, 3),)),
        PagesLoaded(((3, 3),), "raw", bytes(SIZE)),
        ReplicaPrepared("nothing"),
        ReplicaPrepared("windows"),
        ReplicaPrepared("ranges"),
        PagesStored(1, 9),
        VersionApplied(1),
    ]


def memory(machine: Machine) -> dict[str, Any]:
    """All that a machine remembers, as values that later changes do not reach; what the library
    keeps about it is left out, and nothing else, whatever its name."""
    return {
        "state": [state.id for state in machine.configuration],
        **{
            name: _frozen(value)
            for name, value in vars(machine).items()
            if not isinstance(value, State) and name not in _engine()
        },
    }


class _Bare(StateChart[Any]):
    """A machine that remembers nothing."""

    only = State(initial=True)
    turn = only.to(only)


@cache
def _engine() -> frozenset[str]:
    """What the library keeps with each machine."""
    bare = _Bare()
    bare.send("turn")
    return frozenset(vars(bare))


def _frozen(value: Any) -> Any:
    if isinstance(value, PageSet):
        return value.runs()
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else value
        return tuple(_frozen(item) for item in items)
    if isinstance(value, tuple):
        return tuple(map(_frozen, value))
    assert value is None or isinstance(value, bool | int | str | bytes | Value), (
        f"{value!r}: say how to freeze it"
    )
    return value


def _aspects(machine: Machine) -> tuple[Any, ...]:
    """What of the memory a guard may look at: whether there is something, not how much."""
    remembered = memory(machine)
    return (
        *(repr(remembered.get(name)) for name in ("plan", "greeting", "reply", "conflict")),
        remembered["state"][0],
        remembered.get("unanswered"),
        bool(remembered.get("announced") or remembered.get("ending")),
        (bool(remembered.get("requested")), bool(remembered.get("offered"))),
    )


@dataclass(frozen=True)
class Situation:
    """A machine's state and the events that lead to it."""

    machine: str
    wire_version: int
    state: str
    path: tuple[Event, ...]

    def enter(self) -> Machine:
        machine = make_machine(self.machine, self.wire_version)
        for event in self.path:
            machine.handle(event)
        assert machine.state_id == self.state
        return machine

    def __str__(self) -> str:
        steps = ",".join(trigger_of(event) for event in self.path)
        return f"{self.machine}-v{self.wire_version}-{self.state}({steps})"


PER_SITUATION_MAX = 2


@cache
def explore(name: str, wire_version: int) -> list[Situation]:
    """Situations of the machine, a few of each state for each way to begin, nearest first."""
    start = Situation(name, wire_version, make_machine(name, wire_version).state_id, ())
    seen, found, counts = set(), [start], Counter[Any]()
    for situation in found:
        for event in examples(wire_version):
            machine = situation.enter()
            if machine.finished:
                break
            try:
                machine.handle(event)
            except EdgeReplicaError:
                continue
            remembered = _aspects(machine)
            kind: tuple[Any, ...] = (machine.state_id,)
            if not machine.finished:
                kind = (*kind, repr((situation.path or (event,))[0]), remembered[-1])
            if remembered in seen or counts[kind] == PER_SITUATION_MAX:
                continue
            seen.add(remembered)
            counts[kind] += 1
            path = (*situation.path, event)
            found.append(Situation(name, wire_version, machine.state_id, path))
    return found
