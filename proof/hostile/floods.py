"""Small things by the million, at a whole server: what it holds of them, in memory.

Each flood is sent in one session and then ended by something that the server must refuse. All of it
is what any holder of a token can send; none of it is a message too long.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgereplica.events.limits import PAGES_PER_DATABASE_MAX, RANGE_PAGES_MAX
from proof.running import Counts

from .meter import GROWN_KIB_MAX, Meter
from .sockets import BINARY, CONTINUED, FINAL, PING, Line, Target, framed, said

FLOOD_SHARE_MIN = 0.03
NOISE_KIB = 8 * 1024
"""What a server's memory grows by for other reasons."""
TOGETHER = 5000
"""Small frames that are sent together."""
STRIDE = 1025
"""From page to page, so that no two lie beside each other in any table."""
_LAST_PAGE_FAR = PAGES_PER_DATABASE_MAX - STRIDE


@dataclass(frozen=True)
class Flood:
    """`pour` sends so many and returns when the server has taken them in."""

    full: int
    pour: Callable[[Target, int], Line]


def _many(line: Line, frame: bytes, count: int) -> None:
    for at in range(0, count, TOGETHER):
        line.send(frame * min(TOGETHER, count - at))


def _fragments(piece: bytes) -> Callable[[Target, int], Line]:
    def pour(target: Target, count: int) -> Line:
        line = target.session("push", 2)
        line.send(framed(b"\x02\xc1", BINARY))
        _many(line, framed(piece, CONTINUED), count)
        line.wait_for_pong()
        line.send(framed(b"", FINAL | CONTINUED))
        return line

    return pour


def _unread_pings(target: Target, count: int) -> Line:
    line = target.slow_session("pull", 2)
    _many(line, framed(bytes(125), FINAL | PING), count)
    line.send(framed(b""))
    return line


def _ranges(target: Target, count: int) -> Line:
    """Of all pages that a database may have, none of which is as the server has it."""
    line = target.session("push", 1)
    size = RANGE_PAGES_MAX
    for n in range(count):
        data = {"start_page": 1 + n * size, "end_page": (n + 1) * size, "combined_hash": bytes(32)}
        line.send(framed(said(1, "page_hash_batch", data)))
    line.send(framed(said(1, "complete")) + framed(b""))
    return line


def _far_pages(count: int) -> Iterator[int]:
    return (1 + n * STRIDE % _LAST_PAGE_FAR for n in range(count))


def _far_hashes_v1(way: str) -> Callable[[Target, int], Line]:
    def pour(target: Target, count: int) -> Line:
        line = target.session(way, 1)
        for page in _far_pages(count):
            line.send(framed(said(1, "page_hash", {"page_no": page, "hash": b"\xdd" * 32})))
        line.send(framed(b""))
        return line

    return pour


def _far_hashes_v2(way: str) -> Callable[[Target, int], Line]:
    def pour(target: Target, count: int) -> Line:
        line = target.session(way, 2)
        pages = list(_far_pages(count))
        for at in range(0, count, TOGETHER):
            runs = [[page, b"\xdd" * 32] for page in pages[at : at + TOGETHER]]
            line.send(framed(said(2, "page_hashes", {"runs": runs})))
        line.send(framed(b""))
        return line

    return pour


FLOODS = {
    "pings that are not answered": Flood(3_000_000, _unread_pings),
    "far hashes in a push of wire v1": Flood(65_000, _far_hashes_v1("push")),
    "far hashes in a pull of wire v1": Flood(65_000, _far_hashes_v1("pull")),
    "far hashes in a pull of wire v2": Flood(65_000, _far_hashes_v2("pull")),
    "far hashes in a push of wire v2": Flood(65_000, _far_hashes_v2("push")),
    "ranges of wire v1": Flood(1000, _ranges),
    "fragments of two bytes": Flood(3_000_000, _fragments(b"ab")),
    "empty fragments": Flood(12_000_000, _fragments(b"")),
}
"""What takes least comes first: what one flood has freed may serve the next unseen."""


def floods(target: Target, share: float, found: Counts) -> None:
    """Every flood once, `share` of its full size; in proportion it may cost what a full one may."""
    share = min(1.0, max(share, FLOOD_SHARE_MIN))
    for name, flood in FLOODS.items():
        meter = Meter(target.process_id)
        with flood.pour(target, round(flood.full * share)) as line:
            ending = line.refusal()
        kib_max = round(GROWN_KIB_MAX * share) + NOISE_KIB * (share < 1)
        grown = meter.require_grown(f"server in a flood of {name}", kib_max)
        found[f"most KiB grown: {name}"] = grown
        found["MiB read in floods"] += ending.bytes_read >> 20
        found["floods"] += 1
