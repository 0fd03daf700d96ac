"""A sync side that does nothing but remember, for tests of everything else."""

from dataclasses import dataclass, field

from edgereplica.app.edge import Receive, Scope, Send


@dataclass
class StubSync:
    """Echoes one frame; a client that says `fail` makes it raise."""

    deleted: list[str] = field(default_factory=list)
    ended_with_grace: list[float] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        await receive()
        await send({"type": "websocket.accept"})
        frame = (await receive()).get("bytes")
        if frame == b"fail":
            raise RuntimeError("the sync side broke")
        await send({"type": "websocket.send", "bytes": frame})
        await send({"type": "websocket.close", "code": 1000})

    def databases(self) -> set[str]:
        return set()

    def end_database(self, database_id: str) -> None:
        self.deleted.append(database_id)

    async def shutdown(self, grace_seconds: float) -> None:
        self.ended_with_grace.append(grace_seconds)
