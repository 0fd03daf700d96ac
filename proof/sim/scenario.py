"""One seed, one run: what clients do, what befalls them, and how it must end."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from edgereplica.adapters.event_log import EventLog
from edgereplica.app.client_session import ClientTransport, Options
from edgereplica.app.history import DatabaseHistory
from edgereplica.app.retention import Retention, set_retention
from edgereplica.app.tokens import Direction
from edgereplica.events.errors import EdgeReplicaError

from .beginning import DATABASE, ORG
from .client import SimClient
from .loop import SimLoop
from .oracle import judge
from .replica import Content
from .tables import Machines
from .wire import NOTICE_SECONDS_MAX, Trace
from .world import GRACE_SECONDS, Violation, World

PUSH_EXCUSES = frozenset({"conflict"})
"""Why a push may fail where nothing goes wrong; a forced one, and any in wire v1, may not."""
FORCED_PULL_EXCUSES = frozenset({"file_replaced"})
PULL_EXCUSES = FORCED_PULL_EXCUSES | {"no_shared_history", "unpushed_changes"}
FAULTS = frozenset({"network", "storage", "local_file", "session_too_slow"})
"""What faults may show as. Anything else is nobody's fault but the product's."""
FAULTS_IN_V1 = FAULTS | {"remote_error"}
"""Where the server's error has no code."""


@dataclass(slots=True)
class Result:
    """What a run did; `trace` is equal for equal runs."""

    seed: int
    trace: str
    counts: Counter[str]


def run(
    seed: int,
    *,
    real: bool = True,
    judged: bool = True,
    record: Path | None = None,
    pace: float | None = None,
) -> Result:
    """Play `seed`. Raises `Violation`, `Deadlock`, or what a defect raised.

    `real` says whether python-statemachine runs the machines, or their tables do (`tables`).
    The trace covers all frames and what is on the server's disk at the end, so of two runs with
    one trace only one need be `judged`. `record` is a folder for a recording of every session and
    for the trace in words. `pace` overrides the seed's own (`World`).
    """
    loop = SimLoop()
    trace = Trace(words=record is not None)
    machines = Machines(real or record is not None)
    world = World(seed, loop, trace, machines, record)
    if pace is not None:
        world.pace = pace
    loop.set_exception_handler(lambda _, context: world.note_defect(context))
    try:
        with machines.in_place(), world.sizes.in_place():
            loop.run_until_complete(_scenario(world))
            world.trace_disk()
            if judged:
                loop.run_until_complete(judge(world))
    finally:
        if record is not None:
            (record / "trace.txt").write_text("".join(f"{note}\n" for note in trace.notes))
        _end(loop, world)
    return Result(seed, trace.digest(), world.counts)


def _end(loop: SimLoop, world: World) -> None:
    left = [task for task in loop.tasks if not task.done()]
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left))
    loop.tasks.clear()
    loop.close()
    world.close()


async def _scenario(world: World) -> None:
    rng = world.rng
    for _ in range(world.servers):
        world.boot()
    clients = [_client(world, f"c{number}") for number in range(rng.choice((2, 2, 3)))]
    steps = rng.randrange(1, 4)
    caretaker = world.loop.create_task(_caretaking(world)) if world.is_slow else None
    await asyncio.gather(_trouble(world), *(_work(world, clients, c, steps) for c in clients))
    if caretaker is not None:
        caretaker.cancel()
    await _heal(world, clients)
    if world.is_slow:
        # Garbage is seen, is seen again when the grace is over, and only then goes.
        for _ in range(3):
            await asyncio.sleep(2 * GRACE_SECONDS)
            await world.maintain()


