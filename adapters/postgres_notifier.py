"""Changes told to all servers by PostgreSQL's LISTEN and NOTIFY: ids only.

What is published is sent by a task of its own, after the transaction it tells of: a NOTIFY inside
of that transaction would make all commits of the database wait for each other (PostgreSQL holds one
lock for the queue until the commit is on disk), and would gain nothing, since a notification may be
lost anyway. Changes that wait are sent together.

The listening connection is made again when it is lost. What was missed is not known then, which is
said as `resumed`.
"""

import asyncio
import contextlib
from typing import Any, Final

import psycopg

from ..events.errors import EdgeReplicaError, StorageError
from ..events.limits import NOTIFICATIONS_QUEUED_MAX, REPO_RECONNECT_SECONDS
from .notifier import LocalNotifier, decode, encode
from .ports import Change, Repo
from .postgres_pool import Connection, connect, parameters_of

_CHANNEL: Final = "edgereplica_changes"


class PostgresNotifier(LocalNotifier):
    """A `Notifier` over the database at `url`; sends through `repo`, which is on the same one."""

    def __init__(self, url: str, repo: Repo, sender: str) -> None:
        super().__init__()
        self._parameters: dict[str, Any] = parameters_of(url)
        self._repo = repo
        self._sender = sender
        self._outbox: asyncio.Queue[Change] = asyncio.Queue(NOTIFICATIONS_QUEUED_MAX)
        self._tasks: list[asyncio.Task[None]] = []
        self.listening = asyncio.Event()

    def publish(self, change: Change) -> None:
        super().publish(change)
        if self._outbox.full():
            self._outbox.get_nowait()
        self._outbox.put_nowait(change)

    async def start(self) -> None:
        connection = await self._listen()
        self._tasks = [
            asyncio.create_task(self._hear(connection)),
            asyncio.create_task(self._send()),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await super().close()

    async def _listen(self) -> Connection:
        try:
            connection = await connect(self._parameters)
            await connection.execute(f"LISTEN {_CHANNEL}".encode())
        except psycopg.Error as error:
            raise StorageError("the database cannot be listened to") from error
        self.listening.set()
        return connection

    async def _hear(self, connection: Connection) -> None:
        while True:
            try:
                async with connection:
                    async for notification in connection.notifies():
                        sender, _, payload = notification.payload.partition(" ")
                        if sender != self._sender:
                            for change in decode(payload):
                                self.deliver(change)
            except psycopg.OperationalError:
                self.listening.clear()
            connection = await self._listen_again()
            self.deliver(Change("resumed"))

    async def _listen_again(self) -> Connection:
        while True:
            with contextlib.suppress(StorageError):
                return await self._listen()
            await asyncio.sleep(REPO_RECONNECT_SECONDS)

    async def _send(self) -> None:
        while True:
            changes = [await self._outbox.get()]
            while not self._outbox.empty():
                changes.append(self._outbox.get_nowait())
            for payload in encode(changes):
                with contextlib.suppress(EdgeReplicaError):  # lost, as a notification may be
                    await self._repo.first(
                        "SELECT pg_notify(?, ?) AS sent", _CHANNEL, f"{self._sender} {payload}"
                    )
