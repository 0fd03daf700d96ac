"""The databases of the benchmark: made once per size, copied per peer, edited alike for all."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

from edgereplica.app import sample_database

MIB = 1024 * 1024
_VERIFY = Path(__file__).parent / "verify.py"


def master(folder: Path, size_mib: int) -> Path:
    """The database of that size, made if it is not there yet."""
    path = folder / f"master-{size_mib}.db"
    if not path.exists():
        unfinished = path.with_suffix(".tmp")
        unfinished.unlink(missing_ok=True)
        sample_database.create(unfinished, size_mib * MIB, seed=size_mib)
        unfinished.rename(path)
    return path


class Origin:
    """One peer's copy of the master, held open as a running application holds its database.

    While it is held, edits stay in the WAL until `checkpoint`. A peer that reads the main file
    alone (rsync) gets an application that stops after each edit, which empties the WAL.
    """

    def __init__(self, master_path: Path, path: Path, *, held: bool) -> None:
        shutil.copyfile(master_path, path)
        self.path = path
        self._application = sqlite3.connect(path) if held else None
        if self._application is not None:
            self._application.execute("PRAGMA wal_autocheckpoint = 0")
            self._application.execute("SELECT count(*) FROM sqlite_schema").fetchone()

    def edit(self, fraction: float, seed: int) -> None:
        sample_database.scatter_edits(self.path, fraction, seed)

    def checkpoint(self) -> None:
        """Empty the WAL, so that it no longer tells which pages changed."""
        if self._application is not None:
            busy = self._application.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if busy:
                raise RuntimeError("the checkpoint was kept from finishing")

    def close(self) -> None:
        if self._application is not None:
            self._application.close()


class NotEqual(Exception):
    """A copy differs from its origin."""


def verify_equal(origin: Path, replica: Path) -> None:
    """Raise unless both databases hold the same pages."""
    command = [sys.executable, str(_VERIFY), str(origin), str(replica)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    if len(set(printed)) != 1:
        raise NotEqual(f"{replica} is not a copy of {origin}: {printed}")
