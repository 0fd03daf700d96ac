"""What is said of a frame that is refused, and where exactly the bounds of a frame lie."""

from typing import Any

import msgpack
import pytest

from edgereplica.events.errors import EdgeReplicaError, FrameUndecodable, InvalidArgument
from edgereplica.events.limits import (
    FRAME_BYTES_MAX,
    MSGPACK_DEPTH_MAX,
    MSGPACK_ITEMS_MAX,
    MSGPACK_TEXT_BYTES_MAX,
)
from edgereplica.events.messages import (
    Complete,
    ErrorMessage,
    HelloReply,
)
from edgereplica.events.wire import (
    V1,
    V2,
    array,
    binary,
    frame_version,
    text,
    u32,
    u64,
    undecodable_on_error,
    unpack,
)
from edgereplica.events.wire_v1 import WireV1
from edgereplica.events.wire_v2 import WireV2

CODECS = {V1: WireV1(), V2: WireV2()}
H = bytes(range(32))
HELLO = {"protocol_version": 1, "page_size": 512, "max_page": 3}
NINE = HELLO | {"protocol_version": 9}
REPLY = {"page_size": 512, "page_count": 3}
COMPLETE = {"page_count": 3, "root": H}
LONG = "k" * 60


def frame(version: int, kind: Any, data: Any) -> bytes:
    return bytes([version]) + msgpack.packb({"kind": kind, "data": data})


def body(raw: bytes, version: int = 1) -> bytes:
    """A frame whose data is `raw` msgpack."""
    return bytes([version]) + b"\x82\xa4kind\xa1x\xa4data" + raw


def refusal(version: int, untrusted: bytes) -> tuple[str, dict[str, Any]]:
    with pytest.raises(FrameUndecodable) as caught:
        CODECS[version].decode(untrusted)
    return caught.value.message, dict(caught.value.details)


TOO_DEEP = "a frame of too many values, or nested too deeply"
TRUNCATED = "not msgpack: a truncated frame"
TOO_LONG = "not msgpack: truncated, or too much text"
OTHER_LENGTH = "not msgpack: a frame of another length than it says"
NO_KIND = "a frame is a map with a kind"


@pytest.mark.parametrize(
    ("untrusted", "say"),
    [
        (b"", "an empty frame"),
        (b"\x00", "version byte 0; this end speaks 1 and 2"),
        (b"\x03abc", "version byte 3; this end speaks 1 and 2"),
        (b"\x02\x80", "version byte 2 on a connection of version 1"),
        (b"\x01", TRUNCATED),
        (b"\x01\x81", TRUNCATED),
        (b"\x01\xa5kind", TOO_LONG),
        (b"\x01\xc4\x05kind", TOO_LONG),
        (b"\x01\xd9\x05kind", TOO_LONG),
        (b"\x01\xcb1234567", TOO_LONG),
        (b"\x01\x80\x80", OTHER_LENGTH),
        (b"\x01\x80", NO_KIND),
        (b"\x01\x90", NO_KIND),
        (b"\x01\x81\xa4kind\x01", NO_KIND),
        (b"\x01\xc1", "not msgpack of this protocol: type byte 0xc1"),
        (b"\x01\xd4\x01\x01", "not msgpack of this protocol: type byte 0xd4"),
        (b"\x01\x81\xa4kind\xa1\xff", "not msgpack: UnicodeDecodeError"),
        (b"\x01\x81\x01\x01", "not msgpack: ValueError"),
        (body(b"\x90"), "data is not a map"),
        (frame(1, LONG, {}), f"unknown kind {LONG[:40]!r}"),
    ],
)
def test_an_envelope_that_is_none(untrusted: bytes, say: str) -> None:
    assert refusal(1, untrusted) == (say, {})


