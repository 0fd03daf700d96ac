"""Wire protocol v2: the same envelope, made of batches (design §5). Vectors: specs/vectors/v2.json.

Unknown keys are ignored and missing optional ones take their defaults, so that either end may be
newer. Runs travel as [[first, last], …], windows as [[first, digests], …].
"""

from collections.abc import Callable
from typing import Any

from .errors import FrameUndecodable
from .messages import (
    At,
    Complete,
    ErrorMessage,
    HashRanges,
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
    Windows,
)
from .pages import Runs
from .wire import (
    V2,
    Frame,
    array,
    binary,
    pack,
    pack_before,
    text,
    u32,
    u64,
    undecodable_on_error,
    unpack,
)


class WireV2:
    """The codec of version 2: one message, one frame."""

    version = V2

    def encode(self, message: Message) -> list[bytes]:
        if isinstance(message, PageData):
            runs_and_codec = {"runs": message.runs, "codec": message.codec}
            return [pack_before(V2, "page_data_batch", runs_and_codec, "data", message.data)]
        kind, encoder = _ENCODERS[type(message)]
        return [pack(V2, kind, encoder(message))]

    @undecodable_on_error
    def decode(self, untrusted_frame: Frame) -> Message:
        kind, data = unpack(V2, untrusted_frame)
        decoder = _DECODERS.get(kind)
        if decoder is None:
            raise FrameUndecodable(f"unknown kind {kind[:40]!r}")
        return decoder(data)


def _optional_u64(data: dict[str, Any], key: str) -> int | None:
    return None if data.get(key) is None else u64(data, key)


def _optional_root(data: dict[str, Any], key: str = "root") -> bytes | None:
    return None if data.get(key) is None else binary(data, key)


def _flag(data: dict[str, Any], key: str) -> bool:
    value = data.get(key, False)
    if type(value) is not bool:
        raise FrameUndecodable(f"{key} is not a flag")
    return value


def _features(data: dict[str, Any]) -> tuple[str, ...]:
    features = array(data, "features") if "features" in data else ()
    if not all(isinstance(feature, str) for feature in features):
        raise FrameUndecodable("features holds something else than strings")
    return features


def _at(data: dict[str, Any]) -> At:
    value = data.get("at")
    if value is None or type(value) is float:
        return value
    return u64(data, "at")


def _runs(data: dict[str, Any], key: str = "runs") -> Runs:
    runs = array(data, key)
    for run in runs:
        if (
            type(run) is not tuple
            or len(run) != 2
            or type(run[0]) is not int
            or type(run[1]) is not int
        ):
            raise FrameUndecodable(f"{key} holds something else than [first, last]")
    return runs


def _windows(data: dict[str, Any]) -> Windows:
    windows = array(data, "runs")
    for window in windows:
        if (
            type(window) is not tuple
            or len(window) != 2
            or type(window[0]) is not int
            or type(window[1]) is not bytes
        ):
            raise FrameUndecodable("runs holds something else than [first, digests]")
    return windows


def _ranges(data: dict[str, Any]) -> HashRanges:
    ranges = array(data, "ranges")
    for entry in ranges:
        if (
            type(entry) is not tuple
            or len(entry) != 3
            or type(entry[0]) is not int
            or type(entry[1]) is not int
            or type(entry[2]) is not bytes
        ):
            raise FrameUndecodable("ranges holds something else than [first, last, hash]")
    return ranges


def _hello(data: dict[str, Any]) -> Hello:
    return Hello(
        page_size=u32(data, "page_size"),
        page_count=u32(data, "page_count"),
        base=_optional_u64(data, "base"),
        base_root=_optional_root(data, "base_root"),
        root=_optional_root(data),
        at=_at(data),
        force=_flag(data, "force"),
        features=_features(data),
    )


def _encode_hello(m: Hello) -> dict[str, Any]:
    return {
        "page_size": m.page_size,
        "page_count": m.page_count or 0,
        "base": m.base,
        "base_root": m.base_root,
        "root": m.root,
        "at": m.at,
        "force": m.force,
        "features": m.features,
    }


