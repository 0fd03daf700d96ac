"""Where a file stands: its base, its own changes, the head, and what push and pull would do."""

import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

from ..adapters.local_files import pushed_path
from ..events.messages import HelloReply
from ..events.pages import count_pages
from ..events.session import PullPlanned
from ..events.wire import V2
from ..fsm.client_pull import ClientPull
from .client_session import ClientTransport, Options, run_session
from .local_plan import LocalPlan, empty_plan, open_plan
from .pull_client import PullClientEnd
from .results import ReplicaStatus
from .unheard import is_unheard_head


async def read_status(path: Path, options: Options) -> ReplicaStatus:
    """Ask the server for its head, and compare. Changes nothing on either side."""
    started = time.monotonic()
    with _plan(path, options) as plan:
        reply = await _ask_for_head(plan, options)
        if not is_unheard_head(path, reply):
            return _compare(plan, reply, time.monotonic() - started)
    with _plan(path, options, pushed_path(path)) as plan:
        return _compare(plan, reply, time.monotonic() - started)


def _plan(
    path: Path, options: Options, remembered: Path | None = None
) -> AbstractContextManager[LocalPlan]:
    """The plan for the file: also for an empty one, which a push takes for a version."""
    if not path.exists():
        return nullcontext(empty_plan(path))
    return open_plan(
        path,
        busy_timeout_seconds=options.busy_timeout_seconds,
        checksum=options.checksum,
        remembered=remembered,
    )


async def _ask_for_head(plan: LocalPlan, options: Options) -> HelloReply:
    """A pull that says it holds nothing, measured instead of made, learns the head's name."""

    def make(transport: ClientTransport) -> tuple[ClientPull, PullClientEnd, PullPlanned]:
        end = PullClientEnd(
            plan.path,
            None,
            exists=plan.exists,
            refusal=lambda reply: None,
            wire_version=V2,
            dry_run=True,
            busy_timeout_seconds=options.busy_timeout_seconds,
            planned_state=None,
            before_install=lambda: None,
            on_pages=lambda first, data: None,
            on_step=lambda: None,
        )
        named = plan.base if plan.base is not None and plan.base.version is not None else None
        planned = PullPlanned(
            plan.page_size,
            0,
            base=named.version if named else None,
            base_root=named.root if named else None,
            root=None,
            fresh=True,
            dry_run=True,
        )
        return ClientPull(V2), end, planned

    machine, _ = await run_session(options, V2, "pull", make)
    assert isinstance(machine, ClientPull)
    assert machine.reply is not None
    return machine.reply


def _compare(plan: LocalPlan, reply: HelloReply, seconds: float) -> ReplicaStatus:
    base = plan.base
    same = plan.content is not None and bool(reply.head) and plan.root() == reply.root
    at_head = base is not None and base.version == reply.head and base.root == reply.root
    push: Literal["nothing", "push", "conflict"] = "push"
    pull: Literal["nothing", "pull", "refused"] = "pull"
    if same or plan.content is None:
        push = "nothing"
    elif reply.head and not at_head:
        push = "conflict"
    if same or (at_head and plan.page_count):
        pull = "nothing"
    elif not plan.page_count:
        pull = "pull" if reply.head else "nothing"
    elif (
        plan.changed
        or plan.is_of_another_database(reply.database)
        or (plan.is_ahead_of(reply.head) and not reply.base_known)
    ):
        pull = "refused"
    elif not reply.head:
        pull = "nothing"
    changed = plan.content.changed if plan.content is not None else None
    return ReplicaStatus(
        path=str(plan.path),
        exists=plan.exists,
        database=reply.database or (base.database if base else None),
        server=base.server if base else None,
        base=base.version if base else None,
        head=reply.head,
        head_author=reply.author,
        head_committed_at=reply.committed_at or None,
        page_size=plan.page_size,
        page_count=plan.page_count,
        pages_changed_locally=None if changed is None else count_pages(changed),
        push=push,
        pull=pull,
        seconds=seconds,
    )
