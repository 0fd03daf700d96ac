"""What a pull is about to install, written down before it does: `FILE-pulled-edgereplica`.

A pull that is killed, or loses its power, between its transaction and its sidecar leaves the new
version under a sidecar that names the old one, or none; the next pull would take the new pages for
changes made here. So the sidecar to be is written aside first, durably, and whoever syncs the file
next looks: if the file holds exactly that content it becomes the sidecar, else it is dropped (the
transaction never happened, or the application has written since).

Which of the two it was cannot be told once the application has written. Then the older version is
the safe base: a push that builds on it is a conflict at worst. A sidecar of a later version, or of
another database, goes: a push that it let through could undo what the file never held. So does what
a push of before has written down (`unheard`).
"""

from pathlib import Path

from ..adapters.local_changes import find_changes
from ..adapters.local_files import pending_path
from ..adapters.local_snapshot import LocalSnapshot
from ..adapters.sidecar import Sidecar, SidecarHeader
from .remember import forget_unheard


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
            installed = _holds(snapshot, sidecar)
            known = None if installed else Sidecar.load(path)
            safe = known is None or _follows(header, known.header) or _holds(snapshot, known)
        if installed:
            Sidecar.save(path, header, hashes, prints, durable=True)
        elif not safe:
            Sidecar.remove(path)
    forget_unheard(path)
    Sidecar.remove(pending)


def _holds(snapshot: LocalSnapshot, sidecar: Sidecar) -> bool:
    """Whether the file is what `sidecar` is about, whose arrays are used up."""
    same_size = snapshot.page_size == sidecar.header.page_size
    return same_size and not find_changes(snapshot, sidecar, read_everything=True).differ


def _follows(pulled: SidecarHeader, known: SidecarHeader) -> bool:
    """Whether what was pulled is no older than what the file held; by wire v1 it is the head."""
    if pulled.database != known.database:
        return False
    return pulled.version is None or pulled.version >= (known.version or 0)
