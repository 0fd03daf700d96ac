"""Who a request comes from: the socket's peer, or behind trusted proxies whom they name.

`X-Forwarded-For` is a list to which each proxy appends whom it heard from, so it is read from its
end: addresses of trusted networks are proxies, and the first that is not is the client. Whatever
stands before it the client may have written itself. From a peer that is not trusted the header is
not read at all.
"""

import ipaddress
from collections.abc import MutableMapping, Sequence
from typing import Any

from ..events.errors import InvalidArgument
from ..events.limits import FORWARDED_HOPS_MAX

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_IPV6_SITE_BITS = 64


def parse_networks(text: str, name: str) -> tuple[Network, ...]:
    """Networks or addresses separated by commas; `InvalidArgument` naming the setting."""
    try:
        return tuple(
            ipaddress.ip_network(part, strict=False)
            for part in filter(None, map(str.strip, text.split(",")))
        )
    except ValueError:
        raise InvalidArgument(
            f"{name} holds something that is no network; write it like 10.0.0.0/8, ::1"
        ) from None


def parse_address(text: str) -> Address | None:
    """An IP address, with or without brackets, a port or a zone; IPv4 where IPv6 only wraps it."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def limit_key(address: str) -> str:
    """What is counted as one client: an IPv4 address, or the /64 that an IPv6 address lies in.

    A site is given a /64 at least; counted by addresses, it could have as many as it likes.
    """
    parsed = parse_address(address)
    if parsed is None:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _IPV6_SITE_BITS), strict=False))
    return str(parsed)


class ClientAddresses:
    """Tells the client of an ASGI scope. `trusted` are the networks of proxies."""

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def trusts(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)

    def of(self, scope: MutableMapping[str, Any]) -> tuple[str, int] | None:
        """The client's address and port; the port of a forwarded client is 0."""
        client = scope.get("client")
        if client is None:
            return None
        peer = parse_address(client[0])
        if not self.trusts(peer):
            return (client[0], client[1])
        lines = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        hops = b",".join(lines).decode("latin-1").split(",") if lines else []
        found: Address | None = None
        for hop in reversed(hops[-FORWARDED_HOPS_MAX:]):
            address = parse_address(hop)
            if address is None:
                break  # not an address: nothing before it can be believed
            found = address
            if not self.trusts(address):
                break
        return (client[0], client[1]) if found is None else (str(found), 0)
