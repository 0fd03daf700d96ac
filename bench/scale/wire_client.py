"""A client that is only its protocol: an image in memory and a WebSocket.

The real one reads a SQLite file, keeps a sidecar and runs a machine: as much work for a small push
as the server has. On a machine that both share, a crowd of these leaves the server the processors.
"""

from edgereplica.adapters.websocket_client import WebSocketTransport, connect
from edgereplica.events.messages import (
    HelloReply,
    Message,
    PageData,
    PageHashes,
    RequestPages,
    SyncComplete,
)
from edgereplica.events.wire_v2 import WireV2

from .world import Image

_CODEC = WireV2()


class WireClient:
    """Pushes an image to one server, a connection each time."""

    def __init__(self, url: str, token: str, image: Image) -> None:
        self._url = url
        self._token = token
        self.image = image

    async def push(self) -> None:
        image, transport = self.image, await connect(self._url, self._token, "push")
        await _send(transport, image.hello())
        assert isinstance(await _receive(transport), HelloReply)
        await _send(transport, PageHashes(image.windows()))
        wanted = await _receive(transport)
        assert isinstance(wanted, RequestPages)
        for runs, data in image.batches(wanted.runs):
            await _send(transport, PageData(runs, "zstd", data))
        await _send(transport, image.complete())
        done = await _receive(transport)
        assert isinstance(done, SyncComplete), done
        assert done.version is not None
        assert done.root is not None
        await transport.close(1000, "")
        image.pushed(done.version, done.root)


async def _send(transport: WebSocketTransport, message: Message) -> None:
    for frame in _CODEC.encode(message):
        await transport.send(frame)


async def _receive(transport: WebSocketTransport) -> Message:
    return _CODEC.decode(await transport.receive())
