"""PostgreSQL goes away at every message of a push, once before it heard it and once before it could
answer: nothing is committed twice, nothing that was acknowledged is lost, the next push works."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.helpers_postgres import Postgres
from tests.helpers_scaled import User, change, make_database, rows, scaled_out, server

from edgereplica.adapters.notifier import LocalNotifier
from edgereplica.events.errors import NetworkError, StorageError


class Cutter:
    """A proxy in front of PostgreSQL. Every connection is lost at the n-th message from `arm`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._left: int | None = None
        self._heard = False
        self._open: set[asyncio.StreamWriter] = set()
        self.cuts = 0

    def arm(self, message: int, *, heard: bool) -> None:
        """`heard`: the n-th message reaches PostgreSQL, and its answer does not come back."""
        self._left, self._heard = message, heard

    def disarm(self) -> None:
        self._left = None

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        listener = await asyncio.start_server(self._accept, "127.0.0.1")
        try:
            yield listener.sockets[0].getsockname()[1]
        finally:
            listener.close()
            self._cut()
            await listener.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._open |= {writer, back}
        answers = asyncio.create_task(self._answer(there, writer))
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                last = self._is_last()
                if not last or self._heard:
                    back.write(data)
                    await back.drain()
                if last and self._heard:
                    # What came was carried out when PostgreSQL asks for more or says so.
                    await self._carried_out.wait()
                if last:
                    self._cut()
        answers.cancel()
        for stream in (writer, back):
            stream.close()
            self._open.discard(stream)

    def _is_last(self) -> bool:
        if self._left is None:
            return False
        self._left -= 1
        if self._left:
            return False
        self._left = None
        self._swallows = self._heard
        self._carried_out = asyncio.Event()
        return True

    _swallows = False

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await there.read(65_536):
                if self._swallows:
                    self._swallows = False
                    self._carried_out.set()
                    return
                writer.write(data)
                await writer.drain()

    def _cut(self) -> None:
        self.cuts += 1
        for stream in self._open:
            stream.transport.abort()


@pytest.mark.parametrize("heard", [False, True], ids=["unheard", "unanswered"])
def test_a_connection_lost_at_any_message_of_a_push(
    postgres: Postgres, tmp_path: Path, heard: bool
) -> None:
    async def main() -> None:
        url = postgres.database()
        cutter = Cutter(postgres.port)
        async with cutter.listening() as port:
            through = url.replace(f":{postgres.port}/", f":{port}/")
            assert urlsplit(through).port == port
            settings = scaled_out(through, "memory://")
            async with server(settings, notifier=LocalNotifier()) as running:
                user = await User.signup(running.base)
                source = tmp_path / "source.db"
                make_database(source)
                await user.replica(running.base, source).push()
                version, message, failed = 1, 0, 0
                while True:
                    message, version, before = message + 1, version + 1, cutter.cuts
                    change(source, message)
                    cutter.arm(message, heard=heard)
                    try:
                        pushed = await user.replica(running.base, source, retries=0).push()
                        assert pushed.version == version
                    except (StorageError, NetworkError):
                        failed += 1
                    cutter.disarm()
                    assert (await user.replica(running.base, source).push()).version == version
                    if cutter.cuts == before:
                        break  # the push was over before the n-th message
                assert message > 6
                assert failed > 0
                committed = await running.core.repo.first(
                    "SELECT COUNT(*) AS n FROM events WHERE kind = ?", "version_committed"
                )
                assert committed == {"n": version}
                await user.pulled(running.base, tmp_path / "back.db")
                assert rows(tmp_path / "back.db") == rows(source)

    asyncio.run(main())


def test_twelve_pushes_at_once_share_two_connections(postgres: Postgres, tmp_path: Path) -> None:
    """One to write and one to read: whoever finds none waits, and nobody for two."""

    async def main() -> None:
        settings = scaled_out(postgres.database(), "memory://", database_connections=2)
        async with server(settings) as running:
            users = [
                await User.signup(running.base, f"u{number}@example.org") for number in range(12)
            ]

            async def one(number: int) -> None:
                source = tmp_path / f"{number}.db"
                make_database(source, seed=number)
                for version in (1, 2):
                    change(source, version)
                    pushed = await users[number].replica(running.base, source).push()
                    assert pushed.version == version

            await asyncio.gather(*map(one, range(12)))

    asyncio.run(main())
