"""Messages refuse bad values; an error is cut to fit instead."""

import math
from collections.abc import Callable
from typing import Any, cast

import pytest

from edgereplica.events.errors import (
    Conflict,
    EdgeReplicaError,
    InvalidArgument,
    RemoteError,
    error_from_wire,
)
from edgereplica.events.limits import (
    ERROR_CODE_CHARS_MAX,
    ERROR_MESSAGE_CHARS_MAX,
    PAGES_PER_DATABASE_MAX,
    PAGES_PER_FRAME_MAX,
    RANGE_PAGES_MAX,
    RANGES_PER_FRAME_MAX,
    RUNS_PER_FRAME_MAX,
    VERSION_MESSAGE_CHARS_MAX,
)
from edgereplica.events.messages import (
    Complete,
    ErrorMessage,
    HeadChanged,
    Hello,
    HelloReply,
    PageData,
    PageHashes,
    RangeHashes,
    RangesDiffer,
    RequestPages,
    SyncComplete,
)

H = bytes(32)
LAST = PAGES_PER_DATABASE_MAX

REFUSED: dict[str, Callable[[], Any]] = {
    "page size": lambda: Hello(1000),
    "page count below 0": lambda: Hello(512, -1),
    "page count over the limit": lambda: Hello(512, LAST + 1),
    "base below 0": lambda: Hello(512, 0, base=-1),
    "base of 64 bits": lambda: Hello(512, 0, base=1 << 63),
    "short root": lambda: Hello(512, 0, root=b"x"),
    "short base root": lambda: Hello(512, 0, base_root=b""),
    "at below 0": lambda: Hello(512, 0, at=-1),
    "at of 64 bits": lambda: Hello(512, 0, at=1 << 63),
    "at NaN": lambda: Hello(512, 0, at=math.nan),
    "at infinity": lambda: Hello(512, 0, at=math.inf),
    "at before 1970": lambda: Hello(512, 0, at=-0.5),
    "reply's page count": lambda: HelloReply(512, LAST + 1),
    "reply's head": lambda: HelloReply(512, 0, head=-1),
    "reply's time": lambda: HelloReply(512, 0, committed_at=math.inf),
    "reply's root": lambda: HelloReply(512, 0, root=b"x" * 33),
    "half a hash": lambda: PageHashes(((1, b"x" * 48),)),
    "no hash": lambda: PageHashes(((1, b""),)),
    "hash of page 0": lambda: PageHashes(((0, H),)),
    "hash beyond the last page": lambda: PageHashes(((LAST, H * 2),)),
    "too many hashes": lambda: PageHashes(((1, H * (PAGES_PER_FRAME_MAX + 1)),)),
    "too many hashes in two windows": lambda: PageHashes(((1, H * PAGES_PER_FRAME_MAX), (1, H))),
    "range from 0": lambda: RangeHashes(((0, 1, H),)),
    "range backwards": lambda: RangeHashes(((2, 1, H),)),
    "range too long": lambda: RangeHashes(((1, RANGE_PAGES_MAX + 1, H),)),
    "range beyond the last page": lambda: RangeHashes(((LAST, LAST + 1, H),)),
    "range hash": lambda: RangeHashes(((1, 1, b""),)),
    "too many ranges": lambda: RangeHashes(((1, 1, H),) * (RANGES_PER_FRAME_MAX + 1)),
    "differing backwards": lambda: RangesDiffer(((2, 1),)),
    "request of page 0": lambda: RequestPages(((0, 0),)),
    "request twice": lambda: RequestPages(((1, 2), (2, 3))),
    "data without pages": lambda: PageData((), "raw", b"x"),
    "pages without data": lambda: PageData(((1, 1),), "raw", b""),
    "too many pages of data": lambda: PageData(((1, PAGES_PER_FRAME_MAX + 1),), "zstd", b"x"),
    "codec": lambda: PageData(((1, 1),), cast(Any, "lz4"), b"x"),
    "complete's page count": lambda: Complete(LAST + 1),
    "complete's root": lambda: Complete(1, b""),
    "complete's message": lambda: Complete(1, H, message="x" * (VERSION_MESSAGE_CHARS_MAX + 1)),
    "complete's message is no Unicode": lambda: Complete(1, H, message="\udcff"),
    "synced version": lambda: SyncComplete(0, 0, -1),
    "synced root": lambda: SyncComplete(0, 0, 1, b"x"),
    "head's version": lambda: HeadChanged(-1, H, 0),
    "head's root": lambda: HeadChanged(1, b"", 0),
    "head's page count": lambda: HeadChanged(1, H, LAST + 1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_values_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        REFUSED[name]()
    assert isinstance(refused.value.message, str)
    assert refused.value.message


@pytest.mark.parametrize(
    ("name", "limit", "value"),
    [
        ("page count over the limit", "pages_per_database_max", PAGES_PER_DATABASE_MAX),
        ("too many hashes", "pages_per_frame_max", PAGES_PER_FRAME_MAX),
        ("range too long", "range_pages_max", RANGE_PAGES_MAX),
    ],
)
def test_an_exceeded_limit_is_named(name: str, limit: str, value: int) -> None:
    with pytest.raises(InvalidArgument) as refused:
        REFUSED[name]()
    assert refused.value.details == {"limit": limit, "value": value}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("data without pages", "page data without pages"),
        ("complete's message is no Unicode", "a version's message is not valid Unicode"),
    ],
)
def test_a_refusal_says_why(name: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        REFUSED[name]()
    assert refused.value.message == words


def test_the_bounds_themselves_are_allowed() -> None:
    Hello(65536, LAST, (1 << 63) - 1, H, H, at=(1 << 63) - 1)
    Hello(512, 0, 0, at=0.0)
    PageHashes(((1, H * PAGES_PER_FRAME_MAX),))
    PageHashes(((LAST, H),))
    RangeHashes(((LAST - RANGE_PAGES_MAX + 1, LAST, H),) * RANGES_PER_FRAME_MAX)
    PageData(((1, PAGES_PER_FRAME_MAX),), "zstd", b"x")
    apart = tuple((page, page) for page in range(1, 2 * RUNS_PER_FRAME_MAX, 2))
    PageData(apart, "zstd", b"x")
    Complete(LAST, H, message="x" * VERSION_MESSAGE_CHARS_MAX)


def test_an_error_is_cut_to_what_can_be_sent() -> None:
    error = ErrorMessage("é" * 5000, "c" * 100)
    assert error.message == "é" * ERROR_MESSAGE_CHARS_MAX
    assert error.code == "c" * ERROR_CODE_CHARS_MAX
    # A path that is not UTF-8 reaches Python as lone surrogates.
    assert ErrorMessage("no \udcff here", "\ud800").message == "no ? here"


def test_the_pages_of_windows() -> None:
    assert PageHashes(((5, H * 3), (1, H))).page_runs == ((5, 7), (1, 1))


@pytest.mark.parametrize("details", [{"message": 1, "self": 2, "code": 3, b"x": 4}, {}, None])
def test_an_error_is_rebuilt_whatever_its_details_are_called(details: Any) -> None:
    error = error_from_wire("conflict", "no", details)
    assert type(error) is Conflict
    assert error.message == "no"
    assert set(error.details) == set(details or {}) - {b"x"}


def test_every_code_is_rebuilt_as_its_own_type() -> None:
    def tree(kind: type[EdgeReplicaError]) -> list[type[EdgeReplicaError]]:
        return [kind, *(below for child in kind.__subclasses__() for below in tree(child))]

    kinds = [kind for kind in tree(EdgeReplicaError) if kind.__module__.endswith("events.errors")]
    assert len({kind.code for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert type(error_from_wire(kind.code, "x")) is kind
    assert type(error_from_wire("never heard of", "x")) is RemoteError
