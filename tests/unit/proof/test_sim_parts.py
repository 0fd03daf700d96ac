"""The parts of the simulation: its loop, its disks, its wires, and the machines' tables."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import nullcontext
from random import Random
from typing import Any

import pytest
from proof.sim.loop import Deadlock, SimLoop
from proof.sim.replica import Content, LocalDisk, Replica, Synced
from proof.sim.storage import Disk, FaultyRepo, FaultyStore, Killed, RewindableRepo
from proof.sim.tables import table_class
from proof.sim.wire import Connection, Fault, FaultKind, Trace
from tests.exploring import Situation, examples, explore, memory

from edgereplica.adapters.memory_store import MemoryStore
from edgereplica.adapters.ports import Statement
from edgereplica.events.errors import (
    AlreadyExists,
    EdgeReplicaError,
    LocalFileError,
    NetworkError,
    StorageError,
)
from edgereplica.events.pages import PageSet
from edgereplica.fsm.registry import MACHINES

# Time


def in_simulated_time(work: Coroutine[Any, Any, Any]) -> tuple[Any, float]:
    """What `work` returns, and what time it is then."""
    loop = SimLoop()
    try:
        return loop.run_until_complete(work), loop.now
    finally:
        loop.close()


def test_time_jumps_to_the_next_timer() -> None:
    async def work() -> list[str]:
        said: list[str] = []

        async def speak(after: float, word: str) -> None:
            await asyncio.sleep(after)
            said.append(word)

        await asyncio.gather(speak(3000, "c"), speak(20, "b"), speak(0, "a"), speak(20, "b too"))
        return said

    assert in_simulated_time(work()) == (["a", "b", "b too", "c"], 3000)


def test_a_timer_that_was_cancelled_takes_no_time() -> None:
    async def work() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 5)
        await asyncio.wait_for(asyncio.sleep(1), 1000)

    assert in_simulated_time(work()) == (None, 6)


def test_everybody_waiting_for_somebody_is_a_deadlock() -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        in_simulated_time(work())


def test_a_thread_is_a_turn() -> None:
    async def work() -> list[int]:
        return await asyncio.gather(*(asyncio.to_thread(pow, 2, n) for n in range(4)))

    assert in_simulated_time(work()) == ([1, 2, 4, 8], 0)

    async def failing() -> None:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(divmod, 1, 0)

    in_simulated_time(failing())


def test_a_generator_that_nobody_finishes_cleans_up() -> None:
    cleaned: list[str] = []

    async def pages() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(1)
            cleaned.append("up")

    async def work() -> None:
        async for _ in pages():
            break
        await asyncio.sleep(2)

    in_simulated_time(work())
    assert cleaned == ["up"]


# Disks


def with_disk(**faults: Any) -> tuple[MemoryStore, FaultyStore, Disk, Counter[str]]:
    store, counts = MemoryStore(), Counter[str]()
    disk = Disk(Random(1), counts, **faults)
    return store, FaultyStore(store, disk), disk, counts


def test_a_crash_loses_some_of_what_was_not_synced_and_nothing_else() -> None:
    async def work() -> None:
        store, faulty, disk, counts = with_disk()
        for number in range(40):
            await faulty.put(f"safe/{number}", [b"x"])
            await faulty.write(f"unsafe/{number}", [b"x"])
        disk.crash(store)
        kept = [key for key in store.objects if key.startswith("unsafe/")]
        assert len([key for key in store.objects if key.startswith("safe/")]) == 40
        assert 0 < len(kept) < 40
        assert counts["unsynced writes lost"] == 40 - len(kept)
        with pytest.raises(Killed):
            await faulty.get("safe/1")

    in_simulated_time(work())


def test_an_object_is_seen_before_it_is_safe() -> None:
    async def work() -> None:
        _, faulty, disk, _ = with_disk()
        await faulty.write("key", [b"x"])
        assert bytes(await faulty.get("key")) == b"x"
        assert disk.unsynced == ["key"]
        await faulty.sync("key")
        assert disk.unsynced == []

    in_simulated_time(work())


def test_the_nth_call_fails_before_or_after_the_fact() -> None:
    async def work() -> None:
        store, faulty, _, counts = with_disk(fail_before=frozenset({1}), fail_after=frozenset({3}))
        for _ in range(2):
            with pytest.raises(StorageError):
                await faulty.put("key", [b"x"])  # the first writes nothing, the second does not say
        assert set(store.objects) == {"key"}
        assert counts == {"I/O errors": 1, "I/O errors after the fact": 1}

    in_simulated_time(work())


def test_a_repository_takes_back_what_a_run_wrote() -> None:
    async def work() -> None:
        repo = RewindableRepo()
        await repo.execute("CREATE TABLE t (x INTEGER PRIMARY KEY)")
        await repo.execute("INSERT INTO t VALUES (1)")
        for _ in range(2):
            repo.begin()
            faulty = FaultyRepo(repo, Disk(Random(1), Counter()))
            await faulty.batch([Statement("INSERT INTO t VALUES (?)", (2,))])
            with pytest.raises(AlreadyExists):
                insert = "INSERT INTO t VALUES (?)"
                await faulty.batch([Statement(insert, (3,)), Statement(insert, (1,))])
            assert await faulty.all("SELECT x FROM t ORDER BY x") == [{"x": 1}, {"x": 2}]
            repo.rewind()
            assert await faulty.all("SELECT x FROM t") == [{"x": 1}]

    in_simulated_time(work())


def test_power_takes_what_was_not_synced_from_a_client_and_no_more() -> None:
    outcomes = set()
    contents = [Content(512, (bytes([n]) * 512,)) for n in range(4)]
    for seed in range(60):
        replica = Replica()
        replica.install(contents[0])
        replica.remember(Synced(1, contents[0], contents[0].root))
        replica.write(contents[1])
        replica.write(contents[2])
        replica.lose_power(Random(seed))
        outcomes.add((replica.content, replica.synced and replica.synced.version))
    # What was installed is durable: the file never goes back behind it.
    assert outcomes == {(content, version) for content in contents[:3] for version in (None, 1)}


def test_a_client_disk_fails_once() -> None:
    counts = Counter[str]()
    disk = LocalDisk(counts, fails_at=2)
    disk.call()
    with pytest.raises(LocalFileError):
        disk.call()
    disk.call()
    assert counts == {"client I/O errors": 1}


# Wires


def connection(fault: Fault | None = None) -> tuple[Connection, Counter[str]]:
    counts = Counter[str]()
    loop = asyncio.get_running_loop()
    return Connection(loop, Random(1), Trace(), counts, "c0.1", fault), counts


async def heard(end: Any) -> list[bytes]:
    """All that arrives until the connection is lost."""
    frames = []
    with pytest.raises(NetworkError):
        while True:
            frames.append(await end.receive())
    return frames


FRAMES = [bytes([2, n]) for n in range(8)]


def test_a_wire_keeps_the_order() -> None:
    async def work() -> None:
        wire, _ = connection()
        for frame in FRAMES:
            await wire.client.send(frame)
        await wire.client.close(1000, "")
        assert await heard(wire.server) == FRAMES

    in_simulated_time(work())


@pytest.mark.parametrize(
    ("kind", "arrive"), [("cut", 0), ("client_gone", 4), ("server_gone", 0), ("stall", 8)]
)
def test_a_fault_strikes_at_its_frame(kind: FaultKind, arrive: int) -> None:
    async def work() -> Counter[str]:
        wire, counts = connection(Fault(kind, 4))
        lost = pytest.raises(NetworkError) if kind in ("cut", "client_gone") else nullcontext()
        with lost:
            for frame in FRAMES:
                await wire.client.send(frame)
        if kind == "stall":
            await wire.client.close(1000, "")
        assert len(await heard(wire.server)) == arrive
        return counts

    counts, now = in_simulated_time(work())
    assert sum(counts.values()) == 1
    assert now > 1 if kind == "stall" else now < 30


def test_a_twin_hears_the_first_frames_too_and_answers_into_the_void() -> None:
    async def work() -> None:
        wire, _ = connection()
        twin = wire.doubled(3)
        for frame in FRAMES:
            await wire.client.send(frame)
        await twin.server.send(b"\x02never")
        await wire.server.send(b"\x02answer")
        assert await wire.client.receive() == b"\x02answer"
        await wire.client.close(1000, "")
        assert await heard(wire.server) == FRAMES
        assert await heard(twin.server) == FRAMES[:3]
        assert wire.client.receive_nowait() is None

    in_simulated_time(work())


# The machines' tables


@pytest.mark.parametrize("wire_version", [1, 2])
@pytest.mark.parametrize("name", MACHINES)
def test_a_table_does_what_its_machine_does_in_every_situation(
    name: str, wire_version: int
) -> None:
    for situation in explore(name, wire_version):
        for event in examples(wire_version):
            machine, table = situation.enter(), entered(situation)
            assert answer(table, event) == answer(machine, event), (situation, event)
            assert table.state_id == machine.state_id
            assert table.finished == machine.finished
            for field, value in memory(machine).items():
                if field not in ("state", "title") and not field.startswith("_"):
                    held = getattr(table, field)
                    assert (held.runs() if isinstance(held, PageSet) else held) == value


def entered(situation: Situation) -> Any:
    kind = table_class(MACHINES[situation.machine])
    speaks = "wire_version" in kind._fields
    table = kind(wire_version=situation.wire_version) if speaks else kind()
    for event in situation.path:
        table.handle(event)
    return table


def answer(machine: Any, event: Any) -> Any:
    try:
        return machine.handle(event)
    except EdgeReplicaError as error:
        return type(error), error.message
