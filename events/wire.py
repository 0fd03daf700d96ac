"""The envelope: `[u8 version] ++ msgpack({"kind", "data"})` (design §5), and its bounds.

`unpack` turns untrusted bytes into (version, kind, data) or raises `FrameUndecodable`, whatever the
bytes are. What a frame may cost in memory is bounded before it is decoded (`_check_shape`).
"""

from collections.abc import Callable
from typing import Any, Protocol

import msgpack

from .errors import EdgeReplicaError, FrameUndecodable
from .limits import (
    FRAME_BYTES_MAX,
    MSGPACK_DEPTH_MAX,
    MSGPACK_ITEMS_MAX,
    MSGPACK_TEXT_BYTES_MAX,
)
from .messages import Message

V1 = 1
V2 = 2

Frame = bytes | bytearray | memoryview


class WireCodec(Protocol):
    """One version of the wire protocol. A message may take several frames (v1 only)."""

    version: int

    def encode(self, message: Message) -> list[bytes]: ...

    def decode(self, untrusted_frame: Frame) -> Message: ...


def pack(version: int, kind: str, data: dict[str, Any] | None) -> bytes:
    # The version byte is a msgpack positive fixint, so one buffer takes both without a copy.
    packer = msgpack.Packer(autoreset=False, buf_size=1024)
    packer.pack(version)
    packer.pack({"kind": kind} if data is None else {"kind": kind, "data": data})
    return bytes(packer.bytes())


def pack_before(version: int, kind: str, data: dict[str, Any], key: str, tail: bytes) -> bytes:
    """The frame of `data` with `tail` as its last entry, `key`: what `pack` makes, with one copy of
    `tail` instead of three. Pages are most of what is ever packed."""
    head = memoryview(pack(version, kind, {**data, key: b""}))
    # It ends with what an empty binary is: its type and a length of one byte.
    return b"".join((head[:-2], _binary_header(len(tail)), tail))


def _binary_header(length: int) -> bytes:
    for head, width in ((0xC4, 1), (0xC5, 2)):
        if length < 1 << 8 * width:
            return bytes((head,)) + length.to_bytes(width, "big")
    return b"\xc6" + length.to_bytes(4, "big")


def frame_version(untrusted_frame: Frame) -> int:
    """The version byte; `FrameUndecodable` for an empty, oversized or unknown frame."""
    if not untrusted_frame:
        raise FrameUndecodable("an empty frame")
    if len(untrusted_frame) > FRAME_BYTES_MAX:
        raise FrameUndecodable(
            f"a frame of {len(untrusted_frame)} bytes; at most {FRAME_BYTES_MAX}",
            limit="frame_bytes_max",
            value=FRAME_BYTES_MAX,
        )
    version = untrusted_frame[0]
    if version not in (V1, V2):
        raise FrameUndecodable(f"version byte {version}; this end speaks 1 and 2")
    return version


def unpack(version: int, untrusted_frame: Frame) -> tuple[str, dict[str, Any]]:
    """(kind, data) of a frame of `version`; data is {} where the frame has none."""
    if frame_version(untrusted_frame) != version:
        raise FrameUndecodable(
            f"version byte {untrusted_frame[0]} on a connection of version {version}"
        )
    _check_shape(untrusted_frame, 1)
    try:
        body = msgpack.unpackb(
            memoryview(untrusted_frame)[1:], raw=False, strict_map_key=True, use_list=False
        )
    # msgpack documents ValueError and its own family; hostile input also finds these others.
    except (ValueError, TypeError, RecursionError, KeyError, OverflowError, MemoryError) as error:
        raise FrameUndecodable(f"not msgpack: {type(error).__name__}") from error
    if not isinstance(body, dict) or not isinstance(body.get("kind"), str):
        raise FrameUndecodable("a frame is a map with a kind")
    data = body.get("data")
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise FrameUndecodable("data is not a map")
    return body["kind"], data


# What follows a msgpack type byte (github.com/msgpack/msgpack, spec.md): the whole size of a
# scalar; or the width of the length that precedes text, binary, an array or a map. Extension types
# and the byte that is never used are in none of these.
_SCALAR_BYTES = dict.fromkeys((*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3), 1) | {
    0xCC: 2, 0xD0: 2, 0xCD: 3, 0xD1: 3, 0xCA: 5, 0xCE: 5, 0xD2: 5, 0xCB: 9, 0xCF: 9, 0xD3: 9
}  # fmt: skip
_TEXT_LENGTH_BYTES = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BINARY_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_ARRAY_LENGTH_BYTES = {0xDC: 2, 0xDD: 4}
_MAP_LENGTH_BYTES = {0xDE: 2, 0xDF: 4}


