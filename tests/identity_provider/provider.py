"""A real identity provider on this machine, over HTTP: GitHub's and Google's side of a login.

It does what a provider does (a page that asks its user, codes that are good once, PKCE S256, client
secrets, a user API, signed ID tokens and the keys to check them), and fails in every way that one
can: see `Faults`. It shares no code with the server under test.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT_ID = "test-client"
CLIENT_SECRET = "client-secret-canary"
NOW = 1_800_000_000


@dataclass
class Person:
    """Who sits in front of the provider's page. `subject` is a number, as GitHub's are."""

    subject: int = 583231
    email: str = "octo@example.org"
    verified: Any = True


@dataclass
class Faults:
    """What goes wrong from now on."""

    expired_code: bool = False
    status: dict[str, int] = field(default_factory=dict)
    """An HTTP status for a path's last word, as {"token": 500}."""
    raw: dict[str, bytes] = field(default_factory=dict)
    """A raw body for a path's last word."""
    slow: set[str] = field(default_factory=set)
    """Paths' last words that never answer before the test ends."""
    id_token: dict[str, Any] = field(default_factory=dict)
    """Claims that replace those of the ID token; None takes one away."""
    signing: str = "RS256"
    """"RS256", "none", "HS256" (signed with the public key), "stranger" (another key)."""
    emails: list[dict[str, Any]] | None = None


@dataclass
class Grant:
    provider: str
    redirect_uri: str
    challenge: str
    nonce: str
    person: Person
    used: bool = False


