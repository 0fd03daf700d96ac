"""Syncs as the authorization matrix tries them: both wire versions, honest clients and rude ones.

What came of an attempt is judged by content: by all pages of the database afterwards, and by what
the client was sent; not by how the client felt about it.
"""

import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgpack
from tests.integration.organizations import MISSING, Organization
from tests.integration.running import database_of
from tests.interop import v1_peer
from websockets.exceptions import ConnectionClosed, InvalidStatus

from edgereplica.adapters.websocket_client import WebSocketTransport, connect
from edgereplica.app.driver import CODECS
from edgereplica.app.replica import AsyncReplica
from edgereplica.events.errors import (
    Conflict,
    EdgeReplicaError,
    NetworkError,
    ProtocolError,
    RemoteError,
)
from edgereplica.events.messages import Complete, ErrorMessage, Hello, PageData, PageHashes

WIRES = ("v1", "v2")
_NO_DATABASE = "there is no database"


def pages_of(path: Path) -> list[bytes]:
    content = path.read_bytes()
    return [content[at : at + 4096] for at in range(0, len(content), 4096)]


@dataclass
class Syncs:
    """Two contents of a database; the head of each is `before` when an attempt begins."""

    before: Path
    after: Path
    attempts: int = 0

    @classmethod
    def make(cls, folder: Path) -> "Syncs":
        before, after = folder / "before.db", folder / "after.db"
        database_of(before, rows=2)
        shutil.copyfile(before, after)
        database_of(after, rows=2)
        return cls(before, after)

    async def prepare(self, organization: Organization) -> None:
        world = organization.world
        token = await world.sync_token(organization.admin.home, organization.database, "push")
        pushed = await v1_peer.push(world.sync_url, token, pages_of(self.before))
        assert pushed.sync_complete

    async def content(self, organization: Organization) -> list[bytes]:
        world = organization.world
        token = await world.sync_token(organization.admin.home, organization.database, "pull")
        return (await v1_peer.pull(world.sync_url, token)).pages

    async def attempt(
        self, organization: Organization, call: str, caller: str, whose: str, wire: str
    ) -> str:
        """What came of it: "ok", "nothing moves" or the code of the refusal.

        `AssertionError` if what the database holds, or what was pulled, is neither of the two.
        """
        direction = "push" if "push" in call else "pull"
        token = await organization.token(caller)
        plain = caller.endswith(" token")
        if whose == "foreign" and plain:
            way = "push" if "push" in caller else "pull"
            token = organization.forged(caller, way, organization.strangers_database)
        if "told" in call or wire == "v2":
            told = "told" in call
            said, got = await self._replica(organization, direction, token, wire, told=told)
        else:
            said, got = await self._peer(organization, direction, token)
        if direction == "push" and said == "nothing moves":
            said = await self._rude(organization, token, wire)
        held = await self.content(organization) if said in {"ok", "nothing moves"} else None
        return self._judged(direction, said, got, held)

    def _judged(self, direction: str, said: str, got: list[bytes], held: list[bytes] | None) -> str:
        before, after = pages_of(self.before), pages_of(self.after)
        if held is None:
            assert got == [], "what was refused was sent all the same"
            return said
        if direction == "push":
            assert held in (before, after), "the database holds what nobody pushed"
            assert held == after or said != "ok", "the push is said to be done and is not"
            return "ok" if held == after else "nothing moves"
        assert held == before, "a pull changed the database"
        assert got in ([], before), "the pull got something else than the head"
        return "ok" if got else "nothing moves"

    async def _replica(
        self,
        organization: Organization,
        direction: str,
        token: str | None,
        wire: str,
        *,
        told: bool,
    ) -> tuple[str, list[bytes]]:
        """This project's client, which says what it means unless it is told not to."""
        self.attempts += 1
        path = self.before.parent / f"attempt-{self.attempts}" / "app.db"
        path.parent.mkdir()
        if direction == "push":
            shutil.copyfile(self.after, path)
        client = AsyncReplica(
            path,
            server=organization.world.url,
            token=token or MISSING,
            protocol=int(wire[1:]),
            retries=0,
        )
        if not told:
            client.options = replace(client.options, connector=_untold)
        said = "ok"
        try:
            await (client.push(force=True) if direction == "push" else client.pull())
        except EdgeReplicaError as refused:
            said = refused.code
            if isinstance(refused, ProtocolError | RemoteError | Conflict):
                said = "not_found" if _NO_DATABASE in str(refused) else "nothing moves"
        pulled = direction == "pull" and path.exists()
        return said, pages_of(path) if pulled else []

    async def _peer(
        self, organization: Organization, direction: str, token: str | None
    ) -> tuple[str, list[bytes]]:
        """An original client, with all that it was sent."""
        pages = pages_of(self.after) if direction == "push" else []
        messages: list[v1_peer.Message] = []
        try:
            async with v1_peer.session(organization.world.sync_url, token) as peer:
                await peer.send("hello", protocol_version=1, page_size=4096, max_page=0)
                for number, page in enumerate(pages, 1):
                    await peer.announce(number, page)
                await peer.send("complete")
                with suppress(ConnectionClosed):
                    while True:
                        kind, data = await peer.receive()
                        messages.append((kind, data))
                        if kind in {"request_page", "request_pages"}:
                            for number in v1_peer.named_pages(kind, data):
                                page = pages[number - 1]
                                await peer.send("page_data", page_no=number, data=page)
        except InvalidStatus as refused:
            assert refused.response.status_code == 401
            return "unauthenticated", []
        assert messages[-1][0] in {"sync_complete", "error"}, messages[-1]
        if _NO_DATABASE in str(messages[-1]):
            return "not_found", self._sent(messages)
        got = self._sent(messages) if direction == "pull" else []
        moved = got or any(kind.startswith("request_page") for kind, _ in messages)
        return "ok" if moved and messages[-1][0] == "sync_complete" else "nothing moves", got

    def _sent(self, messages: list[v1_peer.Message]) -> list[bytes]:
        """The pages of the head that are somewhere in what the server said."""
        everything = msgpack.packb(messages, use_bin_type=True)
        return [page for page in pages_of(self.before) if page in everything]

    async def _rude(self, organization: Organization, token: str | None, wire: str) -> str:
        """Send pages that nobody asked for: what the server calls it that did not want them."""
        pages, codec = pages_of(self.after), CODECS[int(wire[1:])]
        digests = b"".join(v1_peer.page_hash(page) for page in pages)
        root = v1_peer.combined_hash(pages)
        runs = ((1, len(pages)),)
        transport = await connect(organization.world.sync_url, token or MISSING)
        last = None
        with suppress(NetworkError):
            for message in (
                Hello(page_size=4096, page_count=len(pages), force=True),
                PageHashes(((1, digests),)),
                PageData(runs, "raw", b"".join(pages)),
                Complete(len(pages), root, force=True),
            ):
                for frame in codec.encode(message):
                    await transport.send(frame)
            while True:
                last = codec.decode(await transport.receive())
        await transport.close(1000, "")
        assert isinstance(last, ErrorMessage), last
        assert "page_data" in last.message, last
        return "nothing moves"


async def _untold(url: str, token: str) -> WebSocketTransport:
    return await connect(url, token)
