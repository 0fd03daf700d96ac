"""Hypothesis strategies for what the two ends can say, and for bytes that only look like it."""

from typing import Any

import msgpack
from hypothesis import strategies as st

from edgereplica.events.limits import PAGES_PER_DATABASE_MAX
from edgereplica.events.messages import (
    Complete,
    ErrorMessage,
    HeadChanged,
    Hello,
    HelloReply,
    Message,
    PageData,
    PageHashes,
    RangeHashes,
    RangesDiffer,
    RequestPages,
    SyncComplete,
)
from edgereplica.events.pages import Runs, count_pages, runs_of

U32_MAX, U64_MAX = (1 << 32) - 1, (1 << 64) - 1

digests = st.binary(min_size=32, max_size=32)
roots = st.none() | digests
page_sizes = st.sampled_from([512 << n for n in range(8)])
page_counts = st.integers(0, PAGES_PER_DATABASE_MAX)
page_numbers = st.integers(1, PAGES_PER_DATABASE_MAX) | st.integers(1, 300)
versions = st.integers(0, (1 << 63) - 1)
texts = st.text(st.characters(codec="utf-8"), max_size=40)


@st.composite
def runs(draw: st.DrawFn, min_pages: int = 0) -> Runs:
    pages = draw(st.sets(st.integers(1, 40) | page_numbers, min_size=min_pages, max_size=40))
    return runs_of(sorted(pages))


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, bytes], ...]:
    firsts = draw(st.lists(st.integers(1, PAGES_PER_DATABASE_MAX - 10), max_size=5))
    return tuple((first, draw(digests) * draw(st.integers(1, 3))) for first in firsts)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[tuple[int, int, bytes], ...]:
    firsts = draw(st.lists(st.integers(1, PAGES_PER_DATABASE_MAX - 70_000), max_size=5))
    return tuple((f, f + draw(st.integers(0, 65_535)), draw(digests)) for f in firsts)


@st.composite
def page_data(draw: st.DrawFn, size: int = 512, codecs: tuple[Any, ...] = ("raw",)) -> PageData:
    chosen = draw(runs(min_pages=1))
    codec = draw(st.sampled_from(codecs))
    length = size * count_pages(chosen) if codec == "raw" else draw(st.integers(1, 99))
    seed = draw(st.binary(min_size=1, max_size=8))
    return PageData(chosen, codec, (seed * (length // len(seed) + 1))[:length])


details = st.dictionaries(
    texts, st.none() | st.booleans() | st.integers(0, U64_MAX) | texts | st.binary(max_size=9)
)

V2_MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Hello,
        page_sizes,
        page_counts,
        st.none() | versions,
        roots,
        roots,
        st.none() | versions | st.floats(0, 1e12),
        st.booleans(),
        st.lists(texts, max_size=3).map(tuple),
    ),
    st.builds(
        HelloReply,
        page_sizes,
        page_counts,
        st.none() | versions,
        roots,
        texts,
        texts,
        st.floats(-1e12, 1e12),
        st.booleans(),
        st.none() | st.integers(0, U64_MAX),
        st.dictionaries(texts, st.integers(-(1 << 63), U64_MAX), max_size=3),
        st.lists(texts, max_size=3).map(tuple),
    ),
    st.builds(PageHashes, windows()),
    st.builds(RangeHashes, ranges()),
    st.builds(RangesDiffer, runs()),
    st.builds(RequestPages, runs()),
    page_data(codecs=("raw", "zstd")),
    st.builds(Complete, st.none() | page_counts, roots, st.booleans(), texts),
    st.builds(
        SyncComplete,
        st.integers(0, U64_MAX),
        st.integers(0, U64_MAX),
        st.none() | versions,
        roots,
    ),
    st.builds(HeadChanged, versions, digests, page_counts),
    st.builds(ErrorMessage, texts, texts, st.booleans(), details),
)

V1_MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, page_sizes, page_counts),
    st.builds(HelloReply, page_sizes, page_counts),
    st.builds(PageHashes, windows()),
    st.builds(RangeHashes, ranges()),
    st.builds(RangesDiffer, runs()),
    st.builds(RequestPages, runs()),
    page_data(),
    st.just(Complete()),
    st.builds(SyncComplete, st.integers(0, U64_MAX), st.integers(0, U64_MAX)),
    st.builds(ErrorMessage, texts),
)

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), U64_MAX)
    | st.floats()
    | st.binary(max_size=40)
    | texts
    | st.sampled_from([0, 1, U32_MAX, PAGES_PER_DATABASE_MAX, b"\0" * 32, "raw", "zstd"])
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3)
)
_KINDS = [
    "hello", "hello_reply", "page_hash", "page_hashes", "page_hash_batch", "request_page",
    "request_pages", "hash_mismatch", "hash_mismatch_batch", "page_data", "page_data_batch",
    "complete", "sync_complete", "head_changed", "error",
]  # fmt: skip
_KEYS = [
    "protocol_version", "page_size", "max_page", "page_no", "hash", "start_page", "end_page",
    "combined_hash", "page_numbers", "data", "pages", "message", "page_count", "base", "root",
    "base_root", "at", "force", "features", "head", "limits", "committed_at", "runs", "ranges",
    "codec", "version", "pages_transferred", "bytes_transferred", "code", "retryable", "details",
]  # fmt: skip


@st.composite
def structured_frames(draw: st.DrawFn) -> bytes:
    """Well-formed msgpack with the right words in it and anything for values."""
    kind = draw(st.sampled_from(_KINDS) | texts)
    data = draw(
        st.dictionaries(st.sampled_from(_KEYS), _VALUES, max_size=8)
        | st.fixed_dictionaries(
            {}, optional=dict.fromkeys(["runs", "ranges", "page_numbers"], st.lists(_VALUES))
        )
        | _VALUES
    )
    body = draw(st.sampled_from([{"kind": kind, "data": data}, {"kind": kind}, {"data": data}]))
    return bytes([draw(st.sampled_from([1, 2]))]) + bytes(msgpack.packb(body))


@st.composite
def damaged_frames(draw: st.DrawFn, frames: st.SearchStrategy[bytes]) -> bytes:
    """A frame with some bytes exchanged, cut off or added."""
    frame = bytearray(draw(frames))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(frame)))
        piece = draw(st.binary(max_size=5))
        frame[at : at + draw(st.integers(0, 6))] = piece
    return bytes(frame)