def _hello_reply(data: dict[str, Any]) -> HelloReply:
    limits = data.get("limits", {})
    if not isinstance(limits, dict) or not all(
        type(k) is str and type(v) is int for k, v in limits.items()
    ):
        raise FrameUndecodable("limits is not a map of numbers")
    committed_at = data.get("committed_at", 0.0)
    if type(committed_at) not in (int, float):
        raise FrameUndecodable("committed_at is not a number")
    return HelloReply(
        page_size=u32(data, "page_size"),
        page_count=u32(data, "page_count"),
        head=_optional_u64(data, "head"),
        root=_optional_root(data),
        database=text(data, "database") if "database" in data else "",
        author=text(data, "author") if "author" in data else "",
        committed_at=float(committed_at),
        base_known=_flag(data, "base_known"),
        pages_changed=_optional_u64(data, "pages_changed"),
        limits=limits,
        features=_features(data),
    )


def _encode_hello_reply(m: HelloReply) -> dict[str, Any]:
    return {
        "page_size": m.page_size,
        "page_count": m.page_count,
        "head": m.head,
        "root": m.root,
        "database": m.database,
        "author": m.author,
        "committed_at": m.committed_at,
        "base_known": m.base_known,
        "pages_changed": m.pages_changed,
        "limits": dict(m.limits),
        "features": m.features,
    }


def _page_data(data: dict[str, Any]) -> PageData:
    codec = text(data, "codec")
    if codec not in ("raw", "zstd"):
        raise FrameUndecodable(f"unknown codec {codec[:20]!r}")
    return PageData(_runs(data), "raw" if codec == "raw" else "zstd", binary(data, "data"))


def _complete(data: dict[str, Any]) -> Complete:
    return Complete(
        page_count=_optional_u64(data, "page_count"),
        root=_optional_root(data),
        force=_flag(data, "force"),
        message=text(data, "message") if "message" in data else "",
    )


def _sync_complete(data: dict[str, Any]) -> SyncComplete:
    return SyncComplete(
        u64(data, "pages_transferred"),
        u64(data, "bytes_transferred"),
        _optional_u64(data, "version"),
        _optional_root(data),
    )


def _error(data: dict[str, Any]) -> ErrorMessage:
    details = data.get("details")
    return ErrorMessage(
        text(data, "message"),
        code=text(data, "code"),
        retryable=_flag(data, "retryable"),
        details={k: v for k, v in details.items() if type(k) is str}
        if isinstance(details, dict)
        else {},
    )


_DECODERS: dict[str, Callable[[dict[str, Any]], Message]] = {
    "hello": _hello,
    "hello_reply": _hello_reply,
    "page_hashes": lambda data: PageHashes(_windows(data)),
    "page_hash_batch": lambda data: RangeHashes(_ranges(data)),
    "hash_mismatch_batch": lambda data: RangesDiffer(_runs(data)),
    "request_pages": lambda data: RequestPages(_runs(data)),
    "page_data_batch": _page_data,
    "complete": _complete,
    "sync_complete": _sync_complete,
    "head_changed": lambda data: HeadChanged(
        u64(data, "version"), binary(data, "root"), u32(data, "page_count")
    ),
    "error": _error,
}

_ENCODERS: dict[type, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    Hello: ("hello", _encode_hello),
    HelloReply: ("hello_reply", _encode_hello_reply),
    PageHashes: ("page_hashes", lambda m: {"runs": m.windows}),
    RangeHashes: ("page_hash_batch", lambda m: {"ranges": m.ranges}),
    RangesDiffer: ("hash_mismatch_batch", lambda m: {"runs": m.runs}),
    RequestPages: ("request_pages", lambda m: {"runs": m.runs}),
    Complete: (
        "complete",
        lambda m: {
            "page_count": m.page_count,
            "root": m.root,
            "force": m.force,
            "message": m.message,
        },
    ),
    SyncComplete: (
        "sync_complete",
        lambda m: {
            "pages_transferred": m.pages_transferred,
            "bytes_transferred": m.bytes_transferred,
            "version": m.version,
            "root": m.root,
        },
    ),
    HeadChanged: (
        "head_changed",
        lambda m: {"version": m.version, "root": m.root, "page_count": m.page_count},
    ),
    ErrorMessage: (
        "error",
        lambda m: {
            "code": m.code,
            "message": m.message,
            "retryable": m.retryable,
            "details": dict(m.details),
        },
    ),
}
