"""A small blocking client of `edgereplica.admin.v1.AdminService`.

Connect unary JSON over the standard library: what the command line needs to log in, name databases
and mint tokens, at a start-up cost of milliseconds where the generated client costs 0.2 s. It
leaves caching sessions to `config` and words for people to `cli`.

Source of the format: the Connect protocol, "Unary-Request" and "Error End-Stream"; int64 and enums
as in the protobuf JSON mapping (a missing field is its default, an int64 is a string).
"""

import json
import socket
import ssl
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, ClassVar
from urllib.parse import urlsplit

from ..events.errors import (
    AlreadyExists,
    Conflict,
    EdgeReplicaError,
    InvalidArgument,
    LimitExceeded,
    NetworkError,
    NotFound,
    PermissionDenied,
    RemoteError,
    Unauthenticated,
    Unimplemented,
)
from ..events.limits import (
    ADMIN_ANSWER_BYTES_MAX,
    ADMIN_TIMEOUT_SECONDS,
    RETRY_AFTER_DIGITS_MAX,
)
from ..events.value import Value
from .server_url import check_secure, normalize_server

SERVICE = "edgereplica.admin.v1.AdminService"
_DIRECTIONS = {"push": "DIRECTION_PUSH", "pull": "DIRECTION_PULL"}
_BY_RPC_CODE: dict[str, type[EdgeReplicaError]] = {
    "invalid_argument": InvalidArgument,
    "unauthenticated": Unauthenticated,
    "permission_denied": PermissionDenied,
    "not_found": NotFound,
    "already_exists": AlreadyExists,
    "unimplemented": Unimplemented,
    "resource_exhausted": LimitExceeded,
    "aborted": Conflict,
    "unavailable": NetworkError,
    "deadline_exceeded": NetworkError,
}
_JSON = dict[str, Any]


class Whoami(Value, frozen=True):
    """Who a session belongs to. `role` is "admin" or "member"."""

    user_id: str
    email: str
    org_id: str
    role: str


class Session(Value, frozen=True):
    """A fresh login. `token` is a secret."""

    token: str
    whoami: Whoami
    secret: ClassVar[frozenset[str]] = frozenset(("token",))


class Database(Value, frozen=True):
    """`created_at_unix` in seconds."""

    id: str
    org_id: str
    name: str
    created_at_unix: int


class SyncToken(Value, frozen=True):
    """`token` is a secret that allows one direction of one database until `exp_unix` (seconds)."""

    token: str
    exp_unix: int
    secret: ClassVar[frozenset[str]] = frozenset(("token",))


class OAuthStart(Value, frozen=True):
    redirect_url: str
    state: str


