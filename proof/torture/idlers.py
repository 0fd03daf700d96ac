"""Connections that say nothing, and connections that say a byte now and then, beside a client.

They come from several addresses, because the server bounds what one address may hold, and from a
process of their own, so that only the server can make the client wait. Those the server closes are
opened again at once. It may close what says nothing for long enough; a crowd that it has thinned
out before that was no burden to it, and its times say nothing.
"""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing.connection import Connection
from statistics import median
from urllib.parse import urlsplit

from edgereplica.events.limits import REQUEST_SECONDS_MAX, SESSION_HELLO_SECONDS
from proof.running import Counts, Job

from .client import processes
from .world import Server, Violation, World, need_open_files, snapshot

ADDRESSES = 10
ROUNDS = 12
"""Pushes and pulls that are timed together; alone and beside the crowd in turn."""
TURNS = 3
ATTEMPTS = 3
"""Measurements before it counts that a time has more than doubled: a machine has other work too."""
OTHER_FILES_MAX = 256
"""What a process has open that is no connection of the crowd."""
DRIBBLE_SECONDS = 0.5
GONE_SHARE_MAX = 0.05
PATIENCE_SECONDS = min(REQUEST_SECONDS_MAX, SESSION_HELLO_SECONDS)
"""So long the server bears every one of the crowd: the first it closes are these."""
IDLE_UPGRADED_SHARE = 3
"""Every third idle connection has opened a WebSocket, and says nothing on it."""


