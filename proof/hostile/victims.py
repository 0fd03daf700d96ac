"""Codecs and machines to be told hostile things: every situation of every role, in both versions.

One property: a frame is a message, or `FrameUndecodable`; a message is accepted, or refused with a
typed error that leaves the machine as it was.
"""

from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.exploring import Situation, explore, memory

from edgereplica.app.driver import CODECS
from edgereplica.events.errors import EdgeReplicaError, FrameUndecodable
from edgereplica.events.messages import Message
from edgereplica.events.session import MessageReceived
from edgereplica.events.wire import frame_version
from edgereplica.fsm.machine import Machine
from edgereplica.fsm.registry import MACHINES
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


@dataclass
class _Seat:
    """A machine in some situation, and what it remembers."""

    situation: Situation
    machine: Machine
    before: dict[str, Any]
    strikes: int = 0


class Victims:
    """Machines of all roles in all situations; in a small run, of one role of each wire version."""

    def __init__(self, dice: Random, everything: bool) -> None:
        self._dice = dice
        self._situations: dict[int, list[Situation]] = {}
        for version in (1, 2):
            names = list(MACHINES) if everything else [dice.choice(list(MACHINES))]
            self._situations[version] = [
                situation for name in names for situation in explore(name, version)
            ]
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
        try:
            seat.machine.handle(MessageReceived(message))
        except EdgeReplicaError as error:
            if type(error) is EdgeReplicaError:
                raise Violation(f"{seat.situation}: an error without a name: {error}") from error
            if memory(seat.machine) != seat.before:
                raise Violation(f"{seat.situation}: changed by a refused {message!r}") from None
            found["refused by a machine"] += 1
            return False
        except BaseException as error:
            raise Violation(f"{seat.situation}: {error!r} for {message!r}") from error
        seat.before = memory(seat.machine)
        found["accepted by a machine"] += 1
        return True

    def move_on(self) -> None:
        """Take other machines."""
        self._seats = {1: None, 2: None}
