"""Whom `X-Forwarded-For` may name, and who may say so."""

from typing import Any

import pytest

from edgereplica.app.client_address import (
    ClientAddresses,
    parse_address,
    parse_networks,
)
from edgereplica.events.errors import InvalidArgument

TRUSTED = parse_networks("10.0.0.0/8, ::1, fd00::/8", "TRUSTED_PROXIES")


def scope(peer: str, *forwarded: str) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", line.encode("latin-1")) for line in forwarded]
    return {"client": (peer, 4711), "headers": [(b"host", b"x"), *headers]}


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),  # not a proxy of ours: a lie
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.7"], "198.51.100.7"),  # the client wrote 1.1.1.1
        ("10.0.0.1", ["1.1.1.1", "198.51.100.7, 10.9.9.9"], "198.51.100.7"),
        ("::1", ["2001:db8::5"], "2001:db8::5"),
        ("fd00::2", ["[2001:db8::5]:443"], "2001:db8::5"),
        ("10.0.0.1", ["198.51.100.7:5555"], "198.51.100.7"),
        ("10.0.0.1", ["10.2.0.1, 10.3.0.1"], "10.2.0.1"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1, garbage, 10.5.0.1"], "10.5.0.1"),
        ("10.0.0.1", ["\xff\xfe, ,"], "10.0.0.1"),
        ("10.0.0.1", ["1.1.1.1," + "10.0.0.9," * 500 + "10.0.0.8"], "10.0.0.9"),
    ],
)
def test_the_client(peer: str, forwarded: list[str], client: str) -> None:
    found = ClientAddresses(TRUSTED).of(scope(peer, *forwarded))
    assert found is not None
    assert found[0] == client


def test_nobody_is_trusted_unless_named() -> None:
    assert ClientAddresses().of(scope("127.0.0.1", "198.51.100.7")) == ("127.0.0.1", 4711)
    assert ClientAddresses().of({"client": None, "headers": []}) is None


def test_networks() -> None:
    assert parse_networks("", "X") == ()
    assert len(parse_networks("10.0.0.1/8,,::1", "X")) == 2
    with pytest.raises(InvalidArgument, match="TRUSTED_PROXIES"):
        parse_networks("10.0.0.0/99", "TRUSTED_PROXIES")


def test_addresses() -> None:
    assert str(parse_address("fe80::1%eth0")) == "fe80::1"
    assert parse_address("example.org") is None
