"""What an operator may set at the edge: who may connect, how often, how many, how long, how much.

The defaults stand in `events.limits`; what each means is in the README's table. What concerns keys,
logins and places is in `app.settings`, which has all of these too.
"""

import re
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings

from ..events import limits
from ..events.errors import InvalidArgument
from .client_address import parse_networks
from .server_url import is_loopback

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")

Count = Annotated[int, Field(ge=1, le=2**31)]
Seconds = Annotated[int, Field(ge=1, le=366 * 86_400)]


class EdgeSettings(BaseSettings):
    """The edge's part of `Settings`."""

    allowed_origins: str = ""
    """Origins of browser pages that may open a sync session, separated by commas."""
    trusted_proxies: str = ""
    """Networks of proxies whose `X-Forwarded-For` counts, separated by commas."""
    login_attempts_per_account_per_minute: Count = limits.LOGIN_ATTEMPTS_PER_ACCOUNT_PER_MINUTE
    login_attempts_per_address_per_minute: Count = limits.LOGIN_ATTEMPTS_PER_ADDRESS_PER_MINUTE
    sync_opens_per_token_per_minute: Count = limits.SYNC_OPENS_PER_TOKEN_PER_MINUTE
    sync_opens_per_address_per_minute: Count = limits.SYNC_OPENS_PER_ADDRESS_PER_MINUTE
    connections_per_address_max: Count = limits.CONNECTIONS_PER_ADDRESS_MAX
    sessions_per_database_max: Count = limits.SESSIONS_PER_DATABASE_MAX
    sessions_per_address_max: Count = limits.SESSIONS_PER_ADDRESS_MAX
    session_hello_seconds: Seconds = limits.SESSION_HELLO_SECONDS
    session_idle_seconds: Seconds = limits.SESSION_IDLE_SECONDS
    session_seconds_max: Seconds = limits.SESSION_SECONDS_MAX

    frame_bytes_max: Annotated[
        int, Field(ge=limits.FRAME_BYTES_SETTING_MIN, le=limits.FRAME_BYTES_MAX)
    ] = limits.FRAME_BYTES_MAX
    batch_decoded_bytes_max: Annotated[
        int, Field(ge=limits.PAGE_SIZE_BYTES_MAX, le=limits.BATCH_DECODED_BYTES_MAX)
    ] = limits.BATCH_DECODED_BYTES_MAX
    pages_per_database_max: Annotated[int, Field(ge=1, le=limits.PAGES_PER_DATABASE_MAX)] = (
        limits.PAGES_PER_DATABASE_MAX
    )
    databases_per_org_max: Count = limits.DATABASES_PER_ORG_MAX
    org_stored_bytes_max: Annotated[int, Field(ge=1, le=2**62)] = limits.ORG_STORED_BYTES_MAX

    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """0: no port of its own."""
    metrics_token: SecretStr = SecretStr("")
    """Empty: `/metrics` is not on the main port."""

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, text: str) -> str:
        try:
            parse_networks(text, "TRUSTED_PROXIES")
        except InvalidArgument as error:
            raise ValueError(error.message) from None
        return text

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, text: str) -> str:
        for origin in split_list(text):
            if not _ORIGIN.fullmatch(origin):
                raise ValueError("an origin is scheme://host[:port], like https://app.example.org")
        return text

    @model_validator(mode="after")
    def _metrics_are_not_public(self) -> Self:
        public = self.metrics_port and not is_loopback(self.metrics_host)
        if public and not self.metrics_token.get_secret_value():
            raise ValueError("METRICS_HOST is not this machine alone, so set METRICS_TOKEN")
        return self


def split_list(text: str) -> tuple[str, ...]:
    """The lower-case entries of a list separated by commas."""
    return tuple(part.strip().lower() for part in text.split(",") if part.strip())
