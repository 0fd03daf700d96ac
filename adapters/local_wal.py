"""The write-ahead log and its index, read directly: walformat §2 and fileformat2 §4.

The index (`-shm`) is what SQLite itself goes by: its header says how many frames are committed
*and published*, and it holds the page number of every frame, 4 bytes each. A commit reaches the
log before it reaches the index, so that only the index says what a transaction begun now sees.
All fields are in the machine's byte order, salts as they stand in the log.

How this is used safely beside a writer, and under which lock, is `local_snapshot`'s business.
"""

from array import array
from pathlib import Path
from struct import Struct
from typing import Final

from ..events.limits import PAGE_SIZE_BYTES_MAX
from ..events.value import Value
from .local_errors import local_errors
from .local_files import read_at

WAL_HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24
SALT_BYTES: Final = 8

_MAGICS: Final = (0x377F0682, 0x377F0683)
_SALTS_AT: Final = 16

_INDEX_VERSION: Final = 3007000
_INDEX_COPY: Final = Struct("=IIIBBHIIII8sII")
_CHECKSUM: Final = Struct(">II")
_CHECKSUMMED_BYTES: Final = 40
_BACKFILL: Final = Struct("=I")
_INDEX_START_BYTES: Final = 136
_BLOCK_BYTES: Final = 32768
_BLOCK_FRAMES: Final = 4096
_FIRST_BLOCK_FRAMES: Final = _BLOCK_FRAMES - _INDEX_START_BYTES // 4
_U32_MASK: Final = 0xFFFF_FFFF


class WalIndexHeader(Value, frozen=True):
    """One consistent reading of the index. Two readings with equal `raw` are one state."""

    raw: bytes
    page_size: int
    frames: int
    """Committed and published frames (mxFrame)."""
    page_count: int
    salts: bytes
    checksum: bytes
    """The last frame's, over all frames before it too; as it stands in that frame's header."""
    backfilled: int
    """Frames whose pages a checkpoint has already put into the database file."""


def read_index_header(descriptor: int) -> WalIndexHeader | None:
    """What the `-shm` at `descriptor` says now; None while it is being changed, or not ready."""
    start = bytearray(_INDEX_START_BYTES)
    if read_at(descriptor, 0, memoryview(start)) < len(start):
        return None
    first, second = bytes(start[: _INDEX_COPY.size]), start[_INDEX_COPY.size : 96]
    if first != second:
        return None
    fields = _INDEX_COPY.unpack(first)
    version, _, _, ready, _, size, frames, pages, one, two, salts, *own_checksum = fields
    if version != _INDEX_VERSION or not ready or list(_checksum(first)) != own_checksum:
        return None
    (backfilled,) = _BACKFILL.unpack_from(start, 96)
    return WalIndexHeader(
        raw=first,
        page_size=PAGE_SIZE_BYTES_MAX if size == 1 else size,
        frames=frames,
        page_count=pages,
        salts=salts,
        checksum=_CHECKSUM.pack(one, two),
        backfilled=backfilled,
    )


def _checksum(copy: bytes) -> tuple[int, int]:
    """walformat §2.1.1: over the first 40 bytes, in the machine's byte order."""
    words = memoryview(copy)[:_CHECKSUMMED_BYTES].cast("I")
    one = two = 0
    for at in range(0, len(words), 2):
        one = (one + words[at] + two) & _U32_MASK
        two = (two + words[at + 1] + one) & _U32_MASK
    return one, two


def frame_pages(descriptor: int, first: int, last: int) -> "array[int]":
    """The page number of each frame first..last (from 1, published), out of the index."""
    pages = array("I")
    frame = first
    while frame <= last:
        if frame <= _FIRST_BLOCK_FRAMES:
            offset = _INDEX_START_BYTES + 4 * (frame - 1)
            end = min(last, _FIRST_BLOCK_FRAMES)
        else:
            block, place = divmod(frame - 1 - _FIRST_BLOCK_FRAMES, _BLOCK_FRAMES)
            offset = (block + 1) * _BLOCK_BYTES + 4 * place
            end = min(last, frame + _BLOCK_FRAMES - place - 1)
        piece = bytearray(4 * (end - frame + 1))
        read_at(descriptor, offset, memoryview(piece))
        pages.frombytes(piece)
        frame = end + 1
    return pages


def frame_offset(frame: int, page_size: int) -> int:
    """Where the header of `frame` (from 1) begins in the log."""
    return WAL_HEADER_BYTES + (frame - 1) * (FRAME_HEADER_BYTES + page_size)


def read_salts(path: Path) -> bytes | None:
    """The salts of the log at `path`; None if there is no log or nothing in it."""
    start = _read_log(path, 0, WAL_HEADER_BYTES)
    if len(start) < WAL_HEADER_BYTES or int.from_bytes(start[:4], "big") not in _MAGICS:
        return None
    return start[_SALTS_AT : _SALTS_AT + SALT_BYTES]


class FrameMark(Value, frozen=True):
    """The part of a frame's header that tells it from any other frame ever written there."""

    salts: bytes
    checksum: bytes


def read_frame_mark(path: Path, frame: int, page_size: int) -> FrameMark:
    """The mark of `frame` (from 1) in the log at `path`; empty after the end of the log."""
    header = _read_log(path, frame_offset(frame, page_size), FRAME_HEADER_BYTES)
    return FrameMark(header[8:16], header[16:24])


def _read_log(path: Path, offset: int, count: int) -> bytes:
    """Nothing if there is no log. SQLite locks the file and its index, never the log."""
    with local_errors(path):
        try:
            with path.open("rb", buffering=0) as log:
                log.seek(offset)
                return log.read(count)
        except FileNotFoundError:
            return b""
