"""A stand-in for AdminService in Connect JSON, for tests of the client alone.

It keeps accounts and databases in memory, remembers every request, and can be told to answer
anything (`answers`), so that the client meets servers that no real one would be.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

PREFIX = "/edgereplica.admin.v1.AdminService/"
STATUS = {
    "invalid_argument": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "already_exists": 409,
    "aborted": 409,
    "resource_exhausted": 429,
    "unimplemented": 501,
    "unavailable": 503,
    "internal": 500,
}


class Refused(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Answer:
    """A raw answer, sent instead of the service's own."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


@dataclass
class FakeAdmin:
    """The service's state. `answers` maps a method to a raw answer; "*" is every method."""

    prefix: str = ""
    base: str = ""
    passwords: dict[str, str] = field(default_factory=dict)
    databases: list[dict[str, str]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)

    def handle(self, method: str, body: dict[str, Any], session: str) -> dict[str, Any]:
        calls: dict[str, Callable[[dict[str, Any], str], dict[str, Any]]] = {
            "Signup": self._signup,
            "Login": self._login,
            "StartOAuth": self._start_oauth,
            "Whoami": lambda _, email: {"whoami": self._whoami(email)},
            "CreateDatabase": self._create,
            "ListDatabases": lambda *_: {"databases": self.databases} if self.databases else {},
            "DeleteDatabase": self._delete,
            "IssueSyncToken": self._token,
        }
        if method not in ("Signup", "Login", "StartOAuth"):
            email = session.removeprefix("session-of-")
            if email == session or email not in self.passwords:
                raise Refused("unauthenticated", "the session is not valid")
            session = email
        return calls[method](body, session)

    def _whoami(self, email: str) -> dict[str, str]:
        return {"userId": f"u-{email}", "email": email, "orgId": "o-1", "role": "admin"}

    def _signup(self, body: dict[str, Any], _: str) -> dict[str, Any]:
        if body["email"] in self.passwords:
            raise Refused("already_exists", "there is an account of that e-mail")
        self.passwords[body["email"]] = body["password"]
        return self._login(body, "")

    def _login(self, body: dict[str, Any], _: str) -> dict[str, Any]:
        if self.passwords.get(body["email"]) != body["password"]:
            raise Refused("unauthenticated", "wrong e-mail or password")
        token = f"session-of-{body['email']}"
        return {"sessionToken": token, "whoami": self._whoami(body["email"])}

    def _start_oauth(self, body: dict[str, Any], _: str) -> dict[str, Any]:
        raise Refused("unimplemented", f"{body['provider']} is not configured on this server")

    def _create(self, body: dict[str, Any], _: str) -> dict[str, Any]:
        number = len(self.databases) + 1
        database = {
            "id": f"db-{number:04d}",
            "orgId": "o-1",
            "name": body["name"],
            "createdAtUnix": "1700000000",
        }
        self.databases.append(database)
        return database

    def _find(self, body: dict[str, Any]) -> dict[str, str]:
        for database in self.databases:
            if database["id"] == body["databaseId"]:
                return database
        raise Refused("not_found", "there is no such database")

    def _delete(self, body: dict[str, Any], _: str) -> dict[str, Any]:
        self.databases.remove(self._find(body))
        return {}

    def _token(self, body: dict[str, Any], _: str) -> dict[str, Any]:
        database = self._find(body)
        return {
            "token": f"{body['direction']}:{database['id']}:{body['ttlSeconds']}",
            "expUnix": "1700003600",
        }


@contextmanager
def fake_admin(prefix: str = "") -> Iterator[FakeAdmin]:
    """The service on a free port of this machine, under the path `prefix`."""
    admin = FakeAdmin(prefix)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            body = json.loads(raw)
            headers = {k.lower(): v for k, v in self.headers.items()}
            admin.requests.append(Request(self.path, headers, body))
            method = self.path.removeprefix(prefix + PREFIX)
            planned = admin.answers.get(method) or admin.answers.get("*")
            self._send(planned or self._served(method, body, headers))

        def _served(self, method: str, body: dict[str, Any], headers: dict[str, str]) -> Answer:
            session = headers.get("authorization", "").removeprefix("Bearer ")
            try:
                return Answer(200, json.dumps(admin.handle(method, body, session)).encode())
            except Refused as refusal:
                said = {"code": refusal.code, "message": str(refusal)}
                return Answer(STATUS[refusal.code], json.dumps(said).encode())

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    admin.base = f"http://127.0.0.1:{server.server_port}{prefix}"
    try:
        yield admin
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