@dataclass
class IdentityProvider:
    base: str = ""
    person: Person = field(default_factory=Person)
    faults: Faults = field(default_factory=Faults)
    grants: dict[str, Grant] = field(default_factory=dict)
    access_tokens: dict[str, Person] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    seen: list[dict[str, str]] = field(default_factory=list)
    """The queries of the authorize page."""
    clock: float = NOW
    key_id: str = "key-1"
    done: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        self.key = rsa.generate_private_key(65537, 2048)

    def settings(self) -> dict[str, str]:
        """What points a server at this provider: for its environment, or `load_settings`."""
        return {
            "github_client_id": CLIENT_ID,
            "github_client_secret": CLIENT_SECRET,
            "google_client_id": CLIENT_ID,
            "google_client_secret": CLIENT_SECRET,
            "github_authorize_url": f"{self.base}/github/authorize",
            "github_token_url": f"{self.base}/github/token",
            "github_api_url": f"{self.base}/github/api",
            "google_authorize_url": f"{self.base}/google/authorize",
            "google_token_url": f"{self.base}/google/token",
            "google_keys_url": f"{self.base}/google/keys",
            "google_issuer": f"{self.base}/google",
        }

    def environment(self, redirect_base: str) -> dict[str, str]:
        named = {name.upper(): value for name, value in self.settings().items()}
        return named | {"OAUTH_REDIRECT_BASE": redirect_base}

    def consent(self, authorize_url: str, decision: str = "allow") -> str:
        """What the user's click leads to: the callback's address."""
        parts = urlsplit(authorize_url)
        provider = parts.path.split("/")[1]
        query = dict(parse_qsl(parts.query))
        self.seen.append(query)
        return self.decide(provider, query, decision)

    def decide(self, provider: str, query: dict[str, str], decision: str) -> str:
        back = {"state": query["state"]}
        if decision == "allow":
            code = f"{provider}-code/{secrets.token_hex(8)}"
            self.grants[code] = Grant(
                provider,
                query["redirect_uri"],
                query.get("code_challenge", ""),
                query.get("nonce", ""),
                self.person,
            )
            back["code"] = code
        else:
            back |= {"error": "access_denied", "error_description": "The user said <b>no</b>"}
        return f"{query['redirect_uri']}?{urlencode(back)}"

    def token(self, provider: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        refused = 200 if provider == "github" else 400
        grant = self.grants.get(form.get("code", ""))
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            error = "incorrect_client_credentials" if provider == "github" else "invalid_client"
            return refused, {"error": error}
        verifier = form.get("code_verifier", "")
        digest = hashlib.sha256(verifier.encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            grant is None
            or grant.used
            or grant.provider != provider
            or self.faults.expired_code
            or grant.redirect_uri != form.get("redirect_uri")
            or grant.challenge != challenge
            or form.get("grant_type") != "authorization_code"
        ):
            error = "bad_verification_code" if provider == "github" else "invalid_grant"
            return refused, {"error": error, "error_description": "canary-description"}
        grant.used = True
        access = f"access-{secrets.token_hex(8)}"
        self.access_tokens[access] = grant.person
        answer = {"access_token": access, "token_type": "bearer"}
        if provider == "google":
            answer["id_token"] = self.id_token(grant)
        return 200, answer

    def id_token(self, grant: Grant) -> str:
        claims: dict[str, Any] = {
            "iss": f"{self.base}/google",
            "aud": CLIENT_ID,
            "azp": CLIENT_ID,
            "sub": str(grant.person.subject),
            "email": grant.person.email,
            "email_verified": grant.person.verified,
            "iat": int(self.clock),
            "exp": int(self.clock) + 3600,
            "nonce": grant.nonce,
        } | self.faults.id_token
        claims = {name: value for name, value in claims.items() if value is not None}
        headers = {"kid": self.key_id}
        match self.faults.signing:
            case "none":
                return jwt.encode(claims, None, algorithm="none", headers=headers)
            case "HS256":
                public = base64.urlsafe_b64encode(json.dumps(self.public_key()).encode())
                return jwt.encode(claims, public, algorithm="HS256", headers=headers)
            case "stranger":
                stranger = rsa.generate_private_key(65537, 2048)
                return jwt.encode(claims, stranger, algorithm="RS256", headers=headers)
            case _:
                return jwt.encode(claims, self.key, algorithm="RS256", headers=headers)

    def public_key(self) -> dict[str, Any]:
        entry = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        return entry | {"kid": self.key_id, "use": "sig", "alg": "RS256"}

    def answer(self, path: str, bearer: str) -> tuple[int, Any]:
        if path == "/google/keys":
            return 200, {"keys": [{"kty": "oct", "kid": "x", "k": "AAAA"}, self.public_key()]}
        person = self.access_tokens.get(bearer)
        if person is None:
            return 401, {"message": "Bad credentials"}
        if path == "/github/api/user":
            return 200, {"id": person.subject, "login": "octo", "email": "unverified@evil.example"}
        emails = [
            {"email": "other@example.org", "primary": False, "verified": True},
            {"email": person.email, "primary": True, "verified": person.verified},
        ]
        return 200, emails if self.faults.emails is None else self.faults.emails


PAGE = """<!doctype html><title>Sign in</title><h1>{provider}</h1>
<p>Let the application know who you are?</p>
<form method="post"><button id="allow" name="decision" value="allow">Allow</button>
<button id="deny" name="decision" value="deny">Deny</button></form>"""


@contextmanager
def identity_provider() -> Iterator[IdentityProvider]:
    """The provider on a free port of this machine."""
    provider = IdentityProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            provider.requests.append(f"GET {parts.path}")
            if self._fails(parts.path):
                return
            if parts.path.endswith("/authorize"):
                provider.seen.append(dict(parse_qsl(parts.query)))
                named = escape(parts.path.split("/")[1])
                self._send(200, PAGE.format(provider=named).encode(), "text/html")
                return
            bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
            self._json(*provider.answer(parts.path, bearer))

        def do_POST(self) -> None:
            parts = urlsplit(self.path)
            provider.requests.append(f"POST {parts.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
            if self._fails(parts.path):
                return
            form = {name: values[0] for name, values in parse_qs(body).items()}
            name = parts.path.split("/")[1]
            if parts.path.endswith("/authorize"):
                query = dict(parse_qsl(parts.query))
                self.send_response(303)
                self.send_header("Location", provider.decide(name, query, form["decision"]))
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self._json(*provider.token(name, form))

        def _fails(self, path: str) -> bool:
            last, faults = path.rpartition("/")[2], provider.faults
            if last in faults.slow:
                provider.done.wait()
                self.close_connection = True
                return True
            if last in faults.raw:
                self._send(faults.status.get(last, 200), faults.raw[last], "application/json")
                return True
            if last in faults.status:
                self._json(faults.status[last], {"message": "canary-failure"})
                return True
            return False

        def _json(self, status: int, value: Any) -> None:
            self._send(status, json.dumps(value).encode(), "application/json")

        def _send(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    provider.base = f"http://127.0.0.1:{server.server_port}"
    try:
        yield provider
    finally:
        provider.done.set()
        server.shutdown()
        thread.join()
        server.server_close()
