"""EdgeReplica: move SQLite databases between machines, page by page.

The Python API is `Replica` (blocking) and `AsyncReplica`; both are imported on first use, so that
importing the package costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app.replica import AsyncReplica, Replica
    from .app.results import Progress, PullResult, PushResult, ReplicaStatus

__all__ = ["AsyncReplica", "Progress", "PullResult", "PushResult", "Replica", "ReplicaStatus"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from .app import replica  # noqa: PLC0415 - the API is loaded when it is used

        return getattr(replica, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
