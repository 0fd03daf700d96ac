"""What is small and claims to be large: the price of refusing it, measured.

Three kinds of target: the codecs and machines; what takes pages on either end (the client's
`decode`, the server's push stage and pull selection); and a whole server, over its sockets. The
largest resident set that each process ever had (VmHWM, reset before) may grow by 64 MiB.
"""

import asyncio
import gzip
import socket
from collections.abc import Coroutine, Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

import msgpack
from tests.helpers_cutting import frame_ends
from tests.unit.adapters.page_storage_model import SIZE, Database, page

from edgereplica.adapters.memory_store import MemoryStore
from edgereplica.adapters.pull_selection import PullSelection
from edgereplica.app.compression import decode as decompress
from edgereplica.events.errors import EdgeReplicaError, ProtocolError
from edgereplica.events.limits import BATCH_DECODED_BYTES_MAX, PAGES_PER_DATABASE_MAX
from edgereplica.events.pages import Runs
from proof.running import Counts, Job
from proof.torture.idlers import upgrade_request
from proof.torture.world import Server, World

from .victims import Victims, Violation, decode

GROWN_KIB_MAX = 64 * 1024
GIB = 1 << 30
ANSWER_SECONDS_MAX = 30
WIRE_SHARE = 0.05
"""Bombs thrown at a whole server, of all."""


def bombs(job: Job) -> Counts:
    names = ("bombs", "zstd at a client", "zstd at a server's stage", "ranges and page numbers",
             "frames", "over a socket", "undecodable", "accepted by a machine",
             "refused by a machine")  # fmt: skip
    found, dice = Counts(dict.fromkeys(names, 0)), job.dice
    compressed, victims = _zstd_bombs(), Victims(job.dice, everything=job.share > 0.05)
    stage = _Stage(dice)
    frames = _frame_bombs(dice)
    with Server(job.root / "data") as server:
        target = _Target(server, World(job.root, server, dice, rows=20).tokens)
        target.warm_up()
        meters = {"client and machines": _Meter("self"), "server": _Meter(server.process.pid)}
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
                found["over a socket"] += 1
                target.throw(dice.choice(compressed), next(frames), dice)
        for name, meter in meters.items():
            grown = meter.grown_kib()
            if grown > GROWN_KIB_MAX:
                raise Violation(f"the memory of the {name} grew by {grown} KiB")
            found[f"most KiB grown: {name}"] = grown
    return found


class _Meter:
    """The peak resident set of a process, counted from now."""

    def __init__(self, process: int | str) -> None:
        self._process = Path(f"/proc/{process}")
        (self._process / "clear_refs").write_text("5")  # proc(5): reset VmHWM
        self._before = self._peak()

    def _peak(self) -> int:
        for line in (self._process / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
        raise Violation("no VmHWM in /proc")

    def grown_kib(self) -> int:
        return self._peak() - self._before


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
        version = bytes([dice.choice((1, 2))])
        for head in (b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"):
            yield version + head + b"\xff\xff\xff\xff"
            yield version + b"\x82\xa4kind\xa8complete\xa4data" + head + b"\xff\xff\xff\xff"
        yield version + b"\x82\xa4kind\xa5hello\xa4data" + b"\x91" * dice.randrange(10, 200_000)
        yield version + b"\x81\xa1a" * dice.randrange(10, 100_000)
        yield version + b"\xdd\x00\x10\x00\x00" * dice.randrange(1, 2000)
        yield version + b"\xdc\xff\xff" + b"\x80" * 65_535
        yield version + b"\xdc\xff\xff" + b"\xdc\xff\xff" * 65_535
        top = dice.choice((0xFFFF_FFFF, 0x7FFF_FFFF, 1 << 26, 1 << 32))
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


_CLOSE: Final = b"\x88\x80" + bytes(4)
_HELLO: Final = b"\x02" + bytes(
    msgpack.packb({"kind": "hello", "data": {"page_size": 512, "page_count": 2048, "force": True}})
)
_HASHES: Final = b"\x02" + bytes(
    msgpack.packb({"kind": "page_hashes", "data": {"runs": [[1, b"\x01" * 32 * 2048]]}})
)


def _page_data(bomb: bytes) -> bytes:
    data = {"runs": [[1, 2048]], "codec": "zstd", "data": bomb}
    return b"\x02" + bytes(msgpack.packb({"kind": "page_data_batch", "data": data}))


class _Target:
    """A server, and raw connections to it, which it must end by itself."""

    def __init__(self, server: Server, tokens: dict[str, str]) -> None:
        self._server = server
        self._tokens = tokens
        self._zipped = gzip.compress(bytes(64 << 20), 9)

    def throw(self, bomb: bytes, frame: bytes, dice: Random) -> None:
        """One of: a compressed body, a frame's length, a batch that was asked for, any frame."""
        what = dice.randrange(4)
        if what == 0:
            self._exchange(
                b"POST /edgereplica.admin.v1.AdminService/Login HTTP/1.1\r\nHost: x\r\n"
                b"Content-Type: application/json\r\nConnect-Protocol-Version: 1\r\n"
                b"Content-Encoding: gzip\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n" % len(self._zipped),
                self._zipped,
            )
        elif what == 1:  # 2^62 bytes (RFC 6455 §5.2)
            self._say("push", b"\x82\xff" + (1 << 62).to_bytes(8, "big") + bytes(4))
        elif what == 2:
            said = self._say("push", *map(_masked, (_HELLO, _HASHES, _page_data(bomb))))
            if b"\xa5error" not in said:
                raise Violation(f"a batch that is a bomb was answered with {said[-200:]!r}")
        else:
            self._say(dice.choice(("push", "pull")), _masked(frame), _CLOSE)

    def warm_up(self) -> None:
        """What a server needs for its first session is not a bomb's."""
        for way in ("push", "pull"):
            self._say(way, _masked(_HELLO), _masked(b""))

    def _say(self, way: str, *frames: bytes) -> bytes:
        return self._exchange(upgrade_request(self._tokens[way]), *frames)

    def _exchange(self, head: bytes, *rest: bytes) -> bytes:
        """What came back until the server hung up."""
        where = ("127.0.0.1", self._server.port)
        with socket.create_connection(where, ANSWER_SECONDS_MAX) as connection:
            said = b""
            _send(connection, head)
            # Frames are sent when the handshake is done, as RFC 6455 §4.1 has it.
            while head.startswith(b"GET") and b"\r\n\r\n" not in said:
                said += connection.recv(4096)
            for piece in rest:
                _send(connection, piece)
            answered = False
            while piece := _received(connection):
                said += piece
                if not answered and _says_close(said):
                    _send(connection, _CLOSE)
                    answered = True
            return said


def _says_close(said: bytes) -> bool:
    """Whether a close frame (RFC 6455 §5.5.1) is among the frames behind the handshake."""
    if not said.startswith(b"HTTP/1.1 101"):
        return False
    starts = [end for end in frame_ends(said) if end < len(said)]
    return any(said[start] & 0x0F == 8 for start in starts)


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65_536)
    except ConnectionResetError:
        return b""


def _send(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return  # it hung up on what came before


def _masked(payload: bytes) -> bytes:
    """A binary frame of a client, under a mask of zeros."""
    return b"\x82\xff" + len(payload).to_bytes(8, "big") + bytes(4) + payload
