"""Segments keep batches as they came, and their footer tells all of it or says it is damaged."""

import asyncio
import struct
from itertools import pairwise

import numpy as np
import pytest
import zstandard
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from edgereplica.adapters.block_table import CODECS
from edgereplica.adapters.memory_store import MemoryStore
from edgereplica.adapters.page_arrays import DigestIndex, digest_rows, pages_of_runs, runs_of_pages
from edgereplica.adapters.ports import Buffer
from edgereplica.adapters.segments import (
    SegmentBuilder,
    SegmentFooter,
    checksum,
    decode_block,
    read_footer,
    segment_key,
)
from edgereplica.events.errors import StorageError
from edgereplica.events.limits import BATCH_DECODED_BYTES_MAX
from edgereplica.events.pages import pages_of, runs_of

KEY = segment_key("o1", "s1")


def content(page: int, page_size: int = 512) -> bytes:
    return blake3(struct.pack("<I", page)).digest(length=page_size)


def digests_of(pages: list[int], page_size: int = 512) -> bytes:
    return b"".join(blake3(content(page, page_size)).digest() for page in pages)


def append(
    builder: SegmentBuilder, pages: list[int], codec: str = "raw", page_size: int = 512
) -> tuple[int, int]:
    data = b"".join(content(page, page_size) for page in pages)
    if codec == "zstd":
        data = zstandard.ZstdCompressor().compress(data)
    array = np.array(pages, dtype=np.uint32)
    return builder.append(array, page_size, codec, data, digests_of(pages, page_size))


def stored(parts: tuple[Buffer, ...]) -> MemoryStore:
    store = MemoryStore()
    asyncio.run(store.put(KEY, parts))
    return store


def footer_of(store: MemoryStore) -> SegmentFooter:
    return asyncio.run(read_footer(store, KEY))


def test_every_block_is_found_by_its_footer() -> None:
    builder = SegmentBuilder()
    batches = [([1, 2, 3, 9], "raw"), ([4, 5, 70000], "zstd"), ([6], "raw")]
    places = [append(builder, pages, codec) for pages, codec in batches]
    assert places == [(0, 0), (1, 0), (2, 0)]
    segment = builder.finish()
    store = stored(segment.parts)
    assert len(store.objects[KEY]) == segment.stored_bytes
    assert segment.pages == 8
    footer = footer_of(store)
    assert footer.rows.tobytes() == segment.rows.tobytes()
    assert footer.pages.tolist() == [1, 2, 3, 9, 4, 5, 70000, 6]
    assert footer.block.tolist() == [0, 0, 0, 0, 1, 1, 1, 2]
    assert footer.slot.tolist() == [0, 1, 2, 3, 0, 1, 2, 0]
    assert footer.page_sizes.tolist() == [512] * 3
    assert footer.runs.tolist() == [[1, 3], [9, 9], [4, 5], [70000, 70000], [6, 6]]
    assert footer.digests.tobytes() == digests_of(footer.pages.tolist())
    for row, (pages, codec) in zip(footer.rows, batches, strict=True):
        data = store.objects[KEY][int(row["offset"]) :][: int(row["stored"])]
        assert CODECS[row["codec"]] == codec
        assert checksum(data) == row["check"]
        decoded = decode_block(int(row["codec"]), data, 512 * len(pages))
        assert bytes(decoded) == b"".join(content(page) for page in pages)


def test_small_raw_batches_become_one_block() -> None:
    builder = SegmentBuilder()
    assert [append(builder, [page]) for page in (1, 2, 5)] == [(0, 0), (0, 1), (0, 2)]
    assert append(builder, [4]) == (1, 0), "a block's pages ascend"
    assert append(builder, [9], page_size=1024) == (2, 0), "a block has one page size"
    assert append(builder, [10], "zstd") == (3, 0), "compressed batches stay as they came"
    assert append(builder, [11]) == (4, 0)
    segment = builder.finish()
    footer = footer_of(stored(segment.parts))
    assert footer.pages.tolist() == [1, 2, 5, 4, 9, 10, 11]
    assert footer.rows["pages"].tolist() == [3, 1, 1, 1, 1]


