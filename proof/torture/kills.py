"""SIGKILL at random moments: the server in a push, the client in a push, the client in a pull.

A session is mostly waiting and start-up, so that moments drawn evenly over its whole time would
hit before it begins or after its end. Each kill is aimed at one of the session's phases, all as
often, and falls at a random moment of that phase. What counts is the phase that the client had
told of last when the kill came; the counts show where they fell. A shot that came after the end of
its session has killed nothing: it is no kill, and is fired again, earlier each time.
"""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random

from edgereplica.app.results import PushResult
from edgereplica.events.errors import NetworkError
from proof.running import Counts, Job

from .client import ENDED, PHASES, Sync, start_sync, usual_seconds
from .world import Server, Violation, World, journal_mode, require_tidy, snapshot

ROWS, CHANGES = 5000, 400
"""Sessions of about one megabyte: several frames of pages, tens of milliseconds."""
LINK_BYTES_PER_SECOND = 50e6
SAMPLES = 4
OVERSHOOT = 1.1
"""A phase may last longer than usual: its last part is aimed at too."""
SHOTS_MAX = 12
"""Of one kill; the last of them come right where their phase begins."""
LATE = f"shots {ENDED}"


def phase_of(shot: int, kinds: int = 1) -> int:
    """Which phase, of all, a shot is aimed at; with it goes the kind `shot % kinds`.

    As many shots as there are phases are aimed at each of them once; `kinds` times as many meet
    every kind in every phase.
    """
    return (shot + shot // len(PHASES["push"]) * (kinds > 1)) % len(PHASES["push"])


class Marksman:
    """Kills aimed at every phase alike. `counts` says what was hit."""

    def __init__(self, way: str, dice: Random, samples: list[Sync]) -> None:
        self.way, self.dice = way, dice
        self.usual = usual_seconds(samples, way)
        self.hits = Counts({_hit(phase): 0 for phase in (*PHASES[way], ENDED)})

    def shoot(self, sync: Sync, at: int, kill: Callable[[], None], share: float = 1.0) -> bool:
        """Call `kill` at a random moment of the phase with the number `at`: of so large a share of
        it, from its begin. Whether the session was still going on."""
        target = PHASES[self.way][at]
        sync.wait_for(target, self.way)
        # Rather early than late: what is heard of a phase is heard a little after it has begun.
        time.sleep(self.usual.get(target, 0) * OVERSHOOT * share * self.dice.random() ** 2)
        sync.hear_all()
        hit = sync.phase
        kill()
        if kill == sync.process.kill:
            sync.end()
            hit = sync.phase
        self.hits[_hit(hit)] += 1
        return hit != ENDED


def until_one_hits(shoot: Callable[[float], bool]) -> None:
    """Shoot until a session is hit. `shoot` is told which share of its phase to aim at."""
    for missed in range(SHOTS_MAX):
        if shoot(1 - missed / (SHOTS_MAX - 1)):
            return
    raise Violation(f"{SHOTS_MAX} shots at one phase came after the end of their sessions")


def lacks(way: str, counts: Counts) -> list[str]:
    """The phases in which no kill fell; and what is called a kill and fell in none."""
    in_phases = sum(counts[_hit(phase)] for phase in PHASES[way])
    outside = counts["kills"] - in_phases
    return [f"no kill {_hit(phase)}" for phase in PHASES[way] if not counts[_hit(phase)]] + (
        [f"{outside} of the kills fell in no phase"] if outside else []
    )


def _hit(phase: str) -> str:
    return LATE if phase == ENDED else f"in {phase}".replace("in before", "before")


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
        told = sync.end()
        if told is None or told[0] != "done":
            raise Violation(f"an undisturbed sync failed: {told}")
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

    def shoot(shot: int, share: float) -> bool:
        world.edit()
        before, known = snapshot(world.origin), world.known
        sync = _start(world, "push", world.origin)
        hit = marksman.shoot(sync, phase_of(shot), kill_server or sync.process.kill, share)
        version = _acknowledged(sync, may_fail=kill_server is not None)
        if kill_server is not None:
            server.start()
        if snapshot(world.origin) != before:
            raise Violation("a push that was killed changed the file")
        head = world.check(version)
        found["kills"] += hit
        found["acknowledged before"] += hit and version is not None
        found["committed unheard"] += head > known and version is None
        world.retry()
        return hit

    for number in job.rounds():
        until_one_hits(partial(shoot, _shot(job, number)))
    found.update(marksman.hits)
    found.update({"torn": 0, "acknowledged losses": 0, "retries that failed": 0})
    return found


def _shot(job: Job, number: int) -> int:
    """The shots of all processes together, so that even a few of them meet every phase."""
    return number * job.parts + job.part


def _acknowledged(sync: Sync, may_fail: bool) -> int | None:
    """The version a push was told of. It may fail when it is its server that was killed, and then
    says so: by the network's error, not by a crash."""
    told = sync.end()
    _require_no_crash(sync)
    if told is None:
        if may_fail:
            raise Violation("a client said nothing when its server was killed")
        return None
    kind, said = told
    if kind == "failed" and not (may_fail and said == NetworkError.code):
        raise Violation(f"a client failed with {said}")
    return said.version if isinstance(said, PushResult) else None


def _require_no_crash(sync: Sync) -> None:
    if sync.crashed:
        raise Violation(f"a client crashed (exit code {sync.process.exitcode})")


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

        def shoot(shot: int, share: float) -> bool:
            kind = KINDS[shot % len(KINDS)]
            replica = _pushed(world, replicas[kind])()
            new = world.content[world.known]
            cut_late = kind == "rollback"
            old = snapshot(replica, cut_late) if replica.exists() else None
            mode = journal_mode(replica)
            sync = _start(world, "pull", replica)
            aim = phase_of(shot, len(KINDS))
            hit = marksmen[kind].shoot(sync, aim, sync.process.kill, share)
            _require_no_crash(sync)
            now = snapshot(replica, cut_late) if replica.exists() else None
            if now not in (old, new):
                raise Violation(f"a {kind} replica is torn")
            if sync.ending is not None and (sync.ending[0] != "done" or now != new):
                raise Violation(f"a pull that ended with {sync.ending} is not in the file")
            found["kills"] += hit
            found["new version found" if now == new else "old version found"] += hit
            _pull_again(world, replica, new, cut_late)
            if mode not in (None, journal_mode(replica)):
                raise Violation(f"a {kind} replica lost its journal mode")
            return hit

        for number in job.rounds():
            until_one_hits(partial(shoot, _shot(job, number)))
    for marksman in marksmen.values():
        found.update(marksman.hits)
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


def _pull_again(world: World, replica: Path, new: list[bytes], cut_late: bool) -> None:
    """As a user would, without --force; and nothing of the killed pull is left over."""
    again = start_sync("pull", replica, world.server.base, world.tokens["pull"]).end()
    if again is None or again[0] != "done" or snapshot(replica, cut_late) != new:
        raise Violation(f"the retry failed: {again}")
    require_tidy(replica)
