"""The server's hands in a pull: choose a version, compare what the client says it holds, read."""

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING

from ..adapters.page_storage import PageBatch
from ..adapters.pins import Pin
from ..adapters.pull_selection import PullSelection
from ..events.errors import NotFound, PermissionDenied
from ..events.limits import OUTBOUND_BYTES_MAX
from ..events.messages import At
from ..events.pages import Runs, count_pages
from ..events.session import HashesCompared, PagesRead, PullOpened, RangesCompared
from ..fsm.effects import CompareHashes, CompareRanges, OpenPull, ReadMore, ReadPages
from .driver import Handler
from .sync_services import Opened, PageAllowance, SyncServices, open_database, pin_database
from .tokens import VerifiedClaims

if TYPE_CHECKING:
    from ..events.domain import VersionCommitted


class PullServerEnd:
    """Performs the effects of `ServerPull` for the bearer of `claims`."""

    def __init__(
        self,
        services: SyncServices,
        claims: VerifiedClaims,
        room_bytes: Callable[[], int] = lambda: OUTBOUND_BYTES_MAX,
    ) -> None:
        self._services = services
        self._room_bytes = room_bytes
        self._claims = claims
        self._allowance = PageAllowance(claims)
        self._selection: PullSelection | None = None
        self._batches: AsyncGenerator[PageBatch, None] | None = None
        self._org_id = ""
        self._pin: Pin | None = None
        self._speaks_v1 = False

    @property
    def handlers(self) -> Mapping[type, Handler]:
        return {
            OpenPull: self.open,
            CompareHashes: self.compare_hashes,
            CompareRanges: self.compare_ranges,
            ReadPages: self.read,
            ReadMore: self.read_more,
        }

    async def open(self, effect: OpenPull) -> PullOpened:
        hello = effect.hello
        self._speaks_v1 = hello.page_count is None
        opened = await open_database(self._services, self._claims)
        self._org_id = opened.history.org_id
        version = self._choose(opened, hello.at)
        if hello.root is None or hello.root != opened.info(version, hello.page_size).root:
            # Pages will be read: what is seen from here on must stay.
            self._pin, opened = await pin_database(
                self._services,
                self._claims,
                opened.known_base(hello),
                version.version if version else None,
            )
            version = self._choose(opened, hello.at)
        info = opened.info(version, hello.page_size)
        base = opened.known_base(hello)
        if hello.root is not None and hello.root == info.root:
            return PullOpened(info, base_known=base is not None, pages_changed=0)
        storage = self._services.storage
        selection = self._selection = PullSelection(await opened.open_map(storage, info.version))
        changed = None
        if base and opened.history.at(base).page_size == info.page_size == hello.page_size:
            selection.hold_base(await opened.open_map(storage, base))
            changed = selection.count()
        return PullOpened(info, base_known=changed is not None, pages_changed=changed)

    def _choose(self, opened: Opened, at: At) -> "VersionCommitted | None":
        """The version wanted, within what the token may see; None for the empty database."""
        history, newest = opened.history, self._claims.max_version
        if at is None:
            version = history.head
            if newest is not None and version is not None and version.version > newest:
                version = history.at(newest) if newest else None
            return version
        if at == 0 and isinstance(at, int):
            return None
        if newest is not None and isinstance(at, int) and at > newest:
            # Whether there is one is not for this token to learn.
            raise PermissionDenied(f"this token reads versions up to {newest}")
        try:
            version = history.at(at) if isinstance(at, int) else history.at_time(at)
        except NotFound as error:
            last = history.head_version if newest is None else min(history.head_version, newest)
            raise NotFound(
                f"{error.message}; this database has versions {history.oldest} to {last}"
            ) from error
        if newest is not None and version.version > newest:
            raise PermissionDenied(f"this token reads versions up to {newest}")
        return version

    async def close(self) -> None:
        """End what is still being read, and the pin. Not part of the protocol: a session whose
        process dies leaves its pin to expire."""
        if self._batches is not None:
            await self._batches.aclose()
        if self._pin is not None:
            await self._pin.release()

    @property
    def _selected(self) -> PullSelection:
        assert self._selection is not None
        return self._selection

    async def compare_hashes(self, effect: CompareHashes) -> HashesCompared:
        """What differs, as far as it can be sent at once (wire v1).

        What cannot is sent after `complete` with the rest: a client that announces everything
        before it reads would else wait for this end to read, and this end for it.
        """
        runs = self._selected.compare_hashes(effect.windows)
        if self._speaks_v1 and count_pages(runs) * self._selected.page_map.page_size > (
            self._room_bytes()
        ):
            return HashesCompared(())
        return HashesCompared(runs)

    async def compare_ranges(self, effect: CompareRanges) -> RangesCompared:
        return RangesCompared(self._selected.compare_ranges(effect.ranges))

    async def read(self, effect: ReadPages) -> PagesRead:
        runs: Runs = self._selected.runs() if effect.runs is None else effect.runs
        pages = sum(last - first + 1 for first, last in runs)
        self._allowance.take(pages, self._selected.page_map.page_size)
        if effect.runs is not None:
            self._selected.mark_sent(effect.runs)
        reader = self._services.storage.reader(self._selected.page_map, self._org_id)
        self._batches = reader.batches(
            runs,
            codecs=("raw",) if self._speaks_v1 else ("raw", "zstd"),
            verify=self._speaks_v1,
            page_order=self._speaks_v1,
        )
        return await self.read_more(ReadMore())

    async def read_more(self, effect: ReadMore) -> PagesRead:
        assert self._batches is not None
        if self._pin is not None:
            await self._pin.keep()
        async for batch in self._batches:
            return PagesRead(batch.runs, batch.codec, bytes(batch.data))
        return PagesRead()
