"""The configuration file: a private file, whatever surrounds it."""

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgereplica.app.config import CachedSession, ClientConfig, ConfigFile, resolve_server
from edgereplica.events.errors import ConfigError, InvalidArgument

SERVER = "https://sync.example.org"
ADA = CachedSession("token-canary", "ada@example.org")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def located(home: Path, **environment: str) -> ConfigFile:
    return ConfigFile.locate({"HOME": str(home), **environment})


def test_where_it_lies(tmp_path: Path) -> None:
    assert located(tmp_path).path == tmp_path / ".config/edgereplica/config.toml"
    there = located(tmp_path, XDG_CONFIG_HOME=str(tmp_path / "xdg"))
    assert there.path == tmp_path / "xdg/edgereplica/config.toml"
    relative = located(tmp_path, XDG_CONFIG_HOME="not/absolute")
    assert relative.path == tmp_path / ".config/edgereplica/config.toml"
    named = located(tmp_path, XDG_CONFIG_HOME="/x", EDGEREPLICA_CONFIG=str(tmp_path / "my.toml"))
    assert named.path == tmp_path / "my.toml"
    with pytest.raises(ConfigError):
        ConfigFile.locate({})


def test_nothing_there_is_an_empty_configuration_and_makes_nothing(tmp_path: Path) -> None:
    assert located(tmp_path).load() == ClientConfig()
    assert list(tmp_path.iterdir()) == []


def test_a_session_comes_back(tmp_path: Path) -> None:
    file = located(tmp_path)
    file.save_session(SERVER, ADA)
    file.save_session("http://localhost:8787", CachedSession("other", "bob@example.org"))
    config = file.load()
    assert config.server == "http://localhost:8787"
    assert config.session(SERVER) == ADA
    assert file.forget_session(SERVER)
    assert not file.forget_session(SERVER)
    assert file.load().session(SERVER) is None
    assert file.load().session("http://localhost:8787") is not None


def test_what_the_user_wrote_stays(tmp_path: Path) -> None:
    file = located(tmp_path)
    file.save_session(SERVER, ADA)
    file.path.write_text(file.path.read_text() + '\n[mine]\nnote = "keep"\n')
    file.save_session(SERVER, CachedSession("new", "ada@example.org"))
    assert 'note = "keep"' in file.path.read_text()


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_private_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    file = located(tmp_path)
    with umask(mask):
        file.save_session(SERVER, ADA)
    assert mode(file.path) == 0o600
    assert mode(file.path.parent) == 0o700
    assert mode(file.path.parent.parent) & 0o022 == 0
    assert [entry.name for entry in file.path.parent.iterdir()] == ["config.toml"]


