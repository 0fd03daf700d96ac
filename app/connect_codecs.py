"""How the messages of Connect calls are decoded: as the library does it, but never too deep.

The library's JSON decoder is native code that follows brackets on the stack without a bound: sixty
kilobytes of `[` from anybody would end the process. Its binary decoder has a bound of its own.
"""

import re
from typing import TypeVar

from connectrpc.codec import Codec, proto_binary_codec, proto_json_codec
from protobuf import Message

from ..events.limits import RPC_JSON_DEPTH_MAX

_M = TypeVar("_M", bound=Message)

# A string, whole or cut off, so that brackets in it do not count; or a bracket.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def check_depth(untrusted_json: bytes | bytearray) -> None:
    """`ValueError` if brackets are nested deeper than `RPC_JSON_DEPTH_MAX`."""
    if untrusted_json.count(b"[") + untrusted_json.count(b"{") <= RPC_JSON_DEPTH_MAX:
        return
    depth = 0
    for token in _TOKEN.finditer(untrusted_json):
        match token[0]:
            case b"[" | b"{":
                depth += 1
                if depth > RPC_JSON_DEPTH_MAX:
                    raise ValueError("nested too deeply")
            case b"]" | b"}":
                depth -= 1


class BoundedJson(Codec[Message, Message]):
    """Connect's JSON codec behind `check_depth`."""

    def __init__(self) -> None:
        self._codec = proto_json_codec()

    def name(self) -> str:
        return self._codec.name()

    def encode(self, message: Message) -> bytes:
        return self._codec.encode(message)

    def decode(self, data: bytes | bytearray, message_class: type[_M]) -> _M:
        check_depth(data)
        message: _M = self._codec.decode(data, message_class)
        return message


CODECS = (proto_binary_codec(), BoundedJson())
