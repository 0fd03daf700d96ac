"""The command line against a real server: accounts, serve and its end, admin."""

import contextlib
import json
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers_server import START_SECONDS_MAX, ServerProcess, clean_environment

EDGEREPLICA = str(Path(sys.executable).with_name("edgereplica"))


def run(home: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [EDGEREPLICA, *words],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=START_SECONDS_MAX,
        cwd=home,
        env=clean_environment(home, **environment),
    )


def test_accounts_and_databases_on_a_real_server(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        known = {"EDGEREPLICA_SERVER": server.base, "EDGEREPLICA_PASSWORD": "correct horse"}

        def ok(*words: str) -> str:
            done = run(tmp_path, *words, **known)
            assert done.returncode == 0, done.stderr
            return done.stdout

        def refused(code: int, name: str, *words: str, **more: str) -> None:
            done = run(tmp_path, *words, "--json", **{**known, **more})
            assert json.loads(done.stderr)["error"]["code"] == name
            assert (done.returncode, done.stdout) == (code, "")

        ok("signup", "ada@example.org")
        refused(1, "already_exists", "signup", "ADA@example.org")
        refused(2, "invalid_argument", "signup", "not-an-address")
        refused(2, "invalid_argument", "signup", "b@example.org", EDGEREPLICA_PASSWORD="short")
        refused(4, "unauthenticated", "login", "ada@example.org", EDGEREPLICA_PASSWORD="wrong one")
        refused(4, "unauthenticated", "login", "who@example.org", EDGEREPLICA_PASSWORD="wrong one")
        who = json.loads(ok("whoami", "--json"))
        assert (who["email"], who["role"], who["server"]) == (
            "ada@example.org",
            "admin",
            server.base,
        )
        identity = ok("db", "create", "main").split()[0]
        refused(1, "already_exists", "db", "create", "main")
        refused(2, "invalid_argument", "db", "create", "no spaces")
        assert ok("db", "list") == f"{identity}  main\n"
        by_id = ok("db", "token", identity, "--direction", "push")
        by_name = ok("db", "token", "main", "--direction", "push")
        assert len(by_id.split()) == len(by_name.split()) == 1
        refused(1, "unimplemented", "oauth", "start", "github")
        ok("db", "delete", identity)
        refused(1, "not_found", "db", "token", identity, "--direction", "pull")
        assert ok("db", "list") == ""
        ok("logout")
        refused(4, "unauthenticated", "whoami")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_server_in_order(tmp_path: Path, signum: signal.Signals) -> None:
    with ServerProcess(tmp_path / "data") as server:
        server.process.send_signal(signum)
        assert server.process.wait(START_SECONDS_MAX) == 0


def test_a_port_that_is_taken_is_said_with_a_way_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(tmp_path, "serve", "--port", port, "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 5
    error, hint = done.stderr.splitlines()
    assert error.startswith(f"error: cannot listen on 127.0.0.1:{port}: ")
    assert "--port" in hint


def test_a_second_server_on_one_data_directory_is_refused(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data"):
        done = run(tmp_path, "serve", "--port", "0", "--data-dir", str(tmp_path / "data"))
        assert done.returncode == 1
        assert "listening on" not in done.stderr
        assert "--data-dir" in done.stderr


def test_a_malformed_key_stops_the_start_and_is_not_repeated(tmp_path: Path) -> None:
    words = ("serve", "--port", "0", "--data-dir", str(tmp_path / "data"))
    done = run(tmp_path, *words, SESSION_KEY="canary-not-base64!")
    assert done.returncode == 2
    assert "SESSION_KEY" in done.stderr
    assert "canary" not in done.stdout + done.stderr


def test_migrate_and_rebuild(tmp_path: Path) -> None:
    data = ("--data-dir", str(tmp_path / "data"))
    missing = run(tmp_path, "admin", "rebuild", *data)
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: ")
    first = run(tmp_path, "admin", "migrate", *data, "--json")
    assert first.returncode == 0, first.stderr
    assert len(json.loads(first.stdout)["applied"]) >= 1
    again = run(tmp_path, "admin", "migrate", *data)
    assert again.stdout == "nothing to apply\n"
    with ServerProcess(tmp_path / "data") as server:
        known = {"EDGEREPLICA_SERVER": server.base, "EDGEREPLICA_PASSWORD": "correct horse"}
        assert run(tmp_path, "signup", "ada@example.org", **known).returncode == 0
    rebuilt = run(tmp_path, "admin", "rebuild", *data, "--json")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert json.loads(rebuilt.stdout)["events"] >= 1
    with ServerProcess(tmp_path / "data") as server:
        known["EDGEREPLICA_SERVER"] = server.base
        assert run(tmp_path, "login", "ada@example.org", **known).returncode == 0
        private = tmp_path / ".config/edgereplica/config.toml"
        assert private.stat().st_mode & 0o777 == 0o600


def test_garbage_is_collected_beside_a_running_server(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        known = {"EDGEREPLICA_SERVER": server.base, "EDGEREPLICA_PASSWORD": "correct horse"}
        for words in (["signup", "ada@example.org"], ["db", "create", "main"]):
            assert run(tmp_path, *words, **known).returncode == 0
        dry = run(tmp_path, "admin", "gc", "--data-dir", "data", "--dry-run", "--json")
        assert dry.returncode == 0, dry.stderr
        report = json.loads(dry.stdout)
        assert report["collection"]["dry_run"] is True
        assert report["collection"]["organizations"] == 1
        assert report["compaction"] is None
        done = run(tmp_path, "admin", "gc", "--data-dir", "data")
        assert done.returncode == 0, done.stderr
        assert "deleted 0 objects of 0 bytes" in done.stdout


def test_retention_of_a_database(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        known = {"EDGEREPLICA_SERVER": server.base, "EDGEREPLICA_PASSWORD": "correct horse"}

        def ok(*words: str) -> str:
            done = run(tmp_path, *words, **known)
            assert done.returncode == 0, done.stderr
            return done.stdout

        ok("signup", "ada@example.org")
        ok("db", "create", "main")
        assert ok("db", "retention", "main") == "keeps every version\n"
        said = ok("db", "retention", "main", "--keep-last", "2")
        assert said == "keeps the last 2 versions\n"
        file = tmp_path / "main.db"
        for number in range(4):
            with contextlib.closing(sqlite3.connect(file)) as database, database:
                database.execute("CREATE TABLE IF NOT EXISTS t (n)")
                database.execute("INSERT INTO t VALUES (?)", (number,))
            ok("sync", "push", "--db", str(file), "--database", "main")
        ok("admin", "gc", "--data-dir", "data")
        kept = json.loads(ok("db", "retention", "main", "--json"))
        assert (kept["keep_last"], kept["oldest"], kept["head"]) == (2, 3, 4)
        ok("sync", "pull", "--db", "old.db", "--database", "main", "--at", "3")
        gone = run(
            tmp_path, "sync", "pull", "--db", "x.db", "--database", "main", "--at", "2", **known
        )
        assert gone.returncode == 1
        assert "version 2 is no longer kept; the oldest is 3" in gone.stderr
        assert ok("db", "retention", "main", "--keep-all").startswith("keeps every version")
        wrong = run(tmp_path, "db", "retention", "main", "--keep-all", "--keep-days", "1", **known)
        assert wrong.returncode == 2
