"""Untrusted bytes become a message or `FrameUndecodable`: nothing else, and at a bounded price."""

import struct
import tracemalloc
from collections.abc import Callable

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.strategies import V1_MESSAGES, V2_MESSAGES, damaged_frames, structured_frames

from edgereplica.events.errors import FrameUndecodable
from edgereplica.events.limits import (
    FRAME_BYTES_MAX,
    MSGPACK_DEPTH_MAX,
    MSGPACK_TEXT_BYTES_MAX,
    RANGES_PER_FRAME_MAX,
)
from edgereplica.events.messages import Message
from edgereplica.events.wire import WireCodec, frame_version, pack, unpack
from edgereplica.events.wire_v1 import WireV1
from edgereplica.events.wire_v2 import WireV2

CODECS: dict[int, WireCodec] = {1: WireV1(), 2: WireV2()}

_v1_frames = V1_MESSAGES.map(lambda m: CODECS[1].encode(m) or [b"\x01"]).map(lambda f: f[0])
_v2_frames = V2_MESSAGES.map(lambda m: CODECS[2].encode(m)[0])
HOSTILE = st.one_of(
    st.binary(max_size=64),
    st.binary(max_size=64).map(lambda b: b"\x01" + b),
    st.binary(max_size=64).map(lambda b: b"\x02" + b),
    structured_frames(),
    damaged_frames(_v1_frames),
    damaged_frames(_v2_frames),
    damaged_frames(structured_frames()),
)


def decoded(codec: WireCodec, frame: bytes) -> Message | None:
    try:
        return codec.decode(frame)
    except FrameUndecodable as error:
        assert error.message
        return None


@settings(max_examples=1500, deadline=None)
@given(HOSTILE)
@example(b"\x02" + msgpack.packb({"kind": "error", "data": {"code": "", "message": "x"}}))
def test_any_bytes_are_a_message_or_undecodable(frame: bytes) -> None:
    for codec in CODECS.values():
        message = decoded(codec, frame)
        assert decoded(codec, bytearray(frame)) == message
        assert decoded(codec, memoryview(frame)) == message
        if message is not None:
            # What was accepted can be said again, and is then understood as the same.
            again = codec.encode(message)
            assert len(again) != 1 or decoded(codec, again[0]) == message


# A byte of each of msgpack's types and lengths: where a scanner of shapes goes wrong.
@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(range(0x7E, 0x101)).map(lambda b: bytes([b & 0xFF])) | st.just(
    b"\x00") | st.just(b"\x01") | st.just(b"\xa4kind"), max_size=24).map(b"".join))  # fmt: skip
def test_the_scan_lets_through_what_msgpack_reads(body: bytes) -> None:
    try:
        expected = msgpack.unpackb(body, raw=False, strict_map_key=True, use_list=False)
    except (ValueError, TypeError, RecursionError, KeyError):
        expected = None
    if not isinstance(expected, dict) or not isinstance(expected.get("kind"), str):
        with pytest.raises(FrameUndecodable):
            unpack(1, b"\x01" + body)
        return
    try:
        kind, _ = unpack(1, b"\x01" + body)
    except FrameUndecodable as error:
        assert "deep" in error.message or "type byte" in error.message or "map" in error.message
    else:
        assert kind == expected["kind"]


@pytest.mark.parametrize("frame", [b"", b"\x00", b"\x03abc", b"\xff"])
def test_an_unknown_version_is_undecodable(frame: bytes) -> None:
    with pytest.raises(FrameUndecodable):
        frame_version(frame)


def test_a_frame_over_the_limit_is_not_looked_into() -> None:
    with pytest.raises(FrameUndecodable) as caught:
        unpack(2, b"\x02" + bytes(FRAME_BYTES_MAX))
    assert caught.value.details["limit"] == "frame_bytes_max"


def test_the_envelope() -> None:
    frame = pack(2, "x", {"a": [1, (2, b"3")]})
    assert frame == b"\x02\x82\xa4kind\xa1x\xa4data\x81\xa1a\x92\x01\x92\x02\xc4\x013"
    assert unpack(2, frame) == ("x", {"a": (1, (2, b"3"))})
    assert pack(1, "x", None) == b"\x01\x81\xa4kind\xa1x"
    assert unpack(1, pack(1, "x", None)) == ("x", {})


