"""What the server's ends share: services, the session's rights, and versions as they tell them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from ..adapters.event_log import EventLog
from ..adapters.page_storage import PageMap, PageStorage, VersionRef
from ..adapters.pins import Pin, Pins
from ..adapters.ports import Clock, Repo
from ..events.domain import VersionCommitted
from ..events.errors import Conflict, LimitExceeded, NotFound
from ..events.messages import Hello
from ..events.session import VersionInfo
from .history import DatabaseHistory, History
from .measures import Measures
from .quotas import Quotas
from .tokens import VerifiedClaims
from .tracing import NO_TRACING, Tracing

EMPTY_ROOT = bytes.fromhex("af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262")
"""BLAKE3 of nothing: the root of version 0."""


NO_MEASURES = Measures()
StillGood = Callable[[VerifiedClaims], Awaitable[VerifiedClaims]]
"""Asks whether a verified token was revoked since (`Revocations.check`); raises if it was."""


@dataclass(frozen=True, slots=True)
class SyncServices:
    """What a session is joined to; made once, in `app.bootstrap`."""

    repo: Repo
    log: EventLog
    histories: DatabaseHistory
    storage: PageStorage
    clock: Clock
    still_good: StillGood
    quotas: Quotas = field(default_factory=Quotas)
    measures: Measures = NO_MEASURES
    tracing: Tracing = NO_TRACING


@dataclass(frozen=True, slots=True)
class Opened:
    """A database as one session found it."""

    history: History
    claims: VerifiedClaims

    def refs(self, version: int) -> list[VersionRef]:
        return version_refs(self.history, version)

    async def open_map(self, storage: PageStorage, version: int) -> PageMap:
        return await storage.open_map(self.refs(version), version)

    def info(self, version: VersionCommitted | None, page_size: int) -> VersionInfo:
        """`version` as the client is told of it; None is the empty database."""
        if version is None:
            return VersionInfo(0, EMPTY_ROOT, page_size, 0, database=self.history.database_id)
        return VersionInfo(
            version=version.version,
            root=version.root,
            page_size=version.page_size,
            page_count=version.page_count,
            database=self.history.database_id,
            author=version.author_email,
            committed_at=version.committed_at,
        )

    @property
    def head_root(self) -> bytes:
        head = self.history.head
        return EMPTY_ROOT if head is None else head.root

    def known_base(self, hello: Hello) -> int | None:
        """The version that the client builds on or holds: the base it names, if this history has it
        with the same root, else the newest version with the root of what it holds."""
        if hello.base == 0 and hello.base_root in (None, EMPTY_ROOT):
            return 0
        if hello.base:
            try:
                if self.history.at(hello.base).root == hello.base_root:
                    return hello.base
            except NotFound:
                pass  # expired, or another database's
        if hello.root is None:
            return None
        versions = reversed(self.history.versions)
        return next((v.version for v in versions if v.root == hello.root), None)

    def conflict(self, base: int | None, **more: object) -> Conflict:
        head = self.history.head
        assert head is not None
        built_on = "no version of this database" if base is None else f"version {base}"
        return Conflict(
            f"the push builds on {built_on}, but the head is version {head.version} "
            f"by {head.author_email}",
            base=base,
            head=head.version,
            author=head.author_email,
            committed_at=head.committed_at,
            **more,
        )


class PageAllowance:
    """What is left of a token's `max_bytes`, in bytes of page content, whatever their encoding."""

    def __init__(self, claims: VerifiedClaims) -> None:
        self._bytes_max = claims.max_bytes
        self._taken = 0

    def take(self, pages: int, page_size: int) -> None:
        """Count pages that are about to move; `LimitExceeded` if they are too many."""
        self._taken += pages * page_size
        if self._bytes_max is not None and self._taken > self._bytes_max:
            raise LimitExceeded(
                f"this token moves at most {self._bytes_max} bytes of pages in a session",
                limit="token_max_bytes",
                value=self._bytes_max,
            )


def version_refs(history: History, version: int) -> list[VersionRef]:
    """`version` and its ancestors down to the nearest whole map, ascending."""
    refs: list[VersionRef] = []
    while version > 0:
        committed = history.ancestor(version)
        refs.append(version_ref(committed, history.org_id))
        if committed.map_is_snapshot:
            break
        version = committed.parent
    return refs[::-1]


def version_ref(version: VersionCommitted, org_id: str) -> VersionRef:
    return VersionRef(
        database_id=version.database_id,
        org_id=org_id,
        version=version.version,
        page_size=version.page_size,
        page_count=version.page_count,
        root=version.root,
        map_key=version.map_key,
        map_is_snapshot=version.map_is_snapshot,
    )


async def open_database(services: SyncServices, claims: VerifiedClaims) -> Opened:
    """The database that `claims` are for; `NotFound` if it is gone."""
    assert claims.database_id is not None
    history = await services.histories.open(claims.database_id, claims.org_id)
    return Opened(history, claims)


def remembered(services: SyncServices, claims: VerifiedClaims) -> Opened | None:
    """The database as it stood when somebody last opened it here: a hint, asked of nobody."""
    assert claims.database_id is not None
    history = services.histories.cached(claims.database_id)
    if history is None or history.deleted or history.org_id != claims.org_id:
        return None
    return Opened(history, claims)


async def pin_database(
    services: SyncServices, claims: VerifiedClaims, *versions: int | None
) -> tuple[Pin, Opened]:
    """A pin and the database as it stands under it: nothing of that goes while the pin is held.

    `versions` are those that the session will use, as far as it knows; 0 and None are none.
    """
    assert claims.database_id is not None
    pins = Pins(services.repo, services.clock, services.storage.ids.new_id)
    lowest = min(filter(None, versions), default=0)
    pin = await pins.take(claims.org_id, claims.database_id, lowest)
    try:
        return pin, await open_database(services, claims)
    except BaseException:
        await pin.release()
        raise
