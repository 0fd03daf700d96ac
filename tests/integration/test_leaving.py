"""A process that has spoken to a page store ends with its own exit code, and does not take Python
apart, which obstore's threads may answer with abort()."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers_s3 import S3
from tests.helpers_server import ServerProcess, clean_environment

_PROGRAM = """
import atexit, sys
from edgereplica.cli.main import main
atexit.register(print, "taken apart")
sys.argv = ["edgereplica", *sys.argv[1:]]
main()
"""


def ended(environment: dict[str, str], *words: str) -> tuple[int, bool]:
    """The exit code of a command, and whether the interpreter ended in order."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    return done.returncode, "taken apart" in done.stdout


@pytest.mark.parametrize("remote", [False, True])
def test_commands_that_use_the_page_store_leave_at_once(
    s3: S3, tmp_path: Path, remote: bool
) -> None:
    place = s3.environment | {"PAGE_STORE_URL": s3.bucket()} if remote else {}
    environment = clean_environment(tmp_path, **place)
    words = ("--data-dir", str(tmp_path / "data"))
    with ServerProcess(tmp_path / "data", environment=place) as server:
        assert ended(environment, "admin", "copy", "--from", "data")[0] == 2
    assert server.process.returncode == 0
    assert ended(environment, "admin", "gc", *words) == (0, False)
    assert ended(environment, "admin", "gc", "--dry-run", "--json", *words) == (0, False)
    assert ended(environment | {"PAGE_STORE_URL": "s3://"}, "admin", "gc", *words) == (2, False)
    assert ended(environment, "--version") == (0, True)


def test_workers_leave_at_once_too(tmp_path: Path) -> None:
    """Their codes are in the log if they are not 0."""
    with ServerProcess(tmp_path / "data", "--workers", "2") as server:
        pass
    assert server.process.returncode == 0
    assert "worker ended" not in server.log_path.read_text()


def test_what_was_printed_is_not_lost(tmp_path: Path) -> None:
    code = "import obstore; from edgereplica.app.leaving import leave; print('said'); leave(7)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (7, "said\n")
