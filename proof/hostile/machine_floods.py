"""Floods of hashes for the machines that take them, answered as by a server that holds nothing.

A push that is receiving and a pull that is comparing, in either wire version, get what is allowed
again and again: every message must be taken. What they remember of it is measured by the caller.
"""

from collections import deque
from collections.abc import Iterator
from itertools import product

from tests.exploring import memory

from edgereplica.app.driver import CODECS
from edgereplica.events.errors import EdgeReplicaError
from edgereplica.events.limits import (
    COALESCED_FRAMES_MAX,
    DIGEST_BYTES,
    PAGES_PER_DATABASE_MAX,
    RANGE_PAGES_MAX,
)
from edgereplica.events.messages import Complete, Message, PageData, PageHashes, RangeHashes
from edgereplica.events.pages import count_pages, runs_of
from edgereplica.events.session import (
    Event,
    HashesCompared,
    MessageReceived,
    PagesRead,
    PagesStaged,
    RangesCompared,
)
from edgereplica.events.wire import V1
from edgereplica.events.wire_v1 import coalesce
from edgereplica.fsm.effects import (
    CompareHashes,
    CompareRanges,
    Effect,
    ReadMore,
    ReadPages,
    Send,
    StagePages,
)
from edgereplica.fsm.machine import Machine
from proof.running import Counts

from .victims import Violation, in_the_midst

PAGES_MAX = 65_000
STRIDES = {"one page again and again": 0, "page by page": 1, "pages far apart": 1025}
RANGES = "ranges of all pages"
ROOT = b"\xdd" * DIGEST_BYTES
FLOODS = list(product(("server_push", "server_pull"), (1, 2), (*STRIDES, RANGES)))


def flood_machine(name: str, version: int, kind: str, share: float, found: Counts) -> None:
    """`share` of 65,000 hashes of pages, or of the ranges of all pages that a database may have."""
    situation = in_the_midst(name, version)
    machine = situation.enter()
    found["floods"] += 1
    stream = _ranges(share) if kind == RANGES else _hashes(STRIDES[kind], share)
    for message in _as_received(stream, version):
        _feed(machine, version, message, found)
        found["messages in floods"] += 1
    if name == "server_push":
        asked = memory(machine)["requested"] or memory(machine)["offered"]
        if not asked:
            raise Violation(f"after {kind} a {name} asks for nothing")
        first = asked[0][0]
        _feed(machine, version, PageData(((first, first),), "raw", bytes(512)), found)
    ending = Complete(force=True) if version == V1 else Complete(1, ROOT, force=True)
    _feed(machine, version, ending, found)


def _hashes(stride: int, share: float) -> Iterator[Message]:
    for n in range(round(PAGES_MAX * min(1, share))):
        yield PageHashes(((1 + n * stride, ROOT),))


def _ranges(share: float) -> Iterator[Message]:
    size = RANGE_PAGES_MAX
    for n in range(round(PAGES_PER_DATABASE_MAX // size * min(1, share))):
        yield RangeHashes(((1 + n * size, (n + 1) * size, ROOT),))


def _as_received(stream: Iterator[Message], version: int) -> Iterator[Message]:
    """Through the codec, and joined as the driver joins what has arrived (wire v1)."""
    codec = CODECS[version]
    arrived: list[Message] = []
    for message in stream:
        arrived += [codec.decode(frame) for frame in codec.encode(message)]
        if len(arrived) >= COALESCED_FRAMES_MAX or version != V1:
            yield from coalesce(arrived)
            arrived = []
    yield from coalesce(arrived)


def _feed(machine: Machine, version: int, message: Message, found: Counts) -> None:
    events: deque[Event] = deque([MessageReceived(message)])
    while events:
        event = events.popleft()
        try:
            effects = machine.handle(event)
        except EdgeReplicaError as error:
            raise Violation(f"{machine.title} refused {type(event).__name__}: {error}") from error
        for effect in effects:
            if isinstance(effect, Send):
                found["answers to floods"] += len(CODECS[version].encode(effect.message))
            else:
                events += _results(effect, found)


def _results(effect: Effect, found: Counts) -> list[Event]:
    """Of a server that holds nothing of what is announced, and one page of what is pulled."""
    match effect:
        case CompareHashes(windows=windows):
            pages = {
                page
                for first, digests in windows
                for page in range(first, first + len(digests) // DIGEST_BYTES)
            }
            found["pages in floods"] += sum(len(d) // DIGEST_BYTES for _, d in windows)
            return [HashesCompared(runs_of(sorted(pages)))]
        case CompareRanges(ranges=ranges):
            runs = tuple((first, last) for first, last, _ in ranges)
            found["pages in floods"] += count_pages(runs)
            return [RangesCompared(runs)]
        case StagePages(runs=runs, data=data):
            return [PagesStaged(count_pages(runs), len(data))]
        case ReadPages():
            return [PagesRead(((1, 1),), "raw", bytes(512))]
        case ReadMore():
            return [PagesRead()]
    return []
