"""What is small and claims to be large: the price of refusing it, measured.

Three kinds of target: the codecs and machines; what takes pages on either end (the client's
`decode`, the server's push stage and pull selection); and a whole server, over its sockets. The
largest resident set that each process has since may grow by 64 MiB. What is small and comes by the
million is in `floods`.
"""

import asyncio
import gzip
from collections.abc import Coroutine, Iterator
from itertools import product
from random import Random
from typing import Any, Final

import msgpack
from tests.unit.adapters.page_storage_model import SIZE, Database, page

from edgereplica.adapters.memory_store import MemoryStore
from edgereplica.adapters.pull_selection import PullSelection
from edgereplica.app.compression import decode as decompress
from edgereplica.events.errors import EdgeReplicaError, ProtocolError
from edgereplica.events.limits import BATCH_DECODED_BYTES_MAX, PAGES_PER_DATABASE_MAX
from edgereplica.events.pages import Runs
from edgereplica.events.session import MessageReceived, PullOpened, PushOpened, VersionInfo
from edgereplica.fsm.registry import make_machine
from proof.running import Counts, Job
from proof.torture.world import Server, World

from .floods import floods
from .meter import Meter
from .sockets import HELLO, TEXT, Target, framed, said
from .victims import Victims, Violation, decode

GIB = 1 << 30
WIRE_SHARE = 0.05
"""Bombs thrown at a whole server, of all."""


def bombs(job: Job) -> Counts:
    names = ("bombs", "zstd at a client", "zstd at a server's stage", "ranges and page numbers",
             "frames", "over a socket", "undecodable", "accepted by a machine",
             "refused by a machine", "refused by a server", "taken by a server",
             "floods")  # fmt: skip
    found, dice = Counts(dict.fromkeys(names, 0)), job.dice
    compressed, victims = _zstd_bombs(), Victims(job.dice, everything=job.share > 0.05)
    stage = _Stage(dice)
    frames = _frame_bombs(dice)
    with Server(job.root / "data") as server:
        target = Target(World(job.root, server, dice, rows=20))
        thrower = _Thrower(target, dice)
        meters = {"client and machines": Meter(), "server": Meter(target.process_id)}
        if job.part == 0:
            floods(target, job.share, found)
            thrower.throw_a_round(found)
        for _ in job.rounds():
            found["bombs"] += 1
            chance = dice.random()
            if chance < 0.2:
                found["zstd at a client"] += 1
                _throw_at_client(dice.choice(compressed), dice)
            elif chance < 0.4:
                found["zstd at a server's stage"] += 1
                stage.throw_zstd(dice.choice(compressed))
            elif chance < 0.5:
                found["ranges and page numbers"] += 1
                stage.throw_range()
            elif chance < 1 - WIRE_SHARE:
                found["frames"] += 1
                frame = next(frames)
                message = decode(frame)
                if message is None:
                    found["undecodable"] += 1
                else:
                    victims.tell(frame[0], message, found)
            else:
                thrower.throw(dice.choice(compressed), next(frames), found)
        for name, meter in meters.items():
            found[f"most KiB grown: {name}"] = meter.require_grown(name)
        target.require_untouched()
    return found


def _zstd_bombs() -> list[bytes]:
    """Frames of up to 128 KiB that decode to 2 MiB, 1 GiB and 4 GiB (RFC 8878 §3.1.1): that say so,
    that say nothing, and that say what the receiver expects."""
    bombs = []
    for size in (2 << 20, GIB, 4 * GIB):
        blocks = size // (128 * 1024)
        repeat = (128 * 1024 << 3) | (1 << 1)  # an RLE block: one byte stands for 128 KiB
        body = (repeat.to_bytes(3, "little") + b"\0") * (blocks - 1)
        body += (repeat | 1).to_bytes(3, "little") + b"\0"
        window = b"\x38"  # 128 KiB
        for claimed in (None, size, 512, 4096, BATCH_DECODED_BYTES_MAX):
            head = b"\x00" + window
            if claimed is not None:
                head = b"\xc0" + window + claimed.to_bytes(8, "little")
            bombs.append(b"\x28\xb5\x2f\xfd" + head + body)
    # One that claims to hold 2^62 bytes, and one that wants a window of 2^41.
    bombs.append(b"\x28\xb5\x2f\xfd\xe0" + (1 << 62).to_bytes(8, "little") + b"\x01\0\0")
    bombs.append(b"\x28\xb5\x2f\xfd\x00\xf8\x01\0\0")
    return bombs


