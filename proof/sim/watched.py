"""Parts of a server under watch: its end of a push (what it asks for, and how its pages come), and
its histories.

What an interrupted push staged is used by the next one (design §5): a page whose content lies in a
segment that was staged when the push began is not sent again. Pushes that come in several pieces,
and those that resume, are counted; so are the snapshots of histories.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from edgereplica.adapters.event_log import EventLog
from edgereplica.adapters.hashing import hash_pages
from edgereplica.app.compression import decode
from edgereplica.app.history import DatabaseHistory, History
from edgereplica.app.push_server import PushServerEnd
from edgereplica.app.sync_services import SyncServices
from edgereplica.app.tokens import VerifiedClaims
from edgereplica.events.domain import VersionCommitted
from edgereplica.events.limits import DIGEST_BYTES
from edgereplica.events.pages import count_pages
from edgereplica.events.session import HashesCompared, PagesStaged, PushCommitted, PushOpened
from edgereplica.fsm.effects import CommitPush, CompareHashes, OpenPush, StagePages

StagedDigests = Callable[[int], Mapping[str, frozenset[bytes]]]
"""The digests of all pages of a size that lie in staged segments now, by segment."""


class SentInVain(Exception):
    """A page was sent that the server held."""


class WatchedPush(PushServerEnd):
    """A v1 client may send pages of a differing range by itself, so only v2 is watched."""

    def __init__(
        self,
        services: SyncServices,
        claims: VerifiedClaims,
        staged_digests: StagedDigests,
        counts: Counter[str],
        *,
        strict: bool,
    ) -> None:
        """`strict` unless what was staged may be let go of in the middle of a push."""
        super().__init__(services, claims)
        self._staged_digests = staged_digests
        self._segments_before: Mapping[str, frozenset[bytes]] = {}
        self._staged_before: frozenset[bytes] = frozenset()
        self._counts = counts
        self._strict = strict
        self._windows = self._batches = self._resumed_from = 0
        self._size = 0

    async def open(self, effect: OpenPush) -> PushOpened:
        hello = effect.hello
        self._size = hello.page_size
        if hello.page_count is not None:
            self._segments_before = self._staged_digests(hello.page_size)
        opened = await super().open(effect)
        if self._segments_before and self._strict:
            # What another push has committed meanwhile was perhaps staged no more when this one
            # looked.
            still = self._staged_digests(hello.page_size)
            kept = (still[name] for name in still if name in self._segments_before)
            self._staged_before = frozenset().union(*kept)
        return opened

    async def compare_hashes(self, effect: CompareHashes) -> HashesCompared:
        self._windows += 1
        return await super().compare_hashes(effect)

    async def stage(self, effect: StagePages) -> PagesStaged:
        self._batches += 1
        staged = await super().stage(effect)
        if self._staged_before:
            data = decode(effect.codec, effect.data, count_pages(effect.runs) * self._size)
            if not self._staged_before.isdisjoint(digests_in(hash_pages(data, self._size))):
                raise SentInVain("a page was sent that an earlier push had staged")
        return staged

    def _version(self, *given: Any) -> VersionCommitted:
        version = super()._version(*given)
        self._resumed_from = len(self._segments_before.keys() & set(version.segments))
        return version

    async def commit(self, effect: CommitPush) -> PushCommitted:
        committed = await super().commit(effect)
        if not self._speaks_v1:
            self._counts["pushes in several windows"] += self._windows > 1
            self._counts["pushes in several batches"] += self._batches > 1
        self._counts["pushes resumed"] += self._resumed_from > 0
        self._counts["pushes resumed from several segments"] += self._resumed_from > 1
        return committed


class WatchedHistory(DatabaseHistory):
    def __init__(self, log: EventLog, counts: Counter[str]) -> None:
        super().__init__(log)
        self._counts = counts

    async def _from_snapshot(self, database_id: str) -> History:
        history = await super()._from_snapshot(database_id)
        self._counts["histories read from a snapshot"] += history.seq > 0
        return history

    async def write_snapshot(self, database_id: str) -> bool:
        written = await super().write_snapshot(database_id)
        self._counts["snapshots of a history"] += written
        return written


def digests_in(joined: bytes) -> list[bytes]:
    return [joined[at : at + DIGEST_BYTES] for at in range(0, len(joined), DIGEST_BYTES)]
