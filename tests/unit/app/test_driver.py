"""The driver: errors become events, a lost connection is one, a defect is told and raised."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from tests import fake_ends as fakes
from tests.fake_ends import FakeDatabase, FakeFile

from edgereplica.adapters.memory_transport import MemoryTransport, memory_pair
from edgereplica.app.driver import CODECS, Driver
from edgereplica.events.errors import (
    EdgeReplicaError,
    FrameUndecodable,
    NetworkError,
    NotFound,
    ProtocolViolation,
    StorageError,
)
from edgereplica.events.limits import COALESCED_FRAMES_MAX
from edgereplica.events.messages import (
    Complete,
    ErrorMessage,
    Hello,
    Message,
    PageHashes,
    RequestPages,
    SyncComplete,
)
from edgereplica.events.session import Event, MessageReceived
from edgereplica.fsm import effects as fx
from edgereplica.fsm.client_push import ClientPush
from edgereplica.fsm.machine import Machine
from edgereplica.fsm.server_push import ServerPush

H = bytes(32)
HELLO = {1: Hello(512), 2: Hello(512, 1)}


class Recorded:
    """A recorder that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.refused: list[tuple[Event, str]] = []

    def record(self, event: Event, effects: tuple[fx.Effect, ...]) -> None:
        self.events.append(event)

    def refuse(self, event: Event, error: EdgeReplicaError) -> None:
        self.refused.append((event, error.code))


class Peer:
    """The other end of a server's connection, speaking one version."""

    def __init__(self, transport: MemoryTransport, wire: int) -> None:
        self.transport, self.codec = transport, CODECS[wire]

    async def say(self, *messages: Message) -> None:
        for message in messages:
            for frame in self.codec.encode(message):
                await self.transport.send(frame)

    async def hear_all(self) -> list[Message]:
        """What the server says until it hangs up."""
        heard: list[Message] = []
        try:
            while True:
                heard.append(self.codec.decode(await self.transport.receive()))
        except NetworkError:
            return heard


class Serving:
    """A server's driver in a running loop, and the peer it serves."""

    def __init__(self, wire: int, end: Any = None, machine: Machine | None = None) -> None:
        near, self.far = memory_pair()
        self.peer = Peer(near, wire)
        self.end = end or fakes.PushServerEnd(FakeDatabase())
        self.recorder = Recorded()
        self.driver = Driver(machine or ServerPush(), self.end, self.far, recorder=self.recorder)

    async def run(self) -> list[Message]:
        async with asyncio.timeout(20):
            await self.driver.run()
            return await self.peer.hear_all()


def run(scenario: Any) -> Any:
    return asyncio.run(scenario)


class EndWith:
    """A push server's end with one effect replaced."""

    def __init__(self, **replaced: Any) -> None:
        self.inner = fakes.PushServerEnd(FakeDatabase())
        self.replaced = replaced

    @property
    def handlers(self) -> Mapping[type, Any]:
        return {**self.inner.handlers, **{getattr(fx, k): v for k, v in self.replaced.items()}}


def raising(error: BaseException) -> Callable[[Any], Any]:
    async def handler(effect: Any) -> Event | None:
        raise error

    return handler


@pytest.mark.parametrize("wire", [1, 2])
def test_an_error_of_an_end_is_told_before_the_close(wire: int) -> None:
    error = StorageError("the disk is gone", key="k")

    async def scenario() -> None:
        serving = Serving(wire, EndWith(OpenPush=raising(error)))
        await serving.peer.say(HELLO[wire])
        (told,) = await serving.run()
        assert isinstance(told, ErrorMessage)
        assert told.message == "the disk is gone"
        if wire == 2:
            assert (told.code, told.retryable, told.details) == ("storage", True, {"key": "k"})
        assert serving.far.closed_with == 1011
        assert serving.driver.failure is error
        assert serving.driver.machine.state_id == "refused"

    run(scenario())


@pytest.mark.parametrize("wire", [1, 2])
def test_a_defect_is_told_as_internal_and_raised(wire: int) -> None:
    defect = ZeroDivisionError("secret detail")

    async def scenario() -> None:
        serving = Serving(wire, EndWith(CompareHashes=raising(defect)))
        await serving.peer.say(HELLO[wire], PageHashes(((1, H),)))
        with pytest.raises(ZeroDivisionError):
            await serving.run()
        told = (await serving.peer.hear_all())[-1]
        assert isinstance(told, ErrorMessage)
        assert told.message == "internal error"
        assert serving.far.closed_with == 1011
        assert serving.end.inner.abandoned

    run(scenario())


