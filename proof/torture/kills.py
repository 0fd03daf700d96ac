"""SIGKILL at random moments: the server in a push, the client in a push, the client in a pull."""

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from random import Random

from edgereplica.app.results import PushResult

from .world import Server, Violation, World, snapshot, start_sync

Counts = dict[str, int | float | str]


def _usual_seconds(world: World, way: str, path: Path) -> float:
    """How long such a sync takes from its process's start to its end."""
    samples = []
    for _ in range(5):
        world.edit()
        if way == "pull":
            world.push()
        started = time.monotonic()
        sync = start_sync(way, path, world.server.base, world.tokens[way])
        if sync.end() is None:
            raise Violation("an undisturbed sync died")
        samples.append(time.monotonic() - started)
        if way == "push":
            world.push()
    return max(samples)


def kill_server(root: Path, count: int, dice: Random) -> Counts:
    acknowledged = committed = 0
    with Server(root / "data") as server:
        world = World(root, server, dice)
        usual = _usual_seconds(world, "push", world.origin)
        for _ in range(count):
            world.edit()
            known = max(world.content)
            sync = start_sync("push", world.origin, server.base, world.tokens["push"])
            time.sleep(dice.uniform(0, usual))
            server.kill()
            told = sync.end()
            version = _acknowledged(told)
            server.start()
            head = world.check(version)
            acknowledged += version is not None
            committed += head > known
            world.retry()
        return {
            "kills": count,
            "acknowledged before": acknowledged,
            "committed unheard": committed - acknowledged,
            "torn": 0,
            "acknowledged losses": 0,
            "retries that succeeded": count,
        }


def _acknowledged(told: object) -> int | None:
    if isinstance(told, tuple) and isinstance(told[1], PushResult):
        return told[1].version
    return None


def kill_push(root: Path, count: int, dice: Random) -> Counts:
    acknowledged = committed = 0
    with Server(root / "data") as server:
        world = World(root, server, dice)
        usual = _usual_seconds(world, "push", world.origin)
        for _ in range(count):
            world.edit()
            before, known = snapshot(world.origin), max(world.content)
            sync = start_sync("push", world.origin, server.base, world.tokens["push"])
            time.sleep(dice.uniform(0, usual))
            sync.process.kill()
            version = _acknowledged(sync.end())
            if snapshot(world.origin) != before:
                raise Violation("a push that was killed changed the file")
            head = world.check(version)
            acknowledged += version is not None
            committed += head > known
            world.retry()
        return {
            "kills": count,
            "acknowledged before": acknowledged,
            "committed unheard": committed - acknowledged,
            "torn": 0,
            "acknowledged losses": 0,
            "retries that succeeded": count,
        }


def kill_pull(root: Path, count: int, dice: Random) -> Counts:
    """In turn into a file in WAL mode, one with a rollback journal, and a file not yet there."""
    new_found = 0
    with Server(root / "data") as server:
        world = World(root, server, dice)
        replicas = {kind: root / f"{kind}.db" for kind in ("wal", "rollback", "fresh")}
        for kind in ("wal", "rollback"):
            start_sync("pull", replicas[kind], server.base, world.tokens["pull"]).end()
        _set_wal(replicas["wal"])
        usual = _usual_seconds(world, "pull", root / "timing.db")
        for number in range(count):
            kind = ("wal", "rollback", "fresh")[number % 3]
            replica = replicas[kind]
            if kind == "fresh":
                for path in root.glob("fresh.db*"):
                    path.unlink()
            world.edit()
            version = world.push().version
            new = world.content[version]
            world.content = {version: new}
            old = snapshot(replica) if replica.exists() else None
            sync = start_sync("pull", replica, server.base, world.tokens["pull"])
            time.sleep(dice.uniform(0, usual))
            sync.process.kill()
            told = sync.end()
            found = snapshot(replica) if replica.exists() else None
            if found not in (old, new):
                raise Violation(f"a {kind} replica is torn")
            if told is not None and found != new:
                raise Violation("a pull that was acknowledged is not in the file")
            new_found += found == new
            again = start_sync("pull", replica, server.base, world.tokens["pull"]).end()
            if again is None or again[0] != "done" or snapshot(replica) != new:
                raise Violation(f"the retry failed: {again}")
        shutil.rmtree(root / "data")
        return {
            "kills": count,
            "new version found": new_found,
            "old version found": count - new_found,
            "torn": 0,
            "retries that succeeded": count,
        }


def _set_wal(path: Path) -> None:
    with closing(sqlite3.connect(path)) as app:
        app.execute("PRAGMA journal_mode = wal")
