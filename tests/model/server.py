"""The server: its processes on one storage, and what they serve.

Each process remembers histories and pages of its own, so that whatever one commits, deletes,
compacts or collects, another has to find out. Versions are read back by objects that have cached
nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from tests.model.mortal import CrashPoint
from tests.model.process import Process
from tests.model.storages import Storage
from tests.model.wire import Wire

from edgereplica.adapters.clock import ManualClock
from edgereplica.adapters.event_log import EventLog
from edgereplica.adapters.ids import SeededIds
from edgereplica.adapters.page_storage import PageStorage
from edgereplica.adapters.ports import Repo
from edgereplica.app.history import DatabaseHistory
from edgereplica.app.sync_services import Opened
from edgereplica.app.tokens import Identity, Keyring, VerifiedClaims
from edgereplica.events.domain import (
    DatabaseCreated,
    OrganizationCreated,
    UserSignedUp,
    VersionCommitted,
)
from edgereplica.events.pages import pages_of

PROCESSES = 2
DATABASE_NAME = "db"
"""Of every database there is, one after the other."""
Pages = tuple[bytes, ...]


class Server:
    def __init__(self, storage: Storage, clock: ManualClock) -> None:
        self._storage = storage
        self.clock = clock
        self._ids = SeededIds(storage.number, clock)
        self._keyring = Keyring([b"k" * 32])
        self._org, self._user = f"org-{storage.number}", f"user-{storage.number}"
        self._turn = 0
        self.defects: list[BaseException] = []
        self.processes = tuple(
            Process(storage, clock, self._ids, self.defects) for _ in range(PROCESSES)
        )
        self.database = ""

    # Processes; without `which`, all of them

    async def start(self, which: int | None = None) -> None:
        for process in self._chosen(which):
            await process.start()

    async def stop(self, which: int | None = None) -> list[Wire]:
        """Stop them cleanly; the wires of those they served."""
        for process in self._chosen(which):
            await process.stop()
        return self._wires(which)

    async def kill(self, which: int | None = None) -> list[Wire]:
        """Kill them; the wires of those they served."""
        for process in self._chosen(which):
            await process.kill()
        return self._wires(which)

    def die_at(self, point: CrashPoint | None) -> None:
        """Whichever of them gets there."""
        for process in self.processes:
            process.mortal.armed = point and replace(point)

    @property
    def deaths(self) -> dict[int, str]:
        """Which of them died at a crash point, and where in words."""
        mortals = enumerate(process.mortal for process in self.processes)
        return {number: mortal.died for number, mortal in mortals if mortal.dead}

    def _chosen(self, which: int | None) -> Sequence[Process]:
        return self.processes if which is None else (self.processes[which],)

    def _wires(self, which: int | None) -> list[Wire]:
        return [wire for process in self._chosen(which) for wire in process.wires]

    # What a client meets

    def token(self, direction: Literal["push", "pull"], ttl_seconds: int = 600) -> str:
        token, _ = self._keyring.mint_sync(
            Identity(self._user, self._org, self._email, "admin"),
            self.database,
            direction,
            now=self.clock.now(),
            ttl_seconds=ttl_seconds,
            nonce=self._ids.token_bytes(16),
        )
        return token

    def accept(self, wire: Wire, token: str) -> None:
        """Begin a session on `wire`, or raise what the handshake is refused with.

        A process that stops takes no more: a client whose sidecar proved stale by what it was still
        told would begin anew, on a repository that is being closed.
        """
        process = self._next()
        if process.away is not None:
            raise process.away
        process.accept(wire, self._keyring.verify_sync(token, self.clock.now()))

    async def finish(self, wire: Wire) -> None:
        """Let the session on `wire`, which its client has left, do what it still does."""
        for process in self.processes:
            await process.finish(wire)

    def _next(self) -> Process:
        """In turn, and each twice: of two at a time, some meet in one process, and some do not."""
        self._turn += 1
        first = self._turn // 2 % PROCESSES
        turns = (*self.processes[first:], *self.processes[:first])
        return next((process for process in turns if process.away is None), turns[0])

    # What an administrator does

    async def sign_up(self) -> None:
        for event in (
            UserSignedUp(
                user_id=self._user, email=self._email, provider="password", subject=self._email
            ),
            OrganizationCreated(org_id=self._org, name="o", personal=True),
        ):
            await self._next().log.append([(event.stream, 0, [event])])

    async def create_database(self) -> None:
        """`AlreadyExists` while there is one: they all have the same name."""
        database = self._ids.new_id()
        event = DatabaseCreated(
            database_id=database, org_id=self._org, name=DATABASE_NAME, created_by=self._user
        )
        await self._next().log.append([(event.stream, 0, [event])])
        self.database = database

    async def delete_database(self) -> None:
        await self._next().delete_database(self.database, self._org, self._user)

    async def look_after_storage(self) -> int:
        return await self._next().look_after_storage()

    @property
    def _email(self) -> str:
        return f"{self._user}@example.org"

    # What is there, for whoever trusts none of them

    @property
    def repo(self) -> Repo:
        return self.processes[0].repo

    async def versions(self) -> list[VersionCommitted]:
        """All versions, as the log has them."""
        recorded = await EventLog(self.repo, self.clock).read(f"database:{self.database}")
        events = [entry.event for entry in recorded]
        return [event for event in events if isinstance(event, VersionCommitted)]

    async def read_version(self, version: int) -> Pages:
        """Every page of a version, by a reader that trusts no cache."""
        log = EventLog(self.repo, self.clock)
        history = await DatabaseHistory(log).open(self.database, self._org)
        claims = VerifiedClaims("sync", "", self._org, "", "", 1 << 40, b"", "", 0)
        storage = PageStorage(self._storage.store, self._ids)
        page_map = await Opened(history, claims).open_map(storage, version)
        pages: dict[int, bytes] = {}
        runs = ((1, page_map.page_count),) if page_map.page_count else ()
        async for batch in storage.reader(page_map, self._org).batches(runs):
            size = page_map.page_size
            for at, page in enumerate(pages_of(batch.runs)):
                pages[page] = bytes(batch.data[at * size : (at + 1) * size])
        return tuple(pages[number] for number in sorted(pages))
