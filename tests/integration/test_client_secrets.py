"""No token and no password in what the client prints, writes or shows of itself.

Secrets are valid ones, where they do the most; outputs are those of a talkative environment:
EDGEREPLICA_DEBUG, asyncio's debug mode, `--record`, `--json`, crashes with tracebacks.
"""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.helpers_server import PASSWORD, Account, ServerProcess, clean_environment

from edgereplica.app.client_session import Options

EDGEREPLICA = str(Path(sys.executable).with_name("edgereplica"))
CRASH = """
import sys
from edgereplica.adapters import websocket_client
from edgereplica.cli.main import main

async def broken(*arguments, **more):
    raise RuntimeError("planted")

websocket_client.picows.ws_connect = broken
sys.argv = ["edgereplica", *sys.argv[1:]]
main()
"""


class Visitor:
    """A user in a home of his own who remembers all that was printed."""

    def __init__(self, server: ServerProcess, home: Path) -> None:
        account = Account.signup(server.base, "ann@example.org")
        database = account.create_database("main")
        self.server = server
        self.home = home
        self.tokens = {way: account.token(database, way) for way in ("push", "pull")}
        self.said = ""

    def run(self, *words: str, program: tuple[str, ...] = (EDGEREPLICA,), **more: str) -> int:
        environment = {
            "EDGEREPLICA_SERVER": self.server.base,
            "EDGEREPLICA_DEBUG": "1",
            "EDGEREPLICA_PASSWORD": PASSWORD,
            "PYTHONASYNCIODEBUG": "1",
            "PYTHONDEVMODE": "1",
        }
        done = subprocess.run(
            [*program, *words],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            timeout=120,
            env=clean_environment(self.home, **(environment | more)),
        )
        self.said += done.stdout + done.stderr
        return done.returncode

    def sync(self, way: str, *words: str, token: str = "", **more: str) -> int:
        more = {"EDGEREPLICA_SYNC_TOKEN": token or self.tokens[way]} | more
        return self.run("sync", way, "--db", "app.db", *words, **more)

    def written(self) -> Iterator[tuple[Path, bytes]]:
        """Every file that is not the one place where a session is kept."""
        for path in self.home.rglob("*"):
            if path.is_file() and path.name != "config.toml":
                yield path, path.read_bytes()


@pytest.fixture
def visitor(tmp_path: Path) -> Iterator[Visitor]:
    home = tmp_path / "home"
    home.mkdir()
    with closing(sqlite3.connect(home / "app.db")) as db, db:
        db.execute("CREATE TABLE t (x)")
    with ServerProcess(tmp_path / "data") as server:
        yield Visitor(server, home)


def test_no_secret_is_printed_or_written(visitor: Visitor) -> None:
    tokens = visitor.tokens
    assert visitor.run("login", "ann@example.org") == 0
    assert visitor.run("login", "ann@example.org", EDGEREPLICA_PASSWORD=PASSWORD + "x") == 4
    for command in (("whoami", "--json"), ("db", "list", "--json"), ("sessions",)):
        assert visitor.run(*command) == 0
    assert visitor.sync("push", "--record", "push.jsonl", "--json") == 0
    assert visitor.sync("pull", "--record", "pull.jsonl") == 0
    assert visitor.sync("status", "--json", token=tokens["pull"]) == 0
    assert visitor.sync("pull", "--json", token=tokens["push"]) == 4
    assert visitor.sync("push", token=tokens["push"][:-4] + "AAAA") == 4
    assert visitor.sync("push", token=f"Bearer {tokens['push']}") == 2
    nowhere = {"EDGEREPLICA_SERVER": "http://127.0.0.1:1"}
    assert visitor.sync("push", "--retries", "0", **nowhere) == 5
    assert (
        visitor.run("sync", "push", "--db", "app.db", "--token", tokens["push"], "--nonsense") == 2
    )
    crash = (sys.executable, "-c", CRASH)
    words = ("sync", "push", "--db", "app.db", "--force")
    assert visitor.run(*words, program=crash, EDGEREPLICA_SYNC_TOKEN=tokens["push"]) == 1
    assert "RuntimeError: planted" in visitor.said, "there was a traceback"
    assert visitor.said.count("Traceback") >= 1
    session = visitor.home / ".config/edgereplica/config.toml"
    kept = session.read_text()
    secrets = [PASSWORD, *tokens.values()]
    secrets += [word.strip('"') for word in kept.split() if len(word) > 100]
    assert len(secrets) == 4, "the session is among them"
    for secret in secrets:
        for spelling in {secret, json.dumps(secret)[1:-1], secret[:60], secret[-40:]}:
            if len(spelling) > 20:
                assert spelling not in visitor.said
                for path, content in visitor.written():
                    assert spelling.encode() not in content, path
    recordings = {path.name for path, _ in visitor.written()}
    assert {"push.jsonl", "pull.jsonl"} <= recordings


def test_a_token_file_keeps_a_token_out_of_the_process_list(visitor: Visitor) -> None:
    """Held where its command line can be read: waiting for the token on standard input."""
    process = subprocess.Popen(
        [EDGEREPLICA, "sync", "push", "--db", "app.db", "--token-file", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=visitor.home,
        env=clean_environment(visitor.home, EDGEREPLICA_SERVER=visitor.server.base),
    )
    assert process.stdin is not None
    shown = Path(f"/proc/{process.pid}/cmdline")
    before = shown.read_bytes() if shown.exists() else b""
    out, _ = process.communicate(visitor.tokens["push"].encode(), timeout=60)
    assert process.returncode == 0
    assert visitor.tokens["push"].encode() not in before + out


def test_values_that_hold_a_token_do_not_show_it() -> None:
    assert "canary" not in repr(Options(server="http://127.0.0.1", token="canary-token"))
