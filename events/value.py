"""The base of messages, events and effects: immutable values that compare by content.

msgspec's structs are dataclasses made in C: defining some sixty of them costs a command two
milliseconds at start-up instead of thirty. The client's other values are made of it too.
"""

from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

__all__ = ["Value", "replace"]

_BYTES_SHOWN_MAX = 40


class Value(msgspec.Struct, frozen=True):
    """A frozen value; `replace` makes a changed copy.

    Its `repr` shortens long binaries, so that no page lands in a log, and leaves out the fields
    named in `secret`.
    """

    secret: ClassVar[frozenset[str]] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, their values as they are."""
        return {name: getattr(self, name) for name in self.__struct_fields__}

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={_shown(getattr(self, name))}"
            for name in self.__struct_fields__
            if name not in self.secret
        )
        return f"{type(self).__name__}({shown})"


def _shown(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview) and len(value) > _BYTES_SHOWN_MAX:
        return f"<{len(value)} bytes>"
    return repr(value)