def test_the_token_never_lies_in_a_file_open_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Looks at the temporary file when it is new (a descriptor opened then would read on), and at
    # the moment it becomes the real one.
    seen: list[int] = []
    rename, fchmod = os.rename, os.fchmod

    def watched_fchmod(descriptor: int, wanted: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        fchmod(descriptor, wanted)

    def watched(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        seen.append(stat.S_IMODE(os.stat(source, dir_fd=src_dir_fd).st_mode))
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", watched)
    monkeypatch.setattr(os, "fchmod", watched_fchmod)
    with umask(0):
        located(tmp_path).save_session(SERVER, ADA)
    assert seen == [0o600, 0o600]


def test_a_file_open_to_others_is_tightened_with_a_word(tmp_path: Path) -> None:
    file = located(tmp_path)
    file.save_session(SERVER, ADA)
    file.path.chmod(0o644)
    config = file.load()
    assert mode(file.path) == 0o600
    assert len(config.warnings) == 1
    assert "0644" in config.warnings[0]
    assert file.load().warnings == ()


def test_our_directory_open_to_others_is_tightened(tmp_path: Path) -> None:
    file = located(tmp_path)
    file.save_session(SERVER, ADA)
    file.path.parent.chmod(0o777)
    file.load()
    assert mode(file.path.parent) == 0o700


def test_a_directory_the_user_named_keeps_its_mode(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    file = located(tmp_path, EDGEREPLICA_CONFIG=str(shared / "my.toml"))
    file.save_session(SERVER, ADA)
    assert mode(shared) == 0o755
    assert mode(file.path) == 0o600


def test_a_planted_symlink_is_neither_read_nor_written_through(tmp_path: Path) -> None:
    file = located(tmp_path)
    victim = tmp_path / "victim"
    victim.write_text('server = "https://evil.example.org"\n')
    victim.chmod(0o644)
    file.path.parent.mkdir(parents=True)
    file.path.symlink_to(victim)
    before = victim.read_bytes()
    with pytest.raises(ConfigError, match="symlink"):
        file.load()
    with pytest.raises(ConfigError, match="symlink"):
        file.save_session(SERVER, ADA)
    assert victim.read_bytes() == before
    assert mode(victim) == 0o644
    assert file.path.is_symlink()


@pytest.mark.parametrize("target_exists", [True, False])
def test_a_symlinked_directory_is_refused(tmp_path: Path, target_exists: bool) -> None:
    file = located(tmp_path)
    target = tmp_path / "elsewhere"
    if target_exists:
        target.mkdir()
    file.path.parent.parent.mkdir()
    file.path.parent.symlink_to(target)
    with pytest.raises(ConfigError, match="symlink"):
        file.save_session(SERVER, ADA)
    assert not target.exists() or list(target.iterdir()) == []


def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    file = located(tmp_path)
    file.path.parent.mkdir(parents=True)
    os.mkfifo(file.path)
    with pytest.raises(ConfigError, match="regular file"):
        file.load()


@pytest.mark.parametrize(
    "content",
    [
        b"server = ",
        b"\xff\xfe",
        b"server = 3",
        b"sessions = 3",
        b'[sessions]\n"https://a.example" = 1',
        b'[sessions."https://a.example"]\ntoken = 3',
        b"x = '" + b"a" * (1024 * 1024) + b"'",
    ],
)
def test_content_that_is_not_ours_is_said_and_kept(tmp_path: Path, content: bytes) -> None:
    file = located(tmp_path)
    file.save_session(SERVER, ADA)
    file.path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        file.load()
    assert str(file.path) in str(caught.value)
    assert file.path.read_bytes() == content


def test_broken_toml_is_said_without_the_token_in_it(tmp_path: Path) -> None:
    file = located(tmp_path)
    file.save_session(SERVER, ADA)
    file.path.write_text('token = "secret-canary" "')
    with pytest.raises(ConfigError) as caught:
        file.load()
    assert "canary" not in str(caught.value)
    assert "canary" not in repr(ADA)


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = located(tmp_path)
    file.save_session(SERVER, ADA)
    before = file.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        file.save_session(SERVER, CachedSession("new", "ada@example.org"))
    assert file.path.read_bytes() == before
    assert [entry.name for entry in file.path.parent.iterdir()] == ["config.toml"]


def test_logins_at_once_are_all_kept(tmp_path: Path) -> None:
    file = located(tmp_path)
    servers = [f"https://s{number}.example.org" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda server: file.save_session(server, ADA), servers))
    assert set(file.load().sessions) == set(servers)


def test_the_order_of_servers() -> None:
    config = ClientConfig(server="https://file.example.org")
    environment = {"EDGEREPLICA_SERVER": "https://env.example.org/"}
    option = "https://option.example.org/"
    assert resolve_server(option, environment, config) == "https://option.example.org"
    assert resolve_server(None, environment, config) == "https://env.example.org"
    assert resolve_server(None, {}, config) == "https://file.example.org"
    assert resolve_server(None, {}, ClientConfig()) == "http://localhost:8787"
    with pytest.raises(InvalidArgument):
        resolve_server("nonsense", {}, config)