async def _work(world: World, clients: list[SimClient], client: SimClient, steps: int) -> None:
    """A user: edits, pushes, pulls, is refused, forces, and sometimes loses the machine."""
    rng = world.rng
    replica = client.replica
    for _ in range(steps):
        await asyncio.sleep(rng.random() * 3 * world.pace)
        if world.faulty and rng.random() < 0.08:
            world.counts["clients restored or copied"] += 1
            other = rng.choice(clients).replica
            held, synced = rng.choice((*replica.backups, (other.content, other.synced)))
            replica.become(held, synced)
        if replica.content is None or rng.random() < 0.6:
            replica.write(edited(rng, replica.content))
        kind = rng.random()
        force = rng.random() < 0.25
        if kind < 0.6:
            excuses = PUSH_EXCUSES if client.wire_version > 1 and not force else frozenset()
            # What broke off is often begun anew, once the server may have noticed.
            while await _attempt(world, client, client.push(force), excuses):
                if replica.content is None or rng.random() < 0.4:
                    break  # the power took it, or nobody cares
                await asyncio.sleep(rng.random() * NOTICE_SECONDS_MAX)
            continue
        versions = len(world.versions_now()) if client.wire_version > 1 else 0
        at = rng.randrange(1, versions + 1) if versions and rng.random() < 0.3 else None
        excuses = FORCED_PULL_EXCUSES if force else PULL_EXCUSES
        if at is not None and world.keep_last is not None:
            excuses |= {"not_found"}
        await _attempt(world, client, client.pull(force, at), excuses)


async def _attempt(
    world: World, client: SimClient, call: Coroutine[Any, Any, None], excuses: frozenset[str]
) -> bool:
    """Run one command: it ends well, in an error that has a reason here, or with its process
    killed. Returns whether a fault broke it off."""
    rng = world.rng
    task = world.loop.create_task(call)
    dies = not world.quiet and rng.random() < 0.1
    killed = False
    writes = rng.random() < 0.15
    wait = rng.random() * 1.5 if dies or writes else None
    if wait is not None:
        await asyncio.wait([task], timeout=wait)
        if writes and not task.done():
            client.replica.write(edited(rng, client.replica.content))
        if dies and not task.done():
            killed = True
            _kill(world, client, task)
    try:
        await task
    except EdgeReplicaError as error:
        world.trace.note(world.loop.now, f"{client.name} ends: {error.code}")
        faults = FAULTS if client.wire_version > 1 else FAULTS_IN_V1
        if error.code not in (excuses if world.quiet else excuses | faults):
            raise Violation(f"{client.name} failed, and nothing is wrong: {error!r}") from error
        return error.code in faults
    except asyncio.CancelledError as error:
        if not killed:
            raise Violation(f"{client.name} was ended, and nobody did it") from error
        return True
    return False


def _kill(world: World, client: SimClient, task: asyncio.Task[None]) -> None:
    """End the client's process, or its whole machine: then nobody closes its connection."""
    world.trace.note(world.loop.now, f"{client.name} killed")
    if world.rng.random() < 0.5:
        world.counts["clients killed"] += 1
    else:
        world.counts["clients without power"] += 1
        world.cut_off(client.name)
        client.replica.lose_power(world.rng)
    task.cancel()


async def _trouble(world: World) -> None:
    """Crash a server now and then, and bring it back."""
    rng = world.rng
    if world.quiet:
        return
    for _ in range(rng.randrange(3)):
        await asyncio.sleep(rng.random() * 4 * world.pace)
        world.counts["server crashes"] += 1
        world.crash()
        await asyncio.sleep(rng.random() * 2)
        world.boot()


async def _caretaking(world: World) -> None:
    """Look after storage again and again; perhaps let go of old versions."""
    rng = world.rng
    if rng.random() < 0.4:
        histories = DatabaseHistory(EventLog(world.repo, world.clock))
        world.keep_last = rng.randrange(1, 4)
        keep = Retention(keep_last=world.keep_last)
        await set_retention(histories, await histories.open(DATABASE, ORG), keep, "u")
    while True:
        await asyncio.sleep(rng.random() * world.pace)
        await world.maintain()


