"""The benchmark counts what it says it counts."""

import os
import socket
import sys
import threading
from pathlib import Path

import pytest
from bench.sync.measure import CommandFailed, CountingProxy, run

ORPHAN = """
import subprocess, sys
subprocess.Popen([sys.executable, "-S", "-c", sys.argv[1]])
"""
BUSY = "import time\nwhile time.process_time() < 0.3: pass"
FAT = "data = bytearray(b'x' * 80_000_000)\n" + BUSY


def measure(tmp_path: Path, *command: str, watch: bool = False):
    return run(command, os.environ, tmp_path, watch=watch)


def test_a_process_left_behind_is_waited_for_and_counted(tmp_path: Path) -> None:
    measured = measure(tmp_path, sys.executable, "-S", "-c", ORPHAN, BUSY)
    assert measured.cpu_seconds >= 0.3
    assert measured.wall_seconds >= 0.3


def test_each_process_has_its_own_peak(tmp_path: Path) -> None:
    measured = measure(tmp_path, sys.executable, "-S", "-c", ORPHAN, FAT, watch=True)
    assert measured.client_bytes[0] > 80_000_000
    assert all(peak < 40_000_000 for peak in measured.client_bytes[1:])


def test_a_failed_command_is_an_error_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="no such thing"):
        measure(tmp_path, "sh", "-c", "echo no such thing >&2; exit 3")


def test_the_proxy_counts_both_directions() -> None:
    with socket.create_server(("127.0.0.1", 0)) as far:
        proxy = CountingProxy(far.getsockname()[1])

        def answer() -> None:
            connection, _ = far.accept()
            with connection:
                while connection.recv(65_536):
                    pass
                connection.sendall(b"y" * 70_000)

        thread = threading.Thread(target=answer)
        thread.start()
        with socket.create_connection(("127.0.0.1", proxy.port)) as near:
            near.sendall(b"x" * 1_000_000)
            near.shutdown(socket.SHUT_WR)
            received = 0
            while chunk := near.recv(65_536):
                received += len(chunk)
        thread.join()
        assert received == 70_000
        assert proxy.take() == 1_070_000
        assert proxy.take() == 0
        proxy.close()
