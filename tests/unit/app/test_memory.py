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
