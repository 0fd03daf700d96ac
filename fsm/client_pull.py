"""The client's end of a pull.

The rules, and why they are so:

- Nothing local is touched before the whole version is here and its root is right: pages are stored
  aside, `ApplyVersion` verifies and installs them in one step, and only then is the pull done.
- What the client holds is told in the cheapest way that is true: nothing (a fresh file, or a base
  the server knows and the file still equals), the hashes of pages changed since a known base, or
  ranges from coarse to fine.
- Once everything is here the server is not needed any more: while `applying`, neither its last
  words nor its absence matter.
- `complete` is said once; only after it does a v2 server send pages. A v1 server sends differing
  pages at once, so pages are taken in either state.
"""

from statemachine import State

from ..events.errors import ProtocolViolation, Unimplemented
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
from ..events.session import (
    DrilledDown,
    PagesStored,
    PullPlanned,
    ReplicaPrepared,
    VersionApplied,
    WindowHashed,
)
from .effects import (
    ApplyVersion,
    Close,
    DrillDown,
    HashWindow,
    Listen,
    PrepareReplica,
    Send,
    StorePages,
)
from .machine import Machine, check_reply


class ClientPull(Machine):
    title = "client pull"

    planning = State(initial=True)
    greeting = State()
    preparing = State()
    announcing = State()
    drilling = State()
    receiving = State()
    applying = State()
    pulled = State(final=True)
    unchanged = State(final=True)
    measured = State(final=True)
    refused = State(final=True)
    lost = State(final=True)

    pull_planned = planning.to(greeting, on="greet")
    hello_reply = (
        greeting.to(unchanged, cond="roots_equal", on="note_version_and_close")
        | greeting.to(measured, cond="is_measured_already", on="note_count_and_close")
        | greeting.to(preparing, on="prepare_replica")
    )
    replica_prepared = (
        preparing.to(measured, cond="would_replace_all", on="close_measured")
        | preparing.to(receiving, cond="announces_nothing", on="finish")
        | preparing.to(announcing, cond="announces_windows", on="announce_first")
        | preparing.to(drilling, on="drill_first")
    )
    window_hashed = announcing.to(receiving, cond="is_last", on="announce_last") | announcing.to(
        announcing, internal=True, on="announce"
    )
    drilled_down = (
        drilling.to(drilling, internal=True, cond="has_ranges", on="announce_ranges")
        | drilling.to(measured, cond="is_dry_run", on="close_measured")
        | drilling.to(announcing, on="announce_first")
    )
    ranges_differ = drilling.to(drilling, internal=True, on="drill_deeper")
    page_data = announcing.to(announcing, internal=True, on="store") | receiving.to(
        receiving, internal=True, on="store"
    )
    pages_stored = announcing.to(announcing, internal=True, on="count") | receiving.to(
        receiving, internal=True, on="count"
    )
    sync_complete = receiving.to(applying, on="apply")
    version_applied = applying.to(pulled, on="close_applied")
    error = (
        planning.to(refused, on="hear_refusal")
        | greeting.to(refused, on="hear_refusal")
        | preparing.to(refused, on="hear_refusal")
        | announcing.to(refused, on="hear_refusal")
        | drilling.to(refused, on="hear_refusal")
        | receiving.to(refused, on="hear_refusal")
        | applying.to(applying, internal=True)
    )
    failed = (
        planning.to(refused, on="close_on_failure")
        | greeting.to(refused, on="close_on_failure")
        | preparing.to(refused, on="close_on_failure")
        | announcing.to(refused, on="close_on_failure")
        | drilling.to(refused, on="close_on_failure")
        | receiving.to(refused, on="close_on_failure")
        | applying.to(refused, on="close_on_failure")
    )
    peer_lost = (
        planning.to(lost)
        | greeting.to(lost)
        | preparing.to(lost)
        | announcing.to(lost)
        | drilling.to(lost)
        | receiving.to(lost)
        | applying.to(applying, internal=True)
    )

    def __init__(self, wire_version: int = 2) -> None:
        self.wire_version = wire_version
        self.plan: PullPlanned | None = None
        self.reply: HelloReply | None = None
        self.outcome: SyncComplete | None = None
        self.pages = 0
        self.wire_bytes = 0
        super().__init__()

    # Guards

    def roots_equal(self, e: HelloReply) -> bool:
        assert self.plan is not None
        return self.plan.root is not None and self.plan.root == e.root

    def is_dry_run(self) -> bool:
        return self.plan is not None and self.plan.dry_run

    def is_measured_already(self, e: HelloReply) -> bool:
        """A dry run that needs no comparison: everything would come, or the server counted."""
        assert self.plan is not None
        return self.plan.dry_run and (self.plan.fresh or e.pages_changed is not None)

    def would_replace_all(self, e: ReplicaPrepared) -> bool:
        """A dry run where nothing that is held can be kept (another page size)."""
        return self.is_dry_run() and e.announce == "nothing"

    def announces_nothing(self, e: ReplicaPrepared) -> bool:
        return e.announce == "nothing"

    def announces_windows(self, e: ReplicaPrepared) -> bool:
        return e.announce == "windows"

    def has_ranges(self, e: DrilledDown) -> bool:
        return bool(e.ranges)

    def is_last(self, e: WindowHashed) -> bool:
        return e.last

    # Actions

    def greet(self, e: PullPlanned) -> None:
        if e.dry_run and self.wire_version == 1:
            raise Unimplemented("a server of wire v1 cannot say what a pull would move")
        self.plan = e
        self.emit(
            Send(
                Hello(
                    page_size=e.page_size,
                    page_count=e.page_count,
                    base=e.base,
                    base_root=e.base_root,
                    root=e.root,
                    at=e.at,
                )
            )
        )

    def note_reply(self, e: HelloReply) -> None:
        assert self.plan is not None
        # The root of what is held names a base too: a file may be a version and not know it.
        named = self.plan.base is not None or self.plan.root is not None
        check_reply(e, self.wire_version, named_base=named)
        self.reply = e

    def note_version_and_close(self, e: HelloReply) -> None:
        self.note_reply(e)
        self.emit(Close(1000, "in sync"))

    def note_count_and_close(self, e: HelloReply) -> None:
        self.note_reply(e)
        self.close_measured()

    def prepare_replica(self, e: HelloReply) -> None:
        self.note_reply(e)
        self.emit(PrepareReplica(e))

    def finish(self) -> None:
        self.emit(Send(Complete()))

    def announce_first(self) -> None:
        if self.is_dry_run():
            raise Unimplemented("this server does not say what a pull would change")
        self.emit(HashWindow())

    def announce(self, e: WindowHashed) -> None:
        self.emit(Send(PageHashes(e.windows)))
        if self.wire_version == 1:
            self.emit(Listen())
        self.emit(HashWindow())

    def announce_last(self, e: WindowHashed) -> None:
        if e.windows:
            self.emit(Send(PageHashes(e.windows)))
        self.finish()

    def drill_first(self) -> None:
        self.emit(DrillDown(None))

    def announce_ranges(self, e: DrilledDown) -> None:
        self.emit(Send(RangeHashes(e.ranges)))

    def drill_deeper(self, e: RangesDiffer) -> None:
        self.emit(DrillDown(e.runs))

    def close_measured(self) -> None:
        self.emit(Close(1000, "dry run"))

    def store(self, e: PageData) -> None:
        assert self.reply is not None
        if e.runs[-1][1] > self.reply.page_count:
            raise ProtocolViolation(
                f"page {e.runs[-1][1]} of a version of {self.reply.page_count} pages"
            )
        self.emit(StorePages(e.runs, e.codec, e.data))

    def count(self, e: PagesStored) -> None:
        self.pages += e.pages
        self.wire_bytes += e.wire_bytes

    def apply(self, e: SyncComplete) -> None:
        assert self.reply is not None
        promised = (self.reply.head, self.reply.root)
        if self.wire_version > 1 and (e.version, e.root) != promised:
            raise ProtocolViolation("the server sent another version than it promised")
        self.outcome = e
        self.emit(ApplyVersion(e.version, e.root))

    def close_applied(self, e: VersionApplied) -> None:
        self.emit(Close(1000, "pulled"))
