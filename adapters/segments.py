"""Segments: batches of pages as they arrived, in one immutable object with an index at its end.

A segment belongs to an organization, at `orgs/<org id>/segments/<segment id>`. All numbers are
little-endian. Version 1:

    header   8  "ERSEGM", 0, 1 (the version)
    block 0 … block n-1, each:
             4  "EBLK"
             1  codec: 0 raw, 1 zstd (one frame that states its content size)
             1  log2 of the page size in bytes
             2  pages
             4  stored bytes (s)
             4  runs (r)
             8  XXH3-64 of the stored bytes
             8  XXH3-64 of the 24 bytes above and of the runs
             s  the pages joined in the order of the runs, encoded by the codec
           8·r  runs: first and last page, 4 bytes each, ascending
    footer: for each block
             8  offset of its stored bytes in the segment
             8  XXH3-64 of the stored bytes
             4  stored bytes
             4  runs
             2  pages
             1  codec
             1  log2 of the page size
           then the runs of all blocks, then the BLAKE3-256 digests of all pages, in block order
    trailer 16  XXH3-128 of the footer and of the 8 bytes that follow
             4  blocks
             4  footer bytes
             8  "ERSEGM", 0, 1

The footer alone tells which pages a segment holds; the blocks alone suffice to rebuild it. At most
1 MiB of pages are in a block. The checksums find damage; the digests prove content.
"""

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash
import zstandard

from ..events.errors import NotFound, StorageError
from ..events.limits import (
    BATCH_DECODED_BYTES_MAX,
    DIGEST_BYTES,
    SEGMENT_BYTES_MAX,
    SEGMENT_FOOTER_READ_BYTES,
)
from .block_table import CODECS, RAW, ROW
from .page_arrays import (
    U16,
    U32,
    Bytes2D,
    Records,
    bounds_of_pages,
    digest_rows,
    pages_of_bounds,
)
from .ports import Buffer, ObjectStore

_MAGIC: Final = b"ERSEGM\x00\x01"
_BLOCK: Final = struct.Struct("<4sBBHIIQ")
_CHECK: Final = struct.Struct("<Q")
_TRAILER: Final = struct.Struct("<16sII8s")
_BLOCK_OVERHEAD: Final = _BLOCK.size + _CHECK.size
_INDEX: Final = np.dtype(
    [
        ("offset", "<u8"),
        ("check", "<u8"),
        ("stored", "<u4"),
        ("runs", "<u4"),
        ("pages", "<u2"),
        ("codec", "u1"),
        ("log2", "u1"),
    ]
)


def segment_prefix(org_id: str) -> str:
    return f"orgs/{org_id}/segments"


def segment_key(org_id: str, segment_id: str) -> str:
    return f"{segment_prefix(org_id)}/{segment_id}"


def corrupt(key: str, why: str) -> StorageError:
    return StorageError(f"the object {key} is damaged: {why}", key=key, reason="corrupt")


def missing(key: str) -> StorageError:
    return StorageError(f"the object {key} is missing", key=key, reason="missing")


def checksum(data: Buffer) -> int:
    """XXH3-64, the checksum of a block's stored bytes."""
    return xxhash.xxh3_64_intdigest(data)


