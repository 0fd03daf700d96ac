"""What an operator may set, read from the environment, and the key file that is made once.

Names are those of the issue and of the README, without a prefix. A malformed value is refused when
the server starts (`InvalidArgument`), in words that never repeat the value.
"""

import base64
import binascii
import os
import secrets
import stat
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

from ..events.errors import InvalidArgument, StorageError
from ..events.limits import (
    GC_GRACE_SECONDS,
    GC_INTERVAL_SECONDS,
    KEY_BYTES,
    STAGED_TTL_SECONDS,
)
from .edge_settings import EdgeSettings

DEV_KEY = b"edgereplica development key ----"
"""What `--dev` signs with: known to everybody, so its tokens protect nothing."""

KEY_FILE = "session.key"
_KEY_FILE_BYTES_MAX = 4096
_TTL_SECONDS_MAX = 10 * 365 * 86_400

Seconds = Annotated[int, Field(ge=1, le=_TTL_SECONDS_MAX)]


class Settings(EdgeSettings):
    """One server's settings. Secrets do not show in its `repr`."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    session_key: SecretStr = SecretStr("")
    """Base64 of 32 bytes; several, separated by commas, the newest first. Empty: the key file."""
    session_ttl_seconds: Seconds = 86_400
    sync_token_ttl_seconds: Seconds = 3_600
    max_sync_token_ttl_seconds: Seconds = 86_400
    oauth_state_ttl_seconds: Seconds = 600
    oauth_redirect_base: str = ""
    github_client_id: str = ""
    github_client_secret: SecretStr = SecretStr("")
    google_client_id: str = ""
    google_client_secret: SecretStr = SecretStr("")
    github_authorize_url: str = "https://github.com/login/oauth/authorize"
    github_token_url: str = "https://github.com/login/oauth/access_token"  # noqa: S105 - an address
    github_api_url: str = "https://api.github.com"
    """GitHub Enterprise: https://HOST/login/oauth/… and https://HOST/api/v3."""
    google_authorize_url: str = "https://accounts.google.com/o/oauth2/v2/auth"
    google_token_url: str = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
    google_keys_url: str = "https://www.googleapis.com/oauth2/v3/certs"
    google_issuer: str = "https://accounts.google.com"
    auto_migrate: bool = True
    data_dir: Path = Path("edgereplica-data")
    database_url: SecretStr = SecretStr("")
    """`postgresql://…`; empty: the SQLite database of the data directory."""
    database_connections: Annotated[int, Field(ge=2, le=1000)] = 8
    """To PostgreSQL, for each server process, and one more to listen."""
    page_store_url: str = ""
    """Empty: the directory `objects` of the data directory."""
    gc_interval_seconds: Annotated[int, Field(ge=0, le=_TTL_SECONDS_MAX)] = GC_INTERVAL_SECONDS
    """How often a server looks after storage; 0: never, leave it to `edgereplica admin gc`."""
    gc_grace_seconds: Seconds = GC_GRACE_SECONDS
    """Between an object's first being seen without references and its deletion, at least."""
    staged_ttl_seconds: Seconds = STAGED_TTL_SECONDS
    """How long the pages of an interrupted push wait for it to be resumed."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    dev: bool = Field(default=False, validation_alias="EDGEREPLICA_DEV")
    """A fixed key and a warning; set by `serve --dev`."""


def load_settings(data_dir: Path | None = None, dev: bool = False, **more: Any) -> Settings:
    """The settings of the environment, under what the command line says.

    `InvalidArgument` names every malformed variable, never its value.
    """
    given: dict[str, Any] = dict(more)
    if data_dir is not None:
        given["data_dir"] = data_dir
    if dev:
        given["dev"] = True
    try:
        settings = Settings(**given)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, entry['loc'])).upper()}: {entry['msg']}"
            for entry in error.errors(include_input=False, include_url=False)
        )
        raise InvalidArgument(f"the settings are refused: {wrong}") from None
    decode_keys(settings.session_key.get_secret_value(), "SESSION_KEY")
    url = settings.database_url.get_secret_value()
    if url and not url.startswith(("postgresql://", "postgres://")):
        raise InvalidArgument("the settings are refused: DATABASE_URL is not a postgresql:// URL")
    return settings


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that make another process load the same settings; secrets are among them."""
    variables = {}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        variables[str(field.validation_alias or name.upper())] = text
    return variables


def session_keys(settings: Settings) -> list[bytes]:
    """The root keys, the newest first: SESSION_KEY, else `--dev`'s, else those of the key file."""
    given = decode_keys(settings.session_key.get_secret_value(), "SESSION_KEY")
    if given:
        return given
    if settings.dev:
        return [DEV_KEY]
    if settings.database_url.get_secret_value():
        raise InvalidArgument(
            "SESSION_KEY must be set where DATABASE_URL is: every server has to sign with the same "
            f"key; `openssl rand -base64 {KEY_BYTES}` makes one"
        )
    return read_or_create_key_file(settings.data_dir / KEY_FILE)


def decode_keys(text: str, name: str) -> list[bytes]:
    """Base64 keys separated by commas. `name` says where they come from if one is malformed."""
    keys = []
    for number, piece in enumerate(filter(None, map(str.strip, text.split(","))), 1):
        try:
            key = base64.b64decode(piece, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidArgument(f"{name}: key {number} is not base64") from None
        if len(key) != KEY_BYTES:
            raise InvalidArgument(
                f"{name}: key {number} has {len(key)} bytes instead of {KEY_BYTES}; "
                f"`openssl rand -base64 {KEY_BYTES}` makes one"
            )
        keys.append(key)
    if text.strip() and not keys:
        raise InvalidArgument(f"{name} holds no key")
    return keys


def read_or_create_key_file(path: Path) -> list[bytes]:
    """The keys in the file at `path`; a new random one if there is no such file.

    The file appears whole, with mode 0600, or not at all: it is written beside its place and linked
    into it, which fails if something stands there. So two servers that start together end with one
    key. Never follows a symbolic link, and refuses a file that others may read.
    """
    try:
        return _read_key_file(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StorageError(f"the key file {path} cannot be read: {error.strerror}") from error
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        _write_private(temporary, base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            pass  # another server was first: its key is the key
        finally:
            temporary.unlink()
        _sync_directory(path.parent)
        return _read_key_file(path)
    except OSError as error:
        raise StorageError(f"the key file {path} cannot be made: {error.strerror}") from error


def _write_private(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_key_file(path: Path) -> list[bytes]:
    if path.is_symlink():
        raise InvalidArgument(f"the key file {path} is a symbolic link, which is refused")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidArgument(f"the key file {path} is not a file")
        if status.st_mode & 0o077:
            raise InvalidArgument(f"the key file {path} may be read by others: `chmod 600` it")
        text = os.read(descriptor, _KEY_FILE_BYTES_MAX).decode("ascii", "replace")
    finally:
        os.close(descriptor)
    keys = decode_keys(text.replace("\n", ","), str(path))
    if not keys:
        raise InvalidArgument(f"the key file {path} holds no key")
    return keys
