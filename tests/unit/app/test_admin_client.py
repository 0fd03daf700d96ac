"""The admin client against a stand-in server: what it sends, returns and raises."""

import json
import socket
from collections.abc import Iterator
from threading import Thread

import pytest
from tests.fake_admin_server import STATUS, Answer, FakeAdmin, fake_admin

from edgereplica.app.admin_client import AdminClient, Whoami
from edgereplica.events.errors import (
    AlreadyExists,
    Conflict,
    EdgeReplicaError,
    InvalidArgument,
    LimitExceeded,
    NetworkError,
    NotFound,
    PermissionDenied,
    RemoteError,
    Unauthenticated,
    Unimplemented,
)

PASSWORD = "password-canary"


@pytest.fixture
def admin() -> Iterator[FakeAdmin]:
    with fake_admin() as running:
        yield running


def logged_in(admin: FakeAdmin) -> AdminClient:
    session = AdminClient(admin.base).signup("ada@example.org", PASSWORD)
    return AdminClient(admin.base, session.token)


def test_every_call_and_its_type(admin: FakeAdmin) -> None:
    client = logged_in(admin)
    assert client.whoami() == Whoami("u-ada@example.org", "ada@example.org", "o-1", "admin")
    assert client.list_databases() == []
    database = client.create_database("main")
    assert (database.name, database.created_at_unix) == ("main", 1_700_000_000)
    assert client.list_databases() == [database]
    assert client.find_database("main") == client.find_database(database.id) == database
    token = client.issue_sync_token(database.id, "push", 60)
    assert token.token == f"DIRECTION_PUSH:{database.id}:60"
    assert token.exp_unix == 1_700_003_600
    client.delete_database(database.id)
    with pytest.raises(NotFound):
        client.find_database("main")


def test_an_id_is_found_before_a_name_like_it(admin: FakeAdmin) -> None:
    client = logged_in(admin)
    first = client.create_database("main")
    client.create_database(first.id)
    assert client.find_database(first.id) == first


def test_a_path_prefix_is_kept() -> None:
    with fake_admin("/edge") as admin:
        logged_in(admin).whoami()
        assert all(r.path.startswith("/edge/edgereplica.admin.v1.") for r in admin.requests)


def test_what_travels(admin: FakeAdmin) -> None:
    logged_in(admin).whoami()
    signup, whoami = admin.requests
    assert "authorization" not in signup.headers
    assert whoami.headers["authorization"] == "Bearer session-of-ada@example.org"
    assert whoami.headers["connect-protocol-version"] == "1"
    assert PASSWORD not in signup.path + str(signup.headers)


def test_secrets_stay_out_of_reprs(admin: FakeAdmin) -> None:
    client = AdminClient(admin.base)
    session = client.signup("ada@example.org", PASSWORD)
    assert session.token not in repr(session)
    database = AdminClient(admin.base, session.token).create_database("main")
    token = AdminClient(admin.base, session.token).issue_sync_token(database.id, "pull")
    assert token.token not in repr(token)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("invalid_argument", InvalidArgument),
        ("unauthenticated", Unauthenticated),
        ("permission_denied", PermissionDenied),
        ("not_found", NotFound),
        ("already_exists", AlreadyExists),
        ("aborted", Conflict),
        ("resource_exhausted", LimitExceeded),
        ("unimplemented", Unimplemented),
        ("unavailable", NetworkError),
        ("internal", RemoteError),
    ],
)
def test_each_code_is_its_error(admin: FakeAdmin, code: str, kind: type[EdgeReplicaError]) -> None:
    body = json.dumps({"code": code, "message": "in the server's words"}).encode()
    headers = {"Content-Type": "application/json", "Retry-After": "7", "X-Request-Id": "r-1"}
    admin.answers["*"] = Answer(STATUS[code], body, headers)
    with pytest.raises(EdgeReplicaError) as caught:
        AdminClient(admin.base).login("ada@example.org", PASSWORD)
    assert type(caught.value) is kind
    assert caught.value.message == "in the server's words"
    assert caught.value.details["retry_after_seconds"] == 7
    assert caught.value.details["request_id"] == "r-1"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>hello</html>", {"Content-Type": "text/html"}),
        Answer(200, b"not json"),
        Answer(200, b"[]"),
        Answer(200, b"[" * 100_000),
        Answer(200, b'{"databases": 3}'),
        Answer(200, b'{"databases": [3]}'),
        Answer(200, b'{"databases": [{"id": 3}]}'),
        Answer(200, b'{"databases": [{"createdAtUnix": "soon"}]}'),
        Answer(200, b'{"databases": [{"createdAtUnix": 1e999}]}'),
        Answer(200, b'{"databases": [{"createdAtUnix": -Infinity}]}'),
        Answer(200, b'{"databases": [{"createdAtUnix": 9223372036854775808}]}'),
        Answer(200, b'{"databases": [{"name": "\\ud800"}]}'),
        Answer(404, b"not found", {"Content-Type": "text/plain"}),
        Answer(404, b'{"detail": "Not Found"}'),
        Answer(500, b""),
    ],
)
def test_a_server_that_is_another_program_is_said_to_be(admin: FakeAdmin, answer: Answer) -> None:
    client = logged_in(admin)
    admin.answers["ListDatabases"] = answer
    with pytest.raises(RemoteError, match="did not answer as an EdgeReplica server") as caught:
        client.list_databases()
    assert admin.base in caught.value.message


