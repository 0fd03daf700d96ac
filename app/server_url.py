"""The address of a server, as a user writes it: checked once, kept in one spelling.

One spelling matters because cached sessions are kept under it.
"""

import os
from ipaddress import ip_address
from urllib.parse import urlsplit

from ..events.errors import InvalidArgument

DEFAULT_SERVER = "http://localhost:8787"
INSECURE_VARIABLE = "EDGEREPLICA_INSECURE"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def normalize_server(url: str) -> str:
    """`url` as scheme://host[:port][/prefix], lower-case host, no default port, no end slash.

    Raises InvalidArgument for anything that is not the http(s) address of a server. A URL with
    credentials is refused without being repeated in the message: it would land in logs.
    """
    text = url.strip()
    if not text.isprintable() or " " in text:
        raise _refused("holds spaces or control characters")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _refused(f"cannot be read ({error})") from None
    if "@" in parts.netloc:
        raise InvalidArgument(
            "the server's URL holds a user name or password",
            hint="leave them out: `edgereplica login` keeps a session instead",
        )
    if parts.scheme not in _DEFAULT_PORTS:
        raise _refused(f"{text!r} does not start with http:// or https://")
    if not parts.hostname:
        raise _refused(f"{text!r} names no host")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise _refused(f"{text!r} has a query or a fragment")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    netloc = host if port in (None, _DEFAULT_PORTS[parts.scheme]) else f"{host}:{port}"
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"


def is_loopback(host: str) -> bool:
    """Whether `host` (as `urlsplit` gives it) cannot be another machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_secure(server: str, *, insecure: bool = False) -> None:
    """Refuse to send secrets in the clear: `server` (normalized) is https, or on this machine.

    `insecure`, or EDGEREPLICA_INSECURE=1 in the environment, allows it: for a private network, or a
    tunnel that encrypts.
    """
    parts = urlsplit(server)
    if parts.scheme == "https" or is_loopback(parts.hostname or ""):
        return
    if not insecure and os.environ.get(INSECURE_VARIABLE) != "1":
        raise InvalidArgument(
            f"{server} is not encrypted: password, tokens and pages could be read on the way",
            hint="write https://, or say --insecure (EDGEREPLICA_INSECURE=1) if the way is private",
        )


def _refused(why: str) -> InvalidArgument:
    return InvalidArgument(
        f"the server's URL {why}",
        hint="write it like https://sync.example.org or " + DEFAULT_SERVER,
    )
