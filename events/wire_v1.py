"""Wire protocol v1, byte for byte as the original client and server speak it (design §5).

Per-page frames are coalesced (`coalesce`) before they reach a machine, because an event costs about
0.1 ms there. Pages in one frame may come in any order; they are put in order here. Vectors:
specs/vectors/v1.json.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .errors import FrameUndecodable
from .limits import BATCH_DECODED_BYTES_MAX, DIGEST_BYTES, PAGES_PER_FRAME_MAX
from .messages import (
    Complete,
    ErrorMessage,
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
from .pages import Run, Runs, count_pages, pages_of, runs_of, split_runs
from .wire import V1, Frame, array, binary, pack, text, u32, u64, undecodable_on_error, unpack

PROTOCOL_VERSION = 1
V1_BATCH_BYTES_MAX = 256 * 1024
"""The original's host refused WebSocket messages above 1 MiB; stay well below it."""


class WireV1:
    """The codec of version 1."""

    version = V1

    def encode(self, message: Message) -> list[bytes]:
        return list(_ENCODERS[type(message)](message))

    @undecodable_on_error
    def decode(self, untrusted_frame: Frame) -> Message:
        kind, data = unpack(V1, untrusted_frame)
        decoder = _DECODERS.get(kind)
        if decoder is None:
            raise FrameUndecodable(f"unknown kind {kind[:40]!r}")
        return decoder(data)


def _frame(kind: str, **data: Any) -> bytes:
    return pack(V1, kind, data)


# The announced page count of a v1 hello is no page count (0 does not mean empty): decode drops it.
def _hello(data: dict[str, Any]) -> Hello:
    if u32(data, "protocol_version") != PROTOCOL_VERSION:
        raise FrameUndecodable(f"protocol version {data['protocol_version']}; this is version 1")
    u32(data, "max_page")
    return Hello(page_size=u32(data, "page_size"), force=True)


def _encode_hello(message: Hello) -> Iterator[bytes]:
    yield _frame(
        "hello",
        protocol_version=PROTOCOL_VERSION,
        page_size=message.page_size,
        max_page=message.page_count or 0,
    )


def _hello_reply(data: dict[str, Any]) -> HelloReply:
    if u32(data, "protocol_version") != PROTOCOL_VERSION:
        raise FrameUndecodable(f"protocol version {data['protocol_version']}; this is version 1")
    return HelloReply(page_size=u32(data, "page_size"), page_count=u32(data, "max_page"))


def _encode_hello_reply(message: HelloReply) -> Iterator[bytes]:
    yield _frame(
        "hello_reply",
        protocol_version=PROTOCOL_VERSION,
        page_size=message.page_size,
        max_page=message.page_count,
    )


def _page_hash(data: dict[str, Any]) -> PageHashes:
    digest = binary(data, "hash")
    if len(digest) != DIGEST_BYTES:
        raise FrameUndecodable(f"a page hash has {DIGEST_BYTES} bytes, not {len(digest)}")
    return PageHashes(((u32(data, "page_no"), digest),))


def _encode_page_hashes(message: PageHashes) -> Iterator[bytes]:
    for first, digests in message.windows:
        for offset in range(0, len(digests), DIGEST_BYTES):
            yield _frame(
                "page_hash",
                page_no=first + offset // DIGEST_BYTES,
                hash=digests[offset : offset + DIGEST_BYTES],
            )


def _page_hash_batch(data: dict[str, Any]) -> RangeHashes:
    return RangeHashes(
        ((u32(data, "start_page"), u32(data, "end_page"), binary(data, "combined_hash")),)
    )


def _encode_range_hashes(message: RangeHashes) -> Iterator[bytes]:
    for first, last, combined in message.ranges:
        yield _frame("page_hash_batch", start_page=first, end_page=last, combined_hash=combined)


def _one_page(data: dict[str, Any]) -> Runs:
    page = u32(data, "page_no")
    return ((page, page),)


def _page_numbers(data: dict[str, Any]) -> Runs:
    numbers = array(data, "page_numbers")
    if not all(type(n) is int for n in numbers):
        raise FrameUndecodable("page_numbers holds something else than numbers")
    return runs_of(sorted(set(numbers)))


def _encode_request(message: RequestPages) -> Iterator[bytes]:
    for group in split_runs(message.runs, PAGES_PER_FRAME_MAX):
        if count_pages(group) == 1:
            yield _frame("request_page", page_no=group[0][0])
        else:
            yield _frame("request_pages", page_numbers=list(pages_of(group)))


# A range is always answered with a batch, also of one page: `hash_mismatch` is another answer.
def _encode_mismatch(message: RangesDiffer) -> Iterator[bytes]:
    for group in split_runs(message.runs, PAGES_PER_FRAME_MAX):
        yield _frame("hash_mismatch_batch", page_numbers=list(pages_of(group)))


def _join_pages(pages: Iterable[tuple[int, bytes]]) -> PageData:
    ordered = sorted(pages)
    numbers = [number for number, _ in ordered]
    if len(set(numbers)) != len(numbers):
        raise FrameUndecodable("a page appears twice in one frame")
    if len({len(data) for _, data in ordered}) > 1:
        raise FrameUndecodable("pages of different sizes in one frame")
    return PageData(runs_of(numbers), "raw", b"".join(data for _, data in ordered))


def _page_data(data: dict[str, Any]) -> PageData:
    return _join_pages([(u32(data, "page_no"), binary(data, "data"))])


