"""What a machine wants done. The driver performs effects in order; results return as events.

`Send`, `Close` and `Listen` are the transport's; the others name a call of the end that the driver
serves (`app.push_server`, `app.pull_client`, …). An effect carries values only, so a recorded
session can be replayed without any of these ends.
"""

from dataclasses import dataclass, field

from ..events.messages import Codec, Complete, HashRanges, Hello, HelloReply, Message, Windows
from ..events.pages import Runs


@dataclass(frozen=True, slots=True)
class Send:
    message: Message


@dataclass(frozen=True, slots=True)
class Close:
    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Listen:
    """Take in what has already arrived before going on; each message follows as an event.

    A v1 client needs it: it announces without waiting for answers, and two ends that both only
    write wait for each other for ever once the buffers between them are full.
    """


# --- the server's end -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenPush:
    """→ PushOpened"""

    hello: Hello


@dataclass(frozen=True, slots=True)
class OpenPull:
    """→ PullOpened"""

    hello: Hello


@dataclass(frozen=True, slots=True)
class CompareHashes:
    """→ HashesCompared"""

    windows: Windows


@dataclass(frozen=True, slots=True)
class CompareRanges:
    """→ RangesCompared"""

    ranges: HashRanges


@dataclass(frozen=True, slots=True)
class StagePages:
    """→ PagesStaged; the pages are verified against what was announced."""

    runs: Runs
    codec: Codec
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CommitPush:
    """→ PushCommitted"""

    complete: Complete


@dataclass(frozen=True, slots=True)
class AbandonPush:
    """Keep what has arrived for a later push of the same pages. No result."""


@dataclass(frozen=True, slots=True)
class ReadPages:
    """→ PagesRead. `runs` None: every page the client did not announce as held."""

    runs: Runs | None


@dataclass(frozen=True, slots=True)
class ReadMore:
    """→ PagesRead: the next batch of the last `ReadPages`."""


# --- the client's end -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HashContent:
    """→ ContentHashed: the root of everything, when there is no base to be relative to."""


@dataclass(frozen=True, slots=True)
class HashWindow:
    """→ WindowHashed: the next pages to announce, of those changed since the base or of all."""

    relative_to_base: bool = False


@dataclass(frozen=True, slots=True)
class DrillDown:
    """→ DrilledDown. `runs`: the pages of the ranges that differed; None for the first round."""

    runs: Runs | None


@dataclass(frozen=True, slots=True)
class LoadPages:
    """→ PagesLoaded: the first batch of `runs`."""

    runs: Runs


@dataclass(frozen=True, slots=True)
class CheckSource:
    """Raise unless the file pushed is still the file at its path. No result."""


@dataclass(frozen=True, slots=True)
class PrepareReplica:
    """→ ReplicaPrepared"""

    reply: HelloReply


@dataclass(frozen=True, slots=True)
class StorePages:
    """→ PagesStored"""

    runs: Runs
    codec: Codec
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ApplyVersion:
    """→ VersionApplied: verify the root, then install in one step."""

    version: int | None
    root: bytes | None


@dataclass(frozen=True, slots=True)
class CountPages:
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
