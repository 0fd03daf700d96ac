"""Flaws of server and client, planted in this process, that the simulation must find."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from proof.sim.storage import FaultyStore

from edgereplica.adapters.page_storage import PageStorage
from edgereplica.adapters.segment_writer import SegmentWriter
from edgereplica.adapters.staged_content import HeldContent
from edgereplica.app import retention
from edgereplica.app.gc import GarbageCollector
from edgereplica.app.history import DatabaseHistory
from edgereplica.app.pull_server import PullServerEnd
from edgereplica.app.push_client import PushClientEnd
from edgereplica.app.push_server import PushServerEnd
from edgereplica.app.sync_services import open_database
from edgereplica.events.errors import ProtocolViolation
from edgereplica.events.messages import Hello
from edgereplica.events.session import PushCommitted, PushOpened
from edgereplica.fsm.effects import OpenPush
from edgereplica.fsm.server_push import ServerPush

Plant = Callable[[pytest.MonkeyPatch], None]


def compare_and_swap_left_out(patch: pytest.MonkeyPatch) -> None:
    """A push that lost the race takes the winner's place behind it."""
    commit = DatabaseHistory.commit

    async def late(self: DatabaseHistory, history: Any, version: Any, *rest: Any) -> Any:
        now = await self.open(history.database_id, history.org_id)
        head = now.head_version
        again = version.model_copy(update={"parent": head, "version": head + 1})
        return await commit(self, now, again, *rest)

    patch.setattr(DatabaseHistory, "commit", late)


def base_not_compared(patch: pytest.MonkeyPatch) -> None:
    open_push = PushServerEnd.open

    async def blind(self: Any, effect: Any) -> Any:
        hello = effect.hello
        forced = Hello(
            hello.page_size, hello.page_count, hello.base, hello.base_root, hello.root, force=True
        )
        return await open_push(self, OpenPush(forced))

    patch.setattr(PushServerEnd, "open", blind)


def committed_before_the_last_page(patch: pytest.MonkeyPatch) -> None:
    # Machines and tables look the guard up once, so its name goes on meaning the same function.
    patch.setattr(ServerPush.nothing_outstanding, "__code__", (lambda self: True).__code__)


def acknowledged_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    """The commit comes, a moment after the word of it."""
    commit = PushServerEnd.commit

    async def promise(self: Any, effect: Any) -> PushCommitted:
        later = asyncio.ensure_future(commit(self, effect))
        later.add_done_callback(lambda task: task.cancelled() or task.exception())
        return PushCommitted(self._opened.history.head_version + 1, effect.complete.root or b"")

    patch.setattr(PushServerEnd, "commit", promise)


def objects_not_synced(patch: pytest.MonkeyPatch) -> None:
    async def nothing(self: FaultyStore, key: str) -> None:
        """The word is given, and nothing was done."""

    patch.setattr(FaultyStore, "sync", nothing)


def committed_while_segments_are_uploaded(patch: pytest.MonkeyPatch) -> None:
    finish = SegmentWriter.finish

    async def at_once(self: SegmentWriter, needed: Any) -> None:
        self.close()
        later = asyncio.ensure_future(finish(self, needed))
        later.add_done_callback(lambda task: task.cancelled() or task.exception())

    patch.setattr(SegmentWriter, "finish", at_once)


