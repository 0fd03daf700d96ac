"""Damaged frames against the codecs, hostile messages against codec and machine, bombs."""

import resource
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import msgpack
import zstandard
from tests.exploring import explore, memory
from tests.wire_vectors import V1_VECTORS, V2_VECTORS

from edgereplica.app.compression import decode as decompress
from edgereplica.app.driver import CODECS
from edgereplica.events.errors import EdgeReplicaError, FrameUndecodable, ProtocolError
from edgereplica.events.limits import BATCH_DECODED_BYTES_MAX
from edgereplica.events.messages import Hello, Message
from edgereplica.events.session import MessageReceived
from edgereplica.events.wire import frame_version
from edgereplica.fsm.registry import MACHINES, make_machine

Counts = Counter[str]
RSS_KIB_MAX = 64 * 1024
EXPLORE_ALL_FROM = 10_000
"""Messages from which on every machine is explored, which takes a while, and not one."""


class Violation(Exception):
    """Something else than a message or the documented error."""


def good_frames() -> list[bytes]:
    """Every frame of the vectors: each kind of both versions, with and without its options."""
    return [
        frame
        for version, vectors in ((1, V1_VECTORS), (2, V2_VECTORS))
        for vector in vectors
        for frame in CODECS[version].encode(vector.message)
    ]


def _decode(frame: bytes) -> Message | None:
    try:
        return CODECS[frame_version(frame)].decode(frame)
    except FrameUndecodable:
        return None
    except BaseException as error:
        raise Violation(f"{type(error).__name__} for {frame[:200].hex()}") from error


def damaged(count: int, dice: Random) -> Counts:
    """Bits flipped, bytes exchanged, ends cut off, pieces of two frames joined."""
    good, found = good_frames(), Counter[str]()
    for _ in range(count):
        frame = bytearray(dice.choice(good))
        kind = dice.randrange(5)
        if kind == 0:
            del frame[dice.randrange(len(frame)) :]
        elif kind == 1:
            other = dice.choice(good)
            frame[dice.randrange(len(frame)) :] = other[dice.randrange(len(other)) :]
        elif kind == 2:
            frame[dice.randrange(len(frame))] = dice.randrange(256)
        else:
            for _ in range(dice.choice((1, 1, 2, 8))):
                frame[dice.randrange(len(frame))] ^= 1 << dice.randrange(8)
        found["frames"] += 1
        if _decode(bytes(frame)) is None:
            found["refused"] += 1
        else:
            found["accepted"] += 1
    return found


# Numbers at which a bound may be off by one, and values of the wrong type.
_NUMBERS = (0, 1, 2, 3, 4, 511, 512, 4096, 65_535, 65_536, 65_537, 67_108_864, 67_108_865,
            0xFFFF_FFFE, 0xFFFF_FFFF, 1 << 32, (1 << 63) - 1, (1 << 64) - 1, -1)  # fmt: skip
_WRONG: tuple[Any, ...] = (None, True, 1.5, "", "x" * 40, b"", b"\0" * 31, b"\0" * 32, [], {}, [[]])
_KEYS = {
    "hello": ("protocol_version", "page_size", "max_page", "page_count", "base", "base_root",
              "root", "at", "force", "features"),
    "hello_reply": ("protocol_version", "page_size", "max_page", "page_count", "head", "root",
                    "base_known", "pages_changed", "limits", "database", "author"),
    "page_hash": ("page_no", "hash"),
    "page_hash_batch": ("start_page", "end_page", "combined_hash", "ranges"),
    "page_hashes": ("runs",),
    "request_page": ("page_no",),
    "request_pages": ("page_numbers", "runs"),
    "hash_mismatch": ("page_no",),
    "hash_mismatch_batch": ("page_numbers", "runs"),
    "page_data": ("page_no", "data"),
    "page_data_batch": ("pages", "runs", "codec", "data"),
    "complete": ("page_count", "root", "force", "message"),
    "sync_complete": ("pages_transferred", "bytes_transferred", "version", "root"),
    "head_changed": ("version", "root", "page_count"),
    "error": ("code", "message", "retryable", "details"),
}  # fmt: skip