def idle_connections(job: Job) -> Counts:
    """`job.count` idle and as many dribbling connections beside a client that pushes and pulls."""
    files = 2 * job.count + OTHER_FILES_MAX
    need_open_files(files)
    with Server(job.root / "data") as server:
        server.need_open_files(files)
        world = World(job.root, server, job.dice)
        tokens = []
        for number in range(ADDRESSES):
            crowded = world.account.create_database(f"crowded-{number}")
            tokens.append(world.account.token(crowded, "pull"))
        rounds = max(ROUNDS // 4, round(ROUNDS * min(1, job.share)))
        for attempt in count(1):
            alone: list[float] = []
            beside: list[float] = []
            fewest, again, outlasted = 2 * job.count, 0, 0
            for _ in range(TURNS):
                alone += _honest(world, rounds)
                with _crowd(server.base, tokens, job.count) as crowd:
                    beside += _honest(world, rounds)
                fewest, again = min(fewest, crowd.fewest), again + crowd.again
                outlasted += crowd.seconds >= PATIENCE_SECONDS
                _require_crowd(crowd, 2 * job.count)
            times = median(alone), median(beside)
            if times[1] <= 2 * times[0]:
                break
            if attempt == ATTEMPTS:
                raise Violation(f"{times[1]:.3f} s beside the crowd, {times[0]:.3f} s alone")
    job.step(job.count)
    return Counts(
        {
            "idle": job.count,
            "dribbling": job.count,
            "fewest open at a time": fewest,
            "opened again": again,
            "turns that outlasted the server's patience": outlasted,
            "syncs timed": 2 * (len(alone) + len(beside)),
            "microseconds alone": round(times[0] * 1e6),
            "microseconds beside": round(times[1] * 1e6),
            "measurements": attempt,
        }
    )


def _require_crowd(crowd: "_Crowd", count: int) -> None:
    """A crowd that stood for less than the server's patience is still there, nearly all of it."""
    few = count * GONE_SHARE_MAX
    if crowd.seconds < PATIENCE_SECONDS and (crowd.fewest < count - few or crowd.again > few):
        raise Violation(
            f"of a crowd of {count} the server left {crowd.fewest} open, {crowd.again} had to be "
            f"opened again within {crowd.seconds:.0f} s"
        )


def lacks(counts: Counts) -> list[str]:
    outlasted = counts["turns that outlasted the server's patience"]
    return ["no crowd was judged: all outlasted the server's patience"] * (outlasted == TURNS)


def _honest(world: World, rounds: int) -> list[float]:
    """Seconds of a push and a pull of it, again and again."""
    copy = world.root / "copy.db"

    async def sync() -> float:
        started = time.monotonic()
        await world.replica(world.origin, "push").push()
        await world.replica(copy, "pull").pull()
        return time.monotonic() - started

    found = []
    for _ in range(rounds):
        world.edit()
        found.append(asyncio.run(sync()))
        if snapshot(copy) != snapshot(world.origin):
            raise Violation("the copy differs")
    return found


class _Crowd:
    """What the crowd's process has told: the fewest connections open, how many opened again, and
    how long ago it opened the first."""

    fewest = 0
    again = 0
    seconds = 0.0


@contextmanager
def _crowd(base: str, tokens: list[str], count: int) -> Iterator[_Crowd]:
    """A crowd that stands for as long as the block runs."""
    ours, theirs = processes.Pipe()
    process = processes.Process(target=_gather, args=(base, tokens, count, theirs), daemon=True)
    process.start()
    theirs.close()
    told = _Crowd()
    try:
        if ours.recv() != "standing":
            raise Violation("the crowd did not gather")
        yield told
        ours.send("enough")
        told.fewest, told.again, told.seconds = ours.recv()
    finally:
        ours.close()
        process.join()


def _gather(base: str, tokens: list[str], count: int, parent: Connection) -> None:
    need_open_files(2 * count + OTHER_FILES_MAX)
    asyncio.run(_stand(base, tokens, count, parent))


async def _stand(base: str, tokens: list[str], each: int, parent: Connection) -> None:
    members = [_Member(base, tokens, number, number >= each) for number in range(2 * each)]
    started = time.monotonic()
    for member in members:
        await member.open()
    parent.send("standing")
    fewest, again, enough = len(members), 0, False
    while not enough:
        # The last look comes when all is timed: a server that closes at once has done it by then.
        enough = parent.poll()
        gone = [member for member in members if member.gone]
        fewest = min(fewest, len(members) - len(gone))
        again += len(gone)
        for member in gone:
            await member.open()
        for member in members:
            member.dribble()
        if not enough:
            await asyncio.sleep(DRIBBLE_SECONDS)
    with suppress(BrokenPipeError):
        parent.send((fewest, again, time.monotonic() - started))
    os._exit(0)  # a thousand connections end as those of a client that is killed


class _Member:
    """One connection of the crowd."""

    def __init__(self, base: str, tokens: list[str], number: int, dribbles: bool) -> None:
        self._where = urlsplit(base)
        self._place = number % len(tokens)
        self._token = tokens[self._place]
        self._dribbles = dribbles
        self._kind = number // len(tokens) % 3
        self._rest = b""
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None

    @property
    def gone(self) -> bool:
        assert self._reader is not None
        assert self._writer is not None
        return self._reader.at_eof() or self._writer.is_closing()

    async def open(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader, self._writer = await asyncio.open_connection(
            self._where.hostname, self._where.port, local_addr=(f"127.0.1.{self._place + 1}", 0)
        )
        if not self._dribbles:
            if self._kind % IDLE_UPGRADED_SHARE == 0:
                await self._upgrade()
        elif self._kind == 0:  # a request that never ends
            self._rest = upgrade_request(self._token)[:-4] + b"\r\nX-More: " + b"x" * 4000
        elif self._kind == 1:  # a WebSocket's frame that never ends (RFC 6455 §5.2)
            await self._upgrade()
            self._rest = b"\x82\xfe\x10\x00" + bytes(4) + b"\x02" + b"\x81" * 4000
        else:  # a body that never ends
            self._rest = (
                b"POST /edgereplica.admin.v1.AdminService/Login HTTP/1.1\r\nHost: x\r\n"
                b"Content-Type: application/json\r\nContent-Length: 9000\r\n\r\n"
            ) + b" " * 8000

    async def _upgrade(self) -> None:
        """Open a WebSocket: until that is answered nobody may send a frame (RFC 6455 §4.1)."""
        assert self._reader is not None
        assert self._writer is not None
        self._writer.write(upgrade_request(self._token))
        # A server that will not have it closes: that is noticed with all that are gone.
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._reader.readuntil(b"\r\n\r\n")

    def dribble(self) -> None:
        if self._dribbles and not self.gone:
            assert self._writer is not None
            self._writer.write(self._rest[:1])
            self._rest = self._rest[1:]


def upgrade_request(token: str) -> bytes:
    return (
        "GET /sync HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()
