"""A folded history written down, so that opening a long one does not read its whole stream.

The log stays the authority: a snapshot is what a fold up to `seq` gave, may be behind by any number
of events, and may be deleted at any time. Maps that were moved are where they are in its versions.
"""

from collections.abc import Sequence

import msgspec

from ..adapters.event_log import Snapshot
from ..events.domain import RetentionSet
from ..events.errors import StorageError
from ..events.limits import HISTORY_CHUNK_VERSIONS
from .stored_versions import StoredVersions, pack_chunk


class State(msgspec.Struct, frozen=True):
    """What a snapshot says of a history beside its chunks; `retention` is the event's JSON."""

    org_id: str
    name: str
    first: int
    expired: int
    deleted: bool
    retention: str | None
    tail: tuple[str, ...]


_STATE = msgspec.json.Decoder(State)


def encode(seq: int, state: State, versions: Sequence[str]) -> Snapshot:
    """The snapshot of a history with `versions`; the tail of `state` is filled in."""
    whole = len(versions) - len(versions) % HISTORY_CHUNK_VERSIONS
    chunks = tuple(
        pack_chunk(versions[start : start + HISTORY_CHUNK_VERSIONS])
        for start in range(0, whole, HISTORY_CHUNK_VERSIONS)
    )
    said = msgspec.structs.replace(state, tail=tuple(versions[whole:]))
    return Snapshot(seq, msgspec.json.encode(said).decode(), chunks)


def decode(snapshot: Snapshot) -> tuple[State, StoredVersions, RetentionSet | None]:
    """`StorageError` if this program cannot read it."""
    try:
        state = _STATE.decode(snapshot.state)
    except msgspec.MsgspecError as error:
        raise StorageError(f"a snapshot of a history cannot be read: {error}") from error
    rule = state.retention
    retention = None if rule is None else RetentionSet.model_validate_json(rule)
    return state, StoredVersions(snapshot.chunks, state.tail), retention
