"""The client's configuration file: which server is meant, and the cached sessions.

The file holds session tokens, so it is treated like a private key: created 0600 in a 0700
directory whatever the umask, replaced atomically, never read or written through a symlink, never
trusted when another user owns it, and tightened with a word when others could read it. Everything
happens relative to one open directory descriptor, so a directory swapped in the meantime changes
nothing. Left to others: talking to the server (`admin_client`) and printing the warnings (`cli`).

    server = "https://sync.example.org"            # the server of the last login

    [sessions."https://sync.example.org"]
    token = "…"
    email = "ada@example.org"

    [logins.<public state>]                        # `oauth start`, until it is completed
    server = "https://sync.example.org"
    state = "…"                                    # the secret (app/oauth_state.py)
    purpose = "login"
    begun_at = 1800000000

Where it lies: `EDGEREPLICA_CONFIG`, else `$XDG_CONFIG_HOME/edgereplica/config.toml`, else
`~/.config/edgereplica/config.toml` (XDG Base Directory 0.8: a relative XDG_CONFIG_HOME is
ignored). POSIX only: it needs `O_NOFOLLOW` and `dir_fd`.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from ..events.errors import ConfigError
from ..events.limits import CONFIG_BYTES_MAX, PENDING_LOGINS_KEPT_MAX
from ..events.value import Value
from .server_url import DEFAULT_SERVER, normalize_server

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
_OTHERS = 0o077
_REFUSED_SYMLINK = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)


class CachedSession(Value, frozen=True):
    """A login that the client remembers for one server. `token` is a secret."""

    token: str
    email: str
    secret: ClassVar[frozenset[str]] = frozenset(("token",))


class PendingLogin(Value, frozen=True):
    """A login with a provider that this client began. `state` is its secret.

    `purpose` is "login" or "link"; `begun_at` in Unix seconds.
    """

    server: str
    state: str
    purpose: str
    begun_at: int
    secret: ClassVar[frozenset[str]] = frozenset(("state",))


class ClientConfig(Value, frozen=True):
    """What the file said. `warnings` are sentences for the user, in the order they arose."""

    server: str | None = None
    sessions: Mapping[str, CachedSession] = msgspec.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    logins: Mapping[str, PendingLogin] = msgspec.field(default_factory=dict)
    """By public state."""

    def session(self, server: str) -> CachedSession | None:
        return self.sessions.get(server)


class ConfigFile:
    """The configuration file at `path`.

    `owns_directory`: the directory is this program's own (`…/edgereplica`), so it is made and kept
    0700. A directory the user named with EDGEREPLICA_CONFIG is made 0700 when missing and left
    alone when it is there.
    """

    def __init__(self, path: Path, *, owns_directory: bool) -> None:
        self.path = path
        self._owns_directory = owns_directory

    @classmethod
    def locate(cls, environ: Mapping[str, str]) -> "ConfigFile":
        """The file that this environment means; nothing is opened or made."""
        named = environ.get("EDGEREPLICA_CONFIG", "")
        if named:
            return cls(Path(named).expanduser().absolute(), owns_directory=False)
        base = environ.get("XDG_CONFIG_HOME", "")
        if not base.startswith("/"):
            home = environ.get("HOME", "")
            if not home:
                raise ConfigError(
                    "there is no home directory to keep the configuration in",
                    hint="set HOME, XDG_CONFIG_HOME or EDGEREPLICA_CONFIG",
                )
            base = f"{home}/.config"
        return cls(Path(base) / "edgereplica" / "config.toml", owns_directory=True)

    def load(self) -> ClientConfig:
        """The file's content; the empty configuration when there is no file.

        Raises ConfigError for a symlink, another user's file, or content that is not ours.
        """
        try:
            with self._failing_clearly("read"), self._directory(create=False) as directory:
                document, warnings = self._read(directory)
        except FileNotFoundError:
            return ClientConfig()
        return self._parse(document, warnings)

    def save_session(self, server: str, session: CachedSession) -> tuple[str, ...]:
        """Remember `session` for `server` (normalized) and make it the default server.

        Returns warnings, as `ClientConfig.warnings`.
        """

        def change(document: dict[str, Any]) -> None:
            document["server"] = server
            document.setdefault("sessions", {})[server] = {
                "token": session.token,
                "email": session.email,
            }

        return self._update(change)

    def forget_session(self, server: str) -> bool:
        """Drop the cached session of `server`; False when there was none."""
        if self.load().session(server) is None:
            return False

        def change(document: dict[str, Any]) -> None:
            document.get("sessions", {}).pop(server, None)

        self._update(change)
        return True

    def save_login(self, public_state: str, login: PendingLogin) -> tuple[str, ...]:
        """Remember a begun login; the oldest are forgotten."""

        def change(document: dict[str, Any]) -> None:
            logins = document.setdefault("logins", {})
            logins[public_state] = {
                "server": login.server,
                "state": login.state,
                "purpose": login.purpose,
                "begun_at": login.begun_at,
            }
            by_age = sorted(logins, key=lambda key: logins[key].get("begun_at", 0))
            for forgotten in by_age[:-PENDING_LOGINS_KEPT_MAX]:
                del logins[forgotten]

        return self._update(change)

    def forget_login(self, public_state: str) -> None:
        def change(document: dict[str, Any]) -> None:
            document.get("logins", {}).pop(public_state, None)

        self._update(change)

    def _parse(self, document: dict[str, Any], warnings: tuple[str, ...]) -> ClientConfig:
        server = document.get("server")
        if server is not None:
            if not isinstance(server, str):
                raise self._unreadable('"server" is not a string')
            server = normalize_server(server)
        return ClientConfig(server, self._sessions(document), warnings, self._logins(document))

    def _sessions(self, document: dict[str, Any]) -> dict[str, CachedSession]:
        entries = document.get("sessions", {})
        if not isinstance(entries, dict):
            raise self._unreadable('"sessions" is not a table')
        sessions = {}
        for server, entry in entries.items():
            token = entry.get("token") if isinstance(entry, dict) else None
            email = entry.get("email", "") if isinstance(entry, dict) else None
            if not isinstance(token, str) or not isinstance(email, str):
                raise self._unreadable(f"the session of {server!r} has no token")
            sessions[server] = CachedSession(token, email)
        return sessions

    def _logins(self, document: dict[str, Any]) -> dict[str, PendingLogin]:
        entries = document.get("logins", {})
        if not isinstance(entries, dict):
            raise self._unreadable('"logins" is not a table')
        logins = {}
        for public_state, entry in entries.items():
            try:
                logins[public_state] = PendingLogin(
                    str(entry["server"]),
                    str(entry["state"]),
                    str(entry["purpose"]),
                    int(entry["begun_at"]),
                )
            except (KeyError, TypeError, ValueError):
                raise self._unreadable(f"the login {public_state!r} is incomplete") from None
        return logins

    def _unreadable(self, why: str) -> ConfigError:
        return ConfigError(
            f"{self.path} is not a configuration of edgereplica: {why}",
            hint="correct the file, or move it away and log in again",
        )

    @contextmanager
    def _directory(self, *, create: bool) -> Iterator[int]:
        """A descriptor of the directory, opened without following a symlink if it is ours."""
        parent = self.path.parent
        if create:
            # `parents=True` would make the ancestors with the umask's mode.
            for ancestor in (*reversed(parent.parents), parent):
                ancestor.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        if self._owns_directory:
            flags |= os.O_NOFOLLOW
        descriptor = os.open(parent, flags)
        try:
            if self._owns_directory:
                self._check_owner(os.fstat(descriptor), parent)
                if stat.S_IMODE(os.fstat(descriptor).st_mode) != DIRECTORY_MODE:
                    os.fchmod(descriptor, DIRECTORY_MODE)
            yield descriptor
        finally:
            os.close(descriptor)

    def _check_owner(self, status: os.stat_result, path: Path) -> None:
        if status.st_uid not in (os.geteuid(), 0):
            raise ConfigError(
                f"{path} belongs to another user (uid {status.st_uid})",
                hint="set EDGEREPLICA_CONFIG to a file of your own",
            )

    def _read(self, directory: int) -> tuple[dict[str, Any], tuple[str, ...]]:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self.path.name, flags, dir_fd=directory)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise self._unreadable("it is not a regular file")
            self._check_owner(status, self.path)
            warnings = self._tighten(descriptor, status)
            content = file.read(CONFIG_BYTES_MAX + 1)
        if len(content) > CONFIG_BYTES_MAX:
            raise self._unreadable(f"it is larger than {CONFIG_BYTES_MAX} bytes")
        import tomllib  # noqa: PLC0415 - only where there is a file

        try:
            return tomllib.loads(content.decode()), warnings
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            # A decoder's message names a position, never the text around it: no token leaks.
            raise self._unreadable(f"not TOML ({error})") from None

    def _tighten(self, descriptor: int, status: os.stat_result) -> tuple[str, ...]:
        mode = stat.S_IMODE(status.st_mode)
        if not mode & _OTHERS:
            return ()
        os.fchmod(descriptor, FILE_MODE)
        return (
            f"{self.path} was open to other users (mode {mode:04o}) and holds session tokens; "
            "it is 0600 now. If others use this machine, log in again",
        )

    def _update(self, change: Callable[[dict[str, Any]], None]) -> tuple[str, ...]:
        with self._failing_clearly("write"), self._directory(create=True) as directory:
            # Two logins at once: the second must not undo the first. The lock goes with the
            # descriptor.
            fcntl.flock(directory, fcntl.LOCK_EX)
            try:
                document, warnings = self._read(directory)
            except FileNotFoundError:
                document, warnings = {}, ()
            change(document)
            self._replace(directory, document)
            return warnings

    def _replace(self, directory: int, document: dict[str, Any]) -> None:
        import tomli_w  # noqa: PLC0415 - only a login writes the file

        content = tomli_w.dumps(document).encode()
        temporary = f".{self.path.name}.{os.urandom(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, FILE_MODE, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, FILE_MODE)
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.rename(temporary, self.path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(temporary, dir_fd=directory)
            raise
        os.fsync(directory)

    @contextmanager
    def _failing_clearly(self, verb: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._refused(verb, error) from error

    def _refused(self, verb: str, error: OSError) -> ConfigError:
        if error.errno in _REFUSED_SYMLINK or isinstance(error, FileExistsError):
            return ConfigError(
                f"{self.path} is a symlink, or its directory is: refused, for it holds sessions",
                hint="put a real file there, or set EDGEREPLICA_CONFIG to the real path",
            )
        return ConfigError(
            f"cannot {verb} {self.path}: {error.strerror}",
            hint="set EDGEREPLICA_CONFIG to a file that you can write",
        )


def resolve_server(option: str | None, environ: Mapping[str, str], config: ClientConfig) -> str:
    """The server that a command means, normalized: option, environment, file, default."""
    named = option or environ.get("EDGEREPLICA_SERVER") or config.server
    return normalize_server(named or DEFAULT_SERVER)