async def _heal(world: World, clients: list[SimClient]) -> None:
    """The faults are over: everybody gets on, without a retry."""
    world.healing = True
    sessions = [task for process in world.processes for task in process.sessions]
    if sessions:
        await asyncio.wait(sessions)
    while world.processes:
        world.crash()
    for _ in range(world.servers):
        world.boot()
    for client in clients:
        client.options = _options(world, client.name, client.wire_version, retries=0)
        await client.pull(force=True)
        _check_holds_head(world, client)
    if world.rng.random() < 0.25:
        await _share(world, clients)
    if world.rng.random() < 0.25:
        await _meet(world, clients)


def _check_holds_head(world: World, client: SimClient) -> None:
    held, versions = client.replica.content, world.versions_now()
    assert held is not None
    if held.root != versions[-1].root if versions else held.pages:
        raise Violation(f"{client.name} pulled, and does not hold the head")


async def _share(world: World, clients: list[SimClient]) -> None:
    """A change of one reaches the others, with nobody forcing anything."""
    first = clients[0]
    change = edited(world.rng, first.replica.content)
    first.replica.write(change)
    await first.push(force=first.wire_version == 1)
    for client in clients[1:]:
        await client.pull(force=False)
        if client.replica.content != change:
            raise Violation(f"{client.name} did not get what was pushed")


async def _meet(world: World, clients: list[SimClient]) -> None:
    """The others pull while one pushes: what they lack may be another page a moment later. Then
    that one looks at an old version."""
    first = clients[0]
    rng = world.rng

    async def read(client: SimClient) -> None:
        await asyncio.sleep(rng.random() * 0.2)
        await client.pull(force=False)

    for client in clients:
        if client is not first:
            await client.pull(force=False)
            if rng.random() < 0.6:
                client.wire_version = 1
                client.options = _options(world, client.name, 1, retries=0)
    await first.pull(force=False)
    for number in range(2):
        first.replica.write(edited(rng, edited(rng, first.replica.content)))
        push = first.push(force=first.wire_version == 1)
        if number == 0:
            await push
        else:
            await asyncio.gather(push, *(read(client) for client in clients[1:]))
    if first.wire_version > 1:
        head = len(world.versions_now())
        oldest = head if world.keep_last is not None else 1
        await first.pull(force=False, at=rng.randrange(oldest, head + 1))
    for client in clients:
        await client.pull(force=False)
        _check_holds_head(world, client)


def _client(world: World, name: str) -> SimClient:
    rng = world.rng
    wire_version = 1 if rng.random() < 0.2 else 2
    retries = rng.choice((0, 2, 5))
    options = _options(world, name, wire_version, retries)
    batch_bytes = world.sizes.batch_bytes
    return SimClient(name, options, wire_version, rng, world, world.machines, batch_bytes)


def _options(world: World, name: str, wire_version: int, retries: int) -> Options:
    async def connector(url: str, token: str) -> ClientTransport:
        direction: Direction = "push" if token == "push" else "pull"
        return await world.connect(name, wire_version, direction)

    return Options(
        server="http://simulated",
        token="",
        retries=retries,
        record=world.record,
        connector=connector,
    )


# What applications write


def some_page(rng: Random, page_size: int) -> bytes:
    return rng.randbytes(8).ljust(page_size, rng.choice((b"\0", b"x")))


def edited(rng: Random, content: Content | None) -> Content:
    """What an application makes of its database: some pages changed, more of them, or fewer."""
    if content is None or not content.pages or rng.random() < 0.06:
        size = rng.choice((512, 512, 1024))
        return Content(size, tuple(some_page(rng, size) for _ in range(rng.randrange(1, 14))))
    pages = list(content.pages)
    kind = rng.random()
    if kind < 0.2 and len(pages) > 2:
        del pages[rng.randrange(1, len(pages)) :]
    elif kind < 0.4:
        pages += [some_page(rng, content.page_size) for _ in range(rng.randrange(1, 6))]
    elif kind < 0.45:
        rng.shuffle(pages)
    for _ in range(rng.randrange(1, 4)):
        pages[rng.randrange(len(pages))] = some_page(rng, content.page_size)
    return Content(content.page_size, tuple(pages))
