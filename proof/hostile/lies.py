"""What a hostile server says to a client, in either wire version: a name, and frames, for each lie.

Every lie of a pull ends without the version that it promised, so that no file may change.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from edgereplica.events.limits import PAGES_PER_DATABASE_MAX

from .stub import frame, message

U32: Final = 0xFFFF_FFFF
FLOOD_BYTES: Final = 24 << 20
"""Of one flood, if the client lets it go on for so long."""


@dataclass(frozen=True)
class Liar:
    """Says what both wire versions have words for. It promises `pages` of `size` bytes."""

    dice: Random
    version: int
    size: int
    pages: int
    known: bool = False
    """Whether it says that it knows the base which the client names."""

    @property
    def root(self) -> bytes:
        return b"\x5a" * 32

    def reply(self, **more: Any) -> bytes:
        if self.version == 1:
            return message(
                1, "hello_reply", protocol_version=1, page_size=self.size, max_page=self.pages
            )
        said = {"page_size": self.size, "page_count": self.pages, "head": 7, "root": self.root,
                "base_known": self.known, "database": "d", "author": "a"}  # fmt: skip
        return message(2, "hello_reply", **(said | more))

    def complete(self) -> bytes:
        ending = {"version": 7, "root": self.root} if self.version == 2 else {}
        return message(
            self.version, "sync_complete", pages_transferred=1, bytes_transferred=1, **ending
        )

    def data(self, runs: list[tuple[int, int]], data: bytes | None = None) -> bytes:
        """Pages of `runs`, of one byte each time; `data` (v2): what they are said to be."""
        count = sum(last - first + 1 for first, last in runs)
        if self.version == 1:
            page = b"\x07" * self.size
            pages = [
                {"page_no": number, "data": page}
                for first, last in runs
                for number in range(first, last + 1)
            ]
            return message(1, "page_data_batch", pages=pages)
        if data is None:
            return message(2, "page_data_batch", runs=runs, codec="zstd",
                           data=repeated(count * self.size))  # fmt: skip
        return message(2, "page_data_batch", runs=runs, codec="zstd", data=data)

    def mismatch(self, numbers: list[int]) -> bytes:
        if self.version == 1:
            return message(1, "hash_mismatch_batch", page_numbers=numbers)
        return message(2, "hash_mismatch_batch", runs=[(n, n) for n in numbers])

    def request(self, numbers: list[int]) -> bytes:
        if self.version == 1:
            return message(1, "request_pages", page_numbers=numbers)
        return message(2, "request_pages", runs=[(n, n) for n in numbers])

    @property
    def batch_pages(self) -> int:
        """As many pages as one batch may hold."""
        return max(1, (1 << 20) // self.size)


def repeated(size: int, claimed: int | None = -1) -> bytes:
    """A zstd frame of RLE blocks (RFC 8878 §3.1.1) that decodes to `size` bytes, and claims to
    (-1), claims something else, or claims nothing (None)."""
    whole, rest = divmod(size, 128 * 1024)
    lengths = [128 * 1024] * whole + [rest] * bool(rest)
    body = b"".join(
        ((length << 3) | (1 << 1) | (at == len(lengths) - 1)).to_bytes(3, "little") + b"\x07"
        for at, length in enumerate(lengths)
    )
    if claimed is None:
        return b"\x28\xb5\x2f\xfd\x00\x38" + body
    said = size if claimed == -1 else claimed
    return b"\x28\xb5\x2f\xfd\xc0\x38" + said.to_bytes(8, "little") + body


Lie = Callable[[Liar], Iterator[bytes]]


def _flood(piece: bytes, bytes_max: int = FLOOD_BYTES) -> Iterator[bytes]:
    together = piece * max(1, (64 * 1024) // len(piece))
    for _ in range(bytes_max // len(together)):
        yield together


# Greetings


def nothing_of_it_comes(liar: Liar) -> Iterator[bytes]:
    yield liar.reply()
    yield liar.complete()


def impossible_sizes(liar: Liar) -> Iterator[bytes]:
    size = liar.dice.choice((0, 1, 3, 256, 1 << 17, U32))
    pages = liar.dice.choice((PAGES_PER_DATABASE_MAX + 1, U32, liar.pages))
    yield Liar(liar.dice, liar.version, size, pages).reply()
    yield liar.complete()


def endless_words(liar: Liar) -> Iterator[bytes]:
    words = liar.dice.choice((
        {"limits": {f"l{n}": n for n in range(60_000)}},
        {"limits": {"batch_decoded_bytes_max": -1}},
        {"features": ["x"] * 300_000},
        {"database": "d" * 900_000},
        {"author": "\x1b[2J" * 200_000},
        {"committed_at": liar.dice.choice((float("inf"), float("nan"), 1e300, -1e300))},
        {"pages_changed": (1 << 64) - 1},
        {"head": (1 << 63) - 1},
        {"head": 1 << 63},
    ))  # fmt: skip
    yield liar.reply(**words)
    yield liar.complete()


# Pages


def far_ahead(liar: Liar) -> Iterator[bytes]:
    yield liar.reply()
    yield liar.data([(liar.pages, liar.pages)])
    yield liar.complete()


def jumping_ahead(liar: Liar) -> Iterator[bytes]:
    """Single pages all over the version, as far apart as they can be."""
    yield liar.reply()
    wanted = min(2 * liar.batch_pages, 4096)
    numbers = [1 + n * max(1, liar.pages // wanted) for n in range(wanted)]
    for at in range(0, wanted, liar.batch_pages):
        yield liar.data([(n, n) for n in numbers[at : at + liar.batch_pages] if n <= liar.pages])
    yield liar.complete()


def backwards(liar: Liar) -> Iterator[bytes]:
    yield liar.reply()
    for number in range(liar.pages, max(1, liar.pages - 50), -1):
        yield liar.data([(number, number)])
    yield liar.complete()


def the_same_page(liar: Liar) -> Iterator[bytes]:
    yield liar.reply()
    yield from _flood(liar.data([(2, 2)]), 1 << 20)
    yield liar.complete()


def pages_outside(liar: Liar) -> Iterator[bytes]:
    yield liar.reply()
    at = liar.dice.choice((0, liar.pages + 1, U32))
    yield liar.data([(at, at)])
    yield liar.complete()


def zstd_bomb(liar: Liar) -> Iterator[bytes]:
    yield liar.reply()
    expected = liar.batch_pages * liar.size
    bomb = repeated(liar.dice.choice((2 << 20, 1 << 30)), liar.dice.choice((None, -1, expected)))
    if liar.version == 2:
        yield liar.data([(1, liar.batch_pages)], bomb)
    else:
        page = {"page_no": 1, "data": bomb}
        yield message(1, "page_data_batch", pages=[page])
    yield liar.complete()


def many_pages_of_nothing(liar: Liar) -> Iterator[bytes]:
    yield liar.reply()
    if liar.version == 1:
        yield message(1, "page_data_batch",
                      pages=[{"page_no": n, "data": b""} for n in range(1, 60_000)])  # fmt: skip
    else:
        yield liar.data([(1, 65_536)], repeated(65_536 * liar.size))
    yield liar.complete()


# Ranges and requests


def ranges_outside(liar: Liar) -> Iterator[bytes]:
    yield liar.reply()
    if liar.version == 2:
        top = liar.dice.choice((U32 - 1, PAGES_PER_DATABASE_MAX, 10_000))
        yield message(2, "hash_mismatch_batch", runs=[(1, top)])
    for _ in range(6):
        yield liar.mismatch(list(range(1, 130_000, 2))[:65_536])
    yield liar.complete()


def the_same_ranges(liar: Liar) -> Iterator[bytes]:
    yield liar.reply()
    for _ in range(20):
        yield liar.mismatch([1, 2, 3])
    yield liar.complete()


def requests_outside(liar: Liar) -> Iterator[bytes]:
    yield liar.reply()
    if liar.version == 2:
        yield message(2, "request_pages", runs=[(1, liar.dice.choice((U32 - 1, 10_000)))])
    for _ in range(6):
        yield liar.request(list(range(1, 130_000, 2))[:65_536])


def requests_again_and_again(liar: Liar) -> Iterator[bytes]:
    yield liar.reply()
    for _ in range(300):
        yield liar.request([1, 2, 3])
    yield liar.complete()


# Floods


def frames_that_are_not_due(liar: Liar) -> Iterator[bytes]:
    yield liar.reply()
    if liar.version == 1:
        yield from _flood(liar.mismatch(list(range(1, 130_000, 2))))
    yield from _flood(message(2, "head_changed", version=8, root=liar.root, page_count=1))


def many_small_pages(liar: Liar) -> Iterator[bytes]:
    """Single pages in single frames, and never the first."""
    yield liar.reply()
    for number in range(2, 4000):
        if number < liar.pages:
            yield liar.data([(number, number)])
    yield liar.complete()


def empty_frames(liar: Liar) -> Iterator[bytes]:
    yield liar.reply()
    yield from _flood(frame(b""))


def endless_fragments(liar: Liar) -> Iterator[bytes]:
    yield liar.reply()
    yield frame(b"", 0x02)
    together = frame(b"", 0x00) * 10_000
    for _ in range(20):
        yield together
    yield from _flood(frame(bytes(60_000), 0x00))


def pings(liar: Liar) -> Iterator[bytes]:
    yield liar.reply()
    for _ in range(20):
        yield frame(b"p" * 125, 0x89) * 500


def a_frame_that_claims_to_be_huge(liar: Liar) -> Iterator[bytes]:
    yield liar.reply()
    length = liar.dice.choice((1 << 62, 1 << 40, 64 << 20, (16 << 20) + 2000, (4 << 20) + 1))
    yield b"\x82\x7f" + length.to_bytes(8, "big")
    yield from _flood(bytes(1 << 16))


def a_frame_of_megabytes(liar: Liar) -> Iterator[bytes]:
    yield liar.reply()
    data = bytes(liar.dice.choice(((16 << 20) - 200, (4 << 20) - 200)))
    if liar.version == 1:
        yield message(1, "page_data", page_no=1, data=data)
    else:
        yield message(2, "page_data_batch", runs=[(1, 1)], codec="raw", data=data)
    yield liar.complete()


def bad_frames(liar: Liar) -> Iterator[bytes]:
    version = bytes((liar.version,))
    if liar.dice.random() < 0.7:
        yield liar.reply()
    yield liar.dice.choice((
        frame(b"text", 0x81),
        frame(b""),
        frame(b"\x03\x80"),
        frame(version + b"\xdd\xff\xff\xff\xff"),
        frame(version + b"\x82\xa4kind\xa8complete\xa4data\xdf\xff\xff\xff\xff"),
        frame(version + b"\x81\xa1a" * 100_000),
        frame(version + b"\xdc\xff\xff" + b"\x80" * 65_535),
        frame(version + b"\xdd\x00\x04\xff\xff" + b"\xa0" * 327_679),
        frame(liar.dice.randbytes(1000)),
        liar.dice.randbytes(1000),
        frame(b"\x03", 0x88),
        frame(b"\x03\xe8" + b"r" * 120, 0x88),
    ))  # fmt: skip


# Refusals


def long_refusal(liar: Liar) -> Iterator[bytes]:
    if liar.dice.random() < 0.5:
        yield liar.reply()
    if liar.version == 1:
        yield message(1, "error", message="\x1b[2J" * 200_000)
        return
    code = liar.dice.choice(
        ("conflict", "not_found", "limit_exceeded", "never heard of", "x" * 9999)
    )
    details = liar.dice.choice((
        {"changed_runs": [[1, U32 - 1]], "pages_changed": {"a": [1] * 100_000}},
        {"changed_runs": [[n, n] for n in range(1, 100_000, 2)], "author": b"\xff" * 100},
        {"changed_runs": [[1.5, float("inf")]], "committed_at": float("nan"), "head": "none"},
        {"hint": ["x"] * 1000, "limit": b"\x00", "value": float("inf")},
        {"retry_after_seconds": 10**15, "message": 1, "code": 2},
    ))  # fmt: skip
    yield message(2, "error", code=code, message="m" * 900_000, retryable=False, details=details)


def conflict_over_every_page(liar: Liar) -> Iterator[bytes]:
    top = liar.dice.choice((U32 - 1, PAGES_PER_DATABASE_MAX))
    details = {"head": 9, "changed_runs": [[1, top]], "pages_changed": top}
    yield message(liar.version, "error", code="conflict", message="no", retryable=False,
                  details=details)  # fmt: skip


GREETED: Final[Mapping[str, tuple[Lie, ...]]] = {
    "pull": (
        nothing_of_it_comes, far_ahead, jumping_ahead, backwards, the_same_page, pages_outside,
        zstd_bomb, many_pages_of_nothing, ranges_outside, the_same_ranges, many_small_pages,
    ),
    "push": (
        requests_outside, requests_again_and_again, ranges_outside, nothing_of_it_comes,
        conflict_over_every_page,
    ),
    "status": (nothing_of_it_comes,),
}  # fmt: skip
"""Lies about a way of syncing; and those about any."""
ANYWHERE: Final[tuple[Lie, ...]] = (
    impossible_sizes, endless_words, frames_that_are_not_due, empty_frames, endless_fragments,
    pings, a_frame_that_claims_to_be_huge, a_frame_of_megabytes, bad_frames, long_refusal,
)  # fmt: skip


def handshakes(dice: Random) -> Iterator[bytes]:
    """Answers that are no WebSocket: without an end, too long, or of another kind."""
    kind = dice.randrange(5)
    if kind == 0:
        yield b"HTTP/1.1 101 Switching Protocols\r\nX: "
        yield from _flood(b"x" * (1 << 16))
    elif kind == 1:
        yield b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 99999999\r\n\r\n"
        yield from _flood(b"x" * (1 << 16))
    elif kind == 2:
        body = b'{"code": "not_found", "message": "' + b"m" * 9000 + b'"}'
        yield b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    elif kind == 3:
        yield b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    else:
        yield dice.randbytes(5000) + b"\r\n\r\n"
