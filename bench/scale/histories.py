"""Long histories: what a push and a pull ask of the store, and opening and pulling after 1, 100 and
10,000 versions, before and after compaction.

A pull of a long history is compared with one of a twin: the same content, pushed once. The two are
pulled by turns, and the fastest of each counts: whatever else the machine does only adds.
"""

import asyncio
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgereplica.adapters.clock import ManualClock
from edgereplica.adapters.page_storage import PageStorage
from edgereplica.app.compaction import Compactor
from edgereplica.app.gc import GarbageCollector
from edgereplica.app.history import DatabaseHistory
from edgereplica.events.limits import CLOCK_SKEW_SECONDS_MAX

from .world import Client, Image, Pulled, World, open_world

_PULLS = 5
_ROUNDS = 15
_PULLING_SECONDS = 5.0
"""After so long, what was pulled so far must do: thousands of requests of an emulated store."""


async def _by_turns(rounds: int, *clients: Client) -> list[list[Pulled]]:
    found: list[list[Pulled]] = [[] for _ in clients]
    until = time.perf_counter() + _PULLING_SECONDS
    for _ in range(rounds):
        for client, pulls in zip(clients, found, strict=True):
            pulls.append(await client.pull())
        if time.perf_counter() > until:
            break
    return found


def _said(what: str, versions: int, pulls: list[Pulled]) -> dict[str, Any]:
    return {
        "what": what,
        "versions": versions,
        "pulls": len(pulls),
        "open_seconds": min(p.open_seconds for p in pulls),
        "pull_seconds": min(p.total_seconds for p in pulls),
        "pull_seconds_median": statistics.median(p.total_seconds for p in pulls),
        "gets": pulls[0].usage.gets,
        "get_bytes": pulls[0].usage.get_bytes,
        "other_requests": pulls[0].usage.puts + pulls[0].usage.lists + pulls[0].usage.deletes,
    }


async def _push_until(world: World, client: Client, versions: int) -> dict[str, Any]:
    """Small pushes; what the median and the worst of them asked of the store."""
    services = world.services()
    usages, seconds = [], []
    while client.image.version < versions:
        client.image.change(2)
        before, started = world.store.usage, time.perf_counter()
        await client.push(services)
        seconds.append(time.perf_counter() - started)
        usages.append(world.store.usage.since(before))
    return {
        "pushes": len(usages),
        "seconds": statistics.median(seconds),
        "puts_max": max(u.puts for u in usages),
        "lists_max": max(u.lists for u in usages),
        "gets": sum(u.gets for u in usages) / len(usages),
        "put_bytes": statistics.median(u.put_bytes for u in usages),
        "put_bytes_mean": sum(u.put_bytes for u in usages) / len(usages),
    }


async def _run(data_dir: Path, mib: int, versions: list[int]) -> dict[str, Any]:
    found: dict[str, Any] = {"mib": mib, "pulls": []}
    async with open_world(data_dir) as world:
        client = Client(world, await world.database(), Image(mib * 256, seed=1))
        before, started = world.store.usage, time.perf_counter()
        await client.push(world.services())
        found["first_push"] = {
            "seconds": time.perf_counter() - started,
            **asdict(world.store.usage.since(before)),
        }
        (pulls,) = await _by_turns(_PULLS, client)
        found["pulls"].append(_said("as pushed", 1, pulls))
        for count in versions[1:]:
            found["small_push"] = await _push_until(world, client, count)
            (pulls,) = await _by_turns(_PULLS, client)
            found["pulls"].append(_said("as pushed", count, pulls))
            print(f"  {count:,} versions pushed and pulled", flush=True)
        found["compaction"] = await _compact(world)
        twin = Client(world, await world.database(), client.image.twin())
        await twin.push(world.services())
        one, compacted = await _by_turns(_ROUNDS, twin, client)
        found["pulls"].append(_said("its content, pushed once", 1, one))
        found["pulls"].append(_said("compacted", versions[-1], compacted))
        found["collection"] = await _collect(world)
        one, collected = await _by_turns(_ROUNDS, twin, client)
        found["pulls"].append(_said("compacted and collected", versions[-1], collected))
        found["compared"] = {
            "one": min(p.total_seconds for p in one),
            "compacted": min(p.total_seconds for p in collected),
            "rounds": len(one),
        }
        old = [await client.pull(max(1, versions[-1] // 2)) for _ in range(_PULLS)]
        found["old_version_pull_seconds"] = min(p.total_seconds for p in old)
    return found


async def _compact(world: World) -> dict[str, Any]:
    before, started = world.store.usage, time.perf_counter()
    compactor = Compactor(
        world.repo,
        DatabaseHistory(world.log),
        PageStorage(world.store, world.ids, cache_bytes=0),
        world.clock,
    )
    report = await compactor.run()
    assert report.failed == ()
    usage = asdict(world.store.usage.since(before))
    return {"seconds": time.perf_counter() - started, **asdict(report), **usage}


async def _collect(world: World) -> dict[str, Any]:
    """Two runs, a grace apart by a clock that is moved."""
    clock = ManualClock(world.clock.now() + 1)
    collector = GarbageCollector(
        world.repo,
        world.log,
        DatabaseHistory(world.log),
        world.store,
        clock,
        world.ids,
        grace_seconds=0,
    )
    before, started = world.store.usage, time.perf_counter()
    first = await collector.run()
    clock.advance(2 * CLOCK_SKEW_SECONDS_MAX)
    last = await collector.run()
    assert first.failed == last.failed == ()
    usage = asdict(world.store.usage.since(before))
    return {
        "seconds": time.perf_counter() - started,
        "objects_before": first.objects,
        "bytes_before": first.object_bytes,
        "deleted": last.deleted,
        "deleted_bytes": last.deleted_bytes,
        **usage,
    }


def measure(data_dir: Path, mib: int, versions: list[int]) -> dict[str, Any]:
    return asyncio.run(_run(data_dir, mib, versions))
