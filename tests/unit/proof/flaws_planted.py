"""Flaws of the server, planted in this process, that the simulation must find."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from proof.sim.storage import FaultyStore

from edgereplica.adapters.page_storage import PageStorage
from edgereplica.adapters.segment_writer import SegmentWriter
from edgereplica.app.gc import GarbageCollector
from edgereplica.app.history import DatabaseHistory
from edgereplica.app.push_server import PushServerEnd
from edgereplica.events.messages import Hello
from edgereplica.events.session import PushCommitted
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


IN_ANY_WORLD: tuple[Plant, ...] = (
    compare_and_swap_left_out,
    base_not_compared,
    committed_before_the_last_page,
    acknowledged_before_the_commit,
    objects_not_synced,
    committed_while_segments_are_uploaded,
    staged_segments_forgotten,
)
IN_SLOW_WORLDS: tuple[Plant, ...] = (garbage_without_grace,)
"""Where storage is looked after."""


@contextmanager
def planted(plant: Plant) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        yield