def test_a_cancelled_session_is_cancelled() -> None:
    async def scenario() -> None:
        serving = Serving(2, EndWith(OpenPush=raising(asyncio.CancelledError())))
        await serving.peer.say(HELLO[2])
        with pytest.raises(asyncio.CancelledError):
            await serving.driver.run()
        assert serving.far.closed_with is None

    run(scenario())


@pytest.mark.parametrize("wire", [1, 2])
def test_a_refused_event_ends_the_session_with_a_word(wire: int) -> None:
    async def scenario() -> None:
        serving = Serving(wire)
        await serving.peer.say(HELLO[wire], HELLO[wire])
        told = (await serving.run())[-1]
        assert isinstance(told, ErrorMessage)
        assert "hello is not allowed in state receiving" in told.message
        assert serving.far.closed_with == 1002
        assert isinstance(serving.driver.failure, ProtocolViolation)
        assert [code for _, code in serving.recorder.refused] == ["protocol_violation"]
        assert len(serving.recorder.events) == 3

    run(scenario())


@pytest.mark.parametrize(
    ("frame", "codec"),
    [
        (b"", 1),
        (b"\x07", 1),
        (b"\x01\xc1", 1),
        (b"\x02\xc1", 2),
        (b"\x02" + CODECS[1].encode(Complete())[0][1:], 2),
    ],
)
def test_the_first_byte_chooses_the_version_of_the_answer(frame: bytes, codec: int) -> None:
    """A peer of neither version is answered in v1, the older."""

    async def scenario() -> None:
        serving = Serving(codec)
        await serving.peer.transport.send(frame)
        (told,) = await serving.run()
        assert isinstance(told, ErrorMessage)
        assert serving.far.closed_with == 1002
        assert serving.driver.wire_version in (codec, None)

    run(scenario())


def test_the_version_stays_what_the_first_frame_said() -> None:
    async def scenario() -> None:
        serving = Serving(2)
        await serving.peer.say(HELLO[2])
        await serving.peer.transport.send(CODECS[1].encode(Complete())[0])
        told = (await serving.run())[-1]
        assert isinstance(told, ErrorMessage)
        assert "version byte 1" in told.message
        assert serving.driver.wire_version == 2

    run(scenario())


def test_frames_before_an_undecodable_one_are_handled_first() -> None:
    async def scenario() -> None:
        serving = Serving(1)
        await serving.peer.say(HELLO[1], PageHashes(((1, H),)))
        await serving.peer.transport.send(b"\x01\xc1")
        heard = await serving.run()
        assert [type(m).__name__ for m in heard] == ["HelloReply", "RequestPages", "ErrorMessage"]
        assert isinstance(serving.driver.failure, FrameUndecodable)

    run(scenario())


