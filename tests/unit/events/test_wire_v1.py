"""Wire v1 against its vectors, against itself, and its joining of per-page frames."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies import V1_MESSAGES
from tests.wire_vectors import INVALID, VALID, VECTORS, Vector, document, frame

from edgereplica.events.errors import FrameUndecodable
from edgereplica.events.limits import BATCH_DECODED_BYTES_MAX
from edgereplica.events.messages import (
    Complete,
    Hello,
    Message,
    PageData,
    PageHashes,
    RangeHashes,
    RangesDiffer,
    RequestPages,
)
from edgereplica.events.pages import pages_of
from edgereplica.events.wire_v1 import V1_BATCH_BYTES_MAX, WireV1, coalesce

CODEC = WireV1()
H = bytes(range(32))


def test_the_vectors_are_what_their_packer_writes() -> None:
    """Stale? `python -m tests.wire_vectors`."""
    assert (VECTORS / "v1.json").read_text(encoding="utf-8") == document(1)


@pytest.mark.parametrize("vector", VALID[1], ids=lambda v: v.name)
def test_a_vector_both_ways(vector: Vector) -> None:
    wanted = frame(1, vector.kind, vector.data)
    if not vector.only_decoded:
        assert CODEC.encode(vector.message) == [wanted]
    assert CODEC.decode(wanted) == (vector.decoded or vector.message)


@pytest.mark.parametrize("name", INVALID[1])
def test_an_invalid_frame_is_undecodable(name: str) -> None:
    with pytest.raises(FrameUndecodable):
        CODEC.decode(INVALID[1][name])


def test_two_frames_as_bytes_written_by_hand() -> None:
    """The packer of the vectors is checked too."""
    assert CODEC.encode(Complete()) == [bytes.fromhex("0181a46b696e64a8636f6d706c657465")]
    assert CODEC.encode(PageHashes(((300, H),))) == [
        bytes.fromhex(
            "01 82 a4 6b696e64 a9 706167655f68617368 a4 64617461"
            "82 a7 706167655f6e6f cd 012c a4 68617368 c4 20" + H.hex()
        )
    ]


@pytest.mark.parametrize("data", [b"", b"\xa4data\xc0", b"\xa4data\x80", b"\xa4data\x81\xa1x\x01"])
def test_complete_is_understood_with_and_without_data(data: bytes) -> None:
    head = b"\x01\x82" if data else b"\x01\x81"
    assert CODEC.decode(head + b"\xa4kind\xa8complete" + data) == Complete(force=True)


def _pages(message: Message) -> list[object]:
    """What a message says, page by page: what splitting and joining must keep."""
    if isinstance(message, PageHashes):
        return [
            (first + i, digests[32 * i : 32 * i + 32])
            for first, digests in message.windows
            for i in range(len(digests) // 32)
        ]
    if isinstance(message, RangeHashes):
        return list(message.ranges)
    if isinstance(message, RequestPages | RangesDiffer):
        return list(pages_of(message.runs))
    if isinstance(message, PageData):
        numbers = list(pages_of(message.runs))
        size = len(message.data) // len(numbers)
        return [(n, message.data[i * size : (i + 1) * size]) for i, n in enumerate(numbers)]
    if isinstance(message, Hello):
        return [message.page_size]
    if isinstance(message, Complete):
        return ["complete"]
    return [message]


@settings(max_examples=300, deadline=None)
@given(V1_MESSAGES)
def test_what_is_encoded_is_decoded(message: Message) -> None:
    frames = CODEC.encode(message)
    decoded = [CODEC.decode(f) for f in frames]
    assert {type(m) for m in decoded} <= {type(message)}
    assert [p for m in decoded for p in _pages(m)] == _pages(message)
    # One frame a page, a range or a batch; never an empty one.
    assert all(map(_pages, decoded))


@settings(max_examples=300, deadline=None)
@given(st.lists(V1_MESSAGES, max_size=6))
def test_joining_keeps_content_and_order(messages: list[Message]) -> None:
    sent = [CODEC.decode(f) for m in messages for f in CODEC.encode(m)]
    joined = coalesce(sent)
    assert [(type(m), p) for m in joined for p in _pages(m)] == [
        (type(m), p) for m in sent for p in _pages(m)
    ]
    assert len(joined) <= len(sent)
    assert coalesce(joined) == joined


def test_per_page_frames_of_each_kind_are_joined() -> None:
    hashes: list[Message] = [PageHashes(((n, H),)) for n in (1, 2, 3, 9, 8)]
    requests: list[Message] = [RequestPages(((n, n),)) for n in (1, 2, 5, 4)]
    data: list[Message] = [PageData(((n, n),), "raw", bytes([n]) * 512) for n in (1, 2, 4, 3)]
    assert coalesce([*hashes, *requests, Complete(), *data]) == [
        PageHashes(((1, H * 3), (9, H), (8, H))),
        RequestPages(((1, 2), (5, 5))),
        RequestPages(((4, 4),)),
        Complete(),
        PageData(((1, 2), (4, 4)), "raw", b"\x01" * 512 + b"\x02" * 512 + b"\x04" * 512),
        PageData(((3, 3),), "raw", b"\x03" * 512),
    ]


def test_pages_of_different_sizes_are_not_joined() -> None:
    """Joined, their borders would be lost: 1,024 and 3,072 bytes are not two pages of 2,048."""
    small, large = PageData(((1, 1),), "raw", b"s" * 1024), PageData(((2, 2),), "raw", b"l" * 3072)
    assert coalesce([small, large]) == [small, large]


def test_joined_data_stays_within_a_batch() -> None:
    size = 65_536
    pages: list[Message] = [PageData(((n, n),), "raw", bytes(size)) for n in range(1, 40)]
    joined = coalesce(pages)
    lengths = [len(m.data) for m in joined if isinstance(m, PageData)]
    assert sum(lengths) == 39 * size
    assert max(lengths) == BATCH_DECODED_BYTES_MAX


def test_no_frame_is_larger_than_the_original_host_took() -> None:
    data = PageData(((1, 3000),), "raw", bytes(3000 * 1024))
    assert max(map(len, CODEC.encode(data))) < V1_BATCH_BYTES_MAX * 1.1
    assert max(map(len, CODEC.encode(RequestPages(((70_000, 400_000),))))) < 1 << 20


def test_v1_carries_no_compressed_pages() -> None:
    with pytest.raises(ValueError, match="raw"):
        CODEC.encode(PageData(((1, 1),), "zstd", b"x"))
