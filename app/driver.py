"""The only loop: events into a machine, effects out of it, results back in as events.

One driver serves both ends and both wire versions. It knows the transport's effects (`Send`,
`Close`, `Listen`); every other effect is a call of the *end* it was given. It decides nothing: an
error from an end, from a refused event or from the wire becomes a `Failed` event, a lost
connection `PeerLost`, and the machine says what follows.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Protocol

from ..adapters.ports import Transport
from ..events.errors import EdgeReplicaError, NetworkError, ProtocolError
from ..events.limits import COALESCED_FRAMES_MAX
from ..events.messages import ErrorMessage, Message
from ..events.session import Event, Failed, MessageReceived, PeerLost
from ..events.wire import V1, V2, WireCodec, frame_version
from ..events.wire_v1 import WireV1, coalesce
from ..events.wire_v2 import WireV2
from ..fsm.effects import Close, Effect, Listen, Send
from ..fsm.machine import Machine

CODECS: Mapping[int, WireCodec] = {V1: WireV1(), V2: WireV2()}

Handler = Callable[[Any], Awaitable[Event | None]]


class End(Protocol):
    """One end's hands: what performs the effects of its machine, keyed by effect type."""

    @property
    def handlers(self) -> Mapping[type, Handler]: ...


class Recorder(Protocol):
    """Writes down what a machine consumed and answered (`app.replay`)."""

    def record(self, event: Event, effects: tuple[Effect, ...]) -> None: ...

    def refuse(self, event: Event, error: EdgeReplicaError) -> None: ...


class Driver:
    """Run one session: `await Driver(machine, end, transport).run(first_event)`.

    `codec` is fixed on a client; on a server it is None and the first frame's version byte chooses.
    After `run`, `failure` holds the first error of this side, if there was one.
    """

    def __init__(
        self,
        machine: Machine,
        end: End,
        transport: Transport,
        *,
        codec: WireCodec | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.machine = machine
        self.failure: EdgeReplicaError | None = None
        self._handlers = end.handlers
        self._transport = transport
        self._codec = codec
        self._recorder = recorder
        self._heard = False

    @property
    def wire_version(self) -> int | None:
        return None if self._codec is None else self._codec.version

    async def run(self, first: Event | None = None) -> None:
        if first is not None:
            await self.feed(first)
        while not self.machine.finished:
            try:
                messages = await self._receive()
            except NetworkError as error:
                await self.feed(self._lost(error))
                continue
            except EdgeReplicaError as error:
                await self._fail(error)
                continue
            for message in messages:
                if self.machine.finished:
                    break
                await self.feed(MessageReceived(message))

    async def feed(self, event: Event) -> None:
        """Give the machine `event` and everything that follows from it."""
        queue: deque[Event] = deque([event])
        while queue and not self.machine.finished:
            try:
                await self._step(queue)
            except NetworkError as error:
                queue = deque([self._last_words() or self._lost(error)])
            except EdgeReplicaError as error:
                self._note(error)
                queue = deque([Failed.from_error(error)])
            except Exception:
                # A defect of ours: the peer hears "internal", the caller gets the real exception.
                if not self.machine.finished:
                    await self.feed(Failed.from_error(EdgeReplicaError("internal error")))
                raise

    async def _step(self, queue: deque[Event]) -> None:
        for effect in self._handle(queue.popleft()):
            try:
                await self._perform(effect, queue)
            except EdgeReplicaError as error:
                if not self.machine.finished:
                    raise
                # An ending is carried out as far as it goes: that the peer is gone must not keep
                # what it sent from being kept.
                self._note(error)

    async def _fail(self, error: EdgeReplicaError) -> None:
        self._heard = self._heard or isinstance(error, ProtocolError)
        self._note(error)
        await self.feed(Failed.from_error(error))

    def _note(self, error: EdgeReplicaError) -> None:
        if self.failure is None:
            self.failure = error

    def _lost(self, error: NetworkError) -> PeerLost:
        self._note(error)
        return PeerLost(error.message)

    def _last_words(self) -> MessageReceived | None:
        """The `error` that a peer sent before it hung up on what was being sent to it."""
        while self._codec is not None:
            frame = self._transport.receive_nowait()
            if frame is None:
                break
            try:
                message = self._codec.decode(frame)
            except ProtocolError:
                break
            if isinstance(message, ErrorMessage):
                return MessageReceived(message)
        return None

    def _handle(self, event: Event) -> tuple[Effect, ...]:
        try:
            effects = self.machine.handle(event)
        except EdgeReplicaError as error:
            if self._recorder is not None:
                self._recorder.refuse(event, error)
            raise
        if self._recorder is not None:
            self._recorder.record(event, effects)
        return effects

    async def _perform(self, effect: Effect, queue: deque[Event]) -> None:
        if isinstance(effect, Send):
            if self._codec is None and not self._heard:
                # A peer that has said nothing has chosen no version, and would take the wrong one
                # for a server that knows no other. The close frame says enough.
                return
            codec = self._codec or CODECS[V1]
            for frame in codec.encode(effect.message):
                await self._transport.send(frame)
        elif isinstance(effect, Close):
            await self._transport.close(effect.code, effect.reason)
        elif isinstance(effect, Listen):
            queue.extend(MessageReceived(message) for message in self._take_arrived())
        else:
            result = await self._handlers[type(effect)](effect)
            if result is not None:
                queue.append(result)

    async def _receive(self) -> list[Message]:
        """The next message, and in v1 all that have already arrived behind it, as batches."""
        frame = await self._transport.receive()
        self._heard = True
        if self._codec is None:
            self._codec = CODECS[frame_version(frame)]
        message = self._codec.decode(frame)
        if self._codec.version != V1:
            return [message]
        return coalesce([message, *self._decode_arrived(COALESCED_FRAMES_MAX - 1)])

    def _take_arrived(self) -> list[Message]:
        return coalesce(list(self._decode_arrived(COALESCED_FRAMES_MAX)))

    def _decode_arrived(self, frames_max: int) -> Iterator[Message]:
        """Messages that have arrived. A frame that cannot be decoded waits: it is refused when the
        good ones before it have been handled."""
        assert self._codec is not None
        for _ in range(frames_max):
            frame = self._transport.receive_nowait()
            if frame is None:
                return
            try:
                message = self._codec.decode(frame)
            except ProtocolError:
                self._transport.push_back(frame)
                return
            yield message
