"""Flaws of the product that the model must find, each planted by a patch."""

import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgereplica.adapters import local_apply
from edgereplica.adapters.segment_writer import SegmentWriter
from edgereplica.adapters.staged_content import HeldContent
from edgereplica.app import pull_client, push_session
from edgereplica.app.history import DatabaseHistory
from edgereplica.app.pull_client import PullClientEnd
from edgereplica.app.pull_server import PullServerEnd
from edgereplica.app.push_server import PushServerEnd
from edgereplica.app.sync_services import PageAllowance, open_database
from edgereplica.app.tokens import Keyring
from edgereplica.events.errors import Conflict, FileBusy, NetworkError, ProtocolViolation
from edgereplica.events.messages import Hello
from edgereplica.events.session import PushCommitted, PushOpened
from edgereplica.fsm.effects import OpenPush


def last_writer_wins(patch: pytest.MonkeyPatch) -> None:
    """No compare-and-swap: a push that lost the race takes the winner's place behind it."""
    commit = DatabaseHistory.commit

    async def late(self: DatabaseHistory, history: Any, version: Any, *rest: Any) -> Any:
        now = await self.open(history.database_id, history.org_id)
        head = now.head_version
        again = version.model_copy(update={"parent": head, "version": head + 1})
        return await commit(self, now, again, *rest)

    patch.setattr(DatabaseHistory, "commit", late)


def conflicts_are_not_seen(patch: pytest.MonkeyPatch) -> None:
    """The base is not compared with the head."""
    open_push = PushServerEnd.open

    async def blind(self: Any, effect: Any) -> Any:
        hello = effect.hello
        forced = Hello(
            hello.page_size, hello.page_count, hello.base, hello.base_root, hello.root, force=True
        )
        return await open_push(self, OpenPush(forced))

    patch.setattr(PushServerEnd, "open", blind)


def pushes_are_answered_from_a_stale_history(patch: pytest.MonkeyPatch) -> None:
    """Who holds the version before the head is in sync with it: as where another server committed,
    and this one believes what it remembers."""
    open_push = PushServerEnd.open

    async def stale(self: Any, effect: Any) -> Any:
        hello = effect.hello
        opened = await open_database(self._services, self._claims)
        history, before = opened.history, opened.history.head_version - 1
        if before < max(1, history.oldest) or history.at(before).root != hello.root:
            return await open_push(self, effect)
        self._opened = opened
        return PushOpened(opened.info(history.at(before), hello.page_size), base_known=True)

    patch.setattr(PushServerEnd, "open", stale)


def histories_are_read_once(patch: pytest.MonkeyPatch) -> None:
    """A process believes what it remembers of a database, whatever another committed."""
    peek = DatabaseHistory.peek

    async def remembered(self: DatabaseHistory, database_id: str) -> Any:
        return self.cached(database_id) or await peek(self, database_id)

    patch.setattr(DatabaseHistory, "peek", remembered)


def acknowledged_too_soon(patch: pytest.MonkeyPatch) -> None:
    """The client is told of a version that is not in the log."""

    async def promise(self: Any, effect: Any) -> PushCommitted:
        return PushCommitted(
            self._opened.history.head_version + 1, effect.complete.root or bytes(32)
        )

    patch.setattr(PushServerEnd, "commit", promise)


def local_changes_are_overwritten(patch: pytest.MonkeyPatch) -> None:
    """A pull does not ask whether the file was changed."""
    patch.setattr(PullClientEnd, "is_known_version", staticmethod(lambda content, reply: True))


def writes_meanwhile_are_overwritten(patch: pytest.MonkeyPatch) -> None:
    """An installation does not look whether the file was written to since it was compared."""
    patch.setattr(PullClientEnd, "_check_unchanged", lambda self: None)


