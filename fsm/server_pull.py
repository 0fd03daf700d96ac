"""The server's end of a pull.

The rules, and why they are so:

- A pull gives exactly one version, chosen when the session opens; a push that commits meanwhile
  changes nothing for it.
- The client says what it holds: a base the server knows (then only the difference is sent), page
  hashes, range hashes, or nothing. What is not known to be held is sent.
- In v1 a differing page is sent at once. In v2 nothing is sent before `complete`: a client that is
  still announcing does not read, and two ends that both only write would wait for ever.
- No transition stores anything: a token for pulling cannot write, whatever its bearer sends.
"""

from collections.abc import Mapping

from statemachine import State

from ..events.messages import (
    Complete,
    Hello,
    HelloReply,
    PageData,
    PageHashes,
    RangeHashes,
    RangesDiffer,
    SyncComplete,
)
from ..events.session import HashesCompared, PagesRead, PullOpened, RangesCompared, VersionInfo
from .effects import Close, CompareHashes, CompareRanges, OpenPull, ReadMore, ReadPages, Send
from .machine import Machine, server_limits


class ServerPull(Machine):
    title = "server pull"

    awaiting_hello = State(initial=True)
    opening = State()
    comparing = State()
    streaming = State()
    in_sync = State(final=True)
    delivered = State(final=True)
    refused = State(final=True)
    lost = State(final=True)

    hello = awaiting_hello.to(opening, on="open_pull")
    pull_opened = opening.to(in_sync, cond="roots_equal", on="greet_and_close") | opening.to(
        comparing, on="greet"
    )
    page_hashes = comparing.to(comparing, internal=True, on="compare_hashes")
    hashes_compared = comparing.to(comparing, internal=True, on="send_at_once")
    range_hashes = comparing.to(comparing, internal=True, on="compare_ranges")
    ranges_compared = comparing.to(comparing, internal=True, on="name_differing")
    complete = comparing.to(streaming, on="send_rest")
    pages_read = (
        comparing.to(comparing, internal=True, cond="exhausted")
        | comparing.to(comparing, internal=True, on="send_pages")
        | streaming.to(delivered, cond="exhausted", on="report")
        | streaming.to(streaming, internal=True, on="send_pages")
    )
    error = (
        awaiting_hello.to(refused, on="hear_refusal")
        | opening.to(refused, on="hear_refusal")
        | comparing.to(refused, on="hear_refusal")
        | streaming.to(refused, on="hear_refusal")
    )
    failed = (
        awaiting_hello.to(refused, on="tell_failure")
        | opening.to(refused, on="tell_failure")
        | comparing.to(refused, on="tell_failure")
        | streaming.to(refused, on="tell_failure")
    )
    peer_lost = awaiting_hello.to(lost) | opening.to(lost) | comparing.to(lost) | streaming.to(lost)

    def __init__(self, limits: Mapping[str, int] | None = None) -> None:
        self._limits = server_limits() if limits is None else dict(limits)
        self.greeting: Hello | None = None
        self.version: VersionInfo | None = None
        self.pages = 0
        self.wire_bytes = 0
        super().__init__()

    # Guards

    def roots_equal(self, e: PullOpened) -> bool:
        assert self.greeting is not None
        return self.greeting.root is not None and self.greeting.root == e.version.root

    def exhausted(self, e: PagesRead) -> bool:
        return e.exhausted

    @property
    def speaks_v1(self) -> bool:
        return self.greeting is not None and self.greeting.page_count is None

    # Actions

    def open_pull(self, e: Hello) -> None:
        self.greeting = e
        self.emit(OpenPull(e))

    def greet(self, e: PullOpened) -> None:
        assert self.greeting is not None
        self.version = e.version
        self.emit(
            Send(
                HelloReply(
                    page_size=e.version.page_size if e.version.version else self.greeting.page_size,
                    page_count=e.version.page_count,
                    head=e.version.version,
                    root=e.version.root,
                    database=e.version.database,
                    author=e.version.author,
                    committed_at=e.version.committed_at,
                    base_known=e.base_known,
                    pages_changed=e.pages_changed,
                    limits=self._limits,
                )
            )
        )

    def greet_and_close(self, e: PullOpened) -> None:
        self.greet(e)
        self.emit(Close(1000, "in sync"))

    def compare_hashes(self, e: PageHashes) -> None:
        self.emit(CompareHashes(e.windows))

    def send_at_once(self, e: HashesCompared) -> None:
        if e.runs and self.speaks_v1:
            self.emit(ReadPages(e.runs))

    def compare_ranges(self, e: RangeHashes) -> None:
        self.emit(CompareRanges(e.ranges))

    def name_differing(self, e: RangesCompared) -> None:
        if e.runs or not self.speaks_v1:
            self.emit(Send(RangesDiffer(e.runs)))

    def send_rest(self, e: Complete) -> None:
        self.emit(ReadPages(None))

    def send_pages(self, e: PagesRead) -> None:
        self.pages += sum(last - first + 1 for first, last in e.runs)
        self.wire_bytes += len(e.data)
        self.emit(Send(PageData(e.runs, e.codec, e.data)), ReadMore())

    def report(self, e: PagesRead) -> None:
        assert self.version is not None
        self.emit(
            Send(
                SyncComplete(self.pages, self.wire_bytes, self.version.version, self.version.root)
            ),
            Close(1000, "delivered"),
        )
