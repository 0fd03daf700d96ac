"""One attempt to push: plan, run the machine, remember what was synced."""

import time
from contextlib import suppress
from operator import index
from pathlib import Path
from typing import Literal

from ..adapters.local_files import pushed_path
from ..adapters.local_state import FileState
from ..adapters.sidecar import Sidecar
from ..events.errors import Conflict, InvalidArgument, LocalFileError, Unimplemented
from ..events.pages import Runs, check_runs, count_pages
from ..events.session import Event, PushPlanned
from ..events.wire import V1
from ..fsm.client_push import ClientPush
from ..fsm.machine import Machine
from .client_session import ClientTransport, Options, run_session
from .compression import Compressor
from .driver import End
from .local_content import StaleSidecar
from .local_plan import LocalPlan, open_plan
from .push_client import PushClientEnd
from .remember import forget_unheard, save_sidecar
from .results import Progress, PushResult

_TABLES_SAID_MAX = 8


async def push_once(
    path: Path,
    options: Options,
    wire_version: int,
    *,
    force: bool,
    message: str,
    dry_run: bool,
    ignore_sidecar: bool,
) -> PushResult:
    """Push the file's committed state. `StaleSidecar` or `RootMismatch`: try again without it."""
    if dry_run and wire_version == V1:
        raise Unimplemented("wire v1 has no dry run")
    started = time.monotonic()
    if not path.exists():
        raise InvalidArgument(f"there is no file {path}", hint="check the path given with --db")
    options.tell(Progress("reading"))
    with open_plan(
        path,
        busy_timeout_seconds=options.busy_timeout_seconds,
        checksum=options.checksum,
        ignore_sidecar=ignore_sidecar,
    ) as plan:
        return await _Push(plan, options, wire_version, dry_run).run(force, message, started)


def runs_within(untrusted: object, page_count: int) -> Runs:
    """Runs out of an error's details, as far as a file of `page_count` pages has them; or none if
    they are not runs."""
    try:
        pairs = untrusted if isinstance(untrusted, list | tuple) else ()
        runs = check_runs((index(first), index(last)) for first, last in pairs)
    except (TypeError, ValueError, InvalidArgument):
        return ()
    return tuple((first, min(last, page_count)) for first, last in runs if first <= page_count)


