"""Codecs and machines to be told hostile things: every situation of every role, in both versions.

One property: a frame is a message, or `FrameUndecodable`; a message is accepted, or refused with a
typed error that leaves the machine as it was. What accepting it may lead to is judged too: a state
that the machine declares, and effects that the session so far allows.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from tests.exploring import Situation, explore, memory

from edgereplica.app.driver import CODECS
from edgereplica.events.errors import EdgeReplicaError, FrameUndecodable
from edgereplica.events.messages import Hello, HelloReply, Message, PageHashes
from edgereplica.events.pages import Runs, pages_of
from edgereplica.events.session import (
    Event,
    HashesCompared,
    MessageReceived,
    PullOpened,
    PullPlanned,
    PushOpened,
    PushPlanned,
    ReplicaPrepared,
    VersionInfo,
    WindowHashed,
)
from edgereplica.events.wire import frame_version
from edgereplica.fsm.diagrams import steps
from edgereplica.fsm.effects import (
    AbandonPush,
    ApplyVersion,
    CheckSource,
    Close,
    CommitPush,
    CompareHashes,
    CompareRanges,
    CountPages,
    DrillDown,
    Effect,
    HashContent,
    HashWindow,
    Listen,
    LoadPages,
    OpenPull,
    OpenPush,
    PrepareReplica,
    ReadMore,
    ReadPages,
    Send,
    StagePages,
    StorePages,
)
from edgereplica.fsm.machine import Machine, trigger_of
from edgereplica.fsm.registry import MACHINES, make_machine
from proof.running import Counts

STRIKES_MAX = 40
"""Messages to one machine, as long as it goes on; then another is taken."""


class Violation(Exception):
    """Something else than a message or the documented error."""


def decode(frame: bytes) -> Message | None:
    """The message, or None: the frame was refused as it should be."""
    try:
        return CODECS[frame_version(frame)].decode(frame)
    except FrameUndecodable:
        return None
    except BaseException as error:
        raise Violation(f"{type(error).__name__} for {frame[:200].hex()}") from error


_ROOT, _DIGEST = b"\x01" * 32, b"\xdd" * 32
_HEAD = VersionInfo(1, _ROOT, 512, 3)
_MAY: dict[str, tuple[type, ...]] = {
    "server_push": (OpenPush, CompareHashes, CompareRanges, StagePages, CommitPush, AbandonPush),
    "server_pull": (OpenPull, CompareHashes, CompareRanges, ReadPages, ReadMore),
    "client_push": (HashContent, HashWindow, DrillDown, LoadPages, CheckSource, CountPages, Listen),
    "client_pull": (PrepareReplica, HashWindow, DrillDown, StorePages, ApplyVersion, Listen),
}
"""What each role can do at all, beside sending and closing: a pull writes nothing on the server, a
push nothing on the client."""


def in_the_midst(name: str, version: int) -> Situation:
    """A machine of the role in a session that is going on, with some pages of three to come."""
    reply = HelloReply(512, 3, 1, _ROOT, limits={}) if version > 1 else HelloReply(512, 3)
    hello = Hello(512, 3, force=True) if version > 1 else Hello(512, force=True)
    hashes = MessageReceived(PageHashes(((1, _DIGEST * 3),)))
    paths: dict[str, tuple[Event, ...]] = {
        "server_push": (
            MessageReceived(hello), PushOpened(_HEAD, base_known=False), hashes,
            HashesCompared(((2, 3),)),
        ),
        "server_pull": (MessageReceived(hello), PullOpened(_HEAD, base_known=False), hashes),
        "client_push": (
            PushPlanned(512, 3, 0, None, None), MessageReceived(
                HelloReply(512, 0, 0, bytes(32), limits={}) if version > 1 else HelloReply(512, 0)
            ), WindowHashed(((1, _DIGEST * 2),), last=False),
        ),
        "client_pull": (
            PullPlanned(512, 0, None, None, None, fresh=True), MessageReceived(reply),
            ReplicaPrepared("nothing"),
        ),
    }  # fmt: skip
    machine = make_machine(name, version)
    for event in paths[name]:
        machine.handle(event)
    return Situation(name, version, machine.state_id, paths[name])


def judge(name: str, before: dict[str, Any], event: Event, machine: Machine,
          effects: tuple[Effect, ...]) -> None:  # fmt: skip
    """A violation if the session up to `before` does not allow what `event` has led to."""
    (state,) = before["state"]
    if machine.state_id not in _targets(name, state, trigger_of(event)):
        raise Violation(f"{trigger_of(event)} led from {state} to {machine.state_id}")
    for effect in effects:
        if not isinstance(effect, (Send, Close, *_MAY[name])):
            raise Violation(f"a {name} wants {effect!r}")
        wanted = _unasked(before, effect)
        if wanted is not None:
            raise Violation(f"{name} in {state}: {wanted}")


@cache
def _targets(name: str, state: str, trigger: str) -> frozenset[str]:
    declared = steps(MACHINES[name])
    return frozenset(s.target for s in declared if (s.source, s.event) == (state, trigger))


def _unasked(before: dict[str, Any], effect: Effect) -> str | None:
    """What is wrong with the effect: pages that nobody asked for, or a version not all here."""
    match effect:
        case StagePages(runs=runs):
            asked = set(pages_of(before["requested"])) | set(pages_of(before["offered"]))
            if not set(pages_of(runs)) <= asked:
                return f"pages {runs} would be staged, of {sorted(asked)} asked for"
        case CommitPush():
            if before["requested"] or before["offered"]:
                return "a version would be committed while pages are missing"
        case StorePages(runs=runs):
            return _beyond(runs, before["reply"].page_count)
        case LoadPages(runs=runs):
            return _beyond(runs, before["plan"].page_count)
        case ApplyVersion(version=version, root=root):
            reply = before["reply"]
            if before["wire_version"] > 1 and (version, root) != (reply.head, reply.root):
                return f"version {version} would be applied, {reply.head} was promised"
    return None


def _beyond(runs: Runs, page_count: int) -> str | None:
    highest = runs[-1][1]
    return f"page {highest} of {page_count}" if highest > page_count else None


@dataclass
class _Seat:
    """A machine in some situation, and what it remembers."""

    situation: Situation
    machine: Machine
    before: dict[str, Any]
    strikes: int = 0


class Victims:
    """Machines of all roles in all situations; in a small run, in one of each role and version."""

    def __init__(self, dice: Random, everything: bool) -> None:
        self._dice = dice
        self._situations = {
            version: [
                situation
                for name in MACHINES
                for situation in [
                    in_the_midst(name, version),
                    *(explore(name, version) if everything else ()),
                ]
            ]
            for version in (1, 2)
        }
        self._seats: dict[int, _Seat | None] = {1: None, 2: None}
        self.situations_met = Counter[str]()

    def _seat(self, version: int) -> _Seat:
        seat = self._seats[version]
        if seat is None or seat.strikes >= STRIKES_MAX or seat.machine.finished:
            situation = self._dice.choice(self._situations[version])
            self.situations_met[str(situation)] += 1
            machine = situation.enter()
            seat = self._seats[version] = _Seat(situation, machine, memory(machine))
        return seat

    def tell(self, version: int, message: Message, found: Counts) -> bool:
        """Give the message to a machine; whether it was accepted."""
        seat = self._seat(version)
        seat.strikes += 1
        event = MessageReceived(message)
        try:
            effects = seat.machine.handle(event)
        except EdgeReplicaError as error:
            if type(error) is EdgeReplicaError:
                raise Violation(f"{seat.situation}: an error without a name: {error}") from error
            if memory(seat.machine) != seat.before:
                raise Violation(f"{seat.situation}: changed by a refused {message!r}") from None
            found["refused by a machine"] += 1
            return False
        except BaseException as error:
            raise Violation(f"{seat.situation}: {error!r} for {message!r}") from error
        judge(seat.situation.machine, seat.before, event, seat.machine, effects)
        seat.before = memory(seat.machine)
        found["accepted by a machine"] += 1
        return True
