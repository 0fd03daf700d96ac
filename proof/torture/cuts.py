"""A proxy that cuts, resets, stalls, half-closes and dribbles: between frames, and anywhere.

Sessions of every kind go through it, over both wire versions. Each is recorded once undisturbed;
then every action befalls it behind each of its frames, in either direction, and at random bytes.
Every session sends the whole database, so that its frames are the same each time.
"""

import asyncio
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers_cutting import Action, CuttingProxy, Fault, frame_ends

from edgereplica.adapters.sidecar import Sidecar
from edgereplica.events.errors import EdgeReplicaError, NetworkError
from proof.running import Counts, Job

from .world import Server, Violation, World, require_tidy, snapshot

ACTIONS: tuple[Action, ...] = ("cut", "reset", "stall", "half_close", "dribble")
ROWS, PAGE_SIZE = 2800, 65_536
"""1.2 MiB: two frames of pages. The pages are large: wire v1 has a frame for each one's hash."""
TRIES_TO_REACH = 3
MISSED_SHARE_MAX = 0.05
LATE_SECONDS_MAX = 1.0


@dataclass(frozen=True)
class Kind:
    """What a session is like. `forgetful`: without a sidecar, so that ranges are compared."""

    way: str
    wire_version: int
    forgetful: bool = False
    fresh: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        if not self.forgetful:
            return {}
        return {"force": True, **({"backup": False} if self.way == "pull" else {})}


KINDS = tuple(
    Kind(way, wire_version, forgetful, fresh)
    for wire_version in (1, 2)
    for way, forgetful, fresh in (
        ("push", False, False),
        ("push", True, False),
        ("pull", False, False),
        ("pull", True, False),
        ("pull", False, True),
    )
)


def cut(job: Job) -> Counts:
    """Every frame boundary with every action; then `job.count` random bytes with every action."""
    with Server(job.root / "data") as server:
        world = World(job.root, server, job.dice, ROWS, page_size=PAGE_SIZE)
        with CuttingProxy(server.base, record=True) as proxy:
            bench = _Bench(world, proxy, job.root / "replica" / "replica.db")
            streams = {kind: bench.record(kind) for kind in KINDS}
            for kind, frames, upwards in job.mine(list(_boundaries(streams))):
                bench.found["frame boundaries"] += 1
                for action in ACTIONS:
                    reached = bench.suffer(
                        kind, [Fault(action, frames, upwards, True)] * TRIES_TO_REACH
                    )
                    bench.found["cuts between frames"] += reached
                    bench.found["frames that did not come again"] += not reached
            for _ in job.rounds():
                kind, upwards = job.dice.choice(KINDS), job.dice.random() < 0.5
                length = len(streams[kind][upwards])
                bench.found["random bytes"] += 1
                for action in ACTIONS:
                    at = (job.dice.randrange(length) for _ in range(TRIES_TO_REACH))
                    reached = bench.suffer(kind, (Fault(action, n, upwards) for n in at))
                    bench.found[f"{action} at a random byte"] += reached
                    bench.found["random bytes that did not come again"] += not reached
    bench.found.update({"torn": 0, "acknowledged losses": 0, "retries that failed": 0})
    return bench.found


def lacks(counts: Counts) -> list[str]:
    """Hardly a fault may have missed its session: it was not tried."""
    missed = {
        "frames that did not come again": counts["cuts between frames"],
        "random bytes that did not come again": counts["random bytes"] * len(ACTIONS),
    }
    return [
        f"{counts[name]:,} {name}, of {tried:,}"
        for name, tried in missed.items()
        if counts[name] > MISSED_SHARE_MAX * tried
    ]


Streams = dict[bool, bytes]
"""What one undisturbed session sends upwards (True) and gets."""


def _boundaries(streams: dict[Kind, Streams]) -> Iterator[tuple[Kind, int, bool]]:
    for kind, directions in streams.items():
        for upwards, stream in directions.items():
            for number in range(len(frame_ends(stream))):
                yield kind, number, upwards