def test_a_frame_may_be_as_long_as_the_limit_says() -> None:
    filling = FRAME_BYTES_MAX - len(body(b"\xc6\0\0\0\0"))
    full = body(b"\xc6" + filling.to_bytes(4, "big") + bytes(filling))
    assert len(full) == FRAME_BYTES_MAX
    assert frame_version(full) == V1
    said = f"a frame of {FRAME_BYTES_MAX + 1} bytes; at most {FRAME_BYTES_MAX}"
    limit = {"limit": "frame_bytes_max", "value": FRAME_BYTES_MAX}
    assert refusal(1, full + b"\0") == (said, limit)


@pytest.mark.parametrize(
    "value",
    [
        *(0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**64 - 1),
        *(-1, -32, -33, -128, -129, -32_768, -32_769, -(2**31), -(2**31) - 1, -(2**63)),
        *(None, True, False, 0.5, 1e300),
        *("a" * length for length in (0, 1, 31, 32, 255, 256, 65_535, 65_536)),
        *(b"a" * length for length in (0, 1, 255, 256, 65_535, 65_536)),
        *((1,) * length for length in (0, 1, 15, 16, 65_535, 65_536)),
        *({f"{n:x}": n for n in range(length)} for length in (0, 1, 15, 16, 65_536)),
    ],
    ids=lambda value: f"{type(value).__name__} {len(repr(value))}",
)
def test_every_kind_and_width_of_value_is_let_through(value: Any) -> None:
    assert unpack(1, frame(1, "x", {"a": value, "b": 7})) == ("x", {"a": value, "b": 7})


def test_single_precision_is_let_through() -> None:
    assert unpack(1, body(b"\x81\xa1a\xca\x3f\x00\x00\x00")) == ("x", {"a": 0.5})


def test_so_many_values_and_no_more() -> None:
    # The envelope's map holds 4, the data's 2; an array of n has n.
    fits = MSGPACK_ITEMS_MAX - 6
    for count, good in ((fits, True), (fits + 1, False)):
        raw = body(b"\x81\xa1a\xdd" + count.to_bytes(4, "big") + bytes(count))
        if good:
            assert len(unpack(1, raw)[1]["a"]) == count
        else:
            assert refusal(1, raw) == (TOO_DEEP, {})


def test_a_pair_of_a_map_is_two_values() -> None:
    pairs = MSGPACK_ITEMS_MAX // 2 + 1
    assert refusal(1, body(b"\xdf" + pairs.to_bytes(4, "big") + bytes(2 * pairs))) == (TOO_DEEP, {})


def test_so_deep_and_no_deeper() -> None:
    fits = MSGPACK_DEPTH_MAX - 2
    assert unpack(1, body(b"\x81\xa1a" + b"\x91" * (fits - 1) + b"\x90"))
    assert refusal(1, body(b"\x81\xa1a" + b"\x91" * fits + b"\x90")) == (TOO_DEEP, {})
    # Depth is how deep a value lies, not how many arrays there are.
    assert unpack(1, body(b"\x81\xa1a\x9f" + b"\x91\x00" * 15))


