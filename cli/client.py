"""What the client commands share: the server meant, the cached session, the password, the token."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..events.errors import InvalidArgument, NotFound, Unauthenticated
from ..events.limits import TOKEN_FILE_BYTES_MAX
from .console import note

if TYPE_CHECKING:
    from ..app.account_client import AccountClient
    from ..app.admin_client import AdminClient, Session, SyncToken
    from ..app.config import ClientConfig, ConfigFile
    from ..app.retention_client import RetentionClient

_ID_CHARS = 32
"""An id is that many hexadecimal digits (`Ids.new_id`); most names are not."""


class Client:
    """One command's view: `server` is normalized."""

    def __init__(self, server: str, file: "ConfigFile", config: "ClientConfig") -> None:
        self.server = server
        self.file = file
        self.config = config

    def anonymous(self) -> "AdminClient":
        """An admin client without a session: for signup and login."""
        from ..app.admin_client import AdminClient

        return AdminClient(self.server)

    def admin(self) -> "AdminClient":
        """An admin client with the cached session. Raises Unauthenticated when there is none."""
        from ..app.admin_client import AdminClient

        session = self.config.session(self.server)
        if session is None:
            raise Unauthenticated(
                f"not logged in to {self.server}",
                hint="`edgereplica login EMAIL`, or `edgereplica signup EMAIL` for a new account",
            )
        return AdminClient(self.server, session.token)

    def accounts(self) -> "AccountClient":
        """An account client with the cached session, or without one if there is none."""
        from ..app.account_client import AccountClient

        session = self.config.session(self.server)
        return AccountClient(self.server, session.token if session else None)

    def retention(self) -> "RetentionClient":
        """A client for retention with the cached session. Raises Unauthenticated without one."""
        from ..app.retention_client import RetentionClient

        self.admin()
        session = self.config.session(self.server)
        return RetentionClient(self.server, session.token if session else None)

    def own_account(self) -> "AccountClient":
        """An account client with the cached session. Raises Unauthenticated when there is none."""
        self.admin()
        return self.accounts()

    def remember(self, session: "Session") -> None:
        """Cache a session that was just opened."""
        from ..app.config import CachedSession

        cached = CachedSession(session.token, session.whoami.email)
        for warning in self.file.save_session(self.server, cached):
            note(f"warning: {warning}")


def open_client(ctx: Any, server: str | None) -> Client:
    """`server` is the command's own --server; the root's stands for it when it is missing."""
    return client_of(server or ctx.find_root().params.get("server"))


def client_of(named: str | None) -> Client:
    """The client of the server `named`, else of the one that environment and file name."""
    from ..app.config import ConfigFile, resolve_server

    file = ConfigFile.locate(os.environ)
    config = file.load()
    for warning in config.warnings:
        note(f"warning: {warning}")
    return Client(resolve_server(named, os.environ, config), file, config)


def mint(
    admin: "AdminClient", name_or_id: str, direction: str, ttl_seconds: int = 0
) -> "SyncToken":
    """A token for the database of that id or name: one call for an id, two for a name."""
    if len(name_or_id) == _ID_CHARS and not set(name_or_id) - set("0123456789abcdef"):
        with suppress(NotFound):
            return admin.issue_sync_token(name_or_id, direction, ttl_seconds)
    found = admin.find_database(name_or_id)
    return admin.issue_sync_token(found.id, direction, ttl_seconds)


def read_password(
    *, twice: bool, variable: str = "EDGEREPLICA_PASSWORD", prompt: str = "Password: "
) -> str:
    """From the environment's `variable`, else asked on the terminal without echo."""
    if password := os.environ.get(variable):
        return password
    if not sys.stdin.isatty():
        raise InvalidArgument(
            "there is no terminal to ask for the password",
            hint=f"set {variable} in the environment",
        )
    from getpass import getpass

    password = getpass(prompt)
    if not password:
        raise InvalidArgument("the password is empty", hint="run the command again")
    if twice and getpass("The same again: ") != password:
        raise InvalidArgument("the two passwords differ", hint="run the command again")
    return password


def read_token(token: str | None, token_file: str | None) -> str | None:
    """The sync token that was given, checked for its form only; None when there is none.

    `token_file` of "-" is standard input. The words of an error never repeat the token.
    """
    if token is not None and token_file is not None:
        raise InvalidArgument("--token and --token-file were both given", hint="give one of them")
    if token is not None:
        return _well_formed(token, "--token")
    if token_file is not None:
        return _well_formed(_read_token_file(token_file), "the token file")
    if value := os.environ.get("EDGEREPLICA_SYNC_TOKEN"):
        return _well_formed(value, "EDGEREPLICA_SYNC_TOKEN")
    return None


def _read_token_file(name: str) -> str:
    try:
        if name == "-":
            content = sys.stdin.buffer.read(TOKEN_FILE_BYTES_MAX + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(TOKEN_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidArgument(
            f"cannot read the token file {name}: {error.strerror}",
            hint="`edgereplica db token ID --direction push > FILE` makes one",
        ) from error
    if len(content) > TOKEN_FILE_BYTES_MAX:
        raise InvalidArgument("the token file is far too large to hold a token")
    return content.decode("ascii", "replace")


def _well_formed(token: str, source: str) -> str:
    text = token.strip()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidArgument(
            f"{source} holds no sync token",
            hint="`edgereplica db token ID --direction push|pull` prints one",
        )
    return text