def test_a_block_never_exceeds_its_bound() -> None:
    builder = SegmentBuilder()
    half = list(range(1, BATCH_DECODED_BYTES_MAX // 65536 // 2 + 2))
    append(builder, half, page_size=65536)
    assert append(builder, [page + 100 for page in half], page_size=65536) == (1, 0)


def test_a_segment_knows_when_it_is_full() -> None:
    builder = SegmentBuilder(bytes_max=4096)
    assert builder.room_for(1_000_000), "an empty segment takes any block"
    append(builder, [1, 2, 3])
    assert builder.room_for(2000)
    assert not builder.room_for(2600)
    append(builder, [1, 2, 3])
    assert not builder.room_for(2000)


def test_an_empty_segment_reads_back() -> None:
    footer = footer_of(stored(SegmentBuilder().finish().parts))
    assert len(footer.rows) == len(footer.pages) == len(footer.digests) == 0


def test_a_long_footer_takes_a_second_request() -> None:
    builder = SegmentBuilder()
    pages = list(range(1, 9001))
    for start in range(0, len(pages), 1000):
        append(builder, pages[start : start + 1000])
    footer = footer_of(stored(builder.finish().parts))
    assert footer.pages.tolist() == pages
    assert footer.digests.tobytes() == digests_of(pages)


def test_any_damage_to_the_footer_is_found() -> None:
    builder = SegmentBuilder()
    append(builder, [1, 2, 7])
    append(builder, [3], "zstd")
    segment = builder.finish()
    store = stored(segment.parts)
    sound = store.objects[KEY]
    footer_bytes = struct.unpack_from("<I", sound, len(sound) - 12)[0]
    for at in range(len(sound) - footer_bytes - 32, len(sound)):
        for flip in (1, 0x80):
            store.objects[KEY] = sound[:at] + bytes([sound[at] ^ flip]) + sound[at + 1 :]
            with pytest.raises(StorageError) as caught:
                footer_of(store)
            assert caught.value.details == {"key": KEY, "reason": "corrupt"}
    for length in range(len(sound)):
        store.objects[KEY] = sound[:length]
        with pytest.raises(StorageError):
            footer_of(store)


def test_a_missing_segment_is_named() -> None:
    with pytest.raises(StorageError) as caught:
        footer_of(MemoryStore())
    assert caught.value.details == {"key": KEY, "reason": "missing"}


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 30))
    with pytest.raises(ValueError, match="1073741824 bytes where 4096"):
        decode_block(1, bomb, 4096)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(4096))
    two = zstandard.ZstdCompressor().compress(bytes(4096)) * 2
    for data in (unsized, two, b"", b"\x28\xb5\x2f\xfd", bomb[:-1], two[: len(two) // 2 - 1]):
        with pytest.raises(ValueError, match="zstd"):
            decode_block(1, data, 1 << 30 if data == bomb[:-1] else 4096)


@given(st.sets(st.integers(1, 4000), max_size=300))
def test_runs_and_pages_agree_with_the_plain_way(pages: set[int]) -> None:
    array = np.array(sorted(pages), dtype=np.uint32)
    runs = runs_of_pages(array)
    assert runs == runs_of(sorted(pages))
    assert pages_of_runs(runs).tolist() == list(pages_of(runs))
    assert all(second[0] > first[1] + 1 for first, second in pairwise(runs))


def test_pages_are_found_by_their_digest() -> None:
    rows = digest_rows(digests_of(list(range(1, 100))))
    index = DigestIndex(rows)
    found, where = index.find(digest_rows(digests_of([5, 1000, 99])))
    assert found.tolist() == [True, False, True]
    assert where.tolist() == [4, 0, 98]
    same_start = rows[:1].copy()
    same_start[0, 31] ^= 1
    assert not index.find(same_start)[0].any(), "eight equal bytes are not a digest"
    assert not DigestIndex(rows[:0]).find(rows)[0].any()