def test_depth_is_bounded_exactly_and_everywhere() -> None:
    def nested(depth: int) -> bytes:
        value: object = 0
        for _ in range(depth):
            value = [value]
        # Not in the first element: the whole frame is scanned, not a sample.
        return b"\x01" + msgpack.packb({"kind": "x", "data": {"a": [0, 0, value]}})

    assert unpack(1, nested(MSGPACK_DEPTH_MAX - 3))
    with pytest.raises(FrameUndecodable, match="deep"):
        unpack(1, nested(MSGPACK_DEPTH_MAX - 2))


def _envelope(data: bytes) -> bytes:
    return b"\x02\x82\xa4kind\xa5error\xa4data" + data


def _filled(element: bytes, per_array: int = 65_535) -> bytes:
    """A frame as large as allowed, of arrays of `element`."""
    array = b"\xdc" + struct.pack(">H", per_array) + element * per_array
    count = min(65_535, (FRAME_BYTES_MAX - 64) // len(array))
    return _envelope(b"\x81\xa7details\xdc" + struct.pack(">H", count) + array * count)


BOMBS: dict[str, Callable[[], bytes]] = {
    "empty maps": lambda: _filled(b"\x80"),
    "maps of one": lambda: _filled(b"\x81\xa1a\xc0"),
    "arrays of one": lambda: _filled(b"\x91\xc0"),
    "floats": lambda: _filled(b"\xcb" + bytes(8), 8191),
    "empty text": lambda: _filled(b"\xa0"),
    "big numbers": lambda: _filled(b"\xcf" + b"\xff" * 8, 8191),
    "array headers in array headers": lambda: _envelope(b"\xdd\x00\x10\x00\x00" * 1000),
    "array headers over a full frame": lambda: _envelope(
        (b"\xdc\xff\xff" * 1000).ljust(FRAME_BYTES_MAX - 64, b"\xc0")
    ),
    "headers that claim gigabytes": lambda: _envelope(b"\xdd\xff\xff\xff\xff"),
    "a map that claims gigabytes": lambda: _envelope(b"\xdf\xff\xff\xff\xff"),
    "text of four bytes a character": lambda: _envelope(
        b"\x81\xa7message\xdb"
        + struct.pack(">I", FRAME_BYTES_MAX - 100)
        + b"\xf0\x9f\x92\xa3"
        + b"x" * (FRAME_BYTES_MAX - 104)
    ),
    "many texts": lambda: _filled(
        b"\xdb\x00\x00\x40\x00" + "\U0001f4a3".encode() + b"x" * 16380, 200
    ),
    "deep nesting": lambda: _envelope(b"\x91" * (FRAME_BYTES_MAX - 64)),
    "deep maps": lambda: _envelope(b"\x81\xa1a" * 5_000_000),
    "runs": lambda: b"\x02"
    + msgpack.packb({"kind": "request_pages", "data": {"runs": [[1, 2]] * 5_000_000}}),
    "page numbers": lambda: b"\x01"
    + msgpack.packb({"kind": "request_pages", "data": {"page_numbers": [70_000] * 3_000_000}}),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_little_memory(name: str) -> None:
    bomb = BOMBS[name]()
    assert len(bomb) <= FRAME_BYTES_MAX
    codec = CODECS[bomb[0]]
    tracemalloc.start()
    with pytest.raises(FrameUndecodable):
        codec.decode(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * 1024 * 1024


def test_the_limits_leave_room_for_the_largest_honest_frames() -> None:
    # 32,768 pages of 512 bytes fill a frame of v1, 65,536 runs one of v2.
    pages = [{"page_no": n, "data": bytes(490)} for n in range(1, 32_769)]
    frame = b"\x01" + msgpack.packb({"kind": "page_data_batch", "data": {"pages": pages}})
    assert len(frame) <= FRAME_BYTES_MAX
    assert CODECS[1].decode(frame)
    runs = [[n, n] for n in range(1, 131_072, 2)]
    assert CODECS[2].decode(
        b"\x02" + msgpack.packb({"kind": "request_pages", "data": {"runs": runs}})
    )
    ranges = [[n, n, bytes(32)] for n in range(1, RANGES_PER_FRAME_MAX + 1)]
    assert CODECS[2].decode(
        b"\x02" + msgpack.packb({"kind": "page_hash_batch", "data": {"ranges": ranges}})
    )
    assert 32_768 * len("page_nodata") < MSGPACK_TEXT_BYTES_MAX
