"""The server's end of a push.

The rules, and why they are so:

- A push is one of three kinds. With a base that is the head, only changed pages are announced.
  Forced (every v1 push is), it replaces the head whatever the base. Without a base against a
  database that has versions it is *undecided*: the client may look at the head's root and leave,
  and anything more is a conflict.
- Only requested pages are accepted. What was asked for and has not come is `requested`; in v1 a
  differing range also opens its pages (`offered`): the client may send them, hash them one by one,
  or be asked for them at `complete`.
- Every v2 `page_hashes` is answered, with an empty request if nothing is needed: the answer is the
  client's flow control.
- `complete` may overtake the server's word that a range differs, so in v1 hashes of pages still
  asked for are taken afterwards too.
- The commit happens after the last page is staged, never before; `complete` with pages outstanding
  waits in `settling`.

Not here: what a page's content is, who the client is, where pages lie. Pages are verified by the
effects' performer before `PagesStaged` comes back.
"""

from collections.abc import Mapping

from statemachine import State

from ..events.errors import InvalidArgument, ProtocolViolation
from ..events.limits import PAGES_PER_FRAME_MAX
from ..events.messages import (
    Complete,
    ErrorMessage,
    Hello,
    HelloReply,
    PageData,
    PageHashes,
    RangeHashes,
    RangesDiffer,
    RequestPages,
    SyncComplete,
)
from ..events.pages import PageSet, pages_of, split_runs
from ..events.session import (
    Failed,
    HashesCompared,
    PagesStaged,
    PeerLost,
    PushCommitted,
    PushOpened,
    RangesCompared,
)
from .effects import (
    AbandonPush,
    Close,
    CommitPush,
    CompareHashes,
    CompareRanges,
    OpenPush,
    Send,
    StagePages,
)
from .machine import Machine, server_limits