@pytest.mark.parametrize("wire", [1, 2])
def test_per_page_frames_of_v1_reach_the_machine_together(wire: int) -> None:
    async def scenario() -> list[Message]:
        serving = Serving(wire)
        count = COALESCED_FRAMES_MAX + 100
        await serving.peer.say(HELLO[wire])
        for number in range(1, count + 1):
            await serving.peer.say(PageHashes(((number, H),)))
        await serving.peer.say(ErrorMessage("enough"))
        await serving.run()
        events = serving.recorder.events
        return [e.message for e in events if isinstance(e, MessageReceived)]

    hashes = [m for m in run(scenario()) if isinstance(m, PageHashes)]
    total = sum(len(digests) // 32 for m in hashes for _, digests in m.windows)
    assert total == COALESCED_FRAMES_MAX + 100
    # The first batch holds hello as well.
    assert len(hashes) == (2 if wire == 1 else total)


def test_a_lost_connection_is_a_failure_and_keeps_what_came() -> None:
    async def scenario() -> None:
        serving = Serving(2)
        await serving.peer.say(HELLO[2], PageHashes(((1, H),)))
        serving.peer.transport.cut("a tractor")
        await serving.run()
        assert serving.driver.machine.state_id == "lost"
        assert isinstance(serving.driver.failure, NetworkError)
        assert "a tractor" in serving.driver.failure.message
        assert serving.end.abandoned

    run(scenario())


def test_what_came_is_kept_even_if_the_refusal_cannot_be_told() -> None:
    """The peer vanishes in the moment in which it is refused."""

    async def scenario() -> None:
        serving = Serving(2, EndWith())

        async def vanish(effect: Any) -> Event | None:
            serving.peer.transport.cut()
            raise StorageError("full")

        serving.end.replaced["CompareHashes"] = vanish
        serving.driver = Driver(ServerPush(), serving.end, serving.far)
        await serving.peer.say(HELLO[2], PageHashes(((1, H),)))
        await serving.run()
        assert serving.driver.machine.state_id == "refused"
        assert serving.end.inner.abandoned
        assert isinstance(serving.driver.failure, StorageError)

    run(scenario())


@pytest.mark.parametrize("wire", [1, 2])
def test_an_interruption_is_told(wire: int) -> None:
    async def scenario() -> None:
        serving = Serving(wire)
        await serving.peer.say(HELLO[wire])
        running = asyncio.create_task(serving.run())
        await serving.peer.transport.receive()
        serving.far.interrupt(NotFound("the database was deleted"))
        told = (await running)[-1]
        assert isinstance(told, ErrorMessage)
        assert told.message == "the database was deleted"
        assert serving.far.closed_with == 1008

    run(scenario())


def test_what_comes_after_the_end_is_not_looked_at() -> None:
    async def scenario() -> None:
        serving = Serving(1)
        await serving.peer.say(HELLO[1], Complete(), Complete(), HELLO[1])
        heard = await serving.run()
        assert isinstance(heard[-1], SyncComplete)
        assert serving.driver.failure is None
        assert serving.recorder.refused == []

    run(scenario())


class Scripted:
    """A client's driver against a peer that the test plays."""

    def __init__(self, pages: int, wire: int = 2) -> None:
        self.near, far = memory_pair()
        self.peer = Peer(far, wire)
        file = FakeFile(pages=[bytes([n]) * 512 for n in range(pages)])
        self.end = fakes.PushClientEnd(file)
        self.driver = Driver(ClientPush(wire), self.end, self.near, codec=CODECS[wire])
        self.plan = file.push_plan()


def test_a_refusal_is_heard_behind_a_send_that_failed() -> None:
    """A server says why and hangs up while the client is still sending: the reason must win."""

    async def scenario() -> None:
        client = Scripted(9)

        async def load_and_be_refused(effect: fx.LoadPages) -> Event | None:
            await client.peer.say(ErrorMessage("over quota", "limit_exceeded"))
            await client.peer.transport.close(1008, "")
            return await client.end.load(effect)

        client.driver._handlers = {**client.end.handlers, fx.LoadPages: load_and_be_refused}
        info = FakeDatabase().info(0, 512)
        reply = fx.HelloReply(512, 0, 0, info.root)
        await client.peer.say(reply, RequestPages(((1, 3),)))
        await client.driver.run(client.plan)
        assert client.driver.machine.state_id == "refused"
        assert client.driver.machine.refusal is not None
        assert client.driver.machine.refusal.code == "limit_exceeded"
        assert client.driver.failure is None

    run(scenario())


def test_without_last_words_a_failed_send_is_a_lost_connection() -> None:
    async def scenario() -> None:
        client = Scripted(9)
        client.peer.transport.cut("a tractor")
        await client.driver.run(client.plan)
        assert client.driver.machine.state_id == "lost"
        assert isinstance(client.driver.failure, NetworkError)

    run(scenario())


@pytest.mark.parametrize("page", [10, 1_000_000])
def test_a_request_for_a_page_that_is_not_there_is_refused(page: int) -> None:
    async def scenario() -> None:
        client = Scripted(9)
        reply = fx.HelloReply(512, 0, 0, FakeDatabase().info(0, 512).root)
        await client.peer.say(reply, RequestPages(((page, page),)))
        await client.driver.run(client.plan)
        assert client.driver.machine.state_id == "refused"
        assert isinstance(client.driver.failure, ProtocolViolation)
        assert client.end.sent == []

    run(scenario())


@pytest.mark.parametrize(
    "answer", [SyncComplete(0, 0, 1, b"\x01" * 32), SyncComplete(0, 0), SyncComplete(0, 0, None, H)]
)
def test_a_server_that_committed_something_else_is_not_believed(answer: SyncComplete) -> None:
    async def scenario() -> None:
        client = Scripted(0)
        reply = fx.HelloReply(512, 0, 0, bytes(32))
        await client.peer.say(reply, answer)
        await client.driver.run(client.plan)
        assert client.driver.machine.state_id == "refused"
        assert isinstance(client.driver.failure, ProtocolViolation)

    run(scenario())