class AdminClient:
    """Calls to one server, each on its own connection.

    `server` as a user writes it; `session_token` for the calls that need a login. Every method
    raises NetworkError when the server cannot be reached, RemoteError when what answers is no
    EdgeReplica server, and the typed error that the server's Connect code names.
    """

    service = SERVICE

    def __init__(
        self,
        server: str,
        session_token: str | None = None,
        *,
        timeout_seconds: float = ADMIN_TIMEOUT_SECONDS,
        insecure: bool = False,
    ) -> None:
        self.server = normalize_server(server)
        check_secure(self.server, insecure=insecure)
        self._session_token = session_token
        self._timeout_seconds = timeout_seconds

    def whoami(self) -> Whoami:
        return self._whoami(self._call("Whoami", {}))

    def signup(self, email: str, password: str) -> Session:
        return self._session(self._call("Signup", {"email": email, "password": password}))

    def login(self, email: str, password: str) -> Session:
        return self._session(self._call("Login", {"email": email, "password": password}))

    def start_oauth(self, provider: str) -> OAuthStart:
        answer = self._call("StartOAuth", {"provider": provider})
        return OAuthStart(self._text(answer, "redirectUrl"), self._text(answer, "state"))

    def complete_oauth(self, state: str, code: str) -> Session:
        return self._session(self._call("CompleteOAuth", {"state": state, "code": code}))

    def create_database(self, name: str) -> Database:
        return self._database(self._call("CreateDatabase", {"name": name}))

    def list_databases(self) -> list[Database]:
        entries = self._call("ListDatabases", {}).get("databases", [])
        if not isinstance(entries, list):
            raise self._not_ours("its list of databases is no list")
        return [self._database(entry) for entry in entries]

    def find_database(self, name_or_id: str) -> Database:
        """The database of that id or, failing that, of that name. Raises NotFound."""
        databases = self.list_databases()
        for database in databases:
            if database.id == name_or_id:
                return database
        for database in databases:
            if database.name == name_or_id:
                return database
        raise NotFound(
            f"there is no database {name_or_id!r} on {self.server}",
            hint="`edgereplica db list` shows them",
        )

    def delete_database(self, database_id: str) -> None:
        self._call("DeleteDatabase", {"databaseId": database_id})

    def issue_sync_token(self, database_id: str, direction: str, ttl_seconds: int = 0) -> SyncToken:
        """`direction` is "push" or "pull"; a `ttl_seconds` of 0 leaves it to the server."""
        if direction not in _DIRECTIONS:
            raise InvalidArgument(f"a direction is push or pull, not {direction!r}")
        answer = self._call(
            "IssueSyncToken",
            {
                "databaseId": database_id,
                "direction": _DIRECTIONS[direction],
                "ttlSeconds": str(ttl_seconds),
            },
        )
        return SyncToken(self._text(answer, "token"), self._integer(answer, "expUnix"))

    # What the server said, as types

    def _whoami(self, answer: _JSON) -> Whoami:
        who = answer.get("whoami", {})
        if not isinstance(who, dict):
            raise self._not_ours("its whoami is no object")
        names = ("userId", "email", "orgId", "role")
        return Whoami(*(self._text(who, name) for name in names))

    def _session(self, answer: _JSON) -> Session:
        token = self._text(answer, "sessionToken")
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise self._not_ours("it gave no session token")
        return Session(token, self._whoami(answer))

    def _database(self, entry: Any) -> Database:
        if not isinstance(entry, dict):
            raise self._not_ours("a database is no object")
        return Database(
            self._text(entry, "id"),
            self._text(entry, "orgId"),
            self._text(entry, "name"),
            self._integer(entry, "createdAtUnix"),
        )

    def _text(self, answer: _JSON, name: str) -> str:
        value = answer.get(name, "")
        if not isinstance(value, str):
            raise self._not_ours(f"{name} is no string")
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON can escape half a character
            raise self._not_ours(f"{name} is not valid Unicode") from None
        return value

    def _integer(self, answer: _JSON, name: str) -> int:
        try:
            number = int(answer.get(name, 0))
        except (TypeError, ValueError, OverflowError):
            raise self._not_ours(f"{name} is no number") from None
        if not -(2**63) <= number < 2**63:
            raise self._not_ours(f"{name} is too large")
        return number

    # The wire

    def _call(self, method: str, request: _JSON) -> _JSON:
        status, headers, body = self._post(method, json.dumps(request).encode())
        answer = self._decoded(body) if "json" in headers.get("content-type", "") else None
        if status == 200 and answer is not None:
            return answer
        if answer is not None and isinstance(answer.get("code"), str):
            raise self._refusal(answer, headers)
        raise self._strange(status, headers)

    def _post(self, method: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        headers = {"Content-Type": "application/json", "Connect-Protocol-Version": "1"}
        if self._session_token:
            headers["Authorization"] = f"Bearer {self._session_token}"
        connection = self._connection()
        try:
            connection.request(
                "POST", f"{urlsplit(self.server).path}/{self.service}/{method}", body, headers
            )
            response = connection.getresponse()
            content = response.read(ADMIN_ANSWER_BYTES_MAX + 1)
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        if len(content) > ADMIN_ANSWER_BYTES_MAX:
            raise self._not_ours(f"its answer is larger than {ADMIN_ANSWER_BYTES_MAX} bytes")
        return response.status, {k.lower(): v for k, v in response.getheaders()}, content

    def _connection(self) -> HTTPConnection:
        parts = urlsplit(self.server)
        host = parts.hostname or ""
        if parts.scheme == "https":
            return HTTPSConnection(host, parts.port, timeout=self._timeout_seconds)
        return HTTPConnection(host, parts.port, timeout=self._timeout_seconds)

    def _decoded(self, body: bytes) -> _JSON | None:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            return None
        return answer if isinstance(answer, dict) else None

    # Errors

    def _refusal(self, answer: _JSON, headers: Mapping[str, str]) -> EdgeReplicaError:
        code = answer["code"]
        message = answer.get("message")
        kind = _BY_RPC_CODE.get(code, RemoteError)
        details: dict[str, Any] = {"rpc_code": code}
        seconds = headers.get("retry-after", "")
        if seconds.isdecimal() and len(seconds) <= RETRY_AFTER_DIGITS_MAX:
            details["retry_after_seconds"] = int(seconds)
        if request_id := headers.get("x-request-id"):
            details["request_id"] = request_id
        text = message if isinstance(message, str) and message else code.replace("_", " ")
        return kind(text, **details)

    def _strange(self, status: int, headers: Mapping[str, str]) -> EdgeReplicaError:
        if status in (502, 503, 504):
            return NetworkError(
                f"{self.server} is not available now (HTTP {status})", hint="try again later"
            )
        if 300 <= status < 400:
            # Not followed: the request carries a password or a session.
            return RemoteError(
                f"{self.server} redirects elsewhere (HTTP {status})",
                hint=f"if you trust it, use that address: {headers.get('location', 'unknown')}",
            )
        return self._not_ours(f"HTTP {status} without a Connect answer")

    def _not_ours(self, what: str) -> EdgeReplicaError:
        return RemoteError(
            f"{self.server} did not answer as an EdgeReplica server ({what})",
            hint="is this the address of an EdgeReplica server? check --server",
        )

    def _unreachable(self, error: Exception) -> NetworkError:
        hint = "is the server running, and is --server right?"
        if isinstance(error, ssl.SSLCertVerificationError):
            what = f"its certificate is not trusted ({error.verify_message})"
            hint = "check the address; for a private authority set SSL_CERT_FILE"
        elif isinstance(error, ssl.SSLError):
            what = "it does not speak TLS"
            hint = "if it is a plain server, write http://"
        elif isinstance(error, TimeoutError):
            what = f"no answer within {self._timeout_seconds:g} s"
        elif isinstance(error, ConnectionRefusedError):
            what = "connection refused"
            hint += " `edgereplica serve` starts one here"
        elif isinstance(error, socket.gaierror):
            what = "there is no host of that name"
        elif isinstance(error, OSError) and error.strerror:
            what = error.strerror.lower()
        else:
            what = "the connection was cut, or it does not speak HTTP"
        return NetworkError(f"cannot reach {self.server}: {what}", hint=hint)
