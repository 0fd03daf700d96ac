"""The envelope: `[u8 version] ++ msgpack({"kind", "data"})` (design §5), and its bounds.

`unpack` turns untrusted bytes into (version, kind, data) or raises `FrameUndecodable`, whatever the
bytes are; it never allocates more than the frame's own size times a small factor, because every
length that msgpack claims is bounded by the bytes present.
"""

from collections.abc import Callable
from typing import Any, Protocol

import msgpack

from .errors import EdgeReplicaError, FrameUndecodable
from .limits import FRAME_BYTES_MAX, MSGPACK_DEPTH_MAX, RUNS_PER_FRAME_MAX
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
    try:
        body = msgpack.unpackb(
            memoryview(untrusted_frame)[1:],
            raw=False,
            strict_map_key=True,
            use_list=False,
            max_array_len=RUNS_PER_FRAME_MAX,
            max_map_len=64,
            max_ext_len=0,
        )
    # msgpack documents ValueError and its own family; hostile input also finds these others.
    except (ValueError, TypeError, RecursionError, KeyError, OverflowError, MemoryError) as error:
        raise FrameUndecodable(f"not msgpack: {type(error).__name__}") from error
    if not isinstance(body, dict) or not isinstance(body.get("kind"), str):
        raise FrameUndecodable("a frame is a map with a kind")
    data = body.get("data", {})
    if data is None:
        data = {}
    if not isinstance(data, dict) or _depth(data) > MSGPACK_DEPTH_MAX:
        raise FrameUndecodable("data is not a map, or nested too deeply")
    return body["kind"], data


def _depth(value: object, level: int = 0) -> int:
    if level > MSGPACK_DEPTH_MAX:
        return level
    if isinstance(value, dict):
        return max((_depth(v, level + 1) for v in value.values()), default=level + 1)
    # Long flat arrays are common and shallow: only their first element's depth can differ by
    # design, and a deeper one is refused where it is read.
    if isinstance(value, tuple) and value:
        return _depth(value[0], level + 1)
    return level


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
