"""What wire v1 makes of a batch, and what it joins: bounds to the byte."""

from typing import Any

import msgpack
import pytest

from edgereplica.events.limits import BATCH_DECODED_BYTES_MAX
from edgereplica.events.messages import ErrorMessage, PageData, RequestPages
from edgereplica.events.wire_v1 import V1_BATCH_BYTES_MAX, WireV1, coalesce

CODEC = WireV1()


def bodies(frames: list[bytes]) -> list[Any]:
    return [msgpack.unpackb(f[1:]) for f in frames]


def test_v1_asks_for_a_page_by_its_number() -> None:
    assert bodies(CODEC.encode(RequestPages(((7, 7),)))) == [
        {"kind": "request_page", "data": {"page_no": 7}}
    ]


@pytest.mark.parametrize("size", [65_536, 131_072, 131_073, 262_144, 262_145])
def test_v1_batches_hold_what_fits_and_at_least_one_page(size: int) -> None:
    """Of no page size does a batch hold more than its bytes; of the largest, four pages."""
    data = b"".join(bytes([n]) * size for n in range(1, 10))
    sent = bodies(CODEC.encode(PageData(((3, 11),), "raw", data)))
    each = max(1, V1_BATCH_BYTES_MAX // size)
    assert [len(f["data"]["pages"]) for f in sent] == [each] * (9 // each) + [9 % each] * (
        9 % each > 0
    )
    pages = [page for f in sent for page in f["data"]["pages"]]
    assert [page["page_no"] for page in pages] == list(range(3, 12))
    assert [page["data"] for page in pages] == [bytes([n]) * size for n in range(1, 10)]


def test_v1_refuses_to_send_what_it_cannot_say() -> None:
    with pytest.raises(ValueError, match=r"^wire v1 carries raw pages only$"):
        CODEC.encode(PageData(((1, 1),), "zstd", b"x"))


def data(first: int, last: int, *pages: bytes) -> PageData:
    return PageData(((first, last),), "raw", b"".join(pages))


A, B, C = b"a" * 512, b"b" * 512, b"c" * 512


@pytest.mark.parametrize(
    ("messages", "joined"),
    [
        ([data(1, 1, A), data(2, 3, B, C)], [data(1, 3, A, B, C)]),
        ([data(1, 2, A, B), data(3, 3, C)], [data(1, 3, A, B, C)]),
        ([data(1, 1, A), data(1, 1, A)], None),
        ([data(1, 2, A, B), data(2, 3, B, C)], None),
        ([data(1, 2, A, A[1:]), data(3, 4, C, C[1:])], None),
        ([RequestPages(((1, 5),)), RequestPages(((3, 9),))], None),
        ([RequestPages(((1, 5),)), RequestPages(((5, 5),))], None),
        ([RequestPages(((1, 5),)), RequestPages(())], None),
        ([RequestPages(()), RequestPages(((1, 5),))], None),
        ([RequestPages(((1, 5),)), RequestPages(((6, 9), (11, 11)))],
         [RequestPages(((1, 9), (11, 11)))]),
    ],
)  # fmt: skip
def test_only_what_follows_is_joined(messages: list[Any], joined: list[Any] | None) -> None:
    assert coalesce(messages) == (messages if joined is None else joined)


def test_every_batch_is_filled() -> None:
    size = 65_536
    pages: list[Any] = [PageData(((n, n),), "raw", bytes(size)) for n in range(1, 40)]
    full = BATCH_DECODED_BYTES_MAX // size
    for before in ([], [ErrorMessage("x")]):
        joined = coalesce([*before, *pages])[len(before) :]
        assert [len(m.data) // size for m in joined if isinstance(m, PageData)] == [
            full,
            full,
            39 - 2 * full,
        ]
