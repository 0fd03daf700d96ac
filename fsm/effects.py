"""What a machine wants done. The driver performs effects in order; results return as events.

`Send`, `Close` and `Listen` are the transport's; the others name a call of the end that the driver
serves (`app.push_server`, `app.pull_client`, …). An effect carries values only, so a recorded
session can be replayed without any of these ends.
"""

from ..events.limits import BATCH_DECODED_BYTES_MAX
from ..events.messages import Codec, Complete, HashRanges, Hello, HelloReply, Message, Windows
from ..events.pages import Runs
from ..events.value import Value


class Send(Value, frozen=True):
    message: Message


class Close(Value, frozen=True):
    code: int
    reason: str = ""


class Listen(Value, frozen=True):
    """Take in what has already arrived before going on; each message follows as an event.

    A v1 client needs it: it announces without waiting for answers, and two ends that both only
    write wait for each other for ever once the buffers between them are full.
    """


# --- the server's end -----------------------------------------------------------------------------


class OpenPush(Value, frozen=True):
    """→ PushOpened"""

    hello: Hello


class OpenPull(Value, frozen=True):
    """→ PullOpened"""

    hello: Hello


class CompareHashes(Value, frozen=True):
    """→ HashesCompared"""

    windows: Windows


class CompareRanges(Value, frozen=True):
    """→ RangesCompared"""

    ranges: HashRanges


class StagePages(Value, frozen=True):
    """→ PagesStaged; the pages are verified against what was announced."""

    runs: Runs
    codec: Codec
    data: bytes


class CommitPush(Value, frozen=True):
    """→ PushCommitted"""

    complete: Complete


class AbandonPush(Value, frozen=True):
    """Keep what has arrived for a later push of the same pages. No result."""


class ReadPages(Value, frozen=True):
    """→ PagesRead. `runs` None: every page the client did not announce as held."""

    runs: Runs | None


class ReadMore(Value, frozen=True):
    """→ PagesRead: the next batch of the last `ReadPages`."""


# --- the client's end -----------------------------------------------------------------------------


class HashContent(Value, frozen=True):
    """→ ContentHashed: the root of everything, when there is no base to be relative to."""


class HashWindow(Value, frozen=True):
    """→ WindowHashed: the next pages to announce, of those changed since the base or of all."""

    relative_to_base: bool = False


class DrillDown(Value, frozen=True):
    """→ DrilledDown. `runs`: the pages of the ranges that differed; None for the first round."""

    runs: Runs | None


class LoadPages(Value, frozen=True):
    """→ PagesLoaded: the first batch of `runs`, at most `bytes_max` of pages (but one page)."""

    runs: Runs
    bytes_max: int = BATCH_DECODED_BYTES_MAX


class CheckSource(Value, frozen=True):
    """Raise unless the file pushed is still the file at its path. No result."""


class PrepareReplica(Value, frozen=True):
    """→ ReplicaPrepared"""

    reply: HelloReply


class StorePages(Value, frozen=True):
    """→ PagesStored"""

    runs: Runs
    codec: Codec
    data: bytes


class ApplyVersion(Value, frozen=True):
    """→ VersionApplied: verify the root, then install in one step."""

    version: int | None
    root: bytes | None


class CountPages(Value, frozen=True):
    """A dry run counts what would have moved. No result."""

    runs: Runs


Effect = (
    Send
    | Close
    | Listen
    | OpenPush
    | OpenPull
    | CompareHashes
    | CompareRanges
    | StagePages
    | CommitPush
    | AbandonPush
    | ReadPages
    | ReadMore
    | HashContent
    | HashWindow
    | DrillDown
    | LoadPages
    | CheckSource
    | PrepareReplica
    | StorePages
    | ApplyVersion
    | CountPages
)
