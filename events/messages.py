"""What the two ends say to each other, independent of how it is written on the wire.

Both wire versions decode into these messages and are encoded from them (`wire_v1`, `wire_v2`), so
that one set of machines serves both. A message refuses bad values in its constructor; what depends
on the session (page size, what was requested) is the machines' business.

Windows are contiguous pages with their digests joined: (first page, 32·n bytes). Ranges are
(first, last, range hash), the range hash being BLAKE3 over the joined digests (design §4).
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from .errors import InvalidArgument
from .limits import (
    DIGEST_BYTES,
    ERROR_CODE_CHARS_MAX,
    ERROR_MESSAGE_CHARS_MAX,
    PAGES_PER_DATABASE_MAX,
    PAGES_PER_FRAME_MAX,
    RANGE_PAGES_MAX,
    RANGES_PER_FRAME_MAX,
    RUNS_PER_FRAME_MAX,
    VERSION_MESSAGE_CHARS_MAX,
)
from .pages import Runs, check_runs, count_pages, page_size
from .value import Value

Window = tuple[int, bytes]
Windows = tuple[Window, ...]
HashRange = tuple[int, int, bytes]
HashRanges = tuple[HashRange, ...]
Codec = Literal["raw", "zstd"]
At = int | float | None
"""Which version a pull wants: a version number (int), the head at a Unix time (float), the head."""


def _check_page_count(value: int) -> None:
    if not 0 <= value <= PAGES_PER_DATABASE_MAX:
        raise InvalidArgument(
            f"{value} pages is more than a database may have ({PAGES_PER_DATABASE_MAX})",
            limit="pages_per_database_max",
            value=PAGES_PER_DATABASE_MAX,
        )


def _check_root(value: bytes | None) -> None:
    if value is not None and len(value) != DIGEST_BYTES:
        raise InvalidArgument(f"a root has {DIGEST_BYTES} bytes, not {len(value)}")


def _check_version(value: int | None) -> None:
    if value is not None and not 0 <= value < 1 << 63:
        raise InvalidArgument(f"{value} is not a version")


def _check_at(value: At) -> None:
    if isinstance(value, int):
        _check_version(value)
    elif value is not None and not (math.isfinite(value) and value >= 0):
        raise InvalidArgument(f"{value} is not a Unix time")


def _sendable(text: str) -> str:
    """`text` without lone surrogates (a path or argument that is not UTF-8 brings them)."""
    return text.encode("utf-8", "replace").decode("utf-8")


class Hello(Value, frozen=True):
    """The client's greeting: what it holds, and for a push what it builds on.

    `page_count` is None where the wire cannot say it (v1: max_page is no page count). `base` is the
    version the client last synced and `base_root` its root: a server whose version of that number
    has another root does not know the base. `root` is the root of what the client holds now, if it
    knows it.
    """

    page_size: int
    page_count: int | None = None
    base: int | None = None
    base_root: bytes | None = None
    root: bytes | None = None
    at: At = None
    force: bool = False
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        page_size(self.page_size)
        if self.page_count is not None:
            _check_page_count(self.page_count)
        _check_version(self.base)
        _check_root(self.base_root)
        _check_root(self.root)
        _check_at(self.at)


class HelloReply(Value, frozen=True):
    """The server's answer. For a push it describes the head; for a pull, the version chosen.

    `base_known`: the server still has the client's base and will compare against it.
    `pages_changed`: pages that differ between a known base and the version described.
    """

    page_size: int
    page_count: int
    head: int | None = None
    root: bytes | None = None
    database: str = ""
    author: str = ""
    committed_at: float = 0.0
    base_known: bool = False
    pages_changed: int | None = None
    limits: Mapping[str, int] = msgspec.field(default_factory=dict)
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        page_size(self.page_size)
        _check_page_count(self.page_count)
        _check_version(self.head)
        _check_root(self.root)
        if not math.isfinite(self.committed_at):
            raise InvalidArgument(f"{self.committed_at} is not a Unix time")


class PageHashes(Value, frozen=True):
    windows: Windows

    def __post_init__(self) -> None:
        pages = 0
        for first, digests in self.windows:
            count, rest = divmod(len(digests), DIGEST_BYTES)
            if rest or not count:
                raise InvalidArgument(f"{len(digests)} bytes are not whole page hashes")
            if first < 1 or first + count - 1 > PAGES_PER_DATABASE_MAX:
                raise InvalidArgument(
                    f"page hashes {first}+{count} are outside 1..{PAGES_PER_DATABASE_MAX}"
                )
            pages += count
        if pages > PAGES_PER_FRAME_MAX:
            raise InvalidArgument(
                f"{pages} page hashes in one frame, at most {PAGES_PER_FRAME_MAX}",
                limit="pages_per_frame_max",
                value=PAGES_PER_FRAME_MAX,
            )

    @property
    def page_runs(self) -> Runs:
        """The pages announced, window by window."""
        return tuple(
            (first, first + len(digests) // DIGEST_BYTES - 1) for first, digests in self.windows
        )


class RangeHashes(Value, frozen=True):
    ranges: HashRanges

    def __post_init__(self) -> None:
        if len(self.ranges) > RANGES_PER_FRAME_MAX:
            raise InvalidArgument(f"{len(self.ranges)} ranges, at most {RANGES_PER_FRAME_MAX}")
        for first, last, combined in self.ranges:
            if not 1 <= first <= last <= PAGES_PER_DATABASE_MAX:
                raise InvalidArgument(
                    f"range {first}..{last} is empty or outside 1..{PAGES_PER_DATABASE_MAX}"
                )
            if last - first >= RANGE_PAGES_MAX:
                raise InvalidArgument(
                    f"range {first}..{last} spans more than {RANGE_PAGES_MAX} pages",
                    limit="range_pages_max",
                    value=RANGE_PAGES_MAX,
                )
            _check_root(combined)


class RangesDiffer(Value, frozen=True):
    """These announced ranges differ; the runs name their pages."""

    runs: Runs

    def __post_init__(self) -> None:
        check_runs(self.runs)


class RequestPages(Value, frozen=True):
    """The server asks for these pages; in v2 every `PageHashes` gets one, empty if none."""

    runs: Runs

    def __post_init__(self) -> None:
        check_runs(self.runs)


class PageData(Value, frozen=True):
    """Pages joined in the order of `runs`, encoded by `codec`."""

    runs: Runs
    codec: Codec
    data: bytes

    def __post_init__(self) -> None:
        check_runs(self.runs)
        if not self.runs or not self.data:
            raise InvalidArgument("page data without pages")
        if len(self.runs) > RUNS_PER_FRAME_MAX or count_pages(self.runs) > PAGES_PER_FRAME_MAX:
            raise InvalidArgument(f"more than {PAGES_PER_FRAME_MAX} pages in one frame")
        if self.codec not in ("raw", "zstd"):
            raise InvalidArgument(f"unknown codec {self.codec!r}")


class Complete(Value, frozen=True):
    """The client has announced everything. A push says what it is to become."""

    page_count: int | None = None
    root: bytes | None = None
    force: bool = False
    message: str = ""

    def __post_init__(self) -> None:
        if self.page_count is not None:
            _check_page_count(self.page_count)
        _check_root(self.root)
        if len(self.message) > VERSION_MESSAGE_CHARS_MAX:
            raise InvalidArgument(
                f"a version's message has at most {VERSION_MESSAGE_CHARS_MAX} characters"
            )
        if _sendable(self.message) != self.message:
            raise InvalidArgument("a version's message is not valid Unicode")


class SyncComplete(Value, frozen=True):
    pages_transferred: int
    bytes_transferred: int
    version: int | None = None
    root: bytes | None = None

    def __post_init__(self) -> None:
        _check_version(self.version)
        _check_root(self.root)


class HeadChanged(Value, frozen=True):
    version: int
    root: bytes
    page_count: int

    def __post_init__(self) -> None:
        _check_version(self.version)
        _check_root(self.root)
        _check_page_count(self.page_count)


class ErrorMessage(Value, frozen=True):
    message: str
    code: str = ""
    retryable: bool = False
    details: Mapping[str, Any] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        # An error is told as well as it can be: what does not fit is cut, never refused.
        for name, chars_max in (
            ("message", ERROR_MESSAGE_CHARS_MAX),
            ("code", ERROR_CODE_CHARS_MAX),
        ):
            fitting = _sendable(getattr(self, name)[:chars_max])
            msgspec.structs.force_setattr(self, name, fitting)


Message = (
    Hello
    | HelloReply
    | PageHashes
    | RangeHashes
    | RangesDiffer
    | RequestPages
    | PageData
    | Complete
    | SyncComplete
    | HeadChanged
    | ErrorMessage
)
