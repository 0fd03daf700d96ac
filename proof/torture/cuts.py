"""A proxy that cuts, resets, stalls, half-closes and dribbles; and disks that fill up."""

import asyncio
from pathlib import Path
from random import Random
from typing import Any

from tests.helpers_cutting import Action, CuttingProxy, Fault, frame_ends

from edgereplica.events.errors import EdgeReplicaError

from .world import Server, Violation, World, snapshot, start_sync

Counts = dict[str, int | float | str]
ACTIONS: tuple[Action, ...] = ("cut", "reset", "stall", "half_close", "dribble")


async def _attempt(proxy: CuttingProxy, work: Any, stalls: bool) -> Any:
    """The result, or the typed error, or None if it hung and was given up."""
    task = asyncio.ensure_future(work)
    while not task.done() and not (stalls and proxy.reached.is_set()):
        await asyncio.wait([task], timeout=0.01)
    if not task.done():
        task.cancel()
    try:
        return await task
    except EdgeReplicaError as error:
        return error
    except asyncio.CancelledError:
        return None


def _cut_push(world: World, proxy: CuttingProxy, fault: Fault | None) -> bool:
    """Whether the push went through all the same."""
    world.edit()
    proxy.expect(fault)
    replica = world.replica(world.origin, "push", proxy.base)
    stalls = fault is not None and fault.action == "stall"
    told = asyncio.run(_attempt(proxy, replica.push(), stalls))
    succeeded = told is not None and not isinstance(told, EdgeReplicaError)
    world.check(told.version if succeeded else None)
    world.retry()
    return succeeded


def _cut_pull(world: World, proxy: CuttingProxy, fault: Fault | None, path: Path) -> bool:
    world.edit()
    version = world.push().version
    new = world.content[version]
    world.content = {version: new}
    old = snapshot(path)
    proxy.expect(fault)
    stalls = fault is not None and fault.action == "stall"
    told = asyncio.run(_attempt(proxy, world.replica(path, "pull", proxy.base).pull(), stalls))
    succeeded = told is not None and not isinstance(told, EdgeReplicaError)
    found = snapshot(path)
    if found not in (old, new) or (succeeded and found != new):
        raise Violation("a replica is torn")
    asyncio.run(world.replica(path, "pull").pull())
    if snapshot(path) != new:
        raise Violation("the retry did not bring the new version")
    return succeeded


def cut(root: Path, count: int, dice: Random) -> Counts:
    """Every frame boundary of a push and a pull with every action; `count` random bytes."""
    with Server(root / "data") as server:
        world = World(root, server, dice, rows=300)
        path = root / "replica.db"
        asyncio.run(world.replica(path, "pull").pull())
        with CuttingProxy(server.base, record=True) as proxy:
            work = {
                "push": lambda fault: _cut_push(world, proxy, fault),
                "pull": lambda fault: _cut_pull(world, proxy, fault, path),
            }
            faults: list[tuple[str, Fault]] = []
            lengths: dict[tuple[str, bool], int] = {}
            for way, do in work.items():
                do(None)
                link = proxy.links[0]
                for upwards, stream in ((True, bytes(link.up)), (False, bytes(link.down))):
                    lengths[way, upwards] = len(stream)
                    faults += [
                        (way, Fault(action, at, upwards))
                        for at in (0, *frame_ends(stream))
                        for action in ACTIONS
                    ]
            boundaries = len(faults)
            for _ in range(count):
                way, upwards = dice.choice(list(lengths))
                at = dice.randrange(lengths[way, upwards])
                faults.append((way, Fault(dice.choice(ACTIONS), at, upwards)))
            went_through = sum(work[way](fault) for way, fault in faults)
        return {
            "cuts at frame boundaries": boundaries,
            "cuts at random bytes": count,
            "went through": went_through,
            "torn": 0,
            "acknowledged losses": 0,
        }


def disk_full(root: Path, count: int, dice: Random) -> Counts:
    """Limits on the size of files: in turn of the server in a push, of the client in a pull."""
    refused = {"server": 0, "client": 0}
    with Server(root / "data") as server:
        world = World(root, server, dice, rows=900)
        largest = 1_000_000
        for number in range(count):
            side = ("server", "client")[number % 2]
            limit = dice.randrange(4096, largest)
            world.edit()
            if side == "server":
                server.limit_file_size(limit)
                sync = start_sync("push", world.origin, server.base, world.tokens["push"])
                told = sync.end()
                server.limit_file_size(1 << 40)
                world.check(told[1].version if told and told[0] == "done" else None)
                world.retry()
            else:
                told = _full_client(world, root / f"replica-{number % 4}.db", limit)
            if told is None:
                raise Violation(f"the client died of a limit of {limit} bytes")
            if told[0] == "failed":
                refused[side] += 1
                if told[1] not in ("disk_full", "storage", "network", "local_file"):
                    raise Violation(f"a full disk was called {told[1]}")
        return {
            "limits": count,
            "refused by the server": refused["server"],
            "refused by the client": refused["client"],
            "torn": 0,
            "acknowledged losses": 0,
        }


def _full_client(world: World, path: Path, limit: int) -> tuple[str, Any] | None:
    version = world.push().version
    new = world.content[version]
    world.content = {version: new}
    old = snapshot(path) if path.exists() else None
    sync = start_sync("pull", path, world.server.base, world.tokens["pull"], file_bytes_max=limit)
    told = sync.end()
    found = snapshot(path) if path.exists() else None
    if found not in (old, new) or (told and told[0] == "done" and found != new):
        raise Violation(f"a replica is torn by a limit of {limit} bytes")
    again = start_sync("pull", path, world.server.base, world.tokens["pull"]).end()
    if again is None or again[0] != "done" or snapshot(path) != new:
        raise Violation(f"the retry failed: {again}")
    return told