def uploads_come_after_the_commit(patch: pytest.MonkeyPatch) -> None:
    finish, commit = SegmentWriter.finish, DatabaseHistory.commit
    put_off: list[Callable[[], Coroutine[Any, Any, None]]] = []

    async def later(self: SegmentWriter, needed: Any) -> None:
        self.close()
        put_off.append(lambda: finish(self, needed))

    async def first(self: DatabaseHistory, *given: Any) -> Any:
        committed = await commit(self, *given)
        while put_off:
            await put_off.pop()()
        return committed

    patch.setattr(SegmentWriter, "finish", later)
    patch.setattr(DatabaseHistory, "commit", first)


def tokens_never_expire(patch: pytest.MonkeyPatch) -> None:
    verify = Keyring.verify_sync
    patch.setattr(Keyring, "verify_sync", lambda self, token, now: verify(self, token, 0.0))


def allowances_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    """A token's `max_bytes` says nothing."""
    patch.setattr(PageAllowance, "take", lambda self, pages, page_size: None)


def conflicts_are_called_a_lost_connection(patch: pytest.MonkeyPatch) -> None:
    run = push_session.run_session

    async def lose(*given: Any) -> Any:
        try:
            return await run(*given)
        except Conflict as error:
            raise NetworkError("as planted") from error

    patch.setattr(push_session, "run_session", lose)


def v1_pulls_read_the_newest_head(patch: pytest.MonkeyPatch) -> None:
    """The version is chosen when the session opens, its pages when they are read."""
    read = PullServerEnd.read

    async def newest(self: Any, effect: Any) -> Any:
        if self._speaks_v1:
            opened = await open_database(self._services, self._claims)
            storage, head = self._services.storage, opened.history.head_version
            self._selection.page_map = await opened.open_map(storage, head)
        return await read(self, effect)

    patch.setattr(PullServerEnd, "read", newest)


def the_version_before_the_head_is_the_head(patch: pytest.MonkeyPatch) -> None:
    choose = PullServerEnd._choose

    def later(self: Any, opened: Any, at: Any) -> Any:
        return choose(self, opened, at + 1 if at == opened.history.head_version - 1 else at)

    patch.setattr(PullServerEnd, "_choose", later)


def files_are_not_cut(patch: pytest.MonkeyPatch) -> None:
    """The header says how many pages there are; the file is longer."""

    class Keeping:
        def __init__(self, connection: Any) -> None:
            self._connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

        def execute(self, sql: str, values: Any = ()) -> Any:
            if values and values[1] is None:
                return None
            return self._connection.execute(sql, values)

    connect = local_apply.connect
    patch.setattr(local_apply, "connect", lambda *given, **more: Keeping(connect(*given, **more)))


def second_segment_is_off_by_one(patch: pytest.MonkeyPatch) -> None:
    """Of what an interrupted push staged, as a resumed one refers to it."""
    join = HeldContent._join_staged

    def join_wrongly(self: Any, page_size: int, staged: Any) -> Any:
        table = join(self, page_size, staged)
        first = len(staged[0][1].block)
        self._staged.block[first:] -= 1
        return table

    patch.setattr(HeldContent, "_join_staged", join_wrongly)


def two_segments_are_too_many(patch: pytest.MonkeyPatch) -> None:
    join = HeldContent._join_staged

    def refuse(self: Any, page_size: int, staged: Any) -> Any:
        if len(staged) > 1:
            raise ProtocolViolation("as planted")
        return join(self, page_size, staged)

    patch.setattr(HeldContent, "_join_staged", refuse)


def pages_are_written_past_sqlite(patch: pytest.MonkeyPatch) -> None:
    apply = pull_client.apply_version

    def write(path: Path, **rest: Any) -> Any:
        applied = apply(path, **rest)
        with path.open("r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(bytes(100))
        return applied

    patch.setattr(pull_client, "apply_version", write)


def readers_are_waited_for(patch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **rest: Any) -> Any:
        raise FileBusy(f"{path} is open elsewhere")

    patch.setattr(pull_client, "apply_version", refuse)


@contextmanager
def left_in_another_mode(connection: object, header: object) -> Iterator[None]:
    """What should give a file that was not replaced its journal mode back."""
    yield
