"""The edge's bounds as the settings say them, for the composition root to hand out."""

from dataclasses import dataclass

from ..adapters.ports import Clock
from .admission import Admission
from .client_address import ClientAddresses, parse_networks
from .connections import Connections
from .edge_settings import EdgeSettings, split_list
from .quotas import Quotas
from .rate_limits import LoginLimits
from .session_limits import Deadlines, SessionSlots
from .tokens import Keyring


@dataclass(frozen=True, slots=True)
class SyncBounds:
    """What bounds the sessions of one `SyncServer`."""

    admission: Admission
    slots: SessionSlots
    deadlines: Deadlines


def sync_bounds(settings: EdgeSettings, keyring: Keyring, clock: Clock) -> SyncBounds:
    return SyncBounds(
        Admission(
            keyring,
            clock,
            origins=split_list(settings.allowed_origins),
            opens_per_token=settings.sync_opens_per_token_per_minute,
            opens_per_address=settings.sync_opens_per_address_per_minute,
        ),
        SessionSlots(settings.sessions_per_database_max, settings.sessions_per_address_max),
        Deadlines(
            settings.session_hello_seconds,
            settings.session_idle_seconds,
            settings.session_seconds_max,
        ),
    )


def quotas(settings: EdgeSettings) -> Quotas:
    return Quotas(
        frame_bytes_max=settings.frame_bytes_max,
        batch_decoded_bytes_max=settings.batch_decoded_bytes_max,
        pages_per_database_max=settings.pages_per_database_max,
        databases_per_org_max=settings.databases_per_org_max,
        org_stored_bytes_max=settings.org_stored_bytes_max,
    )


def login_limits(settings: EdgeSettings, clock: Clock) -> LoginLimits:
    return LoginLimits(
        clock,
        per_account=settings.login_attempts_per_account_per_minute,
        per_address=settings.login_attempts_per_address_per_minute,
    )


def client_addresses(settings: EdgeSettings) -> ClientAddresses:
    return ClientAddresses(parse_networks(settings.trusted_proxies, "TRUSTED_PROXIES"))


def connections(settings: EdgeSettings) -> Connections:
    return Connections(settings.connections_per_address_max, client_addresses(settings))
