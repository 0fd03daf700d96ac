"""One attempt to pull: plan, run the machine, install, remember what was synced."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Literal

from ..adapters.local_files import pending_path
from ..adapters.local_fresh import FreshFile
from ..adapters.local_state import NO_STATE, FileState
from ..adapters.sidecar import Sidecar
from ..events.errors import (
    EdgeReplicaError,
    LocalFileError,
    NoSharedHistory,
    Unimplemented,
    UnpushedChanges,
)
from ..events.messages import At, HelloReply
from ..events.pages import count_pages
from ..events.session import Event, PullPlanned
from ..events.wire import V1
from ..fsm.client_pull import ClientPull
from ..fsm.machine import Machine
from .client_session import ClientTransport, Options, run_session
from .driver import End
from .local_content import StaleSidecar
from .local_plan import Fingerprints, LocalPlan, empty_plan, open_plan
from .pull_client import PullClientEnd
from .remember import forget_unheard, save_sidecar
from .results import Progress, PullResult


async def pull_once(
    path: Path,
    options: Options,
    wire_version: int,
    *,
    force: bool,
    backup: bool,
    at: At,
    dry_run: bool,
    ignore_sidecar: bool,
) -> PullResult:
    """Make the file one version of the database.

    `RootMismatch` or `StaleSidecar`: try again without the sidecar.
    """
    if dry_run and wire_version == V1:
        raise Unimplemented("wire v1 has no dry run")
    if at is not None and wire_version == V1:
        raise Unimplemented("a server of wire v1 keeps no older versions")
    started = time.monotonic()
    options.tell(Progress("reading"))
    with open_plan_or_empty(path, options, ignore_sidecar) as plan:
        attempt = _Pull(plan, options, wire_version, force, backup, dry_run)
        return await attempt.run(at, started)


@contextmanager
def open_plan_or_empty(
    path: Path, options: Options, ignore_sidecar: bool = False
) -> Iterator[LocalPlan]:
    """The plan for the file, also if there is none or an empty one."""
    missing = not path.exists() or (path.is_file() and path.stat().st_size == 0)
    with (
        nullcontext(empty_plan(path))
        if missing
        else open_plan(
            path,
            busy_timeout_seconds=options.busy_timeout_seconds,
            checksum=options.checksum,
            ignore_sidecar=ignore_sidecar,
        )
    ) as plan:
        yield plan


class _Pull:
    def __init__(
        self,
        plan: LocalPlan,
        options: Options,
        wire_version: int,
        force: bool,
        backup: bool,
        dry_run: bool,
    ) -> None:
        self.plan = plan
        self.options = options
        self.wire_version = wire_version
        self.force = force
        self.backup = backup
        self.dry_run = dry_run
        self.at: At = None
        self.prints: Fingerprints | None = None
        self.backup_path: Path | None = None
        self.end: PullClientEnd | None = None
        self.transport: ClientTransport | None = None

    async def run(self, at: At, started: float) -> PullResult:
        plan, self.at = self.plan, at
        base = plan.base
        planned = PullPlanned(
            page_size=plan.page_size,
            page_count=plan.page_count,
            base=base.version if base else None,
            base_root=base.root if base and base.version is not None else None,
            root=self._root_held(),
            at=at,
            fresh=plan.content is None,
            dry_run=self.dry_run,
        )
        try:
            machine, transport = await run_session(
                self.options, self.wire_version, "pull", lambda t: self._make(t, planned)
            )
        except EdgeReplicaError:
            if self.end is None or self.end.applied is None:
                Sidecar.remove(pending_path(plan.path))
            raise
        finally:
            if self.end is not None:
                self.end.close()
        assert isinstance(machine, ClientPull)
        return self._conclude(machine, transport, started)

    def _root_held(self) -> bytes | None:
        """The root that makes a pull unnecessary.

        Unforced with local changes it is the base's: if nothing newer is there, the changes stay.
        """
        plan = self.plan
        if plan.content is None or self.wire_version == V1:
            return None
        if plan.base is not None and not (plan.changed and self.force):
            return plan.base.root
        return plan.content.root()

    def _refusal(self, reply: HelloReply) -> EdgeReplicaError | None:
        """What stands against overwriting the file with the version described, unless forced.

        `StaleSidecar` if the file was last synced with another database, or is a version that the
        server had and lost. It may be the only copy, so that it counts as a file of its own.
        """
        plan = self.plan
        if not reply.base_known:
            if plan.is_of_another_database(self.options.database_of(reply)):
                raise StaleSidecar(f"the sidecar of {plan.path} is of another database")
            if plan.is_ahead_of(reply.head) and (self.at is None or self._comparable(reply)):
                raise StaleSidecar(f"the sidecar of {plan.path} is of a version that is no more")
        if self.force or plan.content is None or not plan.changed:
            return None
        if PullClientEnd.is_known_version(plan.content, reply):
            return None
        if plan.base is None:
            return NoSharedHistory(
                f"{plan.path} has no history with this database: {plan.page_count} pages of it "
                "would be lost",
                pages=plan.page_count,
                hint="pull into another file, or `--force` to overwrite it (the old file is kept)",
            )
        pages = (
            plan.page_count if plan.content.changed is None else count_pages(plan.content.changed)
        )
        return UnpushedChanges(
            f"{plan.path} holds changes that were never pushed: {pages} pages since version "
            f"{plan.base.version}",
            pages_changed=pages,
            base=plan.base.version,
            hint="push them first, or `--force` to overwrite them (the old file is kept)",
        )

    def _comparable(self, reply: HelloReply) -> bool:
        """Whether a server that has the file's base, too, would say that it knows it."""
        assert self.plan.base is not None
        return reply.page_size == self.plan.base.page_size == self.plan.page_size

    def _make(self, transport: ClientTransport, planned: PullPlanned) -> tuple[Machine, End, Event]:
        self.transport = transport
        self.end = PullClientEnd(
            self.plan.path,
            self.plan.content,
            exists=self.plan.exists,
            refusal=self._refusal,
            wire_version=self.wire_version,
            dry_run=self.dry_run,
            busy_timeout_seconds=self.options.busy_timeout_seconds,
            planned_state=self.plan.state,
            before_install=self._before_install,
            on_pages=self._note_pages,
            on_step=self._tell,
        )
        return ClientPull(self.wire_version), self.end, planned

    def _note_pages(self, first: int, data: memoryview) -> None:
        assert self.end is not None
        if self.prints is None:
            self.prints = self._prints_to_be()
        self.prints.note(first, data)

    def _prints_to_be(self) -> Fingerprints:
        """The fingerprints that the pull brings up to date: the file's, or none for a new file."""
        assert self.end is not None
        if self.end.replaced_whole:
            return Fingerprints(self.end.page_size)
        prints = self.plan.load_prints()
        prints.cut(self.end.page_count)
        return prints

    def _tell(self) -> None:
        assert self.end is not None
        assert self.transport is not None
        self.options.tell(
            Progress(
                "receiving",
                self.end.pages_received,
                self.end.pages_expected,
                self.transport.bytes_sent,
                self.transport.bytes_received,
            )
        )

    def _before_install(self) -> None:
        """Keep what a forced pull is about to overwrite; then let go of the file."""
        self.options.tell(Progress("applying"))
        plan = self.plan
        if plan.content is not None and plan.changed and self.force and self.backup:
            self.backup_path = _backup(plan)
        plan.close_snapshot()
        # Should this process be killed before it remembers what it installs (`pending`).
        self._save_sidecar(pending_path(plan.path), plan.state or NO_STATE)

    def _conclude(
        self, machine: ClientPull, transport: ClientTransport, started: float
    ) -> PullResult:
        assert machine.reply is not None
        assert self.end is not None
        reply, end = machine.reply, self.end
        outcome: Literal["pulled", "unchanged", "dry_run"] = "unchanged"
        pages = end.pages_received
        if machine.state_id == "measured" or self.dry_run:
            outcome = "dry_run"
            pages = self._pages_measured(machine)
        elif machine.state_id == "pulled":
            outcome = "pulled"
            self._remember()
        elif self.force or not self.plan.changed or self.plan.base is None:
            # What was compared with the version is the content, not only its base.
            self._adopt(machine)
        refusal = self._refusal(reply) if machine.state_id == "measured" else None
        return PullResult(
            outcome=outcome,
            version=reply.head,
            root=(reply.root or b"").hex(),
            page_size=reply.page_size,
            page_count=reply.page_count,
            pages_received=pages,
            bytes_sent=transport.bytes_sent,
            bytes_received=transport.bytes_received,
            seconds=time.monotonic() - started,
            backup_path=str(self.backup_path) if self.backup_path else None,
            would_refuse=refusal.code if refusal else None,
        )

    def _pages_measured(self, machine: ClientPull) -> int:
        assert machine.reply is not None
        assert self.end is not None
        if machine.state_id == "unchanged":
            return 0
        if machine.reply.pages_changed is not None:
            return machine.reply.pages_changed
        if self.plan.content is None:
            return machine.reply.page_count
        return self.end.pages_differing

    def _remember(self) -> None:
        assert self.end is not None
        assert self.end.applied is not None
        forget_unheard(self.plan.path)
        self._save_sidecar(self.plan.path, self.end.applied)
        Sidecar.remove(pending_path(self.plan.path))

    def _save_sidecar(self, path: Path, state: FileState) -> None:
        assert self.end is not None
        if self.prints is None:
            self.prints = self._prints_to_be()
        reply = self.end.reply
        self.prints.settle(reply.page_count)
        save_sidecar(
            path,
            server=self.options.server,
            database=self.options.database_of(reply),
            version=reply.head,
            page_size=reply.page_size,
            page_count=reply.page_count,
            state=state,
            digests=self.end.digests,
            prints=self.prints,
            # A file that a power loss has left newer than its sidecar would look changed here.
            durable=True,
        )

    def _adopt(self, machine: ClientPull) -> None:
        """The file already is the version: remember that, unless it is remembered."""
        plan, reply = self.plan, machine.reply
        assert reply is not None
        if plan.content is None or plan.state is None:
            return
        forget_unheard(plan.path)
        if plan.is_remembered_as(reply.head, self.options.database_of(reply)):
            return
        save_sidecar(
            plan.path,
            server=self.options.server,
            database=self.options.database_of(reply),
            version=reply.head,
            page_size=plan.page_size,
            page_count=plan.page_count,
            state=plan.state,
            digests=plan.content.digests,
            prints=plan.load_prints(),
        )


def _backup(plan: LocalPlan) -> Path:
    """Copy the state that was read to a new file beside the old one."""
    assert plan.content is not None
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    for attempt in range(100):
        suffix = f".backup-{stamp}" + (f"-{attempt}" if attempt else "")
        backup = plan.path.with_name(plan.path.name + suffix)
        if not backup.exists():
            break
    else:
        raise LocalFileError(f"too many backups beside {plan.path}")
    copy = FreshFile(backup, plan.page_size, plan.page_count, like=plan.path)
    try:
        for window in plan.content.pieces():
            copy.write(*window)
        copy.install()
    except BaseException:
        copy.abandon()
        raise
    return backup