def _throw_at_client(bomb: bytes, dice: Random) -> None:
    try:
        decompress("zstd", bomb, dice.choice((512, 4096, BATCH_DECODED_BYTES_MAX)))
    except ProtocolError:
        return
    raise Violation("a zstd bomb was decoded")


class _Stage:
    """A push that is open on page storage in memory, and a pull of its base."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self._database = Database(MemoryStore())
        asyncio.run(self._database.push([page(n) for n in range(40)]))

    def throw_zstd(self, bomb: bytes) -> None:
        count = self._dice.choice((1, 8, BATCH_DECODED_BYTES_MAX // SIZE))
        self._require_refused(self._add(((1, count),), bomb))

    async def _add(self, runs: Runs, data: bytes) -> None:
        stage = await self._database.open()
        try:
            await stage.add(runs, "zstd", data)
        finally:
            await stage.abandon()

    def throw_range(self) -> None:
        """Numbers up to 2^32, which the codecs bound, given to what is behind them."""
        top = self._dice.choice((PAGES_PER_DATABASE_MAX, PAGES_PER_DATABASE_MAX + 1, 0xFFFF_FFFF))
        asyncio.run(self._say(self._dice.randrange(4), top))

    async def _say(self, what: int, top: int) -> None:
        stage = await self._database.open()
        try:
            if what == 0:
                stage.announce([(top, bytes(32))])
            elif what == 1:
                stage.compare_ranges([(1, top, bytes(32))])
            elif what == 2:
                await stage.add(((top, top),), "zstd", b"\x28\xb5\x2f\xfd")
            else:
                selection = PullSelection(await self._database.base())
                selection.compare_ranges(((1, top, bytes(32)),))
                selection.compare_hashes(((top, bytes(32)),))
        except EdgeReplicaError:
            pass
        finally:
            await stage.abandon()

    @staticmethod
    def _require_refused(work: Coroutine[Any, Any, None]) -> None:
        try:
            asyncio.run(work)
        except EdgeReplicaError:
            return
        raise Violation("a zstd bomb was staged")


def _frame_bombs(dice: Random) -> Iterator[bytes]:
    while True:
        top = dice.choice((0xFFFF_FFFF, 0x7FFF_FFFF, PAGES_PER_DATABASE_MAX, 1 << 32))
        yield from _a_round(dice.choice((1, 2)), top, dice)


def _a_round(wire_version: int, top: int, dice: Random) -> Iterator[bytes]:
    """One bomb of every kind; page numbers go up to `top`."""
    version = bytes([wire_version])
    for head in (b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"):
        yield version + head + b"\xff\xff\xff\xff"
        yield version + b"\x82\xa4kind\xa8complete\xa4data" + head + b"\xff\xff\xff\xff"
    yield version + b"\x82\xa4kind\xa5hello\xa4data" + b"\x91" * dice.randrange(10, 200_000)
    yield version + b"\x81\xa1a" * dice.randrange(10, 100_000)
    yield version + b"\xdd\x00\x10\x00\x00" * dice.randrange(1, 2000)
    yield version + b"\xdc\xff\xff" + b"\x80" * 65_535
    yield version + b"\xdc\xff\xff" + b"\xdc\xff\xff" * 65_535
    for kind, data in (
        ("page_hash_batch", {"ranges": [[1, top, b"\0" * 32]]}),
        ("page_hash_batch", {"ranges": [[n, n + 65_535, b"\0" * 32] for n in range(1, 3000)]}),
        ("page_hash_batch", {"start_page": 0, "end_page": top, "combined_hash": b"\0" * 32}),
        ("page_hashes", {"runs": [[top, b"\0" * 32]]}),
        ("request_pages", {"runs": [[1, top]] * dice.choice((1, 1000))}),
        ("request_pages", {"runs": [[n, top] for n in range(1, 3000)]}),
        ("request_pages", {"page_numbers": [top] * 65_536}),
        ("hash_mismatch_batch", {"runs": [[1, top]]}),
        ("page_data_batch", {"runs": [[1, top]], "codec": "zstd", "data": b"\0"}),
        ("page_data_batch", {"pages": [{"page_no": 1, "data": b""}] * 65_536}),
        ("complete", {"page_count": top, "root": b"\0" * 32, "force": True}),
        ("error", {"code": "x" * 60_000, "message": "x" * 900_000}),
        ("hello", {"page_size": 512, "page_count": top, "protocol_version": 1,
                   "max_page": top}),
    ):  # fmt: skip
        yield version + bytes(msgpack.packb({"kind": kind, "data": data}))


_HASHES: Final = said(2, "page_hashes", {"runs": [[1, b"\x01" * 32 * 2048]]})
_ZIPPED: Final = gzip.compress(bytes(64 << 20), 9)
_HEAD = VersionInfo(1, b"\1" * 32, 4096, 5)


class _Thrower:
    """Throws at a whole server, each time on a connection of its own."""

    def __init__(self, target: Target, dice: Random) -> None:
        self._target = target
        self._dice = dice

    def throw(self, bomb: bytes, frame: bytes, found: Counts) -> None:
        """One of: a compressed body, a frame's length, a batch that was asked for, any frame."""
        found["over a socket"] += 1
        match self._dice.randrange(6):
            case 0:
                self._throw_zipped()
            case 1:
                self._throw_length()
            case 2:
                with self._target.session("push", 2) as line:
                    data = {"runs": [[1, 2048]], "codec": "zstd", "data": bomb}
                    line.send(framed(_HASHES) + framed(said(2, "page_data_batch", data)))
                    line.refusal()
            case _:
                self._throw_frame(self._dice.choice(("push", "pull")), frame, found)

    def throw_a_round(self, found: Counts) -> None:
        """Every frame once, both ways and in both versions, as large as a page number may be."""
        for way, version in product(("push", "pull"), (1, 2)):
            for frame in _a_round(version, PAGES_PER_DATABASE_MAX, self._dice):
                self._throw_frame(way, frame, found)

    def _throw_zipped(self) -> None:
        head = (
            b"POST /edgereplica.admin.v1.AdminService/Login HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: application/json\r\nConnect-Protocol-Version: 1\r\n"
            b"Content-Encoding: gzip\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % len(_ZIPPED)
        )
        with self._target.http(head) as line:
            line.send(_ZIPPED)
            answer = line.everything()
        # It may hang up on the rest of the body, and its answer be lost with it.
        if answer and not answer.startswith(b"HTTP/1.1 4"):
            raise Violation(f"a compressed bomb was answered with {answer[:200]!r}")

    def _throw_length(self) -> None:
        with self._target.session("push", 2) as line:
            line.send(b"\x82\xff" + (1 << 62).to_bytes(8, "big") + bytes(4))
            ending = line.ending()
        if ending.code != 1009:
            raise Violation(f"a frame of 2^62 bytes was answered with {ending!r}")

    def _throw_frame(self, way: str, frame: bytes, found: Counts) -> None:
        """Behind hello. What the machine does not take, the server must refuse by itself; behind
        what it takes comes a text frame, which ends any session with a code of its own."""
        taken = _is_taken(way, frame)
        with self._target.session(way, frame[0]) as line:
            line.send(framed(frame))
            if not taken:
                line.refusal()
                found["refused by a server"] += 1
                return
            line.send(TEXT)
            ending = line.ending()
        if ending.code is None or (ending.error is None) != (ending.code == 1000):
            raise Violation(f"a session was ended with {ending!r}")
        found[
            "refused by a server" if ending.code not in (1000, 1003) else "taken by a server"
        ] += 1


def _is_taken(way: str, frame: bytes) -> bool:
    """Whether a machine that has greeted takes it."""
    machine = make_machine(f"server_{way}", frame[0])
    hello, message = decode(HELLO[frame[0]]), decode(frame)
    assert hello is not None
    machine.handle(MessageReceived(hello))
    opened = PushOpened if way == "push" else PullOpened
    machine.handle(opened(_HEAD, base_known=False))
    if message is None:
        return False
    try:
        machine.handle(MessageReceived(message))
    except EdgeReplicaError:
        return False
    return True