def decode_block(codec: int, data: Buffer, decoded_bytes: int) -> Buffer:
    """The pages of a block. `ValueError` unless they are exactly `decoded_bytes`, which is checked
    before anything is allocated: a few bytes of zstd can claim gigabytes (RFC 8878 §3.1.1.1.4)."""
    if codec == RAW:
        if len(data) != decoded_bytes:
            raise ValueError(f"{len(data)} bytes where {decoded_bytes} were said")
        return data
    try:
        claimed = zstandard.frame_content_size(data)
        if claimed != decoded_bytes:
            raise ValueError(f"a zstd frame of {claimed} bytes where {decoded_bytes} were said")
        return zstandard.ZstdDecompressor().decompress(
            data, max_output_size=decoded_bytes, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise ValueError(f"not a zstd frame: {error}") from None


@dataclass(frozen=True, slots=True)
class Segment:
    """A finished segment: what to store, and its rows for a block table (segment index 0)."""

    parts: tuple[Buffer, ...]
    stored_bytes: int
    rows: Records
    pages: int


@dataclass(slots=True)
class _OpenBlock:
    """A raw block that small batches are still joined to."""

    page_size: int
    parts: list[Buffer]
    pages: list[U32]
    digests: list[Buffer]
    bytes_held: int
    last_page: int


class SegmentBuilder:
    """Collects blocks until the segment is full. Small raw batches become one block."""

    def __init__(self, bytes_max: int = SEGMENT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._parts: list[Buffer] = [_MAGIC]
        self._bytes = len(_MAGIC)
        self._open: _OpenBlock | None = None
        self._index: list[tuple[int, int, int, int, int, int, int]] = []
        self._runs: list[U32] = []
        self._digests: list[Buffer] = []

    @property
    def blocks(self) -> int:
        """Blocks begun so far, the open one included."""
        return len(self._index) + (self._open is not None)

    def room_for(self, stored_bytes: int) -> bool:
        """Whether a block of `stored_bytes` still fits; an empty segment takes any."""
        held = self._bytes + (self._open.bytes_held if self._open else 0)
        return not self.blocks or held + stored_bytes + _BLOCK_OVERHEAD <= self._bytes_max

    def append(
        self,
        pages: U32,
        page_size: int,
        codec: str,
        data: Buffer,
        digests: Buffer,
        *,
        join: bool = True,
    ) -> tuple[int, int]:
        """Add one batch of ascending `pages` exactly as it came: `data` must not change later.

        Returns the block's number in this segment and the slot of the batch's first page. Without
        `join` the batch is a block of its own.
        """
        number = CODECS.index(codec)
        if number != RAW or not join:
            self._close_block()
            self._add_block(number, page_size, pages, data, digests)
            return len(self._index) - 1, 0
        block = self._open
        if (
            block is None
            or block.page_size != page_size
            or block.bytes_held + len(data) > BATCH_DECODED_BYTES_MAX
            or int(pages[0]) <= block.last_page
        ):
            self._close_block()
            block = self._open = _OpenBlock(page_size, [], [], [], 0, 0)
        slot = block.bytes_held // page_size
        block.parts.append(data)
        block.pages.append(pages)
        block.digests.append(digests)
        block.bytes_held += len(data)
        block.last_page = int(pages[-1])
        return len(self._index), slot

    def finish(self) -> Segment:
        """The whole segment. The builder is spent."""
        self._close_block()
        index = np.array(self._index, dtype=_INDEX)
        footer: list[Buffer] = [index.tobytes(), *(r.tobytes() for r in self._runs)]
        footer += self._digests
        footer_bytes = sum(len(part) for part in footer)
        tail = struct.pack("<II", len(index), footer_bytes)
        check = xxhash.xxh3_128()
        for part in (*footer, tail):
            check.update(part)
        trailer = _TRAILER.pack(check.digest(), len(index), footer_bytes, _MAGIC)
        return Segment(
            parts=(*self._parts, *footer, trailer),
            stored_bytes=self._bytes + footer_bytes + len(trailer),
            rows=_rows(index),
            pages=int(index["pages"].sum()),
        )

    def _close_block(self) -> None:
        block, self._open = self._open, None
        if block is None:
            return
        if len(block.parts) == 1:
            self._add_block(RAW, block.page_size, block.pages[0], block.parts[0], block.digests[0])
            return
        data, digests = b"".join(block.parts), b"".join(block.digests)
        self._add_block(RAW, block.page_size, np.concatenate(block.pages), data, digests)

    def _add_block(
        self, codec: int, page_size: int, pages: U32, data: Buffer, digests: Buffer
    ) -> None:
        runs = bounds_of_pages(pages)
        log2, check = page_size.bit_length() - 1, checksum(data)
        head = _BLOCK.pack(b"EBLK", codec, log2, len(pages), len(data), len(runs), check)
        table = runs.astype("<u4", copy=False).tobytes()
        offset = self._bytes + _BLOCK_OVERHEAD
        self._parts += (head + _CHECK.pack(checksum(head + table)), data, table)
        self._bytes = offset + len(data) + len(table)
        self._index.append((offset, check, len(data), len(runs), len(pages), codec, log2))
        self._runs.append(runs)
        self._digests.append(digests)


def _rows(index: Records) -> Records:
    rows = np.zeros(len(index), dtype=ROW)
    for name in ("offset", "check", "stored", "pages", "codec"):
        rows[name] = index[name]
    return rows


@dataclass(frozen=True, slots=True)
class SegmentFooter:
    """What a segment holds. Arrays of pages are in block order, then slot order."""

    rows: Records
    page_sizes: U32
    runs: U32
    pages: U32
    digests: Bytes2D

    @property
    def block(self) -> U32:
        """For each page, the number of its block."""
        return np.repeat(np.arange(len(self.rows), dtype=np.uint32), self.rows["pages"])

    @property
    def slot(self) -> U16:
        """For each page, its place within its block."""
        counts = self.rows["pages"].astype(np.int64)
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        return (np.arange(len(starts)) - starts).astype(np.uint16)


async def read_footer(objects: ObjectStore, key: str) -> SegmentFooter:
    """The footer of the segment at `key`: one request, or two for a very long footer.

    `StorageError` (reason "missing" or "corrupt") if there is none to rely on.
    """
    try:
        tail, size = await objects.get_tail(key, SEGMENT_FOOTER_READ_BYTES)
        wanted = _footer_bytes(tail, key) + _TRAILER.size
        if wanted > len(tail):
            if wanted + len(_MAGIC) > size:
                raise corrupt(key, "its footer is longer than itself")
            tail = await objects.get_range(key, size - wanted, wanted)
    except NotFound as error:
        raise missing(key) from error
    return decode_footer(tail[len(tail) - wanted :], size, key)


def footer_of(data: memoryview, key: str) -> SegmentFooter:
    """The footer of the whole segment `data`. `StorageError` as `read_footer`."""
    wanted = _footer_bytes(data, key) + _TRAILER.size
    if wanted + len(_MAGIC) > len(data):
        raise corrupt(key, "its footer is longer than itself")
    return decode_footer(data[len(data) - wanted :], len(data), key)


def _footer_bytes(tail: memoryview, key: str) -> int:
    if len(tail) < _TRAILER.size:
        raise corrupt(key, "it has no trailer")
    _, _, footer_bytes, magic = _TRAILER.unpack(tail[-_TRAILER.size :])
    if magic != _MAGIC:
        raise corrupt(key, "its trailer is not that of a segment of version 1")
    return int(footer_bytes)


def decode_footer(data: memoryview, segment_bytes: int, key: str) -> SegmentFooter:
    """The footer from `data`, which is footer and trailer. `StorageError` if it is damaged."""
    check, blocks, footer_bytes, _ = _TRAILER.unpack(data[-_TRAILER.size :])
    hashed = xxhash.xxh3_128(data[:footer_bytes])
    hashed.update(data[footer_bytes + 16 : footer_bytes + 24])
    if hashed.digest() != check:
        raise corrupt(key, "the checksum of its footer is wrong")
    if blocks * _INDEX.itemsize > footer_bytes:
        raise corrupt(key, "its footer is too short")
    index = np.frombuffer(data, dtype=_INDEX, count=blocks)
    run_count, page_count = int(index["runs"].sum()), int(index["pages"].sum())
    runs_at = blocks * _INDEX.itemsize
    digests_at = runs_at + 8 * run_count
    if digests_at + DIGEST_BYTES * page_count != footer_bytes:
        raise corrupt(key, "its footer's length does not add up")
    runs = np.frombuffer(data, dtype="<u4", count=2 * run_count, offset=runs_at).reshape(-1, 2)
    bounds = runs.astype(np.int64)
    ends = index["offset"] + index["stored"]
    if (
        (bounds[:, 0] > bounds[:, 1]).any()
        or (bounds[:, 0] < 1).any()
        or (ends > segment_bytes).any()
        or (index["codec"] >= len(CODECS)).any()
        or (index["log2"] > 16).any()
        or not _runs_add_up(index, bounds)
    ):
        raise corrupt(key, "its footer contradicts itself")
    return SegmentFooter(
        rows=_rows(index),
        page_sizes=np.uint32(1) << index["log2"].astype(np.uint32),
        runs=runs,
        pages=pages_of_bounds(bounds),
        digests=digest_rows(data[digests_at:footer_bytes]),
    )


def _runs_add_up(index: Records, bounds: npt.NDArray[np.int64]) -> bool:
    """Whether each block's runs hold as many pages as the block says."""
    before = np.concatenate([[0], np.cumsum(bounds[:, 1] - bounds[:, 0] + 1)])
    run_ends = np.cumsum(index["runs"], dtype=np.int64)
    held = before[run_ends] - before[run_ends - index["runs"]]
    return bool((held == index["pages"]).all())
