"""A client's process for `servers`: what it is told to sync it syncs, and says how that ended.

`python -m proof.hostile.client BASE` reads one JSON line for each sync on standard input and writes
one for how it ended: its result, or the error's code; or `crash`, the words of anything else; and
always the largest resident set of the process so far (`peak_kib`, VmHWM).
"""

import gc
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from edgereplica import Replica
from edgereplica.app.memory import give_back
from edgereplica.events.errors import EdgeReplicaError


def main(base: str) -> None:
    for line in sys.stdin:
        _forget()
        said: dict[str, Any] = {}
        try:
            said["outcome"] = _sync(base, json.loads(line))
        except EdgeReplicaError as error:
            said["code"] = error.code
            said["message"] = f"{type(error).__name__}: {error.message[:300]}"
        except Exception as error:  # noqa: BLE001 - what is looked for
            said["crash"] = "".join(traceback.format_exception(error))[-3000:]
        sys.stdout.write(json.dumps({**said, "peak_kib": _peak_kib()}) + "\n")
        sys.stdout.flush()


def _sync(base: str, job: dict[str, Any]) -> str:
    replica = Replica(job["path"], server=base, token="t", retries=0, protocol=job["protocol"])
    if job["way"] == "status":
        return f"{replica.status().pull}"
    if job["way"] == "push":
        return replica.push(force=job["force"], dry_run=job["dry_run"]).outcome
    return replica.pull(force=job["force"], dry_run=job["dry_run"], backup=False).outcome


def _forget() -> None:
    """Let every sync be as in a process of its own: nothing that was freed counts."""
    gc.collect()
    give_back()
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): reset VmHWM


def _peak_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    main(sys.argv[1])
