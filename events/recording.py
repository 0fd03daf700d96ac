"""Events and effects as JSON: the lines of a recorded session (`app.replay` writes and runs them).

A recording may leave the house, so it carries no content of a database: what a field called `data`
holds, and any other bytes longer than `BYTES_KEPT_MAX`, is replaced by its length and a short hash
(BLAKE2b, 64 bits). Machines only ever look at the length, so a session that is replayed with the
replacements has the same effects. Names, messages, e-mail addresses and roots stay.

In JSON: a `Value` is {"type": name, field: …}, a map {"map": [[key, value], …]}, bytes
{"hex": …} or {"length": n, "blake2b": …}; tuples and lists are both lists.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final, TypeGuard, get_args

from .errors import EdgeReplicaError, InvalidArgument
from .messages import Message
from .session import Event, MessageReceived, VersionInfo
from .value import Value

FORMAT: Final = "edgereplica-session"
FORMAT_VERSION: Final = 1
BYTES_KEPT_MAX: Final = 64

_KINDS: Mapping[str, type] = {
    kind.__name__: kind for kind in (*get_args(Event), *get_args(Message), VersionInfo)
}


class ElidedBytes(bytes):
    """Stands for bytes that were left out: has their length and hash, and no content."""

    length: int
    blake2b: str

    def __new__(cls, length: int, blake2b: str) -> "ElidedBytes":
        self = super().__new__(cls)
        self.length = length
        self.blake2b = blake2b
        return self

    def __len__(self) -> int:
        return self.length

    def __repr__(self) -> str:
        return f"<{self.length} bytes, blake2b {self.blake2b}>"


def encode(value: object) -> Any:
    """`value` (an event, an effect or a part of one) as JSON-able values."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return _encode_bytes(value, BYTES_KEPT_MAX)
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {"map": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, Value):
        encoded: dict[str, Any] = {"type": type(value).__name__}
        for name in value.__struct_fields__:
            item = getattr(value, name)
            if name == "data" and isinstance(item, bytes):
                encoded["data"] = _encode_bytes(item, 0)
            else:
                encoded[name] = encode(item)
        return encoded
    raise TypeError(f"a {type(value).__name__} cannot be recorded")


def _encode_bytes(value: bytes, kept_max: int) -> dict[str, Any]:
    if isinstance(value, ElidedBytes):
        return {"length": value.length, "blake2b": value.blake2b}
    if len(value) <= kept_max:
        return {"hex": value.hex()}
    return {
        "length": len(value),
        "blake2b": hashlib.blake2b(value, digest_size=8).hexdigest(),
    }


def decode_event(untrusted: object) -> Event:
    """The event that `encode` made `untrusted` from; `InvalidArgument` if it did not."""
    try:
        event = _decode(untrusted)
    except EdgeReplicaError as error:
        raise InvalidArgument(f"not a recorded event: {error.message}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InvalidArgument(f"not a recorded event: {error!r}") from error
    if not _is_event(event):
        raise InvalidArgument("not a recorded event")
    return event


def _is_event(value: object) -> TypeGuard[Event]:
    if isinstance(value, MessageReceived):
        return isinstance(value.message, get_args(Message))
    return isinstance(value, get_args(Event))


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "type" in value:
        kind = _KINDS[value["type"]]
        return kind(**{name: _decode(item) for name, item in value.items() if name != "type"})
    if "map" in value:
        return {_decode(key): _decode(item) for key, item in value["map"]}
    if "hex" in value:
        return bytes.fromhex(value["hex"])
    length, blake2b = value["length"], value["blake2b"]
    if type(length) is not int or length < 0 or type(blake2b) is not str:
        raise ValueError("elided bytes without length or hash")
    return ElidedBytes(length, blake2b)