def _value(key: str, dice: Random) -> Any:
    if dice.random() < 0.08:
        return dice.choice(_WRONG)
    match key:
        case "hash" | "combined_hash" | "root" | "base_root":
            return dice.choice((b"\x01", b"\0", b"\xdd")) * 32
        case "data":
            return bytes(512 * dice.choice((0, 1, 2, 3))) + bytes(dice.choice((0, 0, 0, 1)))
        case "codec":
            return dice.choice(("raw", "zstd", "raw", "lz4"))
        case "page_numbers":
            return [dice.choice(_NUMBERS[:8]) for _ in range(dice.choice((0, 1, 3, 2000)))]
        case "pages":
            page = {"page_no": dice.choice(_NUMBERS[:6]), "data": bytes(512)}
            return [page] * dice.choice((0, 1, 2, 50))
        case "runs":
            return _runs(dice)
        case "ranges":
            return [[*run, b"\xdd" * 32] for run in _runs(dice) if len(run) == 2]
        case "page_size":
            return dice.choice((512, 512, 512, 4096, 0, 500, 131_072))
        case "codes" | "code" | "message" | "author" | "database":
            return dice.choice(("", "conflict", "x" * 5000))
        case "force" | "retryable" | "base_known":
            return dice.random() < 0.5
        case "features" | "limits" | "details":
            return dice.choice(([], {}, ["a"], {"a": 1}))
    return dice.choice(_NUMBERS) if dice.random() < 0.6 else dice.randrange(5)


def _runs(dice: Random) -> list[list[Any]]:
    """Runs in order and out of it, overlapping, backwards, endless; or windows of digests."""
    if dice.random() < 0.4:
        return [[dice.randrange(5), b"\xdd" * 32 * dice.choice((0, 1, 2, 3))] for _ in range(2)]
    found = []
    at = dice.choice((0, 1, 1, 1))
    for _ in range(dice.choice((0, 1, 1, 2, 300))):
        last = at + dice.choice((0, 1, 2, 70_000))
        found.append([at, last] if dice.random() < 0.95 else [last, at - 1])
        at = last + dice.choice((1, 2, 3, 0))
    if dice.random() < 0.05:
        found.append([1, dice.choice(_NUMBERS)])
    return found


def _hostile_frame(version: int, dice: Random) -> bytes:
    kind = dice.choice(list(_KEYS))
    data = {key: _value(key, dice) for key in _KEYS[kind] if dice.random() < 0.9}
    if dice.random() < 0.02:
        data["more"] = [1] * 100
    try:
        return bytes([version]) + bytes(msgpack.packb({"kind": kind, "data": data}))
    except OverflowError:
        return bytes([version])


def messages(count: int, dice: Random) -> Counts:
    """Well-formed frames that say hostile things, in every situation of every machine."""
    found: Counts = Counter()
    machines = [(name, version) for name in MACHINES for version in (1, 2)]
    if count < EXPLORE_ALL_FROM:
        machines = dice.sample(machines, 1)
    situations = [found for machine in machines for found in explore(*machine)]
    while found["messages"] < count:
        situation = dice.choice(situations)
        machine = situation.enter()
        before = memory(machine)
        # A flood of them, as long as none is taken.
        for _ in range(40):
            message = _decode(_hostile_frame(situation.wire_version, dice))
            found["messages"] += 1
            if message is None:
                found["refused by the codec"] += 1
                continue
            try:
                machine.handle(MessageReceived(message))
            except EdgeReplicaError:
                found["refused by the machine"] += 1
                if memory(machine) != before:
                    raise Violation(f"{situation}: changed by a refused {message!r}") from None
            except BaseException as error:
                raise Violation(f"{situation}: {error!r} for {message!r}") from error
            else:
                found["accepted"] += 1
                if machine.finished:
                    break
                before = memory(machine)
    return found


