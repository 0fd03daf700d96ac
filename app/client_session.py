"""One connection of the client: open it, run a machine over it, say what came of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

from ..adapters.ports import Transport
from ..adapters.websocket_client import connect
from ..events.errors import (
    EdgeReplicaError,
    FrameUndecodable,
    InvalidArgument,
    NetworkError,
    error_from_wire,
)
from ..events.messages import HelloReply
from ..events.session import Event
from ..events.wire import V1, V2
from ..fsm.machine import Machine
from .compression import CompressMode
from .driver import CODECS, Driver, End
from .results import Progress, ProgressHook
from .server_url import check_secure, normalize_server

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


class ClientTransport(Transport, Protocol):
    """A transport that counts: what a client reports, and what it decides compression by."""

    bytes_sent: int
    bytes_received: int
    blocked_seconds: float
    """How long `send` has waited for the link."""
    first_byte: int | None
    """What the server's first frame began with: its wire version."""


Connector = Callable[[str, str], Awaitable[ClientTransport]]
"""(URL, token) → an open connection; raises what `websocket_client.connect` raises."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller may choose for a sync; `protocol` None is v2, and v1 with an old server.

    `insecure` allows a server that is neither https nor on this machine.

    `renew_token` mints another token for the next attempt: a long push may outlive its first one.

    `connector` opens the connection: a WebSocket, unless a simulation puts its own wire there.
    """

    server: str
    token: str = field(repr=False)
    renew_token: Callable[[], str] | None = field(default=None, repr=False)
    busy_timeout_seconds: float = 5.0
    retries: int = 5
    compress: CompressMode = "auto"
    protocol: int | None = None
    checksum: bool = False
    progress: ProgressHook | None = None
    record: Path | None = None
    insecure: bool = False
    connector: Connector | None = None

    @property
    def sync_url(self) -> str:
        url = normalize_server(self.server)
        return "ws" + url.removeprefix("http") + "/sync"

    @property
    def on_loopback(self) -> bool:
        return urlsplit(self.server).hostname in LOOPBACK_HOSTS

    def database_of(self, reply: HelloReply | None) -> str:
        """The id of the database that answered. Wire v1 does not say it, nor does a refusal: then
        what the token claims; empty if that cannot be read either."""
        if reply is not None and reply.database:
            return reply.database
        from .token_view import claimed_database  # noqa: PLC0415 - only with an old server

        return claimed_database(self.token)

    def tell(self, progress: Progress) -> None:
        if self.progress is not None:
            self.progress(progress)


class OldServer(EdgeReplicaError):
    """The server answered in wire v1: it does not speak v2. Internal: the session is run again."""


async def run_session(
    options: Options,
    wire_version: int,
    direction: Literal["push", "pull"],
    make: Callable[[ClientTransport], tuple[Machine, End, Event]],
) -> tuple[Machine, ClientTransport]:
    """Connect, run the machine that `make` gives until it is done, and raise what went wrong."""
    transport = await _connected(options, direction)
    machine, end, first = make(transport)
    recorder = None
    if options.record is not None:
        from .replay import FileRecorder  # noqa: PLC0415 - only where a session is recorded

        recorder = FileRecorder(options.record, machine)
    driver = Driver(machine, end, transport, codec=CODECS[wire_version], recorder=recorder)
    try:
        await driver.run(first)
    finally:
        await transport.close(1000, "")
        if recorder is not None:
            recorder.close()
    if machine.refusal is not None:
        refusal = machine.refusal
        raise error_from_wire(refusal.code, refusal.message, refusal.details)
    if driver.failure is not None:
        if (
            wire_version == V2
            and isinstance(driver.failure, FrameUndecodable)
            and transport.first_byte == V1
        ):
            raise OldServer("the server speaks wire v1") from driver.failure
        raise driver.failure
    if machine.state_id == "lost":
        raise NetworkError("the connection to the server was lost")
    return machine, transport


async def _connected(options: Options, direction: Literal["push", "pull"]) -> ClientTransport:
    if options.connector is not None:
        return await options.connector(options.sync_url, options.token)
    check_secure(normalize_server(options.server), insecure=options.insecure)
    return await connect(options.sync_url, options.token, direction)


def check_options(options: Options) -> None:
    if options.protocol not in (None, 1, 2):
        raise InvalidArgument("protocol is 1, 2 or None")
    if options.retries < 0:
        raise InvalidArgument("retries is 0 or more")
    normalize_server(options.server)
