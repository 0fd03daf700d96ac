"""The first 100 bytes of a SQLite file: fileformat2 §1.3.

Only what decides how a file is read and recognised again; the rest of the header is content.
"""

from pathlib import Path
from struct import Struct
from typing import Final

from ..events.errors import NotADatabase
from ..events.limits import PAGE_SIZE_BYTES_MAX, PAGE_SIZE_BYTES_MIN
from ..events.value import Value
from .local_errors import describe_not_a_database

MAGIC: Final = b"SQLite format 3\x00"
HEADER_BYTES: Final = 100
SNIFF_BYTES: Final = 4096
"""Read from the start of a file to tell what it is."""
PAGE_SIZE_DEFAULT_BYTES: Final = 4096
"""What an empty file is said to have; SQLite's own default."""

_U16: Final = Struct(">H")
_U32: Final = Struct(">I")
_PAYLOAD_FRACTIONS: Final = bytes((64, 32, 32))
_WAL: Final = 2


class Header(Value, frozen=True):
    page_size: int
    journal_mode: bytes
    """Bytes 18-19: write and read version, 1 for a rollback journal, 2 for WAL."""
    change_counter: int
    counted_pages: int
    """Bytes 28-31; 0 where they are not valid because an old library wrote last."""
    vacuums_on_commit: bool
    """auto_vacuum=FULL: a commit moves free pages to the end and cuts them off."""

    @property
    def is_wal(self) -> bool:
        return self.journal_mode[1] == _WAL

    def page_count(self, path: Path, file_pages: int, torn: bool) -> int:
        """The pages of the database, as SQLite counts them (btree.c, lockBtree).

        `file_pages` are the whole pages there are (of the file, or as the WAL says); `torn` is
        whether a part of a page follows them.
        """
        if self.counted_pages > file_pages:
            raise NotADatabase(
                f"{path} is cut short: its header counts {self.counted_pages} pages of "
                f"{self.page_size} bytes, the file holds {file_pages}",
                path=str(path),
            )
        if self.counted_pages:
            return self.counted_pages
        if torn:
            raise NotADatabase(
                f"{path} is cut short: its size is not a multiple of {self.page_size} bytes",
                path=str(path),
            )
        return file_pages


def parse_header(path: Path, start: bytes) -> Header:
    """The header of a file that begins with `start`; NotADatabase says what is wrong with it."""
    if not start.startswith(MAGIC):
        raise describe_not_a_database(path, start)
    if len(start) < HEADER_BYTES:
        raise NotADatabase(f"{path} is cut short within its header", path=str(path))
    (size,) = _U16.unpack_from(start, 16)
    size = PAGE_SIZE_BYTES_MAX if size == 1 else size
    if size < PAGE_SIZE_BYTES_MIN or size & (size - 1):
        raise NotADatabase(f"{path} is damaged: its header says page size {size}", path=str(path))
    if start[21:24] != _PAYLOAD_FRACTIONS:
        raise NotADatabase(f"{path} is damaged: bytes 21-23 of its header", path=str(path))
    if not 1 <= start[19] <= _WAL:
        raise NotADatabase(
            f"{path} has file format {start[19]}, which this SQLite cannot read", path=str(path)
        )
    valid = start[24:28] == start[92:96]
    return Header(
        page_size=size,
        journal_mode=bytes(start[18:20]),
        change_counter=_U32.unpack_from(start, 24)[0],
        counted_pages=_U32.unpack_from(start, 28)[0] if valid else 0,
        vacuums_on_commit=any(start[52:56]) and not any(start[64:68]),
    )
