"""The client's end of a push.

The rules, and why they are so:

- The reply to hello decides everything: equal roots end the session in one round trip; a head that
  is not the base is a conflict unless forced; an empty database or a known base needs only windows
  of hashes; otherwise (forced, no base) the two contents are compared by ranges, from coarse to
  fine (*drilling*).
- Windows are announced ahead of the server's answers, at most `ANNOUNCED_WINDOWS_MAX`, so that the
  server always has work and neither end holds more than a few windows. A v1 server does not answer
  every window, so there the limit is not applied; instead the client listens between windows.
- `complete` follows the last window at once; requests are answered before and after it.
- A dry run takes the same way, counts what is requested and leaves before `complete`.
"""

from statemachine import State

from ..events.errors import ProtocolViolation, Unimplemented
from ..events.limits import ANNOUNCED_WINDOWS_MAX, BATCH_DECODED_BYTES_MAX
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
from ..events.session import (
    ContentHashed,
    DrilledDown,
    PagesLoaded,
    PushPlanned,
    WindowHashed,
)
from .effects import (
    CheckSource,
    Close,
    CountPages,
    DrillDown,
    HashContent,
    HashWindow,
    Listen,
    LoadPages,
    Send,
)
from .machine import Machine, check_reply


class ClientPush(Machine):
    title = "client push"

    planning = State(initial=True)
    greeting = State()
    examining = State()
    announcing = State()
    drilling = State()
    finishing = State()
    pushed = State(final=True)
    unchanged = State(final=True)
    measured = State(final=True)
    refused = State(final=True)
    lost = State(final=True)

    push_planned = planning.to(greeting, on="greet")
    hello_reply = (
        greeting.to(unchanged, cond="roots_equal", on="note_head_and_close")
        | greeting.to(examining, cond="content_unknown", on="hash_content")
        | greeting.to(announcing, on="announce_first")
    )
    content_hashed = (
        examining.to(unchanged, cond="content_equal", on="close_in_sync")
        | examining.to(drilling, cond="is_forced", on="drill_first")
        | examining.to(refused, on="refuse_conflict")
    )
    drilled_down = drilling.to(
        drilling, internal=True, cond="has_ranges", on="announce_ranges"
    ) | drilling.to(announcing, on="hash_next")
    ranges_differ = (
        drilling.to(drilling, internal=True, on="drill_deeper")
        | announcing.to(announcing, internal=True, on="answer_mismatch")
        | finishing.to(finishing, internal=True, on="answer_mismatch")
    )
    window_hashed = (
        announcing.to(measured, cond="is_measured_empty", on="close_measured")
        | announcing.to(finishing, cond="is_last", on="announce_last")
        | announcing.to(announcing, internal=True, on="announce")
    )
    request_pages = (
        announcing.to(announcing, internal=True, on="answer_request_and_announce")
        | finishing.to(measured, cond="is_measured", on="count_and_close")
        | finishing.to(finishing, internal=True, on="answer_request")
    )
    pages_loaded = announcing.to(announcing, internal=True, on="send_pages") | finishing.to(
        finishing, internal=True, on="send_pages"
    )
    sync_complete = finishing.to(pushed, on="note_version")
    error = (
        planning.to(refused, on="hear_refusal")
        | greeting.to(refused, on="hear_refusal")
        | examining.to(refused, on="hear_refusal")
        | announcing.to(refused, on="hear_refusal")
        | drilling.to(refused, on="hear_refusal")
        | finishing.to(refused, on="hear_refusal")
    )
    failed = (
        planning.to(refused, on="close_on_failure")
        | greeting.to(refused, on="close_on_failure")
        | examining.to(refused, on="close_on_failure")
        | announcing.to(refused, on="close_on_failure")
        | drilling.to(refused, on="close_on_failure")
        | finishing.to(refused, on="close_on_failure")
    )
    peer_lost = (
        planning.to(lost)
        | greeting.to(lost)
        | examining.to(lost)
        | announcing.to(lost)
        | drilling.to(lost)
        | finishing.to(lost)
    )

    def __init__(self, wire_version: int = 2) -> None:
        self.wire_version = wire_version
        self.plan: PushPlanned | None = None
        self.reply: HelloReply | None = None
        self.batch_bytes_max = BATCH_DECODED_BYTES_MAX
        self.ending: Complete | None = None
        self.outcome: SyncComplete | None = None
        self.unanswered = 0
        super().__init__()

    # Guards

    def roots_equal(self, e: HelloReply) -> bool:
        assert self.plan is not None
        return self.plan.root is not None and self.plan.root == e.root

    def content_unknown(self, e: HelloReply) -> bool:
        """The server has versions, and this file has no base among them to be relative to."""
        assert self.plan is not None
        return self.wire_version > 1 and bool(e.head) and not e.base_known

    def content_equal(self, e: ContentHashed) -> bool:
        assert self.reply is not None
        return e.root == self.reply.root

    def is_forced(self) -> bool:
        return self.plan is not None and self.plan.force

    def has_ranges(self, e: DrilledDown) -> bool:
        return bool(e.ranges)

    def is_last(self, e: WindowHashed) -> bool:
        return e.last

    def is_measured(self, e: RequestPages) -> bool:
        return self.plan is not None and self.plan.dry_run and self.unanswered <= 1

    def is_measured_empty(self, e: WindowHashed) -> bool:
        """A dry run with nothing left to announce and nothing left to hear."""
        assert self.plan is not None
        return self.plan.dry_run and e.last and not e.windows and not self.unanswered

    # Actions

    def greet(self, e: PushPlanned) -> None:
        if e.dry_run and self.wire_version == 1:
            raise Unimplemented("a server of wire v1 cannot say what a push would move")
        self.plan = e
        self.emit(
            Send(
                Hello(
                    page_size=e.page_size,
                    page_count=e.page_count,
                    base=e.base,
                    base_root=e.base_root,
                    root=e.root,
                    force=e.force,
                )
            )
        )

    def note_reply(self, e: HelloReply) -> None:
        assert self.plan is not None
        # A base is named by its version, or by the root of what the file holds.
        named = self.plan.base is not None or self.plan.root is not None
        check_reply(e, self.wire_version, named_base=named)
        self.reply = e
        said = e.limits.get("batch_decoded_bytes_max", BATCH_DECODED_BYTES_MAX)
        self.batch_bytes_max = min(said, BATCH_DECODED_BYTES_MAX)

    def note_head_and_close(self, e: HelloReply) -> None:
        self.note_reply(e)
        self.emit(Close(1000, "in sync"))

    def hash_content(self, e: HelloReply) -> None:
        self.note_reply(e)
        self.emit(HashContent())

    def close_in_sync(self, e: ContentHashed) -> None:
        self.emit(Close(1000, "in sync"))

    def refuse_conflict(self, e: ContentHashed) -> None:
        assert self.reply is not None
        self.hear_refusal(
            ErrorMessage(
                "this file shares no history with the database, which already has versions",
                code="conflict",
                details={
                    "base": None,
                    "head": self.reply.head,
                    "author": self.reply.author,
                    "committed_at": self.reply.committed_at,
                },
            )
        )

    def announce_first(self, e: HelloReply) -> None:
        self.note_reply(e)
        self.hash_next()

    def hash_next(self) -> None:
        """Pages relate to the base's only where both have the same size."""
        assert self.plan is not None
        assert self.reply is not None
        same_size = self.reply.page_size == self.plan.page_size
        self.emit(HashWindow(relative_to_base=self.reply.base_known and same_size))

    def announce(self, e: WindowHashed) -> None:
        self.unanswered += 1
        self.emit(Send(PageHashes(e.windows)))
        if self.wire_version == 1:
            self.emit(Listen())
            self.hash_next()
        elif self.unanswered < ANNOUNCED_WINDOWS_MAX:
            self.hash_next()

    def announce_last(self, e: WindowHashed) -> None:
        if e.windows:
            self.unanswered += 1
            self.emit(Send(PageHashes(e.windows)))
        assert self.plan is not None
        if self.plan.dry_run:
            return
        self.ending = Complete(e.page_count, e.root, self.plan.force, self.plan.message)
        self.emit(CheckSource(), Send(self.ending))

    def drill_first(self, e: ContentHashed) -> None:
        self.emit(DrillDown(None))

    def announce_ranges(self, e: DrilledDown) -> None:
        self.emit(Send(RangeHashes(e.ranges)))

    def drill_deeper(self, e: RangesDiffer) -> None:
        self.emit(DrillDown(e.runs))

    def answer_mismatch(self, e: RangesDiffer) -> None:
        self.load(e)

    def answer_request(self, e: RequestPages) -> None:
        if self.wire_version > 1 and not self.unanswered:
            raise ProtocolViolation("request_pages answers no page_hashes")
        self.load(e)
        self.unanswered -= 1

    def answer_request_and_announce(self, e: RequestPages) -> None:
        self.answer_request(e)
        if self.wire_version > 1:
            self.hash_next()

    def load(self, e: RequestPages | RangesDiffer) -> None:
        assert self.plan is not None
        if not e.runs:
            return
        if e.runs[-1][1] > self.plan.page_count:
            raise ProtocolViolation(
                f"page {e.runs[-1][1]} of a file of {self.plan.page_count} pages"
            )
        self.emit(CountPages(e.runs))
        if not self.plan.dry_run:
            self.emit(LoadPages(e.runs, self.batch_bytes_max))

    def count_and_close(self, e: RequestPages) -> None:
        self.answer_request(e)
        self.emit(Close(1000, "dry run"))

    def close_measured(self, e: WindowHashed) -> None:
        self.emit(Close(1000, "dry run"))

    def send_pages(self, e: PagesLoaded) -> None:
        self.emit(Send(PageData(e.runs, e.codec, e.data)))
        if e.rest:
            self.emit(LoadPages(e.rest, self.batch_bytes_max))

    def note_version(self, e: SyncComplete) -> None:
        if self.ending is None:
            raise ProtocolViolation("sync_complete before complete")
        if self.wire_version > 1 and (e.version is None or e.root != self.ending.root):
            raise ProtocolViolation("the server committed something else than was pushed")
        self.outcome = e
