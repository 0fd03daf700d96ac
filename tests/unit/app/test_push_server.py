"""The server's end of a push, on storage in memory."""

import asyncio

import pytest

from edgereplica.adapters import migrations
from edgereplica.adapters.clock import ManualClock
from edgereplica.adapters.event_log import EventLog
from edgereplica.adapters.hashing import hash_pages, root_of
from edgereplica.adapters.ids import SeededIds
from edgereplica.adapters.memory_repo import MemoryRepo
from edgereplica.adapters.memory_store import MemoryStore
from edgereplica.adapters.page_storage import PageStorage
from edgereplica.app.history import DatabaseHistory
from edgereplica.app.push_server import PushServerEnd
from edgereplica.app.revocations import Revocations
from edgereplica.app.sync_services import SyncServices
from edgereplica.app.tokens import VerifiedClaims
from edgereplica.events.domain import (
    DatabaseCreated,
    MemberAdded,
    OrganizationCreated,
    UserSignedUp,
)
from edgereplica.events.errors import Conflict
from edgereplica.events.messages import Complete, Hello
from edgereplica.events.session import PushCommitted
from edgereplica.fsm.effects import CommitPush, CompareHashes, OpenPush, StagePages

SIZE = 512
CLAIMS = VerifiedClaims(
    "sync", "u", "o", "u@e.org", "admin", 1 << 40, b"", "", 0, database_id="d", direction="push"
)


async def services() -> SyncServices:
    clock = ManualClock()
    repo = MemoryRepo()
    await migrations.migrate(repo)
    log = EventLog(repo, clock)
    for event in (
        UserSignedUp(user_id="u", email="u@e.org", provider="password", subject="u@e.org"),
        OrganizationCreated(org_id="o", name="o", personal=True),
        DatabaseCreated(database_id="d", org_id="o", name="main", created_by="u"),
    ):
        await log.append([(event.stream, 0, [event])])
    storage = PageStorage(MemoryStore(), SeededIds(1, clock))
    member = MemberAdded(org_id="o", user_id="u", role="admin")
    await log.append([(member.stream, 1, [member])])
    still_good = Revocations(repo, log).check
    return SyncServices(repo, log, DatabaseHistory(log), storage, clock, still_good)


async def complete_but_for_the_commit(end: PushServerEnd, page: bytes) -> CommitPush:
    """A push of one page up to the moment of its commit."""
    digests = hash_pages(page, SIZE)
    await end.open(OpenPush(Hello(SIZE, 1, base=0)))
    await end.compare_hashes(CompareHashes(((1, digests),)))
    await end.stage(StagePages(((1, 1),), "raw", page))
    return CommitPush(Complete(1, root_of(digests)))


async def race(first_page: bytes, second_page: bytes) -> PushCommitted:
    """Two unforced pushes on the empty database reach their commit together; the second's end."""
    shared = await services()
    first, second = PushServerEnd(shared, CLAIMS), PushServerEnd(shared, CLAIMS)
    early = await complete_but_for_the_commit(first, first_page)
    late = await complete_but_for_the_commit(second, second_page)
    assert (await first.commit(early)).version == 1
    return await second.commit(late)


def test_a_retried_push_does_not_conflict_with_its_own_lost_session() -> None:
    """The client lost the connection and tries again, while the server goes on with the first."""
    page = b"p" * SIZE
    committed = asyncio.run(race(page, page))
    assert (committed.version, committed.root) == (1, root_of(hash_pages(page, SIZE)))


def test_of_two_pushes_that_reach_the_commit_together_one_wins() -> None:
    with pytest.raises(Conflict):
        asyncio.run(race(b"p" * SIZE, b"q" * SIZE))
