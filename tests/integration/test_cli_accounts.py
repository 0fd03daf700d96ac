"""Accounts through the real command line against a real server: OAuth, tokens, organizations."""

import json
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit
from urllib.request import ProxyHandler, build_opener

import pytest
from tests.helpers_server import PASSWORD, ServerProcess, clean_environment
from tests.identity_provider.provider import IdentityProvider, identity_provider

EDGEREPLICA = str(Path(sys.executable).with_name("edgereplica"))
BOTH = pytest.mark.parametrize("provider", ["github", "google"])


@dataclass
class User:
    """Somebody at a machine of his own: a home directory and the command line."""

    home: Path
    server: str
    password: str = PASSWORD

    def environment(self, **more: str) -> dict[str, str]:
        self.home.mkdir(exist_ok=True)
        mine = {"EDGEREPLICA_SERVER": self.server, "EDGEREPLICA_PASSWORD": self.password}
        return clean_environment(self.home, **(mine | more))

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [EDGEREPLICA, *words],
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def ok(self, *words: str, **more: str) -> str:
        done = self.run(*words, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def fails(self, code: int, *words: str, **more: str) -> str:
        done = self.run(*words, **more)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stderr

    def wait_for_browser(self, *words: str) -> tuple["subprocess.Popen[str]", str]:
        """A command that waits for the browser, and the address that it printed."""
        command = subprocess.Popen(
            [EDGEREPLICA, *words, "--no-open"],
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert command.stderr is not None
        ready, _, _ = select.select([command.stderr], [], [], 30)
        line = command.stderr.readline() if ready else ""
        found = re.search(r"https?://\S+", line)
        if not found:
            command.kill()
            raise AssertionError(line)
        return command, found[0]


def browse(url: str) -> tuple[int, str]:
    """Follow redirects as a browser does; the status and text of where it ends."""
    with build_opener(ProxyHandler({})).open(url, timeout=30) as response:
        return response.status, response.read().decode()


@dataclass
class World:
    idp: IdentityProvider
    server: ServerProcess
    data_dir: Path
    tmp_path: Path

    def user(self, name: str) -> User:
        return User(self.tmp_path / name, self.server.base)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A server whose own address is not known before it listens: the tests stand in its place."""
    with identity_provider() as idp:
        idp.clock = time.time()
        base = "http://127.0.0.1:1"
        data = tmp_path / "data"
        with ServerProcess(data, environment=idp.environment(base)) as server:
            yield World(idp, server, data, tmp_path)


def consented(world: World, url: str, decision: str = "allow") -> str:
    """The callback's address after the user's click, at the server that really listens."""
    parts = urlsplit(world.idp.consent(url, decision))
    return f"{world.server.base}{parts.path}?{parts.query}"


@BOTH
def test_start_and_complete_with_the_command_of_the_page(world: World, provider: str) -> None:
    ann, thief = world.user("ann"), world.user("thief")
    url = ann.ok("oauth", "start", provider)
    status, page = browse(consented(world, url))
    assert status == 200
    query = dict(parse_qsl(urlsplit(url).query))
    found = re.search(r'<pre id="command">edgereplica (.*)</pre>', page)
    assert found
    assert query["state"] in found[1]
    words = found[1].split()
    said = thief.fails(4, *words)
    assert "finished where it was" in said
    assert ann.ok(*words) == f"logged in as octo@example.org at {world.server.base}"
    assert "octo@example.org" in ann.ok("whoami")
    config = (ann.home / ".config/edgereplica/config.toml").read_text()
    assert "state =" not in config, "the secret is gone"
    assert "finished where it was" in ann.fails(4, *words)
    listed = json.loads(ann.ok("sessions", "--json"))
    assert [(entry["method"], entry["address"]) for entry in listed] == [(provider, "127.0.0.1")]


@BOTH
def test_login_waits_for_the_browser(world: World, provider: str) -> None:
    ann = world.user("ann")
    command, url = ann.wait_for_browser("oauth", "login", provider)
    status, page = browse(consented(world, url))
    assert (status, "close this page" in page) == (200, True)
    out, err = command.communicate(timeout=30)
    assert command.returncode == 0, err
    assert "logged in as octo@example.org" in out


def test_login_hears_that_the_user_said_no_and_lets_no_stranger_in(world: World) -> None:
    ann = world.user("ann")
    command, url = ann.wait_for_browser("oauth", "login", "github")
    stranger = world.user("stranger").ok("oauth", "start", "github")
    foreign = dict(parse_qsl(urlsplit(consented(world, stranger)).query))
    denied = consented(world, url, "deny")
    answer = subprocess.run(
        [sys.executable, "-c", FOLLOW_ONCE, denied], capture_output=True, text=True, check=True
    )
    loopback = answer.stdout.strip()
    assert loopback.startswith("http://127.0.0.1:")
    base = loopback.partition("?")[0]
    for bad in (
        f"{base}?state={foreign['state']}&code={foreign['code']}",
        f"{base}?code=abc",
        f"{base}/other?state=x&code=y",
    ):
        with pytest.raises(OSError, match="400"):
            browse(bad)
    browse(loopback)
    _, err = command.communicate(timeout=30)
    assert command.returncode == 4
    assert "access_denied" in err


FOLLOW_ONCE = """
import http.client, sys, urllib.parse as u
p = u.urlsplit(sys.argv[1])
c = http.client.HTTPConnection(p.netloc)
c.request("GET", f"{p.path}?{p.query}")
print(c.getresponse().getheader("location"))
"""


def test_an_existing_account_is_linked_and_then_opened(world: World) -> None:
    ann = world.user("ann")
    ann.ok("signup", "octo@example.org")
    command, url = world.user("elsewhere").wait_for_browser("oauth", "login", "google")
    browse(consented(world, url))
    _, err = command.communicate(timeout=30)
    assert (command.returncode, "oauth link google" in err) == (1, True)
    command, url = ann.wait_for_browser("oauth", "link", "google")
    browse(consented(world, url))
    out, err = command.communicate(timeout=30)
    assert (command.returncode, out.strip()) == (0, "linked google (octo@example.org)"), err
    elsewhere = world.user("elsewhere")
    command, url = elsewhere.wait_for_browser("oauth", "login", "google")
    browse(consented(world, url))
    assert command.wait(30) == 0
    command.communicate()
    who = [json.loads(user.ok("whoami", "--json"))["user_id"] for user in (ann, elsewhere)]
    assert who[0] == who[1]


def test_a_provider_that_is_not_configured(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        user = User(tmp_path / "ann", server.base)
        for command in ("start", "login"):
            said = user.fails(1, "oauth", command, "github")
            assert "not configured on this server" in said


def test_logout_ends_the_session_but_not_what_it_issued(world: World) -> None:
    ann = world.user("ann")
    ann.ok("signup", "ann@example.org")
    session = (ann.home / ".config/edgereplica/config.toml").read_text()
    database = ann.ok("db", "create", "main").split()[0]
    token = ann.ok("db", "token", database, "--direction", "pull")
    ann.ok("logout")
    (ann.home / ".config/edgereplica/config.toml").write_text(session)
    assert "revoked" in ann.fails(4, "whoami")
    ann.ok("sync", "pull", "--db", str(ann.home / "x.db"), EDGEREPLICA_SYNC_TOKEN=token)


def test_revoking_everything_or_one_thing(world: World) -> None:
    ann, laptop = world.user("ann"), world.user("laptop")
    ann.ok("signup", "ann@example.org")
    laptop.ok("login", "ann@example.org")
    database = laptop.ok("db", "create", "main").split()[0]
    tokens = [laptop.ok("db", "token", database, "--direction", "pull") for _ in range(3)]

    def pulls(token: str) -> bool:
        target = str(ann.home / "x.db")
        return not ann.run("sync", "pull", "--db", target, EDGEREPLICA_SYNC_TOKEN=token).returncode

    assert all(map(pulls, tokens))
    narrowed = ann.ok("token", "attenuate", tokens[0], "--max-version", "3")
    assert pulls(narrowed)
    assert "revoked the sync token" in ann.ok("token", "revoke", narrowed)
    assert [pulls(token) for token in (narrowed, *tokens)] == [False, False, True, True]
    listed = json.loads(ann.ok("sessions", "--json"))
    (other,) = [entry["id"] for entry in listed if not entry["current"]]
    ann.ok("sessions", "revoke", other)
    assert "revoked" in laptop.fails(4, "whoami")
    assert not pulls(tokens[1]), "what the session issued ended with it"
    ann.ok("token", "revoke", "--all")
    ann.fails(4, "whoami")
    ann.ok("login", "ann@example.org")
    assert len(json.loads(ann.ok("sessions", "--json"))) == 1


def test_inspect_and_attenuate_offline(world: World) -> None:
    ann = world.user("ann")
    ann.ok("signup", "ann@example.org")
    database = ann.ok("db", "create", "main").split()[0]
    token = ann.ok("db", "token", database, "--direction", "pull")
    offline = User(ann.home, "http://127.0.0.1:9")
    view = json.loads(offline.ok("token", "inspect", token, "--json"))
    assert (view["purpose"], view["direction"], view["database"]) == ("sync", "pull", database)
    file = ann.home / "token"
    file.write_text(token)
    words = ("token", "attenuate", "--token-file", str(file))
    once = offline.ok(*words, "--expires-in", "5m", "--max-bytes", "4096", "--max-version", "7")
    twice = offline.ok("token", "attenuate", once, "--max-bytes", "100000", "--max-version", "2")
    view = json.loads(offline.ok("token", "inspect", twice, "--json"))
    assert (view["max_bytes"], view["max_version"]) == (4096, 2)
    assert view["exp_unix"] - time.time() < 301
    said = offline.ok("token", "inspect", "--token-file", str(file))
    assert "pull one database" in said
    assert "in 59 minutes" in said or "in 1 hour" in said
    for bad in (
        ("token", "attenuate", token, "--direction", "push"),
        ("token", "attenuate", token, "--database", "another"),
        ("token", "attenuate", token, "--expires-in", "soon"),
        ("token", "attenuate", token),
        ("token", "inspect", "garbage"),
        ("token", "inspect"),
    ):
        said = offline.fails(2, *bad)
        assert token not in said


def test_a_member_shares_the_databases_but_does_not_make_or_end_them(world: World) -> None:
    ann, bob, eve = world.user("ann"), world.user("bob"), world.user("eve")
    ann.ok("signup", "ann@example.org")
    database = ann.ok("db", "create", "main").split()[0]
    bob.ok("signup", "bob@example.org")
    eve.ok("signup", "eve@example.org")
    invitation = ann.ok("org", "invite", "Bob@example.org")
    assert "another e-mail" in eve.fails(4, "org", "join", invitation)
    assert "joined" in bob.ok("org", "join", invitation)
    assert "used before" in bob.fails(2, "org", "join", invitation)
    again = ann.ok("org", "invite", "bob@example.org")
    assert "member of this organization already" in bob.fails(1, "org", "join", again)
    assert bob.ok("db", "list") == ""
    bob.ok("org", "switch", "ann@example.org")
    assert database in bob.ok("db", "list")
    make_database(bob.home / "app.db")
    bob.ok("sync", "push", "--db", str(bob.home / "app.db"), "--database", "main")
    for words in (
        ("db", "create", "x"),
        ("db", "delete", "main", "--yes"),
        ("org", "invite", "x@y.z"),
    ):
        assert "admin" in bob.fails(4, *words)
    token = bob.ok("db", "token", "main", "--direction", "pull")
    assert "bob@example.org is admin" in ann.ok("org", "role", "bob@example.org", "admin")
    bob.ok("db", "create", "second")
    ann.ok("org", "role", "bob@example.org", "member")
    assert len(json.loads(ann.ok("org", "members", "--json"))) == 2
    ann.ok("org", "remove", "bob@example.org")
    bob.fails(4, "db", "list")
    bob.fails(4, "sync", "pull", "--db", str(bob.home / "y.db"), EDGEREPLICA_SYNC_TOKEN=token)
    assert "last admin" in ann.fails(2, "org", "remove", "ann@example.org")
    assert "last admin" in ann.fails(2, "org", "role", "ann@example.org", "member")


def make_database(path: Path) -> None:
    import sqlite3

    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    connection.close()


def test_passwords_are_changed_and_reset(world: World) -> None:
    ann, laptop = world.user("ann"), world.user("laptop")
    ann.ok("signup", "ann@example.org")
    laptop.ok("login", "ann@example.org")
    new = "a different battery"
    assert "old password is wrong" in laptop.fails(
        4, "password", EDGEREPLICA_PASSWORD="wrong", EDGEREPLICA_NEW_PASSWORD=new
    )
    assert "8 to 1024" in ann.fails(2, "password", EDGEREPLICA_NEW_PASSWORD="short")
    ann.ok("password", EDGEREPLICA_NEW_PASSWORD=new)
    ann.ok("whoami")
    laptop.fails(4, "whoami")
    laptop.fails(4, "login", "ann@example.org")
    laptop.ok("login", "ann@example.org", EDGEREPLICA_PASSWORD=new)
    reset = "set by the operator"
    words = ("admin", "reset-password", "ANN@example.org", "--data-dir", str(world.data_dir))
    ann.ok(*words, EDGEREPLICA_NEW_PASSWORD=reset)
    laptop.fails(4, "whoami")
    laptop.fails(4, "login", "ann@example.org", EDGEREPLICA_PASSWORD=new)
    laptop.ok("login", "ann@example.org", EDGEREPLICA_PASSWORD=reset)
    nobody = ("admin", "reset-password", "x@example.org", "--data-dir", str(world.data_dir))
    assert "no account" in ann.fails(1, *nobody, EDGEREPLICA_NEW_PASSWORD=reset)
    log = world.server.log_path.read_text()
    for canary in (PASSWORD, new, reset):
        assert canary not in log
