"""The command line of the long checks: what it says, how it fails, and that it ends cleanly."""

import os
import pty
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
from proof import hostile, running, torture
from proof.evidence import ROOT
from proof.hostile.checks import CHECKS as HOSTILE
from proof.running import Check, CheckFailed, Counts, Job, add, main, run, run_here
from proof.torture.checks import CHECKS as TORTURE

SECONDS_MAX = 60


def test_counts_add_up_and_maxima_stay_maxima() -> None:
    total = Counts({"kills": 3, "most KiB grown": 5, "torn": 0})
    add(total, {"kills": 4, "most KiB grown": 2, "torn": 0})
    assert total == {"kills": 7, "most KiB grown": 5, "torn": 0}


def test_a_job_tells_its_rounds_and_takes_its_part(tmp_path: Path) -> None:
    told: list[int] = []
    job = Job(tmp_path, 3, running.Random(1), part=1, parts=2, tell=told.append)
    assert list(job.rounds()) == [0, 1, 2]
    assert told == [1, 2, 3]
    assert sorted(job.mine(range(7))) == [1, 3, 5]
    job.share = 0.3
    assert len(job.mine(range(7))) == 1


@pytest.mark.parametrize(("suite", "checks"), [("torture", TORTURE), ("hostile", HOSTILE)])
def test_help_has_examples_and_every_check(
    suite: str, checks: running.Checks, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(suite, checks, torture.__doc__ or "", ["--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    for name, check in checks.items():
        assert f"\n  {name} " in said
        assert f"{check.full:,} {check.unit}: {check.says}" in said
    assert f'make {suite} CHECKS="' in said
    assert hostile.__doc__


def test_an_unknown_check_is_refused_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main("torture", TORTURE, "", ["kill-push", "kil-pull"])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "no check 'kil-pull'" in said
    assert all(name in said for name in TORTURE)


def test_a_check_that_dies_is_a_failure_that_names_its_seed(tmp_path: Path) -> None:
    page = tmp_path / "evidence.md"
    broken = {"kill-push": Check(TORTURE["kill-push"].work, -10, "kills", "")}
    with pytest.raises(CheckFailed, match=r"seed 5/0"):
        # The worker looks its check up by name; what fails there is that there is no such name.
        run("torture", {"no-such": broken["kill-push"]}, "no-such", 1, 5, page)
    assert "| torture no-such | **FAILED** |" in page.read_text()


def test_a_full_run_that_lacks_what_it_must_show_has_failed(tmp_path: Path) -> None:
    """And a smaller one has not: there the dice may not have come to it."""
    page = tmp_path / "evidence.md"
    check = Check(
        lambda job: Counts({"kills": job.count, "in committing": 0}), 3, "kills", "",
        lacks=lambda counts: [name for name, count in counts.items() if not count],
    )  # fmt: skip
    run_here("torture", {"kill": check}, "kill", 0.4, 5, page)
    assert "| torture kill | passed |" in page.read_text()
    with pytest.raises(CheckFailed, match="in committing"):
        run_here("torture", {"kill": check}, "kill", 1, 5, page)
    assert "| torture kill | **FAILED** |" in page.read_text()
    assert "kills 3, in committing 0" in page.read_text()


def test_a_log_sees_how_far_a_check_is_by_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter((100.0, 101.0, 111.0, 112.0, 122.0))
    monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with running._Told("torture cut", 40, "random bytes") as told:
        for done in (1, 10, 11, 20):
            told.rounds(done)
    assert capsys.readouterr().err.splitlines() == [
        "torture cut: 10 of 40 random bytes, 11 s, 33 s left",
        "torture cut: 20 of 40 random bytes, 22 s, 22 s left",
    ]


class Running:
    """`python -m proof.torture` with all its processes marked."""

    def __init__(self, tmp_path: Path, *arguments: str, **options: int) -> None:
        self.mark = f"PROOF_MARK={uuid.uuid4()}"
        name, value = self.mark.split("=")
        # Not under `tmp_path`: a socket's path has at most 108 bytes, and theirs lie deeper.
        self.folder = tempfile.TemporaryDirectory(prefix="proof-", dir="/tmp")
        self.temporary = Path(self.folder.name)
        page = str(tmp_path / "evidence.md")
        environment = {**os.environ, name: value, "TMPDIR": str(self.temporary)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "proof.torture", "--page", page, *arguments],
            cwd=ROOT,
            env=environment,
            start_new_session=True,
            **options,
        )

    def marked(self) -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (process / "environ").read_bytes():
                    found.append(int(process.name))
            except OSError:
                continue
        return found

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while not condition():
            assert time.monotonic() < deadline, what
            Event().wait(0.05)

    def wait_until_busy(self) -> None:
        """Parent, two workers, and of each its fork server, a server and a client at times."""
        self.wait_for(lambda: len(self.marked()) >= 8, "the check never got to work")


def test_an_interrupt_ends_everything(tmp_path: Path) -> None:
    check = Running(tmp_path, "kill-push", stderr=subprocess.PIPE)
    check.wait_until_busy()
    check.process.send_signal(signal.SIGINT)
    _, said = check.process.communicate(timeout=SECONDS_MAX)
    assert check.process.returncode == 130
    # Before it there may be lines that say how far it was: on a slow machine it took a while.
    assert said.splitlines()[-1] == b"interrupted: everything that was started has been ended"
    assert b"Traceback" not in said
    assert check.marked() == []
    assert list(check.temporary.iterdir()) == []
    assert not (tmp_path / "evidence.md").exists()


def test_a_worker_that_is_killed_fails_its_check_and_leaves_nothing(tmp_path: Path) -> None:
    check = Running(tmp_path, "kill-push", stderr=subprocess.PIPE)
    check.wait_until_busy()
    for worker in check.marked():
        if b"proof.worker" in Path(f"/proc/{worker}/cmdline").read_bytes():
            os.kill(worker, signal.SIGKILL)
    _, said = check.process.communicate(timeout=SECONDS_MAX)
    assert check.process.returncode == 1
    assert b"kill-push: a process of the check died (-9)" in said
    assert check.marked() == []
    assert list(check.temporary.iterdir()) == []


def test_nothing_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    """No process. Its temporary files may: nobody was left to be sure to remove them."""
    check = Running(tmp_path, "kill-push", stderr=subprocess.DEVNULL)
    check.wait_until_busy()
    check.process.kill()
    check.process.wait()
    check.wait_for(lambda: check.marked() == [], "processes are left")


def test_a_terminal_sees_how_far_a_check_is(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    check = Running(tmp_path, "--scale", "0", "one-database", stderr=theirs, stdout=theirs)
    os.close(theirs)
    said = b""
    while True:
        try:
            said += os.read(ours, 4096)
        except OSError:  # EIO: the other end is closed
            break
    os.close(ours)
    assert check.process.wait() == 0
    assert b"torture one-database: 0 of 2 rounds, 0 s" in said
    assert b"| torture one-database | passed |" in said
