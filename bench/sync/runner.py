"""Run one command and account for every process it starts, to the last.

A program of its own (`python runner.py REPORT COMMAND…`), small, so that what it measures is the
command and not the harness. As a subreaper (prctl(2)) it inherits the command's orphans, so a
helper that outlives its parent is timed and counted too. The clock stops when the last process has
ended: a copy is not there before that.
"""

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def main(report: str, command: list[str]) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = time.perf_counter()
    child = subprocess.Popen(command)
    status, cpu_seconds, wall_seconds = 0, 0.0, 0.0
    while True:
        try:
            pid, ended, usage = os.wait4(-1, 0)
        except ChildProcessError:
            break
        wall_seconds = time.perf_counter() - started
        cpu_seconds += usage.ru_utime + usage.ru_stime
        if pid == child.pid:
            status = os.waitstatus_to_exitcode(ended)
            child.returncode = status
    measured = {"status": status, "wall_seconds": wall_seconds, "cpu_seconds": cpu_seconds}
    Path(report).write_text(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
