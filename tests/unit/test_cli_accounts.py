"""Accounts and databases on the command line, against a stand-in server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fake_admin_server import Answer, FakeAdmin, fake_admin
from typer.testing import CliRunner, Result

from edgereplica.cli.tree import app

PASSWORD = "password-canary"


@pytest.fixture
def admin() -> Iterator[FakeAdmin]:
    with fake_admin() as running:
        yield running


@pytest.fixture
def environment(admin: FakeAdmin, tmp_path: Path) -> dict[str, str]:
    return {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": "",
        "EDGEREPLICA_CONFIG": "",
        "EDGEREPLICA_SERVER": admin.base,
        "EDGEREPLICA_PASSWORD": PASSWORD,
        "EDGEREPLICA_SYNC_TOKEN": "",
    }


def run(environment: dict[str, str], *words: str, given: str = "") -> Result:
    return CliRunner().invoke(app, list(words), env=environment, input=given)


def ok(environment: dict[str, str], *words: str) -> str:
    result = run(environment, *words)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_quickstart_up_to_the_tokens(environment: dict[str, str]) -> None:
    assert "ada@example.org" in ok(environment, "signup", "ada@example.org")
    assert "email   ada@example.org\n" in ok(environment, "whoami")
    made = ok(environment, "db", "create", "main")
    assert made == "db-0001  main\n"
    ok(environment, "db", "create", "other")
    assert ok(environment, "db", "list") == "db-0001  main\ndb-0002  other\n"
    result = run(environment, "db", "token", "db-0001", "--direction", "push")
    assert result.stdout == "DIRECTION_PUSH:db-0001:0\n"
    assert result.stderr.startswith("push token, valid until 2023-")
    assert ok(environment, "db", "delete", "main") == "deleted db-0001  main\n"
    assert ok(environment, "db", "list") == "db-0002  other\n"


def test_a_token_by_name_and_for_a_time(environment: dict[str, str]) -> None:
    ok(environment, "signup", "ada@example.org")
    ok(environment, "db", "create", "main")
    words = ("db", "token", "main", "--direction", "pull", "--ttl-seconds", "60")
    assert ok(environment, *words) == "DIRECTION_PULL:db-0001:60\n"


def test_json_everywhere(environment: dict[str, str], admin: FakeAdmin) -> None:
    who = {
        "user_id": "u-ada@example.org",
        "email": "ada@example.org",
        "org_id": "o-1",
        "role": "admin",
        "server": admin.base,
    }
    assert json.loads(ok(environment, "signup", "ada@example.org", "--json")) == who
    assert json.loads(ok(environment, "login", "ada@example.org", "--json")) == who
    assert json.loads(ok(environment, "whoami", "--json")) == who
    made = json.loads(ok(environment, "db", "create", "main", "--json"))
    assert made["id"] == "db-0001"
    assert json.loads(ok(environment, "db", "list", "--json")) == [made]
    words = ("db", "token", "main", "--direction", "push", "--json")
    assert set(json.loads(ok(environment, *words))) == {"token", "exp_unix"}
    assert json.loads(ok(environment, "db", "delete", "main", "--json"))["deleted"] is True
    assert json.loads(ok(environment, "logout", "--json"))["logged_out"] is True


def test_no_secret_is_printed_but_the_token_asked_for(environment: dict[str, str]) -> None:
    said = []
    for words in (("signup", "ada@example.org"), ("login", "ada@example.org"), ("whoami",)):
        said += [run(environment, *words).output, run(environment, *words, "--json").output]
    assert PASSWORD not in "".join(said)
    assert "session-of-" not in "".join(said)


def test_login_makes_its_server_the_default_and_logout_forgets_the_session(
    environment: dict[str, str], admin: FakeAdmin, tmp_path: Path
) -> None:
    del environment["EDGEREPLICA_SERVER"]
    ok(environment, "signup", "ada@example.org", "--server", admin.base)
    ok(environment, "whoami")
    config = tmp_path / ".config/edgereplica/config.toml"
    assert "session-of-ada" in config.read_text()
    assert "logged out" in ok(environment, "logout")
    assert "session-of-ada" not in config.read_text()
    result = run(environment, "whoami")
    assert result.exit_code == 4
    assert f"error: not logged in to {admin.base}\n" in result.stderr
    assert "hint: `edgereplica login EMAIL`" in result.stderr


@pytest.mark.parametrize("place", ["before", "after"])
def test_server_is_global_and_may_stand_after_the_command(
    environment: dict[str, str], admin: FakeAdmin, place: str
) -> None:
    environment["EDGEREPLICA_SERVER"] = "http://127.0.0.1:1"
    option = ["--server", admin.base + "/"]
    words = ["signup", "ada@example.org"]
    result = run(environment, *(option + words if place == "before" else words + option))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("words", "code", "name"),
    [
        (("login", "nobody@example.org"), 4, "unauthenticated"),
        (("signup", "ada@example.org"), 1, "already_exists"),
        (("db", "delete", "missing"), 1, "not_found"),
        (("db", "token", "missing", "--direction", "push"), 1, "not_found"),
        (("oauth", "start", "github"), 1, "unimplemented"),
        (("whoami", "--server", "nonsense"), 2, "invalid_argument"),
        (("whoami", "--server", "http://127.0.0.1:1"), 4, "unauthenticated"),
        (("login", "a@b.example", "--server", "http://127.0.0.1:1"), 5, "network"),
        (("db", "token", "x", "--direction", "sideways"), 2, "invalid_argument"),
        (("db", "token", "x"), 2, "invalid_argument"),
        (("db", "lst"), 2, "invalid_argument"),
        (("sync", "push", "--db", "x.db", "--no-such-option"), 2, "invalid_argument"),
    ],
)
def test_each_error_has_its_exit_code_in_words_and_in_json(
    environment: dict[str, str], words: tuple[str, ...], code: int, name: str
) -> None:
    ok(environment, "signup", "ada@example.org")
    plain = run(environment, *words)
    assert plain.exit_code == code
    assert plain.stdout == ""
    first, second = plain.stderr.splitlines()
    assert first.startswith("error: ")
    assert second.startswith("hint: ")
    as_json = run(environment, *words, "--json")
    assert as_json.exit_code == code
    assert as_json.stdout == ""
    error = json.loads(as_json.stderr)["error"]
    assert error["code"] == name
    assert error["message"] == first.removeprefix("error: ")
    assert isinstance(error["details"], dict)


def test_a_conflict_of_names_on_the_server_is_not_a_sync_conflict(
    environment: dict[str, str], admin: FakeAdmin
) -> None:
    ok(environment, "signup", "ada@example.org")
    body = json.dumps({"code": "already_exists", "message": "main exists"}).encode()
    admin.answers["CreateDatabase"] = Answer(409, body)
    assert run(environment, "db", "create", "main").exit_code == 1


def test_a_hostile_server_cannot_drive_the_terminal(
    environment: dict[str, str], admin: FakeAdmin
) -> None:
    body = json.dumps({"code": "unauthenticated", "message": "\x1b]0;owned\x07 hello"}).encode()
    admin.answers["*"] = Answer(401, body)
    result = run(environment, "login", "ada@example.org")
    assert "\x1b" not in result.output
    assert "hello" in result.stderr


def test_a_config_open_to_others_is_mentioned(environment: dict[str, str], tmp_path: Path) -> None:
    ok(environment, "signup", "ada@example.org")
    (tmp_path / ".config/edgereplica/config.toml").chmod(0o644)
    result = run(environment, "whoami")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: ")


def test_without_a_terminal_and_a_password_nothing_is_asked(
    environment: dict[str, str], admin: FakeAdmin
) -> None:
    environment["EDGEREPLICA_PASSWORD"] = ""
    result = run(environment, "login", "ada@example.org", given="typed\n")
    assert result.exit_code == 2
    assert "EDGEREPLICA_PASSWORD" in result.stderr
    assert admin.requests == []


def test_the_hidden_prompt_asks_twice_at_signup(
    environment: dict[str, str], admin: FakeAdmin
) -> None:
    environment["EDGEREPLICA_PASSWORD"] = ""
    said, code = at_a_terminal(environment, ["signup", "a@b.example"], [PASSWORD, PASSWORD])
    assert code == 0, said
    assert PASSWORD not in said
    assert admin.passwords == {"a@b.example": PASSWORD}
    said, code = at_a_terminal(environment, ["signup", "c@d.example"], [PASSWORD, "other"])
    assert code == 2
    assert "the two passwords differ" in said
    said, code = at_a_terminal(environment, ["login", "a@b.example"], [PASSWORD])
    assert code == 0, said


def test_on_a_terminal_db_list_is_a_table_and_delete_asks(environment: dict[str, str]) -> None:
    ok(environment, "signup", "ada@example.org")
    said, _ = at_a_terminal(environment, ["db", "list"], [])
    assert "no databases yet" in said
    ok(environment, "db", "create", "main")
    said, code = at_a_terminal(environment, ["db", "list"], [])
    assert code == 0
    assert said.split()[:3] == ["ID", "NAME", "CREATED"]
    assert "db-0001  main" in said
    said, code = at_a_terminal(environment, ["db", "delete", "main"], ["n"])
    assert code == 1
    assert "nothing was changed" in said
    said, code = at_a_terminal(environment, ["db", "delete", "main"], ["y"])
    assert code == 0
    assert ok(environment, "db", "list") == ""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [("db", "list"), ("db", "list", "--json"), ("--help",)])
def test_a_reader_that_went_away_is_no_traceback(
    environment: dict[str, str], words: tuple[str, ...], unbuffered: str
) -> None:
    ok(environment, "signup", "ada@example.org")
    ok(environment, "db", "create", "main")
    environment["PYTHONUNBUFFERED"] = unbuffered
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "edgereplica.cli.main", *words],
        check=False,
        env={**os.environ, **environment},
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def at_a_terminal(
    environment: dict[str, str], words: list[str], answers: list[str]
) -> tuple[str, int]:
    """Run with a pseudo-terminal; each answer is typed when the program asks (": " at the end)."""
    import pty

    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(environment)
        program = [sys.executable, "-m", "edgereplica.cli.main", *words]
        os.execv(program[0], program)
    said, waiting = b"", list(answers)
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # Linux reports the end of a terminal as EIO
            break
        if not piece:
            break
        said += piece
        if waiting and said.endswith(b": "):
            os.write(terminal, waiting.pop(0).encode() + b"\n")
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said.decode(), code


def test_ctrl_c_at_any_command_is_one_line(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgereplica.app.admin_client.AdminClient.login", interrupt)
    result = run(environment, "login", "ada@example.org")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")
