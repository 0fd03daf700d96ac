"""The Python API: a local SQLite file that follows a database on a server.

    from edgereplica import Replica

    replica = Replica("app.db", server="https://sync.example.org", token=token)
    replica.push(message="nightly")
    replica.pull()
    replica.status()

`AsyncReplica` has the same methods as coroutines. Push and pull hold the file's sync lock, so that
two syncs of one file never run at once. Every call ends in a typed result or an error of
`events.errors`; file and server are then either as they were or wholly at the new version. A file
that other code of the same process has open is synced in a process of its own (`own_process`).

This module retries; what one attempt is, is said in `push_session` and `pull_session`. Each is
imported by the method that needs it: a command's start-up is most of a small sync's time.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..adapters.local_files import (
    followed,
    is_open_here,
    pending_path,
    remove_leftovers,
    sidecar_path,
)
from ..adapters.local_lock import SyncLock
from ..events.errors import EdgeReplicaError, RootMismatch
from ..events.limits import RETRY_AFTER_SECONDS_MAX, RETRY_SECONDS_MAX
from ..events.messages import At
from ..events.wire import V1, V2
from .client_session import OldServer, Options, check_options
from .compression import CompressMode
from .local_content import StaleSidecar
from .results import Progress, ProgressHook, PullResult, PushResult, ReplicaStatus

if TYPE_CHECKING:
    from .own_process import Method

T = TypeVar("T")
Attempt = Callable[[int, bool], Awaitable[T]]
"""One try: (wire version, ignore the sidecar) → result."""


class AsyncReplica:
    """A local file and the database that `token` is for; see the module's docstring.

    `busy_timeout_seconds`: how long to wait for a locked file. `retries`: attempts after a lost
    connection; a refusal is never retried. `renew_token` mints the token of every further attempt,
    as the one before may have expired; it may block. `compress`: auto, always or never. `protocol`:
    1 or 2 fixes the wire version, None prefers 2. `checksum`: read the file even if it looks
    unchanged. `progress` is called with `Progress` values. `record`: write the session there for
    `edgereplica fsm replay`.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        server: str,
        token: str,
        busy_timeout_seconds: float = 5.0,
        retries: int = 5,
        renew_token: Callable[[], str] | None = None,
        compress: CompressMode = "auto",
        protocol: int | None = None,
        checksum: bool = False,
        progress: ProgressHook | None = None,
        record: Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.options = Options(
            server=server,
            token=token,
            busy_timeout_seconds=busy_timeout_seconds,
            retries=retries,
            renew_token=renew_token,
            compress=compress,
            protocol=protocol,
            checksum=checksum,
            progress=progress,
            record=record,
        )
        check_options(self.options)

    async def push(
        self, *, force: bool = False, message: str = "", dry_run: bool = False
    ) -> PushResult:
        """Make the file's committed state the database's next version, whole or not at all.

        Raises `Conflict` if the head is not the version last synced, unless `force`.
        """

        from .push_session import push_once  # noqa: PLC0415
        from .remember import is_unheard  # noqa: PLC0415

        path = followed(self.path)
        if self._is_shared(path):
            choices = {"force": force, "message": message, "dry_run": dry_run}
            return await self._apart(path, "push", choices, PushResult)

        async def attempt(wire_version: int, ignore_sidecar: bool) -> PushResult:
            if wire_version != V1 and is_unheard(path):
                from .unheard import adopt_unheard  # noqa: PLC0415

                await adopt_unheard(path, self.options)
            return await push_once(
                path,
                self.options,
                wire_version,
                force=force,
                message=message,
                dry_run=dry_run,
                ignore_sidecar=ignore_sidecar,
            )

        return await self._locked(path, attempt)

    async def pull(
        self,
        *,
        force: bool = False,
        backup: bool = True,
        at: At = None,
        dry_run: bool = False,
    ) -> PullResult:
        """Make the file the head, or the version `at` (a number, or a Unix time as a float).

        Raises `UnpushedChanges` or `NoSharedHistory` rather than lose anything, unless `force`;
        then the old file is kept beside it unless `backup` is false.
        """

        from .pull_session import pull_once  # noqa: PLC0415

        path = followed(self.path)
        if self._is_shared(path):
            choices = {"force": force, "backup": backup, "at": at, "dry_run": dry_run}
            return await self._apart(path, "pull", choices, PullResult)

        async def attempt(wire_version: int, ignore_sidecar: bool) -> PullResult:
            return await pull_once(
                path,
                self.options,
                wire_version,
                force=force,
                backup=backup,
                at=at,
                dry_run=dry_run,
                ignore_sidecar=ignore_sidecar,
            )

        return await self._locked(path, attempt)

    async def status(self) -> ReplicaStatus:
        """What push and pull would do. Changes nothing."""

        from .status import read_status  # noqa: PLC0415

        if self._is_shared(self.path):
            return await self._apart(self.path, "status", {}, ReplicaStatus)

        async def attempt(wire_version: int, ignore_sidecar: bool) -> ReplicaStatus:
            return await read_status(self.path, self.options)

        return await self._retrying(attempt)

    def _is_shared(self, path: Path) -> bool:
        """A wire of the caller's own does not leave this process; nor do its connections then."""
        return self.options.connector is None and is_open_here(path)

    async def _apart(
        self, path: Path, method: "Method", choices: dict[str, Any], kind: type[T]
    ) -> T:
        from .own_process import sync_in_own_process  # noqa: PLC0415

        return await sync_in_own_process(path, self.options, method, choices, kind)

    async def _locked(self, path: Path, attempt: Attempt[T]) -> T:
        with SyncLock(path):
            remove_leftovers(path)
            if sidecar_path(pending_path(path)).exists():
                from .pending import adopt_pending  # noqa: PLC0415

                adopt_pending(path, self.options.busy_timeout_seconds)
            return await self._retrying(attempt)

    async def _retrying(self, attempt: Attempt[T]) -> T:
        wire_version = self.options.protocol or V2
        ignore_sidecar = False
        failures = 0
        while True:
            try:
                if failures:
                    await self._renew_token()
                return await attempt(wire_version, ignore_sidecar)
            except OldServer:
                if self.options.protocol is not None:
                    raise
                wire_version = V1
            except (StaleSidecar, RootMismatch):
                if ignore_sidecar:
                    raise
                ignore_sidecar = True
            except EdgeReplicaError as error:
                failures += 1
                if not error.retryable or failures > self.options.retries:
                    raise
                await self._pause(failures, error)

    async def _renew_token(self) -> None:
        if self.options.renew_token is not None:
            token = await asyncio.to_thread(self.options.renew_token)
            self.options = replace(self.options, token=token)

    async def _pause(self, failures: int, error: EdgeReplicaError) -> None:
        """Exponential backoff with jitter, said out loud."""
        seconds = min(RETRY_SECONDS_MAX, 0.25 * 2**failures) * (0.5 + random.random() / 2)  # noqa: S311 - jitter
        asked = error.details.get("retry_after_seconds")
        if isinstance(asked, int):
            seconds = max(seconds, min(asked, RETRY_AFTER_SECONDS_MAX))
        self.options.tell(
            Progress(
                "retrying",
                note=f"{error.message}; attempt {failures} of {self.options.retries} "
                f"in {seconds:.1f} s",
            )
        )
        await asyncio.sleep(seconds)


class Replica:
    """`AsyncReplica` for callers without an event loop: the same arguments, blocking methods."""

    def __init__(self, path: Path | str, *, server: str, token: str, **options: Any) -> None:
        self._replica = AsyncReplica(path, server=server, token=token, **options)
        self.path = self._replica.path

    def push(self, *, force: bool = False, message: str = "", dry_run: bool = False) -> PushResult:
        """See `AsyncReplica.push`."""
        return _run(self._replica.push(force=force, message=message, dry_run=dry_run))

    def pull(
        self, *, force: bool = False, backup: bool = True, at: At = None, dry_run: bool = False
    ) -> PullResult:
        """See `AsyncReplica.pull`."""
        return _run(self._replica.pull(force=force, backup=backup, at=at, dry_run=dry_run))

    def status(self) -> ReplicaStatus:
        """See `AsyncReplica.status`."""
        return _run(self._replica.status())


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)