class _Bench:
    """Runs sessions through the proxy and looks at what they leave behind."""

    def __init__(self, world: World, proxy: CuttingProxy, replica: Path) -> None:
        self.world, self.proxy, self.replica = world, proxy, replica
        self.found = Counts({"sessions that went through": 0})
        replica.parent.mkdir()
        asyncio.run(world.replica(replica, "pull").pull())

    def record(self, kind: Kind) -> Streams:
        self._run(kind, None)
        link = self.proxy.links[0]
        return {True: bytes(link.up), False: bytes(link.down)}

    def suffer(self, kind: Kind, faults: Iterable[Fault]) -> bool:
        """A session that meets its fault: the first of `faults`, unless it ended before.

        How many frames a server of wire v1 sends depends on how much has arrived when it looks.
        """
        for fault in faults:
            self.found["sessions that went through"] += self._run(kind, fault)
            if self.proxy.reached.is_set():
                return True
        return False

    def _run(self, kind: Kind, fault: Fault | None) -> bool:
        return (self._push if kind.way == "push" else self._pull)(kind, fault)

    def _push(self, kind: Kind, fault: Fault | None) -> bool:
        """Whether it went through all the same."""
        world = self.world
        rewrite(world)
        if kind.forgetful:
            Sidecar.remove(world.origin)
        result = self._attempt(kind, world.origin, fault)
        # Over wire v1 nobody tells the number of the version.
        world.check(result.version if result else None, must_be_new=result is not None)
        if fault is not None and fault.action == "stall":
            self._outlive(kind)
        else:
            self.proxy.sever()
            world.retry(kind.wire_version, **kind.arguments)
        if kind.wire_version == 1:
            world.push()  # changes nothing, but makes the sidecar know its version again
        return result is not None

    def _outlive(self, kind: Kind) -> None:
        """Push on beside a session that seems lost; then what was stalled of it arrives after all.

        Over wire v1, and forced, the last writer wins by design: there nothing is changed meanwhile
        that could be overwritten.
        """
        world = self.world
        world.retry(kind.wire_version, **kind.arguments)
        if kind.wire_version > 1 and not kind.forgetful:
            rewrite(world)
            world.retry()
        self.proxy.release()
        # A client that is given up with a full buffer leaves its connection to its process's end.
        self.proxy.settle(LATE_SECONDS_MAX)
        self.proxy.sever()
        head = world.known
        if world.check() != head:
            raise Violation("a session that was thought lost took the head back")

    def _pull(self, kind: Kind, fault: Fault | None) -> bool:
        world, replica = self.world, self.replica
        rewrite(world)
        world.push()
        new = world.content[world.known]
        if kind.fresh:
            for path in replica.parent.iterdir():
                path.unlink()
        if kind.forgetful:
            Sidecar.remove(replica)
        old = snapshot(replica) if replica.exists() else None
        result = self._attempt(kind, replica, fault)
        self.proxy.sever()
        found = snapshot(replica) if replica.exists() else None
        if found not in (old, new) or (result is not None and found != new):
            raise Violation("a replica is torn")
        again = world.replica(replica, "pull", protocol=kind.wire_version)
        asyncio.run(again.pull(**kind.arguments))
        if snapshot(replica) != new:
            raise Violation("the retry did not bring the new version")
        require_tidy(replica)
        return result is not None

    def _attempt(self, kind: Kind, path: Path, fault: Fault | None) -> Any:
        """The result, or None: the network failed it, or it hung and was given up.

        A link that is only slow, or undisturbed, loses nothing: there it goes through.
        """
        self.proxy.expect(fault)
        replica = self.world.replica(path, kind.way, self.proxy.base, protocol=kind.wire_version)
        work = getattr(replica, kind.way)(**kind.arguments)
        stalls = fault is not None and fault.action == "stall"
        try:
            return asyncio.run(_given_up(work, self.proxy if stalls else None))
        except EdgeReplicaError as error:
            if fault is None or fault.action == "dribble" or error.code != NetworkError.code:
                raise Violation(f"{kind}, {fault}: {error.code}: {error}") from error
            return None


async def _given_up(work: Any, stalling: CuttingProxy | None) -> Any:
    task = asyncio.ensure_future(work)
    while not task.done() and not (stalling and stalling.reached.is_set()):
        await asyncio.wait([task], timeout=0.002 if stalling else None)
    given_up = False
    if not task.done():
        # What comes before the stall may still be on its way.
        await asyncio.wait([task], timeout=0.02)
        given_up = task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        if not given_up:
            raise Violation("a sync that nobody has given up was cancelled") from None
        return None


def rewrite(world: World) -> None:
    """Change every page of the origin, and nothing of its size."""
    dice = world.dice
    with closing(sqlite3.connect(world.origin, isolation_level=None)) as app:
        app.create_function("noise", 0, lambda: dice.randbytes(400))
        app.execute("PRAGMA synchronous = off")
        app.execute("UPDATE t SET x = noise() WHERE id % 7 = ?", (dice.randrange(7),))
