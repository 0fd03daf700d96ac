"""A server's end of a push under watch: it asks for no page whose content it holds already.

What an interrupted push staged is used by the next one (design §5): a page whose content lies in a
segment that was staged when the push began is not sent again.
"""

from collections.abc import Callable

from edgereplica.adapters.hashing import hash_pages
from edgereplica.app.compression import decode
from edgereplica.app.push_server import PushServerEnd
from edgereplica.app.sync_services import SyncServices
from edgereplica.app.tokens import VerifiedClaims
from edgereplica.events.limits import DIGEST_BYTES
from edgereplica.events.pages import count_pages
from edgereplica.events.session import PagesStaged, PushOpened
from edgereplica.fsm.effects import OpenPush, StagePages

StagedDigests = Callable[[int], frozenset[bytes]]
"""The digests of all pages of a size that lie in staged segments now."""


class SentInVain(Exception):
    """A page was sent that the server held."""


class WatchedPush(PushServerEnd):
    """A v1 client may send pages of a differing range by itself, so only v2 is watched."""

    def __init__(
        self, services: SyncServices, claims: VerifiedClaims, staged_digests: StagedDigests
    ) -> None:
        super().__init__(services, claims)
        self._staged_digests = staged_digests
        self._staged_before: frozenset[bytes] = frozenset()
        self._size = 0

    async def open(self, effect: OpenPush) -> PushOpened:
        hello = effect.hello
        self._size = hello.page_size
        if hello.page_count is not None:
            self._staged_before = self._staged_digests(hello.page_size)
        return await super().open(effect)

    async def stage(self, effect: StagePages) -> PagesStaged:
        staged = await super().stage(effect)
        if self._staged_before:
            data = decode(effect.codec, effect.data, count_pages(effect.runs) * self._size)
            if not self._staged_before.isdisjoint(digests_in(hash_pages(data, self._size))):
                raise SentInVain("a page was sent that an earlier push had staged")
        return staged


def digests_in(joined: bytes) -> list[bytes]:
    return [joined[at : at + DIGEST_BYTES] for at in range(0, len(joined), DIGEST_BYTES)]
