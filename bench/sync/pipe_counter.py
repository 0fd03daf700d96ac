"""Stands in for `ssh` when sqlite3_rsync is measured: runs the far side here, counts the bytes.

`python pipe_counter.py COUNT_FILE <ssh's own arguments>`: the command follows the host name. The
sum of both directions is written to COUNT_FILE at the end.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path

HOST = "loopback"
_CHUNK_BYTES = 256 * 1024


def _pump(source: int, sink: int, counts: list[int], at: int) -> None:
    while chunk := os.read(source, _CHUNK_BYTES):
        counts[at] += len(chunk)
        view = memoryview(chunk)
        while view:
            view = view[os.write(sink, view) :]
    os.close(sink)


def main(count_file: str, arguments: list[str]) -> None:
    command = " ".join(arguments[arguments.index(HOST) + 1 :])
    child = subprocess.Popen(command, shell=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    counts = [0, 0]
    pumps = [
        threading.Thread(target=_pump, args=(0, os.dup(child.stdin.fileno()), counts, 0)),
        threading.Thread(target=_pump, args=(child.stdout.fileno(), 1, counts, 1)),
    ]
    child.stdin.close()
    for pump in pumps:
        pump.daemon = True
        pump.start()
    # The near side keeps its end open until this program ends, so nothing waits for that pump.
    pumps[1].join()
    status = child.wait()
    Path(count_file).write_text(str(sum(counts)))
    sys.exit(status)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
