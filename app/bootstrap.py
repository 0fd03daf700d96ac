"""The composition root: the one place that knows which adapter plugs into which port.

Importing it does nothing. `build` joins a server and takes it apart again; `migrate` and `rebuild`
are what `edgereplica admin` calls.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import structlog

from ..adapters import event_log, migrations
from ..adapters.clock import SystemClock
from ..adapters.event_log import EventLog
from ..adapters.ids import SystemIds
from ..adapters.object_store import MeteredStore
from ..adapters.page_storage import PageStorage
from ..adapters.ports import Change, Clock, Ids, Notifier, ObjectStore, Repo
from ..events.errors import StorageError
from .account_rpc import account_rpc_app
from .accounts import AccountService
from .admin import AdminService, Lifetimes
from .edge import ASGIApp, Receive, Scope, Send
from .follower import Follower
from .guards import client_addresses, login_limits, quotas, sync_bounds
from .history import DatabaseHistory
from .http import make_app
from .maintenance import in_background
from .measures import CountRefusals, Measures
from .oauth import OAuthLogins
from .oauth_providers import identity_providers
from .passwords import Passwords
from .places import Place
from .retention_rpc import retention_rpc_app
from .revocations import Revocations
from .rpc import rpc_app
from .sessions import Sessions
from .settings import Settings, session_keys
from .sync_server import SyncServer
from .sync_services import NO_MEASURES, SyncServices
from .tokens import Keyring
from .tracing import NO_TRACING, Tracing, tracing_of


class SyncEnd(Protocol):
    """What a server needs of the sync side: an ASGI application that can end its sessions."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def databases(self) -> set[str]: ...

    def end_database(self, database_id: str) -> None: ...

    async def shutdown(self, grace_seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Core:
    """The parts that both halves of a server share."""

    settings: Settings
    repo: Repo
    log: EventLog
    histories: DatabaseHistory
    store: ObjectStore
    keyring: Keyring
    revocations: Revocations
    notifier: Notifier
    clock: Clock
    ids: Ids
    measures: Measures = NO_MEASURES
    tracing: Tracing = NO_TRACING


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready to answer: `app` is its ASGI application."""

    core: Core
    admin: AdminService
    sync: SyncEnd
    app: ASGIApp
    metrics: ASGIApp | None = None
    """Shows `/metrics`, if it was asked for; also a part of `app`, if there is a token for it."""


MakeSync = Callable[[Core], SyncEnd]


def sync_of(core: Core) -> SyncEnd:
    """The sync side on the core's page storage."""
    storage = PageStorage(core.store, core.ids)
    if isinstance(store := core.store, MeteredStore):
        core.measures.watch_storage(lambda: store.usage, lambda: storage.cache_usage)
    services = SyncServices(
        core.repo,
        core.log,
        core.histories,
        storage,
        core.clock,
        core.revocations.check,
        quotas(core.settings),
        core.measures,
        core.tracing,
    )
    bounds = sync_bounds(core.settings, core.keyring, core.clock)
    return SyncServer(services, core.keyring, bounds)


@asynccontextmanager
async def build(
    settings: Settings,
    *,
    make_sync: MakeSync = sync_of,
    passwords: Passwords | None = None,
    clock: Clock | None = None,
    ids: Ids | None = None,
    notifier: Notifier | None = None,
    channel: socket.socket | None = None,
) -> AsyncIterator[Server]:
    """A server on the place that `settings` name; everything is closed on the way out.

    A worker of several comes with a `channel` to its supervisor, which holds the place for it.

    Raises `FileBusy` if another server holds the data directory, `InvalidArgument` for malformed or
    missing keys, `StorageError` for a database that cannot be reached, is newer than this program
    or not migrated.
    """
    clock = clock or SystemClock()
    ids = ids or SystemIds(clock)
    place = Place.of(settings)
    place.prepare()
    with place.held() if channel is None else contextlib.nullcontext():
        keyring = Keyring(session_keys(settings))
        store: ObjectStore = place.store()
        measures, metrics = _metrics_of(settings)
        if metrics is not None:
            store = MeteredStore(store)
        passwords = passwords or Passwords()
        async with place.repo() as repo, contextlib.AsyncExitStack() as ending:
            ending.callback(passwords.close)
            tracing = ending.enter_context(tracing_of())
            await _bring_up_to_date(repo, settings, clock)
            notifier = notifier or place.notifier(repo, ids.new_id(), channel)
            ending.push_async_callback(notifier.close)
            log = EventLog(repo, clock)
            histories = DatabaseHistory(log, committed=_telling(notifier, "head"))
            revocations = Revocations(repo, log)
            core = Core(
                settings,
                repo,
                log,
                histories,
                store,
                keyring,
                revocations,
                notifier,
                clock,
                ids,
                measures,
                tracing,
            )
            sync = make_sync(core)
            follower = Follower(repo, sync, histories.forget)
            ending.push_async_callback(follower.close)
            notifier.subscribe(follower.heard)
            await notifier.start()
            sessions = Sessions(
                repo=repo,
                keyring=keyring,
                revocations=revocations,
                clock=clock,
                ids=ids,
                ttl_seconds=settings.session_ttl_seconds,
            )
            oauth = OAuthLogins(
                providers=identity_providers(settings),
                redirect_base=settings.oauth_redirect_base,
                repo=repo,
                log=log,
                sessions=sessions,
                clock=clock,
                ids=ids,
                ttl_seconds=settings.oauth_state_ttl_seconds,
            )
            ending.push_async_callback(oauth.close)
            accounts = AccountService(
                repo=repo,
                log=log,
                keyring=keyring,
                passwords=passwords,
                sessions=sessions,
                revocations=revocations,
                oauth=oauth,
                clock=clock,
                ids=ids,
            )
            admin = AdminService(
                repo=repo,
                log=log,
                histories=core.histories,
                keyring=keyring,
                passwords=passwords,
                clock=clock,
                ids=ids,
                lifetimes=Lifetimes(
                    session_seconds=settings.session_ttl_seconds,
                    sync_token_seconds=settings.sync_token_ttl_seconds,
                    sync_token_seconds_max=settings.max_sync_token_ttl_seconds,
                ),
                database_deleted=_telling(notifier, "deleted"),
                sessions=sessions,
                oauth=oauth,
                quotas=quotas(settings),
            )
            checks = {"repo": lambda: repo.batch([]), "page_storage": store.check}
            guards = (CountRefusals(measures), login_limits(settings, clock))
            app = make_app(
                services=[
                    rpc_app(admin, *guards),
                    account_rpc_app(accounts, sessions, *guards),
                    retention_rpc_app(histories, sessions, *guards),
                ],
                oauth=oauth,
                sync_app=sync,
                checks=checks,
                clock=clock,
                ids=ids,
                addresses=client_addresses(settings),
                metrics=metrics if settings.metrics_token.get_secret_value() else None,
                tracing=tracing,
            )
            _warn(settings)
            async with in_background(repo, store, settings, clock, ids):
                yield Server(core, admin, sync, app, metrics)


def _metrics_of(settings: Settings) -> tuple[Measures, ASGIApp | None]:
    """What counts and what shows it; nothing, not even imported, unless it is asked for."""
    token = settings.metrics_token.get_secret_value()
    if not token and not settings.metrics_port:
        return NO_MEASURES, None
    from .metrics import Metrics, metrics_app  # noqa: PLC0415 - only where it is wanted

    metrics = Metrics()
    return metrics, metrics_app(metrics, token)


def _telling(notifier: Notifier, topic: Literal["head", "deleted"]) -> Callable[[str], None]:
    return lambda database_id: notifier.publish(Change(topic, database_id))


def migrate(settings: Settings) -> list[str]:
    """Apply what is pending to the place's database; the names of what was applied."""
    place = Place.of(settings)
    place.prepare()

    async def run() -> list[str]:
        async with place.repo() as repo:
            return await migrations.migrate(repo, SystemClock().now())

    return asyncio.run(run())


def rebuild(settings: Settings) -> int:
    """Make all projections again from the log; the number of events folded."""

    place = Place.of(settings)

    async def run() -> int:
        async with place.repo() as repo:
            if await migrations.pending(repo):
                raise StorageError("the database is not migrated: `edgereplica admin migrate`")
            return await event_log.rebuild(repo)

    place.require()
    return asyncio.run(run())


async def _bring_up_to_date(repo: Repo, settings: Settings, clock: Clock) -> None:
    if settings.auto_migrate:
        await migrations.migrate(repo, clock.now())
    elif names := await migrations.pending(repo):
        raise StorageError(
            f"the database lacks {', '.join(names)} and AUTO_MIGRATE is off: "
            "`edgereplica admin migrate` applies them"
        )


def _warn(settings: Settings) -> None:
    if settings.dev and not settings.session_key.get_secret_value():
        structlog.get_logger("edgereplica").warning(
            "development mode: tokens are signed with a key that everybody knows"
        )