class _Push:
    def __init__(self, plan: LocalPlan, options: Options, wire_version: int, dry_run: bool) -> None:
        assert plan.content is not None
        self.plan = plan
        self.content = plan.content
        self.options = options
        self.wire_version = wire_version
        self.dry_run = dry_run
        self.end: PushClientEnd | None = None
        self.machine: ClientPush | None = None
        self.transport: ClientTransport | None = None
        self.noted: int | None = None
        """The version that is written down as the one to be (`unheard`)."""
        self.started = time.monotonic()

    async def run(self, force: bool, message: str, started: float) -> PushResult:
        plan = self.plan
        planned = PushPlanned(
            page_size=plan.page_size,
            page_count=plan.page_count,
            base=plan.base.version if plan.base else None,
            base_root=plan.base.root if plan.base and plan.base.version is not None else None,
            root=plan.known_root if self.wire_version != V1 else None,
            force=force,
            dry_run=self.dry_run,
            message=message,
        )
        self.content.spool_changes()
        try:
            machine, transport = await run_session(
                self.options, self.wire_version, "push", lambda t: self._make(t, planned)
            )
        except Conflict as conflict:
            forget_unheard(plan.path)
            self._check_sidecar()
            if self.dry_run:
                return self._would_conflict(conflict, started)
            raise self._explained(conflict) from conflict
        assert isinstance(machine, ClientPush)
        return self._conclude(machine, transport, started)

    def _make(self, transport: ClientTransport, planned: PushPlanned) -> tuple[Machine, End, Event]:
        self.transport = transport
        since = time.monotonic()
        compressor = Compressor(
            self.options.compress if self.wire_version != V1 else "never",
            loopback=self.options.on_loopback,
            blocked_share=lambda: transport.blocked_seconds / max(1e-9, time.monotonic() - since),
        )
        self.end = PushClientEnd(self.content, compressor, self._tell, self._note)
        self.machine = ClientPush(self.wire_version)
        return self.machine, self.end, planned

    def _tell(self) -> None:
        assert self.end is not None
        assert self.transport is not None
        assert self.machine is not None
        pages_owed = self.end.pages_requested - self.end.pages_sent
        # With `complete` said and no page owed, the server may have committed: whoever is
        # interrupted now must not be told that nothing was changed.
        settling = self.machine.ending is not None and not pages_owed
        self.options.tell(
            Progress(
                "committing" if settling else "sending",
                self.end.pages_announced - pages_owed,
                self.plan.page_count,
                self.transport.bytes_sent,
                self.transport.bytes_received,
            )
        )

    def _check_sidecar(self) -> None:
        """`StaleSidecar` if the conflict is that of a version of another database. What was no
        change of that version may still be, byte for byte, the head of this one."""
        reply = self.machine.reply if self.machine is not None else None
        if self.plan.is_of_another_database(self.options.database_of(reply)):
            raise StaleSidecar(f"the sidecar of {self.plan.path} is of another database")

    def _would_conflict(self, conflict: Conflict, started: float) -> PushResult:
        assert self.end is not None
        head = conflict.details.get("head")
        self.end.pages_requested = count_pages(self.content.changed or self.content.everything)
        self.end.pages_announced = self.end.pages_requested
        return self._result("dry_run", None, head, started, True)

    def _explained(self, conflict: Conflict) -> Conflict:
        """The server's conflict with this side's numbers, and what to do about it.

        Tables are named by this file's layout: exactly for its own changes, and for the head's as
        far as they lie in pages that this file has not moved about.
        """
        from ..adapters.local_tables import tables_of  # noqa: PLC0415 - rare, and start-up counts

        details = dict(conflict.details)
        words = [conflict.message]
        if self.content.changed is not None:
            mine = self.content.changed
            theirs = runs_within(details.pop("changed_runs", ()), self.plan.page_count)
            details["local_pages_changed"] = count_pages(mine)
            words.append(
                f"{details.get('pages_changed', '?')} pages differ there since the base, "
                f"{count_pages(mine)} here"
            )
            for key, side, runs in (("tables_there", "there", theirs), ("tables", "here", mine)):
                names = tables_of(self.plan.path, runs)
                if names:
                    details[key] = list(names)
                    words.append(f"{side} in {', '.join(names[:_TABLES_SAID_MAX])}")
        details["hint"] = (
            "pull the head into another file and merge, or `sync push --force` to replace it "
            "with this file"
        )
        return Conflict("; ".join(words), **details)

    def _conclude(
        self, machine: ClientPush, transport: ClientTransport, started: float
    ) -> PushResult:
        assert machine.reply is not None
        reply, done = machine.reply, machine.outcome
        if machine.state_id == "measured":
            assert machine.plan is not None
            # Known by its root alone, the file builds on a version that is not the head.
            conflicts = bool(reply.head) and machine.plan.base is None and not machine.plan.force
            version = None if conflicts else reply.head
            return self._result("dry_run", version, reply.head, started, conflicts)
        version = done.version if done is not None else reply.head
        if self.plan.state is not None and not self.dry_run:
            self._remember(version, self.options.database_of(reply))
        return self._result(
            "unchanged" if done is None else "pushed", version, reply.head, started, False
        )

    def _note(self) -> None:
        """Should nobody hear of the commit: what it makes the head is written down before."""
        assert self.machine is not None
        reply, state = self.machine.reply, self.plan.state
        if self.wire_version == V1 or reply is None or state is None:
            return
        version = (reply.head or 0) + 1
        # Without it the push is as good, and a conflict at worst the next one.
        with suppress(LocalFileError):
            self._save(pushed_path(self.plan.path), version, self.options.database_of(reply), state)
            self.noted = version

    def _remember(self, version: int | None, database: str) -> None:
        """Write the sidecar, unless it says all of this already."""
        plan = self.plan
        assert plan.state is not None
        if self.noted is not None and version == self.noted:
            Sidecar.move(pushed_path(plan.path), plan.path)
            return
        forget_unheard(plan.path)
        if not plan.is_remembered_as(version, database):
            self._save(plan.path, version, database, plan.state)

    def _save(self, path: Path, version: int | None, database: str, state: FileState) -> None:
        save_sidecar(
            path,
            server=self.options.server,
            database=database,
            version=version,
            page_size=self.plan.page_size,
            page_count=self.plan.page_count,
            state=state,
            digests=self.content.digests,
            prints=self.plan.load_prints(),
        )

    def _result(
        self,
        outcome: Literal["pushed", "unchanged", "dry_run"],
        version: int | None,
        head_before: int | None,
        started: float,
        would_conflict: bool,
    ) -> PushResult:
        end, transport, content = self.end, self.transport, self.content
        assert end is not None
        assert transport is not None
        # A drill-down announces the neighbours of what differs too.
        changed = end.pages_requested if end.drilled else end.pages_announced
        sent = end.pages_requested if self.dry_run else end.pages_sent
        return PushResult(
            outcome="dry_run"
            if self.dry_run
            else "unchanged"
            if outcome == "unchanged"
            else "pushed",
            version=version,
            root=self.plan.root().hex(),
            head_before=head_before,
            page_size=content.page_size,
            page_count=content.page_count,
            pages_changed=changed,
            pages_sent=sent,
            pages_resumed=max(0, changed - sent) if outcome == "pushed" else 0,
            bytes_sent=transport.bytes_sent,
            bytes_received=transport.bytes_received,
            seconds=time.monotonic() - started,
            would_conflict=would_conflict,
        )