def _check_shape(frame: Frame, at: int) -> None:
    """Refuse what would cost too much to decode: too deep, too many values, too much text.

    A decoder reserves 8 bytes for every element that an array claims, and an empty map is 64 bytes
    in memory for one on the wire: a frame of 5 KB of array headers can take 500 MB. So the frame is
    walked once, without building anything, before it is decoded.
    """
    end, items, text_bytes, left = len(frame), 0, 0, 1
    outer: list[int] = []
    while True:
        while not left:
            if not outer:
                if at != end:
                    raise FrameUndecodable("not msgpack: a frame of another length than it says")
                return
            left = outer.pop()
        left -= 1
        if at >= end:
            raise FrameUndecodable("not msgpack: a truncated frame")
        head = frame[at]
        size = _SCALAR_BYTES.get(head)
        if size is not None:
            at += size
        elif 0xA0 <= head < 0xC0:
            text_bytes += head & 0x1F
            at += 1 + (head & 0x1F)
        elif head in _TEXT_LENGTH_BYTES:
            at, length = _length(frame, at, _TEXT_LENGTH_BYTES[head])
            text_bytes += length
            at += length
        elif head in _BINARY_LENGTH_BYTES:
            at, length = _length(frame, at, _BINARY_LENGTH_BYTES[head])
            at += length
        else:
            at, count = _container(frame, at, head)
            items += count
            outer.append(left)
            left = count
            if items > MSGPACK_ITEMS_MAX or len(outer) > MSGPACK_DEPTH_MAX:
                raise FrameUndecodable("a frame of too many values, or nested too deeply")
        if at > end or text_bytes > MSGPACK_TEXT_BYTES_MAX:
            raise FrameUndecodable("not msgpack: truncated, or too much text")


def _container(frame: Frame, at: int, head: int) -> tuple[int, int]:
    """(where its content begins, how many values it holds) of an array or a map."""
    if head & 0xF0 == 0x90:
        return at + 1, head & 0x0F
    if head & 0xF0 == 0x80:
        return at + 1, 2 * (head & 0x0F)
    if head in _ARRAY_LENGTH_BYTES:
        return _length(frame, at, _ARRAY_LENGTH_BYTES[head])
    if head in _MAP_LENGTH_BYTES:
        at, pairs = _length(frame, at, _MAP_LENGTH_BYTES[head])
        return at, 2 * pairs
    raise FrameUndecodable(f"not msgpack of this protocol: type byte {head:#x}")


def _length(frame: Frame, at: int, width: int) -> tuple[int, int]:
    """(where the content begins, the length) of what has `width` bytes of length at `at + 1`."""
    return at + 1 + width, int.from_bytes(frame[at + 1 : at + 1 + width], "big")


def undecodable_on_error(
    decode: Callable[[Any, Frame], Message],
) -> Callable[[Any, Frame], Message]:
    """Make a decoder raise `FrameUndecodable` for whatever a malformed frame does to it."""

    def checked(codec: Any, untrusted_frame: Frame) -> Message:
        try:
            return decode(codec, untrusted_frame)
        except FrameUndecodable:
            raise
        except EdgeReplicaError as error:
            raise FrameUndecodable(error.message, **error.details) from error
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise FrameUndecodable(f"a malformed frame: {error}") from error

    return checked


def u32(data: dict[str, Any], key: str) -> int:
    return _unsigned(data, key, 1 << 32)


def u64(data: dict[str, Any], key: str) -> int:
    return _unsigned(data, key, 1 << 64)


def _unsigned(data: dict[str, Any], key: str, bound: int) -> int:
    value = data.get(key)
    if type(value) is not int or not 0 <= value < bound:
        raise FrameUndecodable(f"{key} is not an unsigned integer in range")
    return value


def binary(data: dict[str, Any], key: str) -> bytes:
    value = data.get(key)
    if type(value) is not bytes:
        raise FrameUndecodable(f"{key} is not binary")
    return value


def text(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    if type(value) is not str:
        raise FrameUndecodable(f"{key} is not a string")
    return value


def array(data: dict[str, Any], key: str) -> tuple[Any, ...]:
    value = data.get(key)
    if type(value) is not tuple:
        raise FrameUndecodable(f"{key} is not an array")
    return value
