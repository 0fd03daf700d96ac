"""Settings and keys: what is refused, in words that repeat no secret."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgereplica.app.settings import (
    DEV_KEY,
    KEY_FILE,
    Settings,
    decode_keys,
    load_settings,
    read_or_create_key_file,
    session_keys,
)
from edgereplica.events.errors import InvalidArgument

KEY = bytes(range(32))
TEXT = base64.b64encode(KEY).decode()
NAMES = [
    "SESSION_KEY",
    "SESSION_TTL_SECONDS",
    "SYNC_TOKEN_TTL_SECONDS",
    "MAX_SYNC_TOKEN_TTL_SECONDS",
    "OAUTH_STATE_TTL_SECONDS",
    "OAUTH_REDIRECT_BASE",
    "GITHUB_CLIENT_ID",
    "GITHUB_CLIENT_SECRET",
    "GOOGLE_CLIENT_ID",
    "GOOGLE_CLIENT_SECRET",
    "AUTO_MIGRATE",
]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, "DATA_DIR", "LOG_LEVEL", "PAGE_STORE_URL", "EDGEREPLICA_DEV"):
        monkeypatch.delenv(name, raising=False)


def test_defaults() -> None:
    settings = load_settings()
    assert settings.session_ttl_seconds == 86_400
    assert settings.sync_token_ttl_seconds == 3_600
    assert settings.max_sync_token_ttl_seconds == 86_400
    assert settings.oauth_state_ttl_seconds == 600
    assert settings.auto_migrate is True
    assert settings.dev is False


def test_every_name_of_the_issue_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {name.lower() for name in NAMES} <= Settings.model_fields.keys()
    values = {"SESSION_KEY": TEXT, "AUTO_MIGRATE": "false"}
    for number, name in enumerate(NAMES, 1):
        monkeypatch.setenv(name, values.get(name, str(number)))
    settings = load_settings()
    assert settings.session_key.get_secret_value() == TEXT
    assert settings.session_ttl_seconds == 2
    assert settings.oauth_redirect_base == "6"
    assert settings.github_client_secret.get_secret_value() == "8"
    assert settings.auto_migrate is False


def test_secrets_do_not_show() -> None:
    settings = load_settings(session_key=TEXT, github_client_secret="hush-hush")
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert TEXT not in text
        assert "hush" not in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SESSION_TTL_SECONDS", "canary-soon"),
        ("SESSION_TTL_SECONDS", "0"),
        ("SYNC_TOKEN_TTL_SECONDS", "-1"),
        ("MAX_SYNC_TOKEN_TTL_SECONDS", "1e99"),
        ("AUTO_MIGRATE", "canary-perhaps"),
        ("SESSION_KEY", "canary not base64"),
        ("SESSION_KEY", "Y2FuYXJ5"),
        ("SESSION_KEY", f"{TEXT},Y2FuYXJ5"),
        ("SESSION_KEY", ","),
    ],
)
def test_a_malformed_value_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidArgument) as refused:
        load_settings()
    assert name in refused.value.message
    assert "canary" not in refused.value.message
    assert "Y2FuYXJ5" not in refused.value.message


def test_keys_come_from_the_environment_then_dev_then_the_file(tmp_path: Path) -> None:
    other = base64.b64encode(KEY[::-1]).decode()
    assert session_keys(load_settings(tmp_path, True, session_key=TEXT)) == [KEY]
    both = load_settings(tmp_path, session_key=f" {other} , {TEXT}\n")
    assert session_keys(both) == [KEY[::-1], KEY]
    assert session_keys(load_settings(tmp_path, dev=True)) == [DEV_KEY]
    assert len(DEV_KEY) == 32
    assert not (tmp_path / KEY_FILE).exists()
    made = session_keys(load_settings(tmp_path))
    assert made == session_keys(load_settings(tmp_path))
    assert len(made[0]) == 32


def test_the_key_file_is_private_and_keeps(tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE
    before = os.umask(0)
    try:
        made = read_or_create_key_file(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_or_create_key_file(path) == made
    assert [entry.name for entry in tmp_path.iterdir()] == [KEY_FILE]


def test_a_key_file_may_hold_several(tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE
    path.touch(0o600)
    path.write_text(f"{TEXT}\n{TEXT}\n")
    assert read_or_create_key_file(path) == [KEY, KEY]


@pytest.mark.parametrize("content", ["", "\n", "canary", "Y2FuYXJ5", "\x00" * 99, "\udcff" * 9])
def test_a_malformed_key_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / KEY_FILE
    path.touch(0o600)
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(InvalidArgument) as refused:
        read_or_create_key_file(path)
    assert "canary" not in refused.value.message


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE
    read_or_create_key_file(path)
    path.chmod(0o640)
    with pytest.raises(InvalidArgument, match="chmod 600"):
        read_or_create_key_file(path)


@pytest.mark.parametrize("dangling", [True, False])
def test_a_symbolic_link_is_not_followed(tmp_path: Path, dangling: bool) -> None:
    target = tmp_path / "elsewhere"
    if not dangling:
        read_or_create_key_file(target)
    path = tmp_path / KEY_FILE
    path.symlink_to(target)
    with pytest.raises(InvalidArgument, match="symbolic link"):
        read_or_create_key_file(path)
    assert target.exists() is not dangling


def test_a_directory_or_a_pipe_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("directory", "pipe"):
        with pytest.raises(InvalidArgument):
            read_or_create_key_file(tmp_path / name)


def test_processes_that_race_end_with_one_key(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from edgereplica.app.settings import read_or_create_key_file\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(read_or_create_key_file(pathlib.Path(sys.argv[1]))[0].hex())\n"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / KEY_FILE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    answers = {racer.communicate("go\n")[0] for racer in racers}
    assert len(answers) == 1
    assert len(bytes.fromhex(answers.pop())) == 32
    assert [entry.name for entry in tmp_path.iterdir()] == [KEY_FILE]


def test_decode_keys_of_nothing_is_nothing() -> None:
    assert decode_keys("", "X") == []
    assert decode_keys("  \n", "X") == []
