"""Page maps written down: a snapshot holds all pages, a delta the pages changed against a parent.

Map objects lie at `databases/<database id>/maps/<version>-<unique id>`: unique, so that whoever
loses the race for a version overwrites nothing. All numbers are little-endian. Version 1:

    0    8  "ERMAPS", 0, 1 (the version)
    8    1  kind: 0 snapshot, 1 delta
    9    1  log2 of the page size in bytes
   10    2  zero
   12    4  page count of the version (n)
   16    4  entries (e; equal to n in a snapshot)
   20    4  blocks (b)
   24    4  bytes of the segment ids (i)
   28    4  bytes of the compressed columns (c)
   32   32  root of the version
   64   32  root of the parent that a delta is relative to; zero in a snapshot
   96    c  the columns, one zstd frame:
            4·e  page numbers, each minus the one before (delta only)
            4·e  block numbers, each minus the one before, modulo 2^32
            2·e  slots, each minus the one before, modulo 2^16
           27·b  the block table's rows, as in `block_table.ROW`
              i  segment ids, joined by line feeds
         0-7  zeros up to a multiple of 8
        32·e  BLAKE3-256 digests of the entries, in page order
           16  XXH3-128 of everything above

The roots bind an object to its version and to its parent: a map that is not the one the log names
is refused even if its bytes are sound.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xxhash
import zstandard

from ..events.limits import DIGEST_BYTES, PAGES_PER_DATABASE_MAX
from .block_table import CODECS, ROW, BlockTable, no_rows
from .page_arrays import U16, U32, row_slices
from .page_map import MapDelta, PageMap
from .ports import Buffer
from .segments import corrupt, decode_block

_MAGIC: Final = b"ERMAPS\x00\x01"
_HEAD: Final = struct.Struct("<8sBBHIIIII32s32s")
_SNAPSHOT, _DELTA = 0, 1
_ZSTD: Final = CODECS.index("zstd")
NO_PARENT: Final = bytes(DIGEST_BYTES)


def map_prefix(database_id: str) -> str:
    return f"databases/{database_id}/maps"


def map_key(database_id: str, version: int, unique: str) -> str:
    return f"{map_prefix(database_id)}/{version}-{unique}"


@dataclass(frozen=True, slots=True)
class DecodedMap:
    """`content` is a `PageMap` for a snapshot, a `MapDelta` for a delta against `parent_root`."""

    content: PageMap | MapDelta
    root: bytes
    parent_root: bytes


def encode_snapshot(page_map: PageMap, root: bytes) -> Sequence[Buffer]:
    """`page_map` as parts of an object; the digests are not copied."""
    return _encode(page_map, root, NO_PARENT)


def encode_delta(delta: MapDelta, root: bytes, parent_root: bytes) -> Sequence[Buffer]:
    return _encode(delta, root, parent_root)


def _encode(entries: PageMap | MapDelta, root: bytes, parent_root: bytes) -> Sequence[Buffer]:
    ids = "\n".join(entries.table.segments).encode()
    rows = entries.table.rows[1:]
    kind = _SNAPSHOT
    columns: list[U32 | U16] = [entries.block, entries.slot]
    if isinstance(entries, MapDelta):
        kind = _DELTA
        columns.insert(0, entries.pages)
    packed = _compressed(columns, rows.tobytes() + ids)
    log2 = entries.page_size.bit_length() - 1
    head = _HEAD.pack(
        *(_MAGIC, kind, log2, 0, entries.page_count, len(entries.block)),
        *(len(rows), len(ids), len(packed), root, parent_root),
    )
    digests = entries.digests.reshape(-1).data
    parts: list[Buffer] = [head, packed, bytes(-len(packed) % 8), digests]
    check = xxhash.xxh3_128()
    for part in parts:
        check.update(part)
    return (*parts, check.digest())


def _compressed(columns: Sequence[U32 | U16], rest: bytes) -> bytes:
    """The columns as differences, which compress to almost nothing where blocks were filled in
    order, then `rest`: one frame that states its content size."""
    size = sum(column.nbytes for column in columns) + len(rest)
    packer = zstandard.ZstdCompressor(level=1).compressobj(size=size)
    packed: list[bytes] = []
    for column in columns:
        little = column.dtype.newbyteorder("<")
        for part in row_slices(len(column)):
            differences = column[part].copy()
            differences[1:] -= column[part][:-1]
            if part.start:
                differences[:1] -= column[part.start - 1 : part.start]
            packed.append(packer.compress(differences.astype(little, copy=False).tobytes()))
    packed += (packer.compress(rest), packer.flush())
    return b"".join(packed)


def _sums(column: memoryview, dtype: type[np.unsignedinteger[Any]]) -> npt.NDArray[Any]:
    little = np.dtype(dtype).newbyteorder("<")
    return np.cumsum(np.frombuffer(column, dtype=little), dtype=dtype)


def decode_map(data: Buffer, key: str) -> DecodedMap:
    """The map object `data`. `StorageError` (reason "corrupt") if a bit of it is wrong."""
    if len(data) < _HEAD.size + 16 or data[:8] != _MAGIC:
        raise corrupt(key, "it is not a page map of version 1")
    view = memoryview(data)
    if xxhash.xxh3_128_digest(view[:-16]) != view[-16:]:
        raise corrupt(key, "its checksum is wrong")
    _, kind, log2, _, page_count, entries, blocks, id_bytes, packed_bytes, root, parent = (
        _HEAD.unpack_from(data)
    )
    digests_at = _HEAD.size + packed_bytes + -packed_bytes % 8
    if (
        digests_at + DIGEST_BYTES * entries + 16 != len(data)
        or kind not in (_SNAPSHOT, _DELTA)
        or not entries <= page_count <= PAGES_PER_DATABASE_MAX
        or (kind == _SNAPSHOT and entries != page_count)
    ):
        raise corrupt(key, "its lengths do not add up")
    sizes = [4 * entries if kind == _DELTA else 0, 4 * entries, 2 * entries]
    sizes += [ROW.itemsize * blocks, id_bytes]
    columns = _columns(view[_HEAD.size : _HEAD.size + packed_bytes], sizes, key)
    pages: U32 = _sums(columns[0], np.uint32)
    block: U32 = _sums(columns[1], np.uint32)
    slot: U16 = _sums(columns[2], np.uint16)
    rows = np.concatenate([no_rows(), np.frombuffer(columns[3], dtype=ROW)])
    ids = bytes(columns[4]).decode()
    table = BlockTable(rows, tuple(ids.split("\n")) if ids else ())
    digests = np.frombuffer(view[digests_at:-16], dtype=np.uint8).reshape(-1, DIGEST_BYTES)
    content: PageMap | MapDelta
    if kind == _SNAPSHOT:
        content = PageMap(1 << log2, digests, block, slot, table)
    else:
        content = MapDelta(1 << log2, page_count, pages, digests, block, slot, table)
    if not _consistent(content):
        raise corrupt(key, "its entries contradict each other")
    return DecodedMap(content, root, parent)


def _columns(packed: memoryview, sizes: Sequence[int], key: str) -> list[memoryview]:
    """The compressed columns, cut to `sizes`."""
    try:
        unpacked = memoryview(decode_block(_ZSTD, packed, sum(sizes)))
    except ValueError as error:
        raise corrupt(key, str(error)) from error
    cut: list[memoryview] = []
    for size in sizes:
        cut.append(unpacked[:size])
        unpacked = unpacked[size:]
    return cut


def _consistent(content: PageMap | MapDelta) -> bool:
    """Whether every entry is a page of the version, in a row that exists, in a slot that it has."""
    rows = content.table.rows
    if isinstance(content, MapDelta) and len(content.pages):
        pages = content.pages
        if not 1 <= pages[0] <= pages[-1] <= content.page_count or (pages[1:] <= pages[:-1]).any():
            return False
    if len(content.block) and int(content.block.max()) >= len(rows):
        return False
    slots = np.maximum(rows["pages"], 1)
    for part in row_slices(len(content.block)):
        if (content.slot[part] >= slots[content.block[part]]).any():
            return False
    return not (
        (rows["segment"][1:] >= len(content.table.segments)).any()
        or (rows["codec"] >= len(CODECS)).any()
    )
