"""SIGKILL at random moments: the server in a push, the client in a push, the client in a pull.

A session is mostly waiting and start-up, so that moments drawn evenly over its whole time would
hit before it begins or after its end. Each kill is aimed at one of the session's phases, all as
often, and falls at a random moment of that phase. What counts is the phase that the client had
told of last when the kill came; the counts show where they fell.
"""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random

from edgereplica.app.results import PushResult
from proof.running import Counts, Job

from .client import ENDED, PHASES, Sync, start_sync, usual_seconds
from .world import Server, Violation, World, require_tidy, snapshot

ROWS, CHANGES = 5000, 400
"""Sessions of about one megabyte: several frames of pages, tens of milliseconds."""
LINK_BYTES_PER_SECOND = 50e6
SAMPLES = 4
OVERSHOOT = 1.1
"""A phase may last longer than usual: its last part is aimed at too."""


class Marksman:
    """Kills aimed at every phase alike. `counts` says what was hit."""

    def __init__(self, way: str, dice: Random, samples: list[Sync]) -> None:
        self.way, self.dice = way, dice
        self.usual = usual_seconds(samples, way)
        self.targets = [phase for phase in PHASES[way] if phase in self.usual]
        self.shots = 0
        self.hits = Counts({_hit(phase): 0 for phase in (*self.targets, ENDED)})

    def shoot(self, sync: Sync, kill: Callable[[], None]) -> None:
        """Call `kill` at a random moment of the next target."""
        target = self.targets[self.shots % len(self.targets)]
        self.shots += 1
        sync.wait_for(target, self.way)
        time.sleep(self.dice.uniform(0, self.usual[target] * OVERSHOOT))
        sync.hear_all()
        hit = sync.phase
        kill()
        if kill == sync.process.kill:
            sync.end()
            hit = sync.phase
        self.hits[_hit(hit)] += 1

    @property
    def counts(self) -> Counts:
        return self.hits


def _hit(phase: str) -> str:
    return phase if phase.startswith("after") else f"in {phase}".replace("in before", "before")


def _start(world: World, way: str, path: Path) -> Sync:
    return start_sync(
        way, path, world.server.base, world.tokens[way], link_bytes_per_second=LINK_BYTES_PER_SECOND
    )


def _samples(world: World, way: str, prepare: Callable[[], Path]) -> list[Sync]:
    """Some syncs that nothing disturbs."""
    found = []
    for _ in range(SAMPLES):
        path = prepare()
        sync = _start(world, way, path)
        if sync.end() is None:
            raise Violation("an undisturbed sync died")
        found.append(sync)
        if way == "push":
            world.push()
    return found


def _edited(world: World) -> Path:
    world.edit()
    return world.origin


def kill_server(job: Job) -> Counts:
    with Server(job.root / "data") as server:
        return _kill_pushes(job, server, server.kill)


def kill_push(job: Job) -> Counts:
    with Server(job.root / "data") as server:
        return _kill_pushes(job, server, None)


def _kill_pushes(job: Job, server: Server, kill_server: Callable[[], None] | None) -> Counts:
    """Kill the client, unless there is something else to kill."""
    world = World(job.root, server, job.dice, ROWS, CHANGES)
    marksman = Marksman("push", job.dice, _samples(world, "push", lambda: _edited(world)))
    found = Counts({"kills": 0, "acknowledged before": 0, "committed unheard": 0})
    for _ in job.rounds():
        world.edit()
        before, known = snapshot(world.origin), world.known
        sync = _start(world, "push", world.origin)
        marksman.shoot(sync, kill_server or sync.process.kill)
        version = _acknowledged(sync.end())
        if kill_server is not None:
            server.start()
        if snapshot(world.origin) != before:
            raise Violation("a push that was killed changed the file")
        head = world.check(version)
        found["kills"] += 1
        found["acknowledged before"] += version is not None
        found["committed unheard"] += head > known and version is None
        world.retry()
    found.update(marksman.counts)
    found.update({"torn": 0, "acknowledged losses": 0, "retries that failed": 0})
    return found


def _acknowledged(told: object) -> int | None:
    if isinstance(told, tuple) and isinstance(told[1], PushResult):
        return told[1].version
    return None


KINDS = ("wal", "rollback", "fresh")


def kill_pull(job: Job) -> Counts:
    """In turn into a file in WAL mode, one with a rollback journal, and a file not yet there."""
    found = Counts({"kills": 0, "old version found": 0, "new version found": 0})
    with Server(job.root / "data") as server:
        world = World(job.root, server, job.dice, ROWS, CHANGES)
        replicas = {kind: _replica(job.root / kind, world, kind) for kind in KINDS}
        marksmen = {
            kind: Marksman("pull", job.dice, _samples(world, "pull", _pushed(world, replica)))
            for kind, replica in replicas.items()
        }
        for number in job.rounds():
            kind = KINDS[number % len(KINDS)]
            replica = _pushed(world, replicas[kind])()
            new = world.content[world.known]
            old = snapshot(replica) if replica.exists() else None
            sync = _start(world, "pull", replica)
            marksmen[kind].shoot(sync, sync.process.kill)
            now = snapshot(replica) if replica.exists() else None
            if now not in (old, new):
                raise Violation(f"a {kind} replica is torn")
            if sync.ending is not None and now != new:
                raise Violation("a pull that was acknowledged is not in the file")
            found["kills"] += 1
            found["new version found" if now == new else "old version found"] += 1
            _pull_again(world, replica, new)
    for marksman in marksmen.values():
        found.update(marksman.counts)
    found.update({"torn": 0, "retries that failed": 0, "retries that needed --force": 0})
    return found


def _replica(directory: Path, world: World, kind: str) -> Path:
    directory.mkdir()
    path = directory / "replica.db"
    if kind != "fresh":
        start_sync("pull", path, world.server.base, world.tokens["pull"]).end()
    if kind == "wal":
        with closing(sqlite3.connect(path)) as app:
            app.execute("PRAGMA journal_mode = wal")
    return path


def _pushed(world: World, replica: Path) -> Callable[[], Path]:
    """Push something new; a replica that shall be fresh is removed, with all that is beside it."""

    def prepare() -> Path:
        world.edit()
        world.push()
        if replica.parent.name == "fresh":
            for path in replica.parent.iterdir():
                path.unlink()
        return replica

    return prepare


def _pull_again(world: World, replica: Path, new: list[bytes]) -> None:
    """As a user would, without --force; and nothing of the killed pull is left over."""
    again = start_sync("pull", replica, world.server.base, world.tokens["pull"]).end()
    if again is None or again[0] != "done" or snapshot(replica) != new:
        raise Violation(f"the retry failed: {again}")
    require_tidy(replica)
