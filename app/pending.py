"""What a pull is about to install, written down before it does: `FILE-pulled-edgereplica`.

A pull that is killed, or loses its power, between its transaction and its sidecar leaves the new
version under a sidecar that names the old one, or none; the next pull would take the new pages for
changes made here. So the sidecar to be is written aside first, durably, and whoever syncs the file
next looks: if the file holds exactly that content it becomes the sidecar, else it is dropped (the
transaction never happened, or the application has written since).
"""

from pathlib import Path

from ..adapters.local_changes import find_changes
from ..adapters.local_files import pending_path
from ..adapters.local_snapshot import LocalSnapshot
from ..adapters.sidecar import Sidecar


def adopt_pending(path: Path, busy_timeout_seconds: float) -> None:
    """Finish the sync that was killed after it had changed the file. The sync lock is held.

    The state in the header is that of before, so that the next sync reads the file.
    """
    pending = pending_path(path)
    sidecar = Sidecar.load(pending)
    if sidecar is not None and path.is_file() and path.stat().st_size:
        header, hashes = sidecar.header, bytes(sidecar.hashes)
        prints = bytes(sidecar.fingerprints)
        with LocalSnapshot.open(path, busy_timeout_seconds=busy_timeout_seconds) as snapshot:
            same = snapshot.page_size == header.page_size
            same = same and not find_changes(snapshot, sidecar, read_everything=True).differ
        if same:
            Sidecar.save(path, header, hashes, prints, durable=True)
    Sidecar.remove(pending)
