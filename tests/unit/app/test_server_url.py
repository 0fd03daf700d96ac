"""One spelling of a server's address, and what is refused as one."""

from pathlib import Path

import pytest

from edgereplica.app.admin_client import AdminClient
from edgereplica.app.replica import Replica
from edgereplica.app.server_url import check_secure, normalize_server
from edgereplica.events.errors import InvalidArgument


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("http://localhost:8787", "http://localhost:8787"),
        ("http://localhost:8787/", "http://localhost:8787"),
        (" https://Sync.Example.ORG// ", "https://sync.example.org"),
        ("HTTPS://sync.example.org:443", "https://sync.example.org"),
        ("http://sync.example.org:80/", "http://sync.example.org"),
        ("https://example.org:8443/edge/replica/", "https://example.org:8443/edge/replica"),
        ("http://[::1]:8787", "http://[::1]:8787"),
    ],
)
def test_one_spelling(written: str, kept: str) -> None:
    assert normalize_server(written) == kept
    assert normalize_server(kept) == kept


@pytest.mark.parametrize(
    "written",
    [
        "",
        "localhost:8787",
        "ws://localhost:8787",
        "ftp://example.org",
        "https://",
        "https://:8787",
        "https://example.org:port",
        "https://example.org:99999",
        "https://example.org/?a=1",
        "https://example.org/#x",
        "https://exa mple.org",
        "https://example.org/\r\nX-Injected: 1",
        "https://[::1",
    ],
)
def test_refused_with_a_hint(written: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        normalize_server(written)
    assert caught.value.details["hint"]


def test_credentials_in_the_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidArgument) as caught:
        normalize_server("https://ada:hunter2-canary@example.org")
    assert "hunter2-canary" not in str(caught.value) + str(caught.value.details)


PLAIN = "http://sync.example.org"


def test_nothing_is_sent_in_the_clear_to_another_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("EDGEREPLICA_INSECURE", raising=False)
    for server in (
        "https://sync.example.org",
        "http://localhost:1",
        "http://127.0.0.9",
        "http://[::1]",
    ):
        check_secure(server)
    for server in (
        PLAIN,
        "http://10.0.0.1",
        "http://localhost.example.org",
        "http://[2001:db8::1]",
    ):
        with pytest.raises(InvalidArgument, match="not encrypted"):
            check_secure(server)
        check_secure(server, insecure=True)
    with pytest.raises(InvalidArgument, match="not encrypted"):
        AdminClient(PLAIN)
    (tmp_path / "a.db").write_bytes(b"")
    with pytest.raises(InvalidArgument, match="not encrypted"):
        Replica(tmp_path / "a.db", server=PLAIN, token="t").push()
    monkeypatch.setenv("EDGEREPLICA_INSECURE", "0")
    with pytest.raises(InvalidArgument, match="not encrypted"):
        AdminClient(PLAIN)
    monkeypatch.setenv("EDGEREPLICA_INSECURE", "1")
    assert AdminClient(PLAIN).server == PLAIN