def _zstd_bombs() -> list[bytes]:
    """Frames of a few KiB that decode to 64 MiB and more, with and without saying so."""
    bombs = []
    for mib in (2, 64, 256):
        for known in (True, False):
            compressor = zstandard.ZstdCompressor(level=1, write_content_size=known)
            size = mib << 20 if known else -1
            chunk, parts = bytes(1 << 20), []
            stream = compressor.compressobj(size=size)
            parts = [stream.compress(chunk) for _ in range(mib)]
            bombs.append(b"".join([*parts, stream.flush()]))
    # A frame that claims to hold 2^62 bytes (RFC 8878 §3.1.1.1.4), and a window of 2^41.
    bombs.append(b"\x28\xb5\x2f\xfd\xe0" + (1 << 62).to_bytes(8, "little") + b"\x01\0\0")
    bombs.append(b"\x28\xb5\x2f\xfd\x00\xf8\x01\0\0")
    return bombs


def _frame_bombs(dice: Random) -> Iterator[bytes]:
    version = bytes([dice.choice((1, 2))])
    for head in (b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"):
        yield version + head + b"\xff\xff\xff\xff"
    yield version + b"\x82\xa4kind\xa5hello\xa4data" + b"\x91" * dice.randrange(10, 200_000)
    yield version + b"\xdd\x00\x10\x00\x00" * dice.randrange(1, 2000)
    yield version + b"\xdc\xff\xff" + b"\x80" * 65_535
    yield version + b"\xdc\xff\xff" + b"\xdc\xff\xff" * 65_535
    top = dice.choice((0xFFFF_FFFF, 0x7FFF_FFFF, 1 << 26))
    for kind, data in (
        ("page_hash_batch", {"ranges": [[1, top, b"\0" * 32]]}),
        ("page_hash_batch", {"start_page": 0, "end_page": top, "combined_hash": b"\0" * 32}),
        ("request_pages", {"runs": [[1, top]] * dice.choice((1, 1000))}),
        ("request_pages", {"runs": [[n, top] for n in range(1, 3000)]}),
        ("hash_mismatch_batch", {"runs": [[1, top]]}),
        ("page_data_batch", {"runs": [[1, top]], "codec": "zstd", "data": b"\0"}),
        ("hello", {"page_size": 512, "page_count": top, "protocol_version": 1, "max_page": top}),
    ):
        yield version + bytes(msgpack.packb({"kind": kind, "data": data}))


def bombs(count: int, dice: Random) -> Counts:
    """What is small and claims to be large. `ru_maxrss` of this process must hardly grow."""
    compressed, found = _zstd_bombs(), Counter[str]()
    frames: Iterator[bytes] = iter(())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while found["bombs"] < count:
        found["bombs"] += 1
        if dice.random() < 0.3:
            wanted = dice.choice((512, 4096, BATCH_DECODED_BYTES_MAX))
            try:
                decompress("zstd", dice.choice(compressed), wanted)
            except ProtocolError:
                continue
            raise Violation("a zstd bomb was decoded")
        frame = next(frames, None)
        if frame is None:
            frames = _frame_bombs(dice)
            frame = next(frames)
        message = _decode(frame)
        if message is not None:
            found["decoded"] += 1
            for name in ("server_push", "server_pull"):
                machine = make_machine(name, frame[0])
                try:
                    machine.handle(MessageReceived(Hello(512, 3 if frame[0] == 2 else None)))
                    machine.handle(MessageReceived(message))
                except EdgeReplicaError:
                    found["refused by a machine"] += 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown > RSS_KIB_MAX:
        raise Violation(f"memory grew by {grown} KiB")
    found["KiB grown, both processes"] = grown
    return found


Check = Callable[[int, Random], Counts]