class ServerPush(Machine):
    title = "server push"

    awaiting_hello = State(initial=True)
    opening = State()
    undecided = State()
    receiving = State()
    settling = State()
    committing = State()
    in_sync = State(final=True)
    committed = State(final=True)
    refused = State(final=True)
    lost = State(final=True)

    hello = awaiting_hello.to(opening, on="open_push")
    push_opened = (
        opening.to(in_sync, cond="roots_equal", on="greet_and_close")
        | opening.to(undecided, cond="conflicts_without_base", on="greet")
        | opening.to(refused, cond="conflicts", on="refuse_conflict")
        | opening.to(receiving, on="greet")
    )
    page_hashes = (
        receiving.to(receiving, internal=True, on="compare_hashes")
        | undecided.to(refused, on="refuse_conflict")
        | settling.to(settling, internal=True, cond="are_outstanding", on="verify_hashes")
    )
    hashes_compared = receiving.to(receiving, internal=True, on="request_missing") | settling.to(
        settling, internal=True
    )
    range_hashes = receiving.to(receiving, internal=True, on="compare_ranges") | undecided.to(
        refused, on="refuse_conflict"
    )
    ranges_compared = receiving.to(receiving, internal=True, on="name_differing")
    page_data = receiving.to(receiving, internal=True, on="stage") | settling.to(
        settling, internal=True, on="stage"
    )
    pages_staged = (
        receiving.to(receiving, internal=True, on="count")
        | settling.to(committing, cond="nothing_outstanding", on="count_and_commit")
        | settling.to(settling, internal=True, on="count")
    )
    complete = (
        undecided.to(refused, on="refuse_conflict")
        | receiving.to(in_sync, cond="nothing_said", on="finish_empty")
        | receiving.to(committing, cond="nothing_outstanding", on="commit")
        | receiving.to(settling, on="ask_for_rest")
    )
    push_committed = committing.to(committed, on="report")
    error = (
        awaiting_hello.to(refused, on="hear_refusal")
        | opening.to(refused, on="hear_refusal")
        | undecided.to(refused, on="hear_refusal")
        | receiving.to(refused, on="hear_refusal_and_abandon")
        | settling.to(refused, on="hear_refusal_and_abandon")
        | committing.to(committing, internal=True)
    )
    failed = (
        awaiting_hello.to(refused, on="tell_failure")
        | opening.to(refused, on="tell_failure")
        | undecided.to(refused, on="tell_failure")
        | receiving.to(refused, on="tell_failure_and_abandon")
        | settling.to(refused, on="tell_failure_and_abandon")
        | committing.to(refused, on="tell_failure_and_abandon")
    )
    peer_lost = (
        awaiting_hello.to(lost)
        | opening.to(lost)
        | undecided.to(lost)
        | receiving.to(lost, on="abandon")
        | settling.to(lost, on="abandon")
        | committing.to(lost, on="abandon")
    )

    def __init__(self, limits: Mapping[str, int] | None = None) -> None:
        self._limits = server_limits() if limits is None else dict(limits)
        self.greeting: Hello | None = None
        self.conflict: Failed | None = None
        self.ending: Complete | None = None
        self.requested = PageSet()
        self.offered = PageSet()
        self.announced = False
        self.pages = 0
        self.wire_bytes = 0
        super().__init__()

    # Guards

    def roots_equal(self, e: PushOpened) -> bool:
        assert self.greeting is not None
        return self.greeting.root is not None and self.greeting.root == e.head.root

    def conflicts(self, e: PushOpened) -> bool:
        return e.conflict is not None

    def conflicts_without_base(self, e: PushOpened) -> bool:
        assert self.greeting is not None
        return e.conflict is not None and self.greeting.base is None

    def are_outstanding(self, e: PageHashes) -> bool:
        """v1 only: the client had completed before it heard which range differs."""
        return self.speaks_v1 and self.requested.covers(e.page_runs)

    def nothing_outstanding(self) -> bool:
        return not self.requested and not self.offered

    def nothing_said(self, e: Complete) -> bool:
        """v1 only: a session of hello and complete changes nothing."""
        return self.speaks_v1 and not self.announced

    @property
    def speaks_v1(self) -> bool:
        return self.greeting is not None and self.greeting.page_count is None

    # Actions

    def open_push(self, e: Hello) -> None:
        self.greeting = e
        self.emit(OpenPush(e))

    def greet(self, e: PushOpened) -> None:
        assert self.greeting is not None
        self.conflict = e.conflict
        head = e.head
        self.emit(
            Send(
                HelloReply(
                    page_size=self.greeting.page_size if head.version == 0 else head.page_size,
                    page_count=head.page_count,
                    head=head.version,
                    root=head.root,
                    database=head.database,
                    author=head.author,
                    committed_at=head.committed_at,
                    base_known=e.base_known,
                    limits=self._limits,
                )
            )
        )

    def greet_and_close(self, e: PushOpened) -> None:
        self.greet(e)
        self.emit(Close(1000, "in sync"))

    def refuse_conflict(self, e: object) -> None:
        conflict = e.conflict if isinstance(e, PushOpened) else self.conflict
        assert conflict is not None
        self.tell_failure(conflict)

    def compare_hashes(self, e: PageHashes) -> None:
        self.announced = True
        self.offered.discard(e.page_runs)
        self.emit(CompareHashes(e.windows))

    def verify_hashes(self, e: PageHashes) -> None:
        """The pages stay asked for; what comes will be held against these hashes."""
        self.emit(CompareHashes(e.windows))

    def request_missing(self, e: HashesCompared) -> None:
        self.requested.add(e.runs)
        if e.runs or not self.speaks_v1:
            self.emit(Send(RequestPages(e.runs)))

    def compare_ranges(self, e: RangeHashes) -> None:
        self.announced = True
        self.emit(CompareRanges(e.ranges))

    def name_differing(self, e: RangesCompared) -> None:
        if self.speaks_v1:
            self.offered.add(e.runs)
        if e.runs or not self.speaks_v1:
            self.emit(Send(RangesDiffer(e.runs)))

    def stage(self, e: PageData) -> None:
        if not self.requested.take(e.runs):
            for page in pages_of(e.runs):
                if page not in self.requested and page not in self.offered:
                    raise ProtocolViolation(f"page {page} was not requested")
            self.requested.discard(e.runs)
            self.offered.discard(e.runs)
        self.emit(StagePages(e.runs, e.codec, e.data))

    def count(self, e: PagesStaged) -> None:
        self.pages += e.pages
        self.wire_bytes += e.wire_bytes

    def count_and_commit(self, e: PagesStaged) -> None:
        assert self.ending is not None
        self.count(e)
        self.emit(CommitPush(self.ending))

    def check_ending(self, e: Complete) -> None:
        if not self.speaks_v1 and (e.page_count is None or e.root is None):
            raise InvalidArgument("complete names the page count and the root")

    def commit(self, e: Complete) -> None:
        self.check_ending(e)
        self.ending = e
        self.emit(CommitPush(e))

    def ask_for_rest(self, e: Complete) -> None:
        self.check_ending(e)
        self.ending = e
        rest = self.offered.runs()
        self.offered.discard(rest)
        self.requested.add(rest)
        for part in split_runs(rest, PAGES_PER_FRAME_MAX):
            self.emit(Send(RequestPages(part)))

    def finish_empty(self, e: Complete) -> None:
        self.emit(Send(SyncComplete(0, 0)), Close(1000, "nothing pushed"))

    def report(self, e: PushCommitted) -> None:
        self.emit(
            Send(SyncComplete(self.pages, self.wire_bytes, e.version, e.root)),
            Close(1000, "committed"),
        )

    def tell_failure_and_abandon(self, e: Failed) -> None:
        self.tell_failure(e)
        self.emit(AbandonPush())

    def hear_refusal_and_abandon(self, e: ErrorMessage) -> None:
        self.hear_refusal(e)
        self.emit(AbandonPush())

    def abandon(self, e: PeerLost) -> None:
        self.emit(AbandonPush())