@pytest.mark.parametrize("token", ["", "a b", "a\\r\\nX-More: 1", "caf\\u00e9", "\\ud800"])
def test_a_session_token_that_no_header_can_carry_is_not_kept(admin: FakeAdmin, token: str) -> None:
    admin.answers["Login"] = Answer(200, f'{{"sessionToken": "{token}"}}'.encode())
    with pytest.raises(RemoteError, match="did not answer as an EdgeReplica server"):
        AdminClient(admin.base).login("ada@example.org", PASSWORD)


def test_a_server_that_asks_to_wait_for_ever_is_only_refusing(admin: FakeAdmin) -> None:
    headers = {"Content-Type": "application/json", "Retry-After": "9" * 5000}
    refusal = b'{"code": "resource_exhausted", "message": "later"}'
    admin.answers["Login"] = Answer(429, refusal, headers)
    with pytest.raises(LimitExceeded, match="later") as caught:
        AdminClient(admin.base).login("ada@example.org", PASSWORD)
    assert "retry_after_seconds" not in caught.value.details


def test_a_redirect_is_not_followed_with_the_password(admin: FakeAdmin) -> None:
    with fake_admin() as elsewhere:
        where = {"Location": elsewhere.base, "Content-Type": "text/html"}
        admin.answers["*"] = Answer(307, b"", where)
        with pytest.raises(RemoteError, match="redirects"):
            AdminClient(admin.base).login("ada@example.org", PASSWORD)
        assert elsewhere.requests == []


def test_a_proxy_without_its_server_is_a_network_error(admin: FakeAdmin) -> None:
    admin.answers["*"] = Answer(502, b"Bad Gateway", {"Content-Type": "text/html"})
    with pytest.raises(NetworkError, match="502"):
        AdminClient(admin.base).login("ada@example.org", PASSWORD)


def test_nothing_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused for certain
        base = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(NetworkError, match=f"{base}: connection refused"):
            AdminClient(base).login("ada@example.org", PASSWORD)


def test_a_server_that_says_nothing_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        base = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(NetworkError, match="no answer within"):
            AdminClient(base, timeout_seconds=0.05).login("ada@example.org", PASSWORD)


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_a_server_of_another_protocol(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(said)

        thread = Thread(target=answer)
        thread.start()
        with pytest.raises(NetworkError, match="cannot reach"):
            AdminClient(f"http://127.0.0.1:{other.getsockname()[1]}").login("a@b.example", "x")
        thread.join()


def test_https_to_a_plain_server_says_so(admin: FakeAdmin) -> None:
    with pytest.raises(NetworkError, match="TLS") as caught:
        AdminClient(admin.base.replace("http:", "https:")).login("ada@example.org", PASSWORD)
    assert "http://" in caught.value.details["hint"]


def test_a_wrong_direction_is_refused_before_the_wire(admin: FakeAdmin) -> None:
    with pytest.raises(InvalidArgument):
        AdminClient(admin.base, "x").issue_sync_token("db", "sideways")
    assert admin.requests == []
