"""What a server does about its memory; in a process of its own, since it is for the whole one."""

import subprocess
import sys

from edgereplica.events.limits import GARBAGE_OBJECTS_MAX

_SETTLE = """
import gc
from edgereplica.app import memory
memory.settle()
print(gc.get_freeze_count() > 1000, len(gc.get_objects()), gc.get_threshold()[0])
"""


def test_a_server_that_stands_is_not_searched_for_garbage_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SETTLE], capture_output=True, text=True, check=True
    )
    frozen, searched, threshold = done.stdout.split()
    assert frozen == "True"
    assert int(searched) < 100
    assert int(threshold) == GARBAGE_OBJECTS_MAX


_KEEP = """
import sys

import pytest
from edgereplica.app.results import Progress
from edgereplica.cli.progress import ProgressBar
from edgereplica.cli.sync import _watched_by
from edgereplica.events.limits import LARGE_SESSION_BYTES
seen = []
class Bar(ProgressBar):
    def __call__(self, progress):
        seen.append(progress.bytes_sent)
hook = _watched_by(Bar())
hook(Progress("sending", bytes_sent=LARGE_SESSION_BYTES))
before = "edgereplica.app.memory" in sys.modules
hook(Progress("sending", bytes_sent=LARGE_SESSION_BYTES, bytes_received=1))
from edgereplica.app import memory
print(before, len(seen), memory.keep_freed.cache_info().misses)
"""


def test_a_command_keeps_memory_only_in_a_large_session() -> None:
    done = subprocess.run([sys.executable, "-c", _KEEP], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "2", "1"]


_REUSE = """
import resource, sys
from edgereplica.app import memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(64):
        batches = [bytes(1 << 20) for _ in range(4)]
        del batches
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
given_back = faults()
memory.keep_freed()
faults()
print(given_back, faults())
"""


def test_what_is_freed_is_used_again_without_asking_the_system() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _REUSE], capture_output=True, text=True, check=True
    )
    given_back, kept = map(int, done.stdout.split())
    assert kept < given_back / 10 or sys.platform != "linux"  # it is glibc that is told
