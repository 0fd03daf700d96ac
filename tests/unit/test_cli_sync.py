"""`edgereplica sync`: what reaches `Replica`, what is printed, and Ctrl-C in true words."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from tests.fake_admin_server import FakeAdmin, fake_admin
from typer.testing import CliRunner, Result

from edgereplica.app.results import Progress, PullResult, PushResult, ReplicaStatus
from edgereplica.cli.tree import app
from edgereplica.events.errors import Conflict, NetworkError, UnpushedChanges
from edgereplica.events.value import replace

PUSHED = PushResult(
    outcome="pushed",
    version=3,
    root="ab" * 32,
    head_before=2,
    page_size=4096,
    page_count=25_600,
    pages_changed=12,
    pages_sent=12,
    pages_resumed=0,
    bytes_sent=36_000,
    bytes_received=512,
    seconds=0.12,
)
PULLED = PullResult(
    outcome="pulled",
    version=3,
    root="ab" * 32,
    page_size=4096,
    page_count=25_600,
    pages_received=12,
    bytes_sent=512,
    bytes_received=36_000,
    seconds=0.12,
)
STATUS = ReplicaStatus(
    path="a.db",
    exists=True,
    database="db-0001",
    server="http://127.0.0.1:8787",
    base=2,
    head=3,
    head_author="bob@example.org",
    head_committed_at=1_700_000_000.0,
    page_size=4096,
    page_count=25_600,
    pages_changed_locally=12,
    push="conflict",
    pull="refused",
    seconds=0.05,
)


@dataclass
class FakeReplica:
    """Stands for Replica: remembers its calls; `outcome` is returned, or raised after `steps`."""

    path: Path
    options: dict[str, Any]
    made: ClassVar[list["FakeReplica"]] = []
    outcome: ClassVar[PushResult | PullResult | BaseException | None] = None
    steps: ClassVar[list[Progress]] = []
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __init__(self, path: Path, **options: Any) -> None:
        self.path, self.options, self.calls = path, options, []
        FakeReplica.made.append(self)

    def _run(self, name: str, options: dict[str, Any], default: Any) -> Any:
        self.calls.append((name, options))
        for step in FakeReplica.steps:
            self.options["progress"](step)
        if isinstance(FakeReplica.outcome, BaseException):
            raise FakeReplica.outcome
        return FakeReplica.outcome or default

    def push(self, **options: Any) -> PushResult:
        return self._run("push", options, PUSHED)

    def pull(self, **options: Any) -> PullResult:
        return self._run("pull", options, PULLED)

    def status(self) -> ReplicaStatus:
        return self._run("status", {}, STATUS)


@pytest.fixture(autouse=True)
def replica(monkeypatch: pytest.MonkeyPatch) -> type[FakeReplica]:
    module = ModuleType("edgereplica.app.replica")
    module.__dict__["Replica"] = FakeReplica
    monkeypatch.setitem(sys.modules, "edgereplica.app.replica", module)
    monkeypatch.setattr(FakeReplica, "made", [])
    monkeypatch.setattr(FakeReplica, "outcome", None)
    monkeypatch.setattr(FakeReplica, "steps", [])
    return FakeReplica


@pytest.fixture
def admin() -> Iterator[FakeAdmin]:
    with fake_admin() as running:
        yield running


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": "",
        "EDGEREPLICA_CONFIG": "",
        "EDGEREPLICA_SERVER": "http://127.0.0.1:8787",
        "EDGEREPLICA_PASSWORD": "password-canary",
        "EDGEREPLICA_SYNC_TOKEN": "",
    }


def run(environment: dict[str, str], *words: str, given: str = "") -> Result:
    return CliRunner().invoke(app, ["sync", *words], env=environment, input=given)


def test_push_calls_the_api_with_its_defaults(
    environment: dict[str, str], replica: type[FakeReplica]
) -> None:
    result = run(environment, "push", "--db", "app.db", "--token", "tok")
    assert result.exit_code == 0, result.output
    (made,) = replica.made
    assert made.path == Path("app.db")
    progress = made.options.pop("progress")
    assert callable(progress)
    assert made.options == {
        "server": "http://127.0.0.1:8787",
        "token": "tok",
        "renew_token": None,
        "busy_timeout_seconds": 5.0,
        "retries": 5,
        "compress": "auto",
        "checksum": False,
        "record": None,
    }
    assert made.calls == [("push", {"force": False, "message": "", "dry_run": False})]
    assert result.stdout == (
        "pushed version 3: 12 of 25,600 pages sent, 35.2 KiB up, 512 B down, 0.12 s\n"
    )


def test_every_option_of_push_arrives(
    environment: dict[str, str], replica: type[FakeReplica]
) -> None:
    words = "push --db app.db --token tok --force --dry-run --checksum --compress never"
    words += " --retries 0 --busy-timeout 1.5 --record s.rec --message"
    result = run(environment, *words.split(), "two words")
    assert result.exit_code == 0, result.output
    (made,) = replica.made
    assert made.options["compress"] == "never"
    assert made.options["retries"] == 0
    assert made.options["busy_timeout_seconds"] == 1.5
    assert made.options["checksum"] is True
    assert made.options["record"] == Path("s.rec")
    assert made.calls == [("push", {"force": True, "message": "two words", "dry_run": True})]


@pytest.mark.parametrize(
    ("at", "moment"),
    [("3", 3), ("@1700000000", 1_700_000_000.0), ("2023-11-14T22:13:20+00:00", 1_700_000_000.0)],
)
def test_every_option_of_pull_arrives(
    environment: dict[str, str], replica: type[FakeReplica], at: str, moment: float
) -> None:
    words = ["pull", "--db", "c.db", "--token", "t", "--force", "--no-backup", "--at", at]
    assert run(environment, *words).exit_code == 0
    (call,) = replica.made[0].calls
    assert call == ("pull", {"force": True, "backup": False, "at": moment, "dry_run": False})
    assert type(call[1]["at"]) is type(moment)


@pytest.mark.parametrize("at", ["", "soon", "@", "@nan-ish", "2026-13-45"])
def test_a_moment_that_is_none_is_refused_before_anything(
    environment: dict[str, str], replica: type[FakeReplica], at: str
) -> None:
    result = run(environment, "pull", "--db", "c.db", "--token", "t", "--at", at)
    assert result.exit_code == 2
    assert replica.made == []


def test_where_tokens_come_from_in_order(
    environment: dict[str, str], replica: type[FakeReplica], tmp_path: Path
) -> None:
    file = tmp_path / "push.token"
    file.write_text("from-file\n")
    environment["EDGEREPLICA_SYNC_TOKEN"] = "from-environment"
    push = ("push", "--db", "a.db")
    assert run(environment, *push).exit_code == 0
    assert run(environment, *push, "--token-file", str(file)).exit_code == 0
    assert run(environment, *push, "--token-file", "-", given=" from-stdin\n").exit_code == 0
    assert run(environment, *push, "--token", "from-option").exit_code == 0
    assert [made.options["token"] for made in replica.made] == [
        "from-environment",
        "from-file",
        "from-stdin",
        "from-option",
    ]


@pytest.mark.parametrize("command", ["push", "pull"])
@pytest.mark.parametrize("database", ["main", "db-0001"])
def test_without_a_token_one_is_minted_for_the_right_direction(
    environment: dict[str, str],
    admin: FakeAdmin,
    replica: type[FakeReplica],
    command: str,
    database: str,
) -> None:
    environment["EDGEREPLICA_SERVER"] = admin.base
    for words in (["signup", "ada@example.org"], ["db", "create", "main"]):
        assert CliRunner().invoke(app, words, env=environment).exit_code == 0
    result = run(environment, command, "--db", "a.db", "--database", database)
    assert result.exit_code == 0, result.output
    options = replica.made[0].options
    assert options["token"] == f"DIRECTION_{command.upper()}:db-0001:0"
    # And once more for each further attempt, as the first may have expired.
    minted = len(admin.requests)
    assert options["renew_token"]() == options["token"]
    assert admin.requests[minted:][-1].path.endswith("/IssueSyncToken")


@pytest.mark.parametrize(
    ("named", "calls"),
    [
        ("main", ["ListDatabases", "IssueSyncToken"]),
        ("0" * 32, ["IssueSyncToken"]),
        ("f" * 32, ["IssueSyncToken", "ListDatabases", "IssueSyncToken"]),
    ],
)
def test_an_id_costs_one_call_and_a_name_two(
    environment: dict[str, str],
    admin: FakeAdmin,
    replica: type[FakeReplica],
    named: str,
    calls: list[str],
) -> None:
    environment["EDGEREPLICA_SERVER"] = admin.base
    for words in (["signup", "ada@example.org"], ["db", "create", "main"]):
        assert CliRunner().invoke(app, words, env=environment).exit_code == 0
    # One database has a name that looks like an id.
    admin.databases[0]["id"] = "0" * 32
    admin.databases.append({**admin.databases[0], "id": "1" * 32, "name": "f" * 32})
    del admin.requests[:]
    assert run(environment, "push", "--db", "a.db", "--database", named).exit_code == 0
    assert [request.path.rpartition("/")[2] for request in admin.requests] == calls
    wanted = {"f" * 32: "1" * 32}.get(named, "0" * 32)
    assert replica.made[0].options["token"] == f"DIRECTION_PUSH:{wanted}:0"


def test_no_token_at_all_says_what_to_give(environment: dict[str, str]) -> None:
    result = run(environment, "push", "--db", "a.db")
    assert result.exit_code == 4
    assert "--database" in result.stderr
    result = run(environment, "push", "--db", "a.db", "--database", "main")
    assert result.exit_code == 4
    assert "edgereplica login" in result.stderr


@pytest.mark.parametrize(
    "words", [("--token", "a", "--token-file", "b"), ("--token", "a", "--database", "main")]
)
def test_two_sources_are_refused(
    environment: dict[str, str], replica: type[FakeReplica], words: tuple[str, ...]
) -> None:
    assert run(environment, "push", "--db", "a.db", *words).exit_code == 2
    assert replica.made == []


def test_a_token_in_the_environment_never_overrides_a_database_silently(
    environment: dict[str, str], replica: type[FakeReplica]
) -> None:
    environment["EDGEREPLICA_SYNC_TOKEN"] = "of-another-database"
    result = run(environment, "push", "--db", "a.db", "--database", "main")
    assert result.exit_code == 2
    assert "EDGEREPLICA_SYNC_TOKEN" in result.stderr
    assert replica.made == []


@pytest.mark.parametrize(
    "content", ["", "\n", "canary two", "canary\x00", "canary\u00e9", "c" * 70_000]
)
def test_a_file_that_holds_no_token_is_refused_without_its_content(
    environment: dict[str, str], tmp_path: Path, content: str
) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    result = run(environment, "push", "--db", "a.db", "--token-file", str(file))
    assert result.exit_code == 2
    assert "canary" not in result.output


def test_a_token_file_that_is_not_there(environment: dict[str, str], tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    result = run(environment, "push", "--db", "a.db", "--token-file", missing)
    assert result.exit_code == 2
    assert missing in result.stderr


@pytest.mark.parametrize(
    ("command", "result", "said"),
    [
        (
            "push",
            replace(PUSHED, outcome="unchanged"),
            ["unchanged: version 3 is what the server has (25,600 pages)"],
        ),
        (
            "push",
            replace(PUSHED, outcome="dry_run", would_conflict=True),
            [
                "would push 12 of 25,600 pages, 48.0 KiB; nothing was changed",
                "it would be refused: the head is version 2, which the file is not based on",
            ],
        ),
        (
            "push",
            replace(PUSHED, outcome="dry_run", pages_changed=0),
            ["nothing to push: the server has version 3 (25,600 pages)"],
        ),
        (
            "push",
            replace(PUSHED, pages_resumed=7),
            [
                "pushed version 3: 12 of 25,600 pages sent, 35.2 KiB up, 512 B down, 0.12 s",
                "7 pages lay on the server already and were not sent again",
            ],
        ),
        (
            "pull",
            replace(PULLED, outcome="unchanged"),
            ["unchanged: the file is version 3 (25,600 pages)"],
        ),
        (
            "pull",
            PULLED,
            ["pulled version 3: 12 of 25,600 pages received, 512 B up, 35.2 KiB down, 0.12 s"],
        ),
        (
            "pull",
            replace(PULLED, outcome="dry_run", would_refuse="unpushed_changes"),
            [
                "would pull version 3: 12 of 25,600 pages; nothing was changed",
                "it would be refused: unpushed changes",
            ],
        ),
    ],
)
def test_what_is_printed(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    result: PushResult | PullResult,
    said: list[str],
) -> None:
    monkeypatch.setattr(FakeReplica, "outcome", result)
    printed = run(environment, command, "--db", "a.db", "--token", "t")
    assert printed.stdout.splitlines() == said
    as_json = run(environment, command, "--db", "a.db", "--token", "t", "--json")
    assert json.loads(as_json.stdout) == result.to_dict()


def test_a_kept_file_is_named(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeReplica, "outcome", replace(PULLED, backup_path="a.db.old"))
    result = run(environment, "pull", "--db", "a.db", "--token", "t", "--force")
    assert "a.db.old" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Conflict("the head is version 4", base=3, head=4, root=b"\xab"), 3),
        (UnpushedChanges("12 pages were never pushed"), 3),
        (NetworkError("the connection was lost"), 5),
    ],
)
def test_errors_of_the_api_keep_their_code(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
) -> None:
    monkeypatch.setattr(FakeReplica, "outcome", error)
    plain = run(environment, "push", "--db", "a.db", "--token", "t")
    assert plain.exit_code == code
    assert plain.stderr.startswith(f"error: {error}\nhint: ")
    as_json = run(environment, "push", "--db", "a.db", "--token", "t", "--json")
    assert as_json.exit_code == code
    said = json.loads(as_json.stderr)["error"]
    assert said["message"] == str(error)
    if isinstance(error, Conflict):
        assert said["details"] == {"base": 3, "head": 4, "root": "ab"}


@pytest.mark.parametrize(
    ("command", "steps", "words"),
    [
        ("push", [Progress("reading")], "nothing was changed, neither a.db nor the server's head"),
        ("push", [Progress("sending", 1, 2)], "pages already sent are not sent again"),
        ("push", [Progress("committing")], "the whole new version or none of it"),
        # The answer to the commit was lost: the next attempt does not undo it.
        (
            "push",
            [Progress("committing"), Progress("reading")],
            "the whole new version or none of it",
        ),
        (
            "pull",
            [Progress("receiving")],
            "nothing was changed, neither a.db nor the server's head",
        ),
        ("pull", [Progress("applying")], "wholly the old version or wholly the new one"),
    ],
)
def test_ctrl_c_in_words_that_are_true(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    steps: list[Progress],
    words: str,
) -> None:
    monkeypatch.setattr(FakeReplica, "outcome", KeyboardInterrupt())
    monkeypatch.setattr(FakeReplica, "steps", steps)
    result = run(environment, command, "--db", "a.db", "--token", "t")
    assert result.exit_code == 130
    assert result.stderr.startswith("interrupted: ")
    assert words in result.stderr
    as_json = run(environment, command, "--db", "a.db", "--token", "t", "--json")
    error = json.loads(as_json.stderr)["error"]
    assert (as_json.exit_code, as_json.stdout, error["code"]) == (130, "", "interrupted")
    assert words in error["message"]


def test_without_a_terminal_only_retries_are_seen(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [
        Progress("sending", 1, 10),
        Progress("retrying", note="lost; again in 1 s"),
        Progress("sending", 9, 10),
    ]
    monkeypatch.setattr(FakeReplica, "steps", steps)
    result = run(environment, "push", "--db", "a.db", "--token", "t")
    assert result.stderr == "lost; again in 1 s\n"


def test_status_is_read_by_people_and_programs(environment: dict[str, str]) -> None:
    result = run(environment, "status", "--db", "a.db", "--token", "t")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "file      a.db, 25,600 pages of 4,096 bytes"
    assert lines[3] == "base      version 2"
    assert lines[4].startswith("head      version 3 by bob@example.org, 2023-11-1")
    assert lines[5:] == [
        "changed   12 pages locally",
        "push      would be refused: the head is not the file's base",
        "pull      would be refused: the file holds changes never pushed, or another history",
    ]
    as_json = run(environment, "status", "--db", "a.db", "--token", "t", "--json")
    assert json.loads(as_json.stdout) == STATUS.to_dict()
