"""The versions of a history in their stored form: text that is decoded when somebody asks.

The older ones may be in chunks, as a snapshot of the history keeps them: opening a history of ten
thousand versions unpacks the one chunk that is looked at. Immutable, but for remembering that one.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence

import zstandard

from ..events.errors import StorageError
from ..events.limits import HISTORY_CHUNK_BYTES_MAX, HISTORY_CHUNK_VERSIONS

_SEPARATOR = "\n"
"""Stored versions are JSON on one line."""


def pack_chunk(versions: Sequence[str]) -> str:
    """`HISTORY_CHUNK_VERSIONS` stored versions as text for a column."""
    joined = _SEPARATOR.join(versions).encode()
    return base64.b85encode(zstandard.ZstdCompressor(level=3).compress(joined)).decode()


def _unpack_chunk(data: str) -> list[str]:
    try:
        packed = base64.b85decode(data)
        joined = zstandard.ZstdDecompressor().decompress(
            packed, max_output_size=HISTORY_CHUNK_BYTES_MAX
        )
    except (ValueError, binascii.Error, zstandard.ZstdError) as error:
        raise StorageError(f"a snapshot of a history cannot be read: {error}") from error
    versions = joined.decode().split(_SEPARATOR)
    if len(versions) != HISTORY_CHUNK_VERSIONS:
        raise StorageError("a snapshot of a history is damaged: a chunk has another length")
    return versions


class StoredVersions:
    """Like a tuple of texts: chunks, less the first `skip` versions of them, and a tail."""

    __slots__ = ("_chunks", "_skip", "_tail", "_unpacked")

    def __init__(
        self, chunks: tuple[str, ...] = (), tail: tuple[str, ...] = (), skip: int = 0
    ) -> None:
        self._chunks = chunks
        self._tail = tail
        self._skip = skip
        self._unpacked: tuple[int, list[str]] = (-1, [])

    def __len__(self) -> int:
        return len(self._chunks) * HISTORY_CHUNK_VERSIONS - self._skip + len(self._tail)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, within = divmod(index + self._skip, HISTORY_CHUNK_VERSIONS)
        if number >= len(self._chunks):
            return self._tail[index + self._skip - len(self._chunks) * HISTORY_CHUNK_VERSIONS]
        if self._unpacked[0] != number:
            self._unpacked = (number, _unpack_chunk(self._chunks[number]))
        return self._unpacked[1][within]

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoredVersions) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(len(self))

    def with_added(self, versions: Iterable[str]) -> "StoredVersions":
        return StoredVersions(self._chunks, (*self._tail, *versions), self._skip)

    def without_first(self, count: int) -> "StoredVersions":
        """All but the first `count`, which must be there."""
        skip = self._skip + count
        whole = min(skip // HISTORY_CHUNK_VERSIONS, len(self._chunks))
        skip -= whole * HISTORY_CHUNK_VERSIONS
        if whole == len(self._chunks):
            return StoredVersions((), self._tail[skip:])
        return StoredVersions(self._chunks[whole:], self._tail, skip)