def _page_data_batch(data: dict[str, Any]) -> PageData:
    pages = array(data, "pages")
    if not all(isinstance(page, dict) for page in pages):
        raise FrameUndecodable("pages holds something else than maps")
    return _join_pages((u32(page, "page_no"), binary(page, "data")) for page in pages)


def _encode_page_data(message: PageData) -> Iterator[bytes]:
    if message.codec != "raw":
        raise ValueError("wire v1 carries raw pages only")
    numbers = list(pages_of(message.runs))
    size = len(message.data) // len(numbers)
    if len(numbers) == 1:
        yield _frame("page_data", page_no=numbers[0], data=message.data)
        return
    step = max(1, V1_BATCH_BYTES_MAX // size)
    for at in range(0, len(numbers), step):
        yield _frame(
            "page_data_batch",
            pages=[
                {"page_no": number, "data": message.data[i * size : (i + 1) * size]}
                for i, number in enumerate(numbers[at : at + step], at)
            ],
        )


def _complete(data: dict[str, Any]) -> Complete:
    return Complete(force=True)


def _encode_complete(message: Complete) -> Iterator[bytes]:
    yield pack(V1, "complete", None)


def _sync_complete(data: dict[str, Any]) -> SyncComplete:
    return SyncComplete(u64(data, "pages_transferred"), u64(data, "bytes_transferred"))


def _encode_sync_complete(message: SyncComplete) -> Iterator[bytes]:
    yield _frame(
        "sync_complete",
        pages_transferred=message.pages_transferred,
        bytes_transferred=message.bytes_transferred,
    )


def _encode_error(message: ErrorMessage) -> Iterator[bytes]:
    yield _frame("error", message=message.message)


_DECODERS: dict[str, Callable[[dict[str, Any]], Message]] = {
    "hello": _hello,
    "hello_reply": _hello_reply,
    "page_hash": _page_hash,
    "page_hash_batch": _page_hash_batch,
    "request_page": lambda data: RequestPages(_one_page(data)),
    "request_pages": lambda data: RequestPages(_page_numbers(data)),
    "hash_mismatch": lambda data: RangesDiffer(_one_page(data)),
    "hash_mismatch_batch": lambda data: RangesDiffer(_page_numbers(data)),
    "page_data": _page_data,
    "page_data_batch": _page_data_batch,
    "complete": _complete,
    "sync_complete": _sync_complete,
    "error": lambda data: ErrorMessage(text(data, "message")),
}

_ENCODERS: dict[type, Callable[[Any], Iterator[bytes]]] = {
    Hello: _encode_hello,
    HelloReply: _encode_hello_reply,
    PageHashes: _encode_page_hashes,
    RangeHashes: _encode_range_hashes,
    RequestPages: _encode_request,
    RangesDiffer: _encode_mismatch,
    PageData: _encode_page_data,
    Complete: _encode_complete,
    SyncComplete: _encode_sync_complete,
    ErrorMessage: _encode_error,
}


def coalesce(messages: Sequence[Message]) -> list[Message]:
    """Neighbouring per-page messages joined into batches; order and content are kept."""
    joined: list[Message] = []
    group: list[Message] = []
    data_bytes = 0
    for message in messages:
        data_bytes += len(message.data) if isinstance(message, PageData) else 0
        if group and (data_bytes > BATCH_DECODED_BYTES_MAX or not _continues(group[-1], message)):
            joined.append(_join(group))
            group = []
            data_bytes = len(message.data) if isinstance(message, PageData) else 0
        group.append(message)
    if group:
        joined.append(_join(group))
    return joined


def _continues(last: Message, message: Message) -> bool:
    """Whether `message` may stand in one batch behind `last`."""
    if isinstance(last, PageHashes) and isinstance(message, PageHashes):
        return True
    if isinstance(last, RequestPages) and isinstance(message, RequestPages):
        return bool(last.runs and message.runs) and message.runs[0][0] > last.runs[-1][1]
    if isinstance(last, PageData) and isinstance(message, PageData):
        # Only pages of one size can be joined: the parts could not be told apart afterwards.
        size = len(last.data) // count_pages(last.runs)
        return message.runs[0][0] > last.runs[-1][1] and len(message.data) == size * count_pages(
            message.runs
        )
    return False


def _join(group: Sequence[Message]) -> Message:
    if len(group) == 1:
        return group[0]
    if isinstance(group[0], PageHashes):
        return PageHashes(_join_windows(m for m in group if isinstance(m, PageHashes)))
    if isinstance(group[0], RequestPages):
        return RequestPages(_join_runs(m.runs for m in group if isinstance(m, RequestPages)))
    parts = [m for m in group if isinstance(m, PageData)]
    return PageData(_join_runs(m.runs for m in parts), "raw", b"".join(m.data for m in parts))


def _join_runs(pieces: Iterable[Runs]) -> Runs:
    """Ascending pieces of runs as the shortest runs."""
    joined: list[Run] = []
    for first, last in (run for runs in pieces for run in runs):
        if joined and joined[-1][1] + 1 == first:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return tuple(joined)


def _join_windows(messages: Iterable[PageHashes]) -> Windows:
    starts: list[int] = []
    digests: list[bytearray] = []
    following = 0
    for first, part in (window for message in messages for window in message.windows):
        if first == following:
            digests[-1] += part
        else:
            starts.append(first)
            digests.append(bytearray(part))
        following = first + len(part) // DIGEST_BYTES
    return tuple((first, bytes(part)) for first, part in zip(starts, digests, strict=True))
