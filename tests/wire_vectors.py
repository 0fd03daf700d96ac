"""The test vectors of both wire versions, written by a packer that knows nothing of ours.

`python -m tests.wire_vectors` writes specs/vectors/v1.json and v2.json; a test compares. The packer
below follows msgpack's specification alone and takes the smallest form of everything, as
rmp-serde's named encoding does, so that a fault of our codec cannot bless itself.

A vector's `frame` is hex, or a list of hex and [hex, times] where a part repeats.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

VECTORS = Path(__file__).parent.parent / "specs" / "vectors"


def pack(value: Any) -> bytes:
    """msgpack of `value` in the smallest forms (github.com/msgpack/msgpack, spec.md)."""
    if value is None:
        return b"\xc0"
    if value is True or value is False:
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        assert value >= 0
        if value < 128:
            return bytes([value])
        width = next(w for w in (1, 2, 4, 8) if value < 256**w)
        return bytes([{1: 0xCC, 2: 0xCD, 4: 0xCE, 8: 0xCF}[width]]) + value.to_bytes(width, "big")
    if isinstance(value, float):
        import struct

        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        encoded = value.encode()
        return _head(len(encoded), 0xA0, 32, (0xD9, 0xDA, 0xDB), 1) + encoded
    if isinstance(value, bytes):
        return _head(len(value), 0, 0, (0xC4, 0xC5, 0xC6), 1) + value
    if isinstance(value, list | tuple):
        return _head(len(value), 0x90, 16, (0xDC, 0xDD), 2) + b"".join(map(pack, value))
    assert isinstance(value, Mapping)
    pairs = b"".join(pack(k) + pack(v) for k, v in value.items())
    return _head(len(value), 0x80, 16, (0xDE, 0xDF), 2) + pairs


def _head(length: int, fixed: int, fixed_below: int, types: tuple[int, ...], width: int) -> bytes:
    if length < fixed_below:
        return bytes([fixed | length])
    for kind in types:
        if length < 256**width:
            return bytes([kind]) + length.to_bytes(width, "big")
        width *= 2
    raise AssertionError("too long")


def frame(version: int, kind: str, data: Any = None) -> bytes:
    return bytes([version]) + pack({"kind": kind} if data is None else {"kind": kind, "data": data})


@dataclass(frozen=True)
class Vector:
    """`decoded` is what a decoder makes of the frame where that is less than was encoded."""

    name: str
    kind: str
    data: dict[str, Any] | None
    message: Message
    decoded: Message | None = None
    only_decoded: bool = False


H0, H1, HF = bytes(32), bytes(range(32)), b"\xff" * 32
U32, U64 = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF
LAST = 64 * 1024 * 1024
PAGE = bytes(range(256)) * 2


def _hello1(page_size: int, max_page: int) -> Vector:
    return Vector(
        f"hello, {page_size} bytes a page, {max_page} pages",
        "hello",
        {"protocol_version": 1, "page_size": page_size, "max_page": max_page},
        Hello(page_size, page_count=max_page),
        Hello(page_size, force=True),
    )


def _reply1(page_size: int, max_page: int) -> Vector:
    return Vector(
        f"hello_reply, {page_size} bytes a page, {max_page} pages",
        "hello_reply",
        {"protocol_version": 1, "page_size": page_size, "max_page": max_page},
        HelloReply(page_size, max_page),
    )


V1_VECTORS = [
    _hello1(4096, 0),
    _hello1(512, 127),
    _hello1(65536, 128),
    _hello1(1024, 65536),
    _reply1(4096, 0),
    _reply1(65536, 255),
    _reply1(512, LAST),
    *(
        Vector(
            f"page_hash of page {page}",
            "page_hash",
            {"page_no": page, "hash": digest},
            PageHashes(((page, digest),)),
        )
        for page, digest in [(1, H0), (127, H1), (128, HF), (256, H1), (65536, H1), (LAST, HF)]
    ),
    Vector(
        "page_hash_batch of one page",
        "page_hash_batch",
        {"start_page": 1, "end_page": 1, "combined_hash": H1},
        RangeHashes(((1, 1, H1),)),
    ),
    Vector(
        "page_hash_batch of the longest range",
        "page_hash_batch",
        {"start_page": 200, "end_page": 65735, "combined_hash": HF},
        RangeHashes(((200, 65735, HF),)),
    ),
    Vector("request_page", "request_page", {"page_no": 70000}, RequestPages(((70000, 70000),))),
    Vector(
        "request_pages",
        "request_pages",
        {"page_numbers": [1, 2, 3, 128, 256, 65536]},
        RequestPages(((1, 3), (128, 128), (256, 256), (65536, 65536))),
    ),
    Vector(
        "request_pages, an array of 16",
        "request_pages",
        {"page_numbers": list(range(120, 136))},
        RequestPages(((120, 135),)),
    ),
    Vector(
        "hash_mismatch",
        "hash_mismatch",
        {"page_no": 1},
        RangesDiffer(((1, 1),)),
        only_decoded=True,
    ),
    Vector(
        "hash_mismatch_batch of one page",
        "hash_mismatch_batch",
        {"page_numbers": [1]},
        RangesDiffer(((1, 1),)),
    ),
    Vector(
        "hash_mismatch_batch",
        "hash_mismatch_batch",
        {"page_numbers": [7, 8, 300]},
        RangesDiffer(((7, 8), (300, 300))),
    ),
    Vector(
        "page_data, bin16",
        "page_data",
        {"page_no": 9, "data": PAGE},
        PageData(((9, 9),), "raw", PAGE),
    ),
    Vector(
        "page_data, the largest page, bin32",
        "page_data",
        {"page_no": 1, "data": b"\x5a" * 65536},
        PageData(((1, 1),), "raw", b"\x5a" * 65536),
    ),
    Vector(
        "page_data_batch",
        "page_data_batch",
        {"pages": [{"page_no": 3, "data": PAGE}, {"page_no": 5, "data": PAGE[::-1]}]},
        PageData(((3, 3), (5, 5)), "raw", PAGE + PAGE[::-1]),
    ),
    Vector("complete", "complete", None, Complete(), Complete(force=True)),
    Vector(
        "sync_complete of nothing",
        "sync_complete",
        {"pages_transferred": 0, "bytes_transferred": 0},
        SyncComplete(0, 0),
    ),
    Vector(
        "sync_complete, u64",
        "sync_complete",
        {"pages_transferred": U32 + 1, "bytes_transferred": U64},
        SyncComplete(U32 + 1, U64),
    ),
    Vector("error, fixstr", "error", {"message": "no"}, ErrorMessage("no")),
    Vector("error, str8", "error", {"message": "ü" * 16}, ErrorMessage("ü" * 16)),
    Vector("error, str16", "error", {"message": "x" * 256}, ErrorMessage("x" * 256)),
]


def _hello2(**more: Any) -> dict[str, Any]:
    empty = {
        "page_size": 4096,
        "page_count": 0,
        "base": None,
        "base_root": None,
        "root": None,
        "at": None,
        "force": False,
        "features": [],
    }
    return {**empty, **more}


def _reply2(**more: Any) -> dict[str, Any]:
    empty = {
        "page_size": 4096,
        "page_count": 0,
        "head": None,
        "root": None,
        "database": "",
        "author": "",
        "committed_at": 0.0,
        "base_known": False,
        "pages_changed": None,
        "limits": {},
        "features": [],
    }
    return {**empty, **more}


_FULL_REPLY: dict[str, Any] = {
    "page_size": 512,
    "page_count": LAST,
    "head": 2**63 - 1,
    "root": HF,
    "database": "0198c0ffee",
    "author": "ann@example.org",
    "committed_at": 1763816400.25,
    "base_known": True,
    "pages_changed": 70000,
    "limits": {"frame_bytes_max": 16777216},
    "features": ["a", "b"],
}

V2_VECTORS = [
    Vector("hello, first push", "hello", _hello2(), Hello(4096, 0)),
    Vector(
        "hello, push on a base",
        "hello",
        _hello2(page_count=300, base=7, base_root=H1, root=HF, force=True, features=["x"]),
        Hello(4096, 300, 7, H1, HF, force=True, features=("x",)),
    ),
    Vector("hello, pull of a version", "hello", _hello2(at=12), Hello(4096, 0, at=12)),
    Vector("hello, pull at a time", "hello", _hello2(at=1.5e9), Hello(4096, 0, at=1.5e9)),
    Vector("hello_reply, least", "hello_reply", _reply2(), HelloReply(4096, 0)),
    Vector(
        "hello_reply, most",
        "hello_reply",
        _FULL_REPLY,
        HelloReply(**{**_FULL_REPLY, "features": ("a", "b")}),
    ),
    Vector("page_hashes, none", "page_hashes", {"runs": []}, PageHashes(())),
    Vector(
        "page_hashes, two windows",
        "page_hashes",
        {"runs": [[1, H0 + H1], [LAST, HF]]},
        PageHashes(((1, H0 + H1), (LAST, HF))),
    ),
    Vector("page_hash_batch, none", "page_hash_batch", {"ranges": []}, RangeHashes(())),
    Vector(
        "page_hash_batch",
        "page_hash_batch",
        {"ranges": [[1, 65536, H1], [65537, 65537, HF]]},
        RangeHashes(((1, 65536, H1), (65537, 65537, HF))),
    ),
    Vector(
        "hash_mismatch_batch",
        "hash_mismatch_batch",
        {"runs": [[1, 128], [300, 300]]},
        RangesDiffer(((1, 128), (300, 300))),
    ),
    Vector("request_pages, none", "request_pages", {"runs": []}, RequestPages(())),
    Vector(
        "request_pages, 16 runs",
        "request_pages",
        {"runs": [[n, n] for n in range(1, 33, 2)]},
        RequestPages(tuple((n, n) for n in range(1, 33, 2))),
    ),
    Vector(
        "page_data_batch, raw",
        "page_data_batch",
        {"runs": [[3, 3], [5, 5]], "codec": "raw", "data": PAGE * 2},
        PageData(((3, 3), (5, 5)), "raw", PAGE * 2),
    ),
    Vector(
        "page_data_batch, zstd, bin8",
        "page_data_batch",
        # What a decoder of frames does not look into: compressed content is opaque here.
        {"runs": [[1, 8]], "codec": "zstd", "data": b"\x28\xb5\x2f\xfd\x00"},
        PageData(((1, 8),), "zstd", b"\x28\xb5\x2f\xfd\x00"),
    ),
    Vector(
        "complete, of a pull",
        "complete",
        {"page_count": None, "root": None, "force": False, "message": ""},
        Complete(),
    ),
    Vector(
        "complete, of a push",
        "complete",
        {"page_count": 300, "root": HF, "force": True, "message": "nightly ✓"},
        Complete(300, HF, True, "nightly ✓"),
    ),
    Vector(
        "sync_complete",
        "sync_complete",
        {"pages_transferred": 1, "bytes_transferred": U64, "version": 8, "root": HF},
        SyncComplete(1, U64, 8, HF),
    ),
    Vector(
        "head_changed",
        "head_changed",
        {"version": 9, "root": H1, "page_count": 301},
        HeadChanged(9, H1, 301),
    ),
    Vector(
        "error, conflict",
        "error",
        {
            "code": "conflict",
            "message": "the head is version 3",
            "retryable": False,
            "details": {"base": 2, "head": 3, "changed_runs": [[1, 4]]},
        },
        ErrorMessage(
            "the head is version 3",
            "conflict",
            details={"base": 2, "head": 3, "changed_runs": ((1, 4),)},
        ),
    ),
    Vector(
        "error, retryable",
        "error",
        {"code": "network", "message": "", "retryable": True, "details": {}},
        ErrorMessage("", "network", True),
    ),
]


def _nested(depth: int) -> bytes:
    return b"\x82" + pack("kind") + pack("hello") + pack("data") + b"\x91" * depth + b"\x00"


def _common_invalid(version: int) -> dict[str, bytes]:
    v = bytes([version])
    return {
        "empty": b"",
        "version byte alone": v,
        "version 0": b"\x00" + frame(version, "complete", {})[1:],
        "version 3": b"\x03" + frame(version, "complete", {})[1:],
        "another version than the connection's": bytes([3 - version])
        + frame(version, "complete", {})[1:],
        "the byte that msgpack never uses": v + b"\xc1",
        "truncated": frame(version, "error", {"code": "", "message": "x", "retryable": False})[:-1],
        "trailing byte": frame(version, "complete", {}) + b"\x00",
        "an array": v + pack(["complete"]),
        "a number": v + pack(7),
        "no kind": v + pack({"data": {}}),
        "kind is a number": v + pack({"kind": 1}),
        "kind is not UTF-8": v + b"\x81\xa4kind\xa2\xff\xfe",
        "kind is a UTF-8 surrogate": v + b"\x81\xa4kind\xa3\xed\xa0\x80",
        "unknown kind": frame(version, "drop_table", {}),
        "data is an array": v + pack({"kind": "complete", "data": [1]}),
        "a key is a number": v + b"\x82\xa4kind\xa8complete\x01\x02",
        "an extension type": v + b"\x82\xa4kind\xa8complete\xa4data\xd4\x01\x00",
        "an extension type of no bytes": v + b"\x82\xa4kind\xa8complete\xa4data\xc7\x00\x01",
        "a timestamp": v + b"\x82\xa4kind\xa8complete\xa4data\xd6\xff\x00\x00\x00\x00",
        "an array that claims 2^32-1 elements": v + b"\xdd\xff\xff\xff\xff",
        "a map that claims 2^32-1 pairs": v + b"\xdf\xff\xff\xff\xff",
        "text that claims 2^32-1 bytes": v + b"\xdb\xff\xff\xff\xff",
        "binary that claims 2^32-1 bytes": v + b"\xc6\xff\xff\xff\xff",
        "nested 9 deep": v + _nested(8),
        "nested 2,000 deep": v + _nested(2000),
    }


_NUMBER_FIELDS: dict[str, Any] = {
    "missing": None,
    "a bool": True,
    "a float": 4096.0,
    "text": "4096",
    "nil": None,
    "beyond u32": 2**32,
}


def _invalid(version: int) -> dict[str, bytes]:
    def make(kind: str, **data: Any) -> bytes:
        return frame(version, kind, data)

    hello: dict[str, Any] = (
        {"protocol_version": 1, "page_size": 4096, "max_page": 0} if version == 1 else _hello2()
    )
    invalid = _common_invalid(version)
    for name, value in _NUMBER_FIELDS.items():
        bad = {**hello, "page_size": value}
        if name == "missing":
            del bad["page_size"]
        invalid[f"hello, page size {name}"] = make("hello", **bad)
    negative = make("hello", **{**hello, "page_size": 1}).replace(
        b"\xa9page_size\x01", b"\xa9page_size\xff"
    )
    invalid["hello, page size -1"] = negative
    for size in (0, 256, 1000, 131072):
        invalid[f"hello, page size {size}"] = make("hello", **{**hello, "page_size": size})
    if version == 1:
        return invalid | {
            "hello, protocol version 2": make("hello", **{**hello, "protocol_version": 2}),
            "page_hash, 31 bytes": make("page_hash", page_no=1, hash=bytes(31)),
            "page_hash, text": make("page_hash", page_no=1, hash="0" * 32),
            "page_hash, page 0": make("page_hash", page_no=0, hash=H0),
            "page_hash, page 2^26+1": make("page_hash", page_no=LAST + 1, hash=H0),
            "page_hash_batch, 0 to 2^32-1": make(
                "page_hash_batch", start_page=0, end_page=U32, combined_hash=H0
            ),
            "page_hash_batch, 65,537 pages": make(
                "page_hash_batch", start_page=1, end_page=65537, combined_hash=H0
            ),
            "page_hash_batch, backwards": make(
                "page_hash_batch", start_page=2, end_page=1, combined_hash=H0
            ),
            "request_pages, text": make("request_pages", page_numbers=["1"]),
            "request_pages, a bool": make("request_pages", page_numbers=[True]),
            "request_pages, page 0": make("request_pages", page_numbers=[0]),
            "page_data, text": make("page_data", page_no=1, data="x"),
            "page_data, empty": make("page_data", page_no=1, data=b""),
            "page_data_batch, empty": make("page_data_batch", pages=[]),
            "page_data_batch, page 0": make(
                "page_data_batch",
                pages=[{"page_no": 0, "data": PAGE}, {"page_no": 1, "data": PAGE}],
            ),
            "page_data_batch, numbers": make("page_data_batch", pages=[1, 2]),
            "page_data_batch, a page twice": make(
                "page_data_batch", pages=[{"page_no": 1, "data": PAGE}] * 2
            ),
            "page_data_batch, two sizes": make(
                "page_data_batch",
                pages=[{"page_no": 1, "data": PAGE}, {"page_no": 2, "data": PAGE * 2}],
            ),
            "error, message is binary": make("error", message=b"no"),
            "a kind of v2": make("page_hashes", runs=[]),
        }
    data = {"codec": "raw", "data": PAGE}
    return invalid | {
        "hello, page count 2^26+1": make("hello", **_hello2(page_count=LAST + 1)),
        "hello, root of 31 bytes": make("hello", **_hello2(root=bytes(31))),
        "hello, base 2^63": make("hello", **_hello2(base=2**63)),
        "hello, at NaN": make("hello", **_hello2(at=float("nan"))),
        "hello, at infinity": make("hello", **_hello2(at=float("inf"))),
        "hello, at a time before 1970": make("hello", **_hello2(at=-1.0)),
        "hello, at a bool": make("hello", **_hello2(at=True)),
        "hello, force is a number": make("hello", **_hello2(force=1)),
        "hello, features is text": make("hello", **_hello2(features="x")),
        "hello_reply, committed_at NaN": make("hello_reply", **_reply2(committed_at=float("nan"))),
        "hello_reply, limits of text": make("hello_reply", **_reply2(limits={"x": "1"})),
        "page_hashes, 31 bytes": make("page_hashes", runs=[[1, bytes(31)]]),
        "page_hashes, no bytes": make("page_hashes", runs=[[1, b""]]),
        "page_hashes, page 0": make("page_hashes", runs=[[0, H0]]),
        "page_hashes, beyond page 2^26": make("page_hashes", runs=[[LAST, H0 + H0]]),
        "page_hash_batch, 65,537 pages": make("page_hash_batch", ranges=[[1, 65537, H0]]),
        "page_hash_batch, 0 to 2^32-1": make("page_hash_batch", ranges=[[0, U32, H0]]),
        "request_pages, descending": make("request_pages", runs=[[3, 4], [1, 2]]),
        "request_pages, overlapping": make("request_pages", runs=[[1, 4], [4, 5]]),
        "request_pages, page 0": make("request_pages", runs=[[0, 1]]),
        "request_pages, a bool": make("request_pages", runs=[[True, True]]),
        "request_pages, three numbers": make("request_pages", runs=[[1, 2, 3]]),
        "page_data_batch, unknown codec": make(
            "page_data_batch", runs=[[1, 1]], codec="lz4", data=PAGE
        ),
        "page_data_batch, no pages": make("page_data_batch", runs=[], **data),
        "page_data_batch, 65,537 pages": make("page_data_batch", runs=[[1, 65537]], **data),
        "complete, message of 4,097 characters": make(
            "complete", page_count=1, root=H0, force=False, message="x" * 4097
        ),
        "complete, root of 33 bytes": make("complete", page_count=1, root=bytes(33)),
        "sync_complete, version 2^63": make(
            "sync_complete", pages_transferred=0, bytes_transferred=0, version=2**63, root=H0
        ),
        "head_changed, short root": make("head_changed", version=1, root=b"", page_count=1),
        "error, no code": make("error", message="x", retryable=False),
        "a kind of v1": make("page_hash", page_no=1, hash=H0),
    }


VALID = {1: V1_VECTORS, 2: V2_VECTORS}
INVALID = {1: _invalid(1), 2: _invalid(2)}


def _json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"hex": _hex(value)}
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return value


def _hex(data: bytes, run_min: int = 1024) -> str | list[Any]:
    """Hex; long repetitions of one byte as [hex, times] within a list."""
    parts: list[Any] = []
    at = 0
    for start in range(len(data)):
        if start < at or data[start : start + run_min] != data[start : start + 1] * run_min:
            continue
        end = start
        while end < len(data) and data[end] == data[start]:
            end += 1
        parts += [data[at:start].hex(), [data[start : start + 1].hex(), end - start]]
        at = end
    if not parts:
        return data.hex()
    return [part for part in [*parts, data[at:].hex()] if part]


def document(version: int) -> str:
    """The text of specs/vectors/v<version>.json."""
    return (
        json.dumps(
            {
                "wire_version": version,
                "frames": [
                    {
                        "name": v.name,
                        "message": {"kind": v.kind}
                        | ({} if v.data is None else {"data": _json(v.data)}),
                        "frame": _hex(frame(version, v.kind, v.data)),
                    }
                    for v in VALID[version]
                ],
                "invalid": [
                    {"name": name, "frame": _hex(data), "error": "frame_undecodable"}
                    for name, data in INVALID[version].items()
                ],
            },
            indent=1,
            ensure_ascii=False,
        )
        + "\n"
    )


if __name__ == "__main__":
    for wire_version in VALID:
        (VECTORS / f"v{wire_version}.json").write_text(document(wire_version), encoding="utf-8")
