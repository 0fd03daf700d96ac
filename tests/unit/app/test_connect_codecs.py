"""JSON that is nested too deeply for a decoder on the stack."""

import json

import pytest

from edgereplica.app.connect_codecs import CODECS, check_depth
from edgereplica.events.limits import RPC_JSON_DEPTH_MAX
from edgereplica.proto.gen.edgereplica.admin.v1 import admin_pb

DEEP = RPC_JSON_DEPTH_MAX + 1
(JSON,) = [codec for codec in CODECS if codec.name() == "json"]


@pytest.mark.parametrize(
    "untrusted",
    [
        b"[" * DEEP,
        b'{"a":' * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b'[{"a":' * DEEP,
        b'{"a":"\\"' + b'",' + b'"b":' + b"[" * DEEP,
        b'{"\\\\":' + b"[" * DEEP,
        b'"cut off' + b"[" * DEEP + b'"' + b"[" * DEEP,
        b"[]" * 9 + b"[" * DEEP,
    ],
)
def test_what_is_too_deep_is_refused(untrusted: bytes) -> None:
    with pytest.raises(ValueError, match="too deeply"):
        check_depth(untrusted)
    with pytest.raises(ValueError, match="too deeply"):
        JSON.decode(untrusted, admin_pb.LoginRequest)


@pytest.mark.parametrize("password", ["[" * 1000, '["' * 500, "\\[" * 500, '{"]\\"' * 200])
def test_brackets_in_a_text_are_not_deep(password: str) -> None:
    said = json.dumps({"email": "ann@example.org", "password": password}).encode()
    assert JSON.decode(said, admin_pb.LoginRequest).password == password


def test_what_is_long_is_not_deep() -> None:
    check_depth(b"[" + b"[]," * DEEP + b"[" * (RPC_JSON_DEPTH_MAX - 1))
