"""The blocks that a page map refers to, and the segments they lie in.

A block is a batch of pages as it arrived, at `offset` of a segment. Rows are numbered; row 0 is no
block, so that an array of zeros means pages without content and costs no memory until written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .page_arrays import U32, Records, row_slices

ROW: Final = np.dtype(
    [
        ("segment", "<u4"),  # index into `segments`
        ("offset", "<u8"),  # of the stored bytes within the segment
        ("stored", "<u4"),  # stored bytes
        ("pages", "<u2"),  # pages in the block, all of one size
        ("codec", "u1"),  # index into `CODECS`
        ("check", "<u8"),  # XXH3-64 of the stored bytes
    ]
)
CODECS: Final = ("raw", "zstd")
RAW: Final = CODECS.index("raw")


def no_rows() -> Records:
    """A table's row 0."""
    return np.zeros(1, dtype=ROW)


@dataclass(frozen=True, slots=True)
class BlockTable:
    rows: Records
    segments: tuple[str, ...]

    @classmethod
    def empty(cls) -> "BlockTable":
        return cls(no_rows(), ())

    @property
    def nbytes(self) -> int:
        """Bytes of memory, roughly: an id is a string of 32 characters."""
        return self.rows.nbytes + 96 * len(self.segments)

    def joined(self, *others: "BlockTable") -> tuple["BlockTable", tuple[int, ...]]:
        """All tables in one, and by how much each other's row numbers (but 0) have moved."""
        index = {segment: n for n, segment in enumerate(self.segments)}
        rows, moved, count = [self.rows], list[int](), len(self.rows)
        for other in others:
            names = [index.setdefault(segment, len(index)) for segment in other.segments]
            added = other.rows[1:].copy()
            if len(added):
                added["segment"] = np.array(names, dtype=np.uint32)[added["segment"]]
            rows.append(added)
            moved.append(count - 1)
            count += len(added)
        return BlockTable(np.concatenate(rows), tuple(index)), tuple(moved)

    def kept(self, used: U32) -> tuple["BlockTable", U32]:
        """Only the rows that `used` (row numbers, with repeats) names, each place in a segment
        once, and the new number of every old row."""
        flags = np.zeros(len(self.rows), dtype=np.bool_)
        for part in row_slices(len(used)):
            flags[used[part]] = True
        flags[0] = False
        old = np.flatnonzero(flags)
        rows = self.rows[old]
        _, first, inverse = np.unique(
            rows[["segment", "offset"]], return_index=True, return_inverse=True
        )
        renumbered = np.zeros(len(self.rows), dtype=np.uint32)
        renumbered[old] = inverse + 1
        rows = rows[first]
        segments, index = np.unique(rows["segment"], return_inverse=True)
        rows["segment"] = index
        names: Sequence[str] = [self.segments[n] for n in segments.tolist()]
        return BlockTable(np.concatenate([no_rows(), rows]), tuple(names)), renumbered


def renumber(block: U32, renumbered: U32) -> U32:
    """Row numbers `block` after `BlockTable.kept`."""
    result = np.empty_like(block)
    for part in row_slices(len(block)):
        result[part] = renumbered[block[part]]
    return result


def moved_rows(block: U32, by: int) -> U32:
    """Row numbers `block` after their table was joined to another."""
    return np.where(block > 0, block + np.uint32(by), block).astype(np.uint32, copy=False)
