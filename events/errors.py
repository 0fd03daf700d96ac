"""One error tree; every error knows how each edge of the system says it.

    EdgeReplicaError
    ├── InvalidArgument            the caller's input is wrong
    ├── Unauthenticated            no valid session or token
    ├── PermissionDenied           a valid token that does not allow this
    ├── NotFound                   missing, or another organization's
    ├── AlreadyExists
    ├── Unimplemented              a feature that is not configured on this server
    ├── LimitExceeded              a named limit; says which and how much
    │   └── RateLimited            too often or too many at once; says when to come back
    ├── Conflict                   the push's base is not the head
    ├── ConcurrentAppend           a log stream moved under an append (internal: becomes Conflict)
    ├── LocalFileError             the local SQLite file
    │   ├── NotADatabase           not a SQLite file, encrypted, a directory, torn
    │   ├── FileBusy               another process holds it; another sync runs
    │   ├── FileReplaced           changed identity under a running sync
    │   ├── DiskFull
    │   ├── UnpushedChanges        a pull would overwrite changes never pushed
    │   └── NoSharedHistory        a pull would overwrite a file unknown to this database
    ├── ProtocolError
    │   ├── FrameUndecodable       bytes that are not a frame of this protocol
    │   ├── TextFrameReceived
    │   ├── ProtocolViolation      a frame that is not allowed now, or not for this token
    │   ├── PageHashMismatch       page data that is not what was announced
    │   └── RootMismatch           the announced root is not the root of the stored pages
    ├── ConfigError                the client's configuration file is unsafe or unreadable
    ├── RemoteError                the peer refused with a code this side does not know
    ├── NetworkError               connection refused, lost, timed out
    ├── IdentityProviderFailed     a provider that users log in with failed, or makes no sense
    ├── ServerShuttingDown
    ├── SessionTooSlow             silent for so long that what it saw may be gone
    ├── LeaseTaken                 another runner looks after storage
    │   └── LeaseLost              … and took over while this one did
    └── StorageError               the server's own storage failed

`code` is the stable string that travels in v2 `error` frames and in `--json` output. `rpc_code` is
the Connect code, `close_code` the WebSocket close code (RFC 6455 §7.4.1), `exit_code` the command
line's. An error that arrives from the peer is rebuilt by `error_from_wire`, so both ends raise the
same types.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class EdgeReplicaError(Exception):
    """The root. `details` holds only msgpack-able values: numbers, strings, bytes, lists, maps."""

    code: ClassVar[str] = "internal"
    rpc_code: ClassVar[str] = "internal"
    close_code: ClassVar[int] = 1011
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, /, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, Any] = details


class InvalidArgument(EdgeReplicaError):
    code = "invalid_argument"
    rpc_code = "invalid_argument"
    close_code = 1008
    exit_code = 2


class Unauthenticated(EdgeReplicaError):
    code = "unauthenticated"
    rpc_code = "unauthenticated"
    close_code = 1008
    exit_code = 4


class PermissionDenied(EdgeReplicaError):
    code = "permission_denied"
    rpc_code = "permission_denied"
    close_code = 1008
    exit_code = 4


class NotFound(EdgeReplicaError):
    code = "not_found"
    rpc_code = "not_found"
    close_code = 1008


class AlreadyExists(EdgeReplicaError):
    code = "already_exists"
    rpc_code = "already_exists"
    close_code = 1008


class Unimplemented(EdgeReplicaError):
    code = "unimplemented"
    rpc_code = "unimplemented"
    close_code = 1008


class LimitExceeded(EdgeReplicaError):
    """A named limit was reached. Details: `limit` (its name), `value` (its bound)."""

    code = "limit_exceeded"
    rpc_code = "resource_exhausted"
    close_code = 1008


class RateLimited(LimitExceeded):
    """Too often, or too many at once. Details: `limit`, `value`, `retry_after_seconds` (whole)."""

    code = "resource_exhausted"
    close_code = 1013
    retryable = True


class Conflict(EdgeReplicaError):
    """The base of a push is not the head.

    Details: `base`, `head` (versions), `author`, `committed_at` (Unix seconds),
    `pages_changed` (pages that differ between base and head), `changed_runs`.
    """

    code = "conflict"
    rpc_code = "aborted"
    close_code = 1008
    exit_code = 3


class ConcurrentAppend(EdgeReplicaError):
    """A stream of the log already holds the sequence number an append expected to take."""

    code = "concurrent_append"
    rpc_code = "aborted"
    close_code = 1011
    retryable = True


class LocalFileError(EdgeReplicaError):
    code = "local_file"


class NotADatabase(LocalFileError):
    code = "not_a_database"


class FileBusy(LocalFileError):
    code = "file_busy"


class FileReplaced(LocalFileError):
    code = "file_replaced"


class DiskFull(LocalFileError):
    code = "disk_full"


class UnpushedChanges(LocalFileError):
    code = "unpushed_changes"
    exit_code = 3


class NoSharedHistory(LocalFileError):
    code = "no_shared_history"
    exit_code = 3


class ProtocolError(EdgeReplicaError):
    code = "protocol_error"
    rpc_code = "invalid_argument"
    close_code = 1002


class FrameUndecodable(ProtocolError):
    code = "frame_undecodable"


class TextFrameReceived(ProtocolError):
    code = "text_frame"
    close_code = 1003


class ProtocolViolation(ProtocolError):
    code = "protocol_violation"


class PageHashMismatch(ProtocolError):
    code = "page_hash_mismatch"


class RootMismatch(ProtocolError):
    code = "root_mismatch"


class ConfigError(EdgeReplicaError):
    code = "config"


class RemoteError(EdgeReplicaError):
    """The peer refused with a code that this side does not know, or without one (wire v1)."""

    code = "remote_error"


class NetworkError(EdgeReplicaError):
    code = "network"
    rpc_code = "unavailable"
    exit_code = 5
    retryable = True


class IdentityProviderFailed(EdgeReplicaError):
    """The words say which provider, and repeat nothing of what it was sent or answered."""

    code = "identity_provider"
    rpc_code = "unavailable"
    exit_code = 5


class ServerShuttingDown(EdgeReplicaError):
    code = "server_shutting_down"
    rpc_code = "unavailable"
    close_code = 1012
    exit_code = 5
    retryable = True


class SessionTooSlow(EdgeReplicaError):
    """A session was silent for longer than its pin lasts; a new one starts where it stopped."""

    code = "session_too_slow"
    rpc_code = "aborted"
    retryable = True


class LeaseTaken(EdgeReplicaError):
    code = "lease_taken"
    rpc_code = "aborted"
    retryable = True


class LeaseLost(LeaseTaken):
    code = "lease_lost"


class StorageError(EdgeReplicaError):
    code = "storage"
    rpc_code = "unavailable"
    retryable = True


def _tree(base: type[EdgeReplicaError]) -> dict[str, type[EdgeReplicaError]]:
    found = {base.code: base}
    for child in base.__subclasses__():
        found |= _tree(child)
    return found


_BY_CODE = _tree(EdgeReplicaError)


def error_from_wire(
    code: str, message: str, details: Mapping[str, Any] | None = None
) -> EdgeReplicaError:
    """The error a peer named, as the type this side raises; `RemoteError` for an unknown code."""
    kind = _BY_CODE.get(code, RemoteError)
    safe = {k: v for k, v in (details or {}).items() if isinstance(k, str)}
    return kind(message, **safe)
