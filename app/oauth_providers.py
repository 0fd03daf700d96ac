"""The identity providers that the settings name.

A provider is configured by its id and secret; without both it is not there. Imports what speaks
HTTP and verifies ID tokens only if one is.
"""

from urllib.parse import urlsplit

import structlog

from ..adapters.ports import IdentityProvider
from ..events.errors import InvalidArgument
from .server_url import is_loopback
from .settings import Settings


def identity_providers(settings: Settings) -> dict[str, IdentityProvider]:
    """The configured providers by name; `InvalidArgument` if they could not work."""
    github = _configured(
        "github", settings.github_client_id, settings.github_client_secret.get_secret_value()
    )
    google = _configured(
        "google", settings.google_client_id, settings.google_client_secret.get_secret_value()
    )
    if not (github or google):
        return {}
    if not settings.oauth_redirect_base:
        raise InvalidArgument(
            "OAUTH_REDIRECT_BASE is missing, but a provider to log in with is configured: it is "
            "this server's public address, as https://sync.example.org"
        )
    _check_urls(settings)
    providers: dict[str, IdentityProvider] = {}
    if github:
        from ..adapters.identity_github import GitHub, GitHubEndpoints  # noqa: PLC0415

        endpoints = GitHubEndpoints(
            settings.github_authorize_url,
            settings.github_token_url,
            settings.github_api_url.rstrip("/"),
        )
        providers["github"] = GitHub(*github, endpoints)
    if google:
        from ..adapters.identity_google import Google, GoogleEndpoints  # noqa: PLC0415

        providers["google"] = Google(
            *google,
            GoogleEndpoints(
                settings.google_authorize_url,
                settings.google_token_url,
                settings.google_keys_url,
                settings.google_issuer,
            ),
        )
    return providers


def _configured(name: str, client_id: str, client_secret: str) -> tuple[str, str] | None:
    if client_id and client_secret:
        return client_id, client_secret
    if client_id or client_secret:
        structlog.get_logger("edgereplica").warning(
            "logging in with a provider is off: its id or its secret is missing", provider=name
        )
    return None


def _check_urls(settings: Settings) -> None:
    """Secrets and codes travel to these addresses: encrypted, or not off this machine."""
    names = (
        "oauth_redirect_base",
        "github_authorize_url",
        "github_token_url",
        "github_api_url",
        "google_authorize_url",
        "google_token_url",
        "google_keys_url",
        "google_issuer",
    )
    for name in names:
        parts = urlsplit(getattr(settings, name))
        plain = parts.scheme == "http" and is_loopback(parts.hostname or "")
        if not parts.hostname or parts.query or parts.fragment or parts.username:
            raise InvalidArgument(f"{name.upper()} is not an address such as https://example.org")
        if parts.scheme != "https" and not plain:
            raise InvalidArgument(f"{name.upper()} must begin with https:// (or be on loopback)")
