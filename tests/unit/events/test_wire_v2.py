"""Wire v2 against its vectors and against itself; either end may be newer."""

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from tests.strategies import V2_MESSAGES
from tests.wire_vectors import INVALID, VALID, VECTORS, Vector, document, frame

from edgereplica.events.errors import FrameUndecodable
from edgereplica.events.messages import ErrorMessage, Hello, HelloReply, Message, PageData
from edgereplica.events.wire_v2 import WireV2

CODEC = WireV2()


def test_the_vectors_are_what_their_packer_writes() -> None:
    """Stale? `python -m tests.wire_vectors`."""
    assert (VECTORS / "v2.json").read_text(encoding="utf-8") == document(2)


@pytest.mark.parametrize("vector", VALID[2], ids=lambda v: v.name)
def test_a_vector_both_ways(vector: Vector) -> None:
    wanted = frame(2, vector.kind, vector.data)
    assert CODEC.encode(vector.message) == [wanted]
    assert CODEC.decode(wanted) == vector.message


@pytest.mark.parametrize("name", INVALID[2])
def test_an_invalid_frame_is_undecodable(name: str) -> None:
    with pytest.raises(FrameUndecodable):
        CODEC.decode(INVALID[2][name])


@settings(max_examples=400, deadline=None)
@given(V2_MESSAGES)
def test_what_is_encoded_is_decoded(message: Message) -> None:
    (encoded,) = CODEC.encode(message)
    assert CODEC.decode(encoded) == message


@pytest.mark.parametrize("length", [1, 2, 255, 256, 257, 65_535, 65_536, 65_537, 1 << 20])
def test_pages_of_any_length_are_packed_as_msgpack_packs_them(length: int) -> None:
    runs, pages = ((1, 3), (7, 7)), bytes(range(256)) * (length // 256 + 1)
    wanted = frame(2, "page_data_batch", {"runs": runs, "codec": "raw", "data": pages[:length]})
    assert CODEC.encode(PageData(runs, "raw", pages[:length])) == [wanted]


@settings(max_examples=200, deadline=None)
@given(V2_MESSAGES)
def test_keys_of_a_newer_peer_are_ignored(message: Message) -> None:
    body: Any = msgpack.unpackb(CODEC.encode(message)[0][1:])
    body["data"]["invented_later"] = {"x": [1, 2, b"3"]}
    body["trailer"] = 1
    assert CODEC.decode(b"\x02" + msgpack.packb(body)) == message


def test_an_older_peer_may_leave_out_what_is_optional() -> None:
    assert CODEC.decode(frame(2, "hello", {"page_size": 512, "page_count": 3})) == Hello(512, 3)
    reply = CODEC.decode(frame(2, "hello_reply", {"page_size": 512, "page_count": 3}))
    assert reply == HelloReply(512, 3)
    bare = CODEC.decode(frame(2, "error", {"code": "x", "message": "y"}))
    assert bare == ErrorMessage("y", "x")


@pytest.mark.parametrize("details", [None, 7, "text", [1], {b"binary": 1}])
def test_details_that_are_no_map_of_names_are_dropped(details: Any) -> None:
    body = {"code": "x", "message": "y", "retryable": False, "details": details}
    decoded = CODEC.decode(b"\x02" + msgpack.packb({"kind": "error", "data": body}))
    assert decoded == ErrorMessage("y", "x")