@pytest.mark.parametrize("header", [b"\xda", b"\xdb"])
def test_so_much_text_and_no_more(header: bytes) -> None:
    width = 2 if header == b"\xda" else 4
    envelope = len("kind") + len("x") + len("data") + len("a")
    most = MSGPACK_TEXT_BYTES_MAX - envelope
    pieces = [most] if width == 4 else [60_000] * (most // 60_000) + [most % 60_000]

    def texts(lengths: list[int]) -> bytes:
        held = b"".join(header + n.to_bytes(width, "big") + b"t" * n for n in lengths)
        return body(b"\x81\xa1a\xdc" + len(lengths).to_bytes(2, "big") + held)

    assert unpack(1, texts(pieces))
    pieces[-1] += 1
    assert refusal(1, texts(pieces)) == (TOO_LONG, {})
    pieces[-1] -= 31
    short = texts(pieces)
    assert unpack(1, short)


def test_short_text_counts_too() -> None:
    piece = b"\xbf" + b"t" * 31
    count = MSGPACK_TEXT_BYTES_MAX // 31 + 1
    raw = body(b"\x81\xa1a\xdd" + count.to_bytes(4, "big") + piece * count)
    assert refusal(1, raw) == (TOO_LONG, {})


@pytest.mark.parametrize(
    ("read", "good", "bad", "say"),
    [
        (u32, (0, 2**32 - 1), (-1, 2**32, True, "1", 1.0, None), "an unsigned integer in range"),
        (u64, (0, 2**64 - 1), (-1, 2**64, False, b"1", None), "an unsigned integer in range"),
        (binary, (b"", b"x"), ("x", bytearray(b"x"), None), "binary"),
        (text, ("", "x"), (b"x", 1, None), "a string"),
        (array, ((), (1,)), ([1], "x", None), "an array"),
    ],
)
def test_a_field_is_of_its_kind(read: Any, good: Any, bad: Any, say: str) -> None:
    for value in good:
        assert read({"field": value}, "field") == value
    for data in ({}, *({"field": value} for value in bad)):
        with pytest.raises(FrameUndecodable) as caught:
            read(data, "field")
        assert caught.value.message == f"field is not {say}"


@pytest.mark.parametrize(
    ("version", "kind", "data", "say"),
    [
        (1, "hello", HELLO | {"protocol_version": 2}, "protocol version 2; this is version 1"),
        (1, "hello", HELLO | {"max_page": -1}, "max_page is not an unsigned integer in range"),
        (1, "hello_reply", NINE, "protocol version 9; this is version 1"),
        (1, "page_hash", {"page_no": 1, "hash": H[1:]}, "a page hash has 32 bytes, not 31"),
        (
            1,
            "request_pages",
            {"page_numbers": [1, "2"]},
            "page_numbers holds something else than numbers",
        ),
        (1, "page_data_batch", {"pages": [1]}, "pages holds something else than maps"),
        (
            1,
            "page_data_batch",
            {"pages": [{"page_no": 1, "data": b"ab"}] * 2},
            "a page appears twice in one frame",
        ),
        (
            1,
            "page_data_batch",
            {"pages": [{"page_no": 1, "data": b"ab"}, {"page_no": 2, "data": b"a"}]},
            "pages of different sizes in one frame",
        ),
        (1, "page_hash_batch", {"start_page": 1}, "end_page is not an unsigned integer in range"),
        (2, LONG, {}, f"unknown kind {LONG[:40]!r}"),
        (2, "hello", REPLY | {"force": 1}, "force is not a flag"),
        (2, "hello", REPLY | {"features": [1]}, "features holds something else than strings"),
        (2, "hello", REPLY | {"features": "x"}, "features is not an array"),
        (2, "hello", REPLY | {"at": "x"}, "at is not an unsigned integer in range"),
        (2, "hello_reply", REPLY | {"limits": [1]}, "limits is not a map of numbers"),
        (2, "hello_reply", REPLY | {"limits": {"a": "b"}}, "limits is not a map of numbers"),
        (2, "hello_reply", REPLY | {"limits": {"a": True}}, "limits is not a map of numbers"),
        (2, "hello_reply", REPLY | {"committed_at": "x"}, "committed_at is not a number"),
        (2, "hello_reply", REPLY | {"committed_at": True}, "committed_at is not a number"),
        (2, "hello_reply", REPLY | {"author": 1}, "author is not a string"),
        (2, "hello_reply", REPLY | {"database": 1}, "database is not a string"),
        (
            2,
            "page_data_batch",
            {"codec": "c" * 30, "runs": [], "data": b""},
            f"unknown codec {'c' * 20!r}",
        ),
        (2, "complete", COMPLETE | {"message": 1}, "message is not a string"),
        (2, "complete", COMPLETE | {"root": "x"}, "root is not binary"),
        (2, "complete", {"page_count": "x"}, "page_count is not an unsigned integer in range"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_message_is_named(
    version: int, kind: str, data: dict[str, Any], say: str
) -> None:
    assert refusal(version, frame(version, kind, data)) == (say, {})


RUN, WINDOW = "runs holds something else than [first, last]", "[first, digests]"
RANGE = "ranges holds something else than [first, last, hash]"


@pytest.mark.parametrize(
    ("kind", "key", "entries", "say"),
    [
        (
            "request_pages",
            "runs",
            [1, "ab", {}, [], [1], [1, 2, 3], ["1", 2], [1, "2"], [True, 2], [1, True], [None] * 2],
            RUN,
        ),
        (
            "page_hashes",
            "runs",
            [1, "ab", [], [1], [1, H, H], ["1", H], [1, "h"], [True, H], [H, 1]],
            f"runs holds something else than {WINDOW}",
        ),
        (
            "page_hash_batch",
            "ranges",
            [1, "abc", {}, [], [1, 2], [1, 2, H, H], ["1", 2, H], [1, "2", H], [1, 2, "h"]],
            RANGE,
        ),
    ],
)  # fmt: skip
def test_an_entry_of_another_shape_is_refused(
    kind: str, key: str, entries: list[Any], say: str
) -> None:
    good = {"request_pages": [1, 2], "page_hashes": [1, H], "page_hash_batch": [1, 2, H]}[kind]
    assert CODECS[2].decode(frame(2, kind, {key: [good]}))
    for entry in entries:
        for held in ([entry], [good, entry]):
            assert refusal(2, frame(2, kind, {key: held})) == (say, {})


def test_a_message_that_is_no_message_says_why_with_its_details() -> None:
    """An error of the message's own constructor, as its own words and figures."""
    ranges = [[1, 1 << 20, H]]
    with pytest.raises(EdgeReplicaError) as caught:
        CODECS[2].decode(frame(2, "page_hash_batch", {"ranges": ranges}))
    said = (caught.value.message, dict(caught.value.details))
    assert "spans more than" in said[0]
    assert said[1]["limit"] == "range_pages_max"


def test_what_is_left_out_has_its_default() -> None:
    decode = CODECS[2].decode
    assert decode(frame(2, "complete", {})) == Complete(None, None, False, "")
    assert decode(frame(2, "complete", {"message": "m"})) == Complete(message="m")
    assert decode(frame(2, "hello_reply", REPLY)) == HelloReply(512, 3)
    sparse = REPLY | {"database": "d", "author": "a", "committed_at": 3}
    reply = decode(frame(2, "hello_reply", sparse))
    assert reply == HelloReply(512, 3, database="d", author="a", committed_at=3.0)
    assert isinstance(reply, HelloReply) and type(reply.committed_at) is float
    error = {"code": "c", "message": "m", "details": {"a": 1}, "retryable": True}
    assert decode(frame(2, "error", error)) == ErrorMessage("m", "c", True, {"a": 1})


def test_whatever_a_decoder_raises_is_undecodable() -> None:
    def decode(codec: Any, untrusted: Any) -> Any:
        if isinstance(untrusted, Exception):
            raise untrusted
        return codec, untrusted

    checked = undecodable_on_error(decode)
    assert checked("codec", b"frame") == ("codec", b"frame")
    own = FrameUndecodable("own words", limit="l")
    for raised, say, details in (
        (own, "own words", {"limit": "l"}),
        (InvalidArgument("words", value=3), "words", {"value": 3}),
        (ValueError("why"), "a malformed frame: why", {}),
        (TypeError("why"), "a malformed frame: why", {}),
        (IndexError("why"), "a malformed frame: why", {}),
        (KeyError("why"), "a malformed frame: 'why'", {}),
    ):
        with pytest.raises(FrameUndecodable) as caught:
            checked("codec", raised)
        assert (caught.value.message, dict(caught.value.details)) == (say, details)
