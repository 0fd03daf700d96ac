"""One sync of a file at a time.

The lock is flock(2) on `FILE-edgereplica-lock`, which holds the process id of its owner for the
message. The operating system releases it when the owner ends, however it ends. The file is removed
with the lock still held; whoever locked a file that has lost its name tries again.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType

from ..events.errors import FileBusy, LocalFileError
from .local_errors import from_os_error, local_errors
from .local_files import open_private, resolved, sibling


class SyncLock:
    """Held from construction to `release`, or to the end of a `with` block.

    Raises FileBusy, naming the process that syncs the file, and LocalFileError if the folder
    cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = resolved(path)
        self._lock = sibling(self.path, "-edgereplica-lock")
        self._descriptor = -1
        try:
            while self._descriptor < 0:
                self._descriptor = self._try_lock()
        except OSError as error:
            if not self.path.parent.is_dir():
                raise LocalFileError(
                    f"there is no directory {self.path.parent}",
                    path=str(self.path),
                    hint="make it first, or check the path given with --db",
                ) from error
            raise from_os_error(self._lock, error) from error

    def _try_lock(self) -> int:
        """A descriptor that holds the lock; -1 if the file lost its name before it was locked."""
        descriptor = open_private(self._lock, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._has_name(descriptor):
                os.close(descriptor)
                return -1
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except BlockingIOError as error:
            owner = os.pread(descriptor, 20, 0).decode("ascii", "replace")
            os.close(descriptor)
            raise FileBusy(
                f"another sync of {self.path} is running"
                + (f" (pid {owner})" if owner else "")
                + "; wait for it to end",
                path=str(self.path),
                pid=int(owner) if owner.isdigit() else 0,
            ) from error
        except BaseException:
            os.close(descriptor)  # and the lock with it: its holder may live on
            raise
        return descriptor

    def _has_name(self, descriptor: int) -> bool:
        try:
            named = self._lock.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(descriptor))

    def release(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with local_errors(self._lock):
                self._lock.unlink(missing_ok=True)
                os.close(descriptor)

    def __enter__(self) -> "SyncLock":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
