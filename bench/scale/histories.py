"""Long histories: what a push costs the store, and opening and pulling after 1, 100 and 10,000
versions, before and after compaction."""

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

from .world import Client, World, open_world

PULLS = 5


async def _measure(client: Client, what: str) -> dict[str, Any]:
    pulls = [await client.pull() for _ in range(PULLS)]
    return {
        "what": what,
        "versions": client.version,
        "open_seconds": statistics.median(p.open_seconds for p in pulls),
        "pull_seconds": statistics.median(p.total_seconds for p in pulls),
        "gets": pulls[0].usage.gets,
        "get_bytes": pulls[0].usage.get_bytes,
        "other_requests": pulls[0].usage.puts + pulls[0].usage.lists + pulls[0].usage.deletes,
    }


async def _push_until(world: World, client: Client, versions: int) -> dict[str, Any]:
    """Small pushes; what the median and the worst of them asked of the store."""
    services = world.services()
    usages, seconds = [], []
    while client.version < versions:
        client.change(2)
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
        client = Client(world, await world.database(), mib * 256, seed=1)
        before, started = world.store.usage, time.perf_counter()
        await client.push(world.services())
        found["first_push"] = {
            "seconds": time.perf_counter() - started,
            **asdict(world.store.usage.since(before)),
        }
        found["pulls"].append(await _measure(client, "as pushed"))
        for count in versions[1:]:
            found["small_push"] = await _push_until(world, client, count)
            found["pulls"].append(await _measure(client, "as pushed"))
            print(f"  {count:,} versions pushed and pulled", flush=True)
        found["compaction"] = await _compact(world)
        found["pulls"].append(await _measure(client, "compacted"))
        found["collection"] = await _collect(world)
        found["pulls"].append(await _measure(client, "compacted and collected"))
        old = [await client.pull(max(1, client.version // 2)) for _ in range(PULLS)]
        found["old_version_pull_seconds"] = statistics.median(p.total_seconds for p in old)
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