def staged_segments_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A push does not resume."""
    open_stage = PageStorage.open_stage

    async def anew(self: PageStorage, **given: Any) -> Any:
        return await open_stage(self, **{**given, "staged_segment_ids": []})

    patch.setattr(PageStorage, "open_stage", anew)


def garbage_without_grace(patch: pytest.MonkeyPatch) -> None:
    """What nothing refers to is deleted at once, whatever sessions are doing with it."""

    def judge(self: Any, marked: Any, candidates: Any) -> Any:
        return [], list(marked.unreferenced)

    patch.setattr(GarbageCollector, "_judge", judge)
    patch.setattr(GarbageCollector, "_is_old", lambda self, info: True)


def v1_push_acknowledged_and_not_committed(patch: pytest.MonkeyPatch) -> None:
    commit = PushServerEnd.commit

    async def promise(self: Any, effect: Any) -> PushCommitted:
        if not self._speaks_v1:
            return await commit(self, effect)
        return PushCommitted(self._opened.history.head_version + 1, b"\0" * 32)

    patch.setattr(PushServerEnd, "commit", promise)


def v1_pull_reads_from_a_newer_head(patch: pytest.MonkeyPatch) -> None:
    """What differs is judged by one version, and sent from another."""
    read = PullServerEnd.read

    async def late(self: Any, effect: Any) -> Any:
        if self._speaks_v1:
            opened = await open_database(self._services, self._claims)
            newer = await opened.open_map(self._services.storage, opened.history.head_version)
            if newer.page_count >= self._selection.page_map.page_count:
                self._selection.page_map = newer
        return await read(self, effect)

    patch.setattr(PullServerEnd, "read", late)


def second_staged_segment_one_block_off(patch: pytest.MonkeyPatch) -> None:
    join = HeldContent._join_staged

    def off(self: Any, page_size: int, staged: Any) -> Any:
        table = join(self, page_size, staged)
        footer = staged[0][1]
        first = int((footer.page_sizes == page_size)[footer.block].sum())
        self._staged.block[first:] -= 1
        return table

    patch.setattr(HeldContent, "_join_staged", off)


def two_staged_segments_refused(patch: pytest.MonkeyPatch) -> None:
    open_stage = PageStorage.open_stage

    async def strict(self: PageStorage, **given: Any) -> Any:
        if len(given["staged_segment_ids"]) > 1:
            raise ProtocolViolation("more than one staged segment")
        return await open_stage(self, **given)

    patch.setattr(PageStorage, "open_stage", strict)


def version_asked_for_is_the_head_instead(patch: pytest.MonkeyPatch) -> None:
    """Who asks for the last version but one gets the last, and is told so."""
    choose = PullServerEnd._choose

    def newest(self: Any, opened: Any, at: Any) -> Any:
        return choose(self, opened, None if at == opened.history.head_version - 1 else at)

    patch.setattr(PullServerEnd, "_choose", newest)


def pull_gives_the_version_before_the_head(patch: pytest.MonkeyPatch) -> None:
    choose = PullServerEnd._choose

    def stale(self: Any, opened: Any, at: Any) -> Any:
        history = opened.history
        before = history.head_version - 1
        late = at is None and before > history.oldest and before % 3 == 0
        return choose(self, opened, before if late else at)

    patch.setattr(PullServerEnd, "_choose", stale)


def push_in_sync_with_the_version_before_the_head(patch: pytest.MonkeyPatch) -> None:
    """Answered from a history that lacks its last version, as a stale cache would give it."""
    open_push = PushServerEnd.open

    async def stale(self: Any, effect: Any) -> PushOpened:
        hello = effect.hello
        opened = await open_database(self._services, self._claims)
        before = opened.history.head_version - 1
        if before < opened.history.oldest or hello.root in (None, opened.head_root):
            return await open_push(self, effect)
        version = opened.history.at(before)
        if version.root != hello.root:
            return await open_push(self, effect)
        self._opened = opened
        return PushOpened(opened.info(version, hello.page_size), base_known=True)

    patch.setattr(PushServerEnd, "open", stale)


def cancellation_escapes_from_the_client(patch: pytest.MonkeyPatch) -> None:
    load = PushClientEnd.load

    async def cancelled(self: Any, effect: Any) -> Any:
        if len(effect.runs) > 1:
            raise asyncio.CancelledError
        return await load(self, effect)

    patch.setattr(PushClientEnd, "load", cancelled)


def retention_keeps_one_fewer(patch: pytest.MonkeyPatch) -> None:
    kept = retention.retention_of

    def fewer(history: Any) -> retention.Retention:
        rule = kept(history)
        return replace(rule, keep_last=max(1, rule.keep_last - 1)) if rule.keep_last else rule

    patch.setattr(retention, "retention_of", fewer)


IN_ANY_WORLD: tuple[Plant, ...] = (
    compare_and_swap_left_out,
    base_not_compared,
    committed_before_the_last_page,
    acknowledged_before_the_commit,
    objects_not_synced,
    committed_while_segments_are_uploaded,
    staged_segments_forgotten,
    v1_push_acknowledged_and_not_committed,
    v1_pull_reads_from_a_newer_head,
    second_staged_segment_one_block_off,
    two_staged_segments_refused,
    version_asked_for_is_the_head_instead,
    pull_gives_the_version_before_the_head,
    push_in_sync_with_the_version_before_the_head,
    cancellation_escapes_from_the_client,
)
IN_SLOW_WORLDS: tuple[Plant, ...] = (garbage_without_grace, retention_keeps_one_fewer)
"""Where storage is looked after."""


@contextmanager
def planted(plant: Plant) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        yield
