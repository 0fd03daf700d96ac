"""The base of messages, events and effects: immutable values that compare by content.

msgspec's structs are dataclasses made in C: defining some sixty of them costs a command two
milliseconds at start-up instead of thirty.
"""

import msgspec

_BYTES_SHOWN_MAX = 40


class Value(msgspec.Struct, frozen=True):
    """A frozen value. Long binaries are shortened in its `repr`, so that no page lands in a log."""

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={_shown(getattr(self, name))}" for name in self.__struct_fields__
        )
        return f"{type(self).__name__}({shown})"


def _shown(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview) and len(value) > _BYTES_SHOWN_MAX:
        return f"<{len(value)} bytes>"
    return repr(value)
