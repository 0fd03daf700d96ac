"""A push or a pull in a process of its own, which tells where in its session it is.

The process tells each phase as it enters it, so that whoever kills it, or its server, can aim at a
phase and afterwards say which one was hit. The phases follow from the frames that pass and from the
progress that the product tells by itself; nothing of the product is replaced.
"""

import asyncio
import multiprocessing
import resource
import signal
import time
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Final

from edgereplica.adapters.websocket_client import connect
from edgereplica.app.replica import AsyncReplica
from edgereplica.app.results import Progress
from edgereplica.events.errors import EdgeReplicaError

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    [
        "proof.torture.world",
        "edgereplica.app.push_session",
        "edgereplica.app.pull_session",
        "edgereplica.app.local_plan",
        "edgereplica.app.pending",
    ]
)

PHASES: Final = {
    "push": (
        "before hello", "greeting", "announcing", "streaming", "committing", "remembering"
    ),
    "pull": ("before hello", "greeting", "comparing", "streaming", "applying", "remembering"),
}  # fmt: skip
"""In order. Greeting: from hello to its answer. Streaming: from the first frame of pages on.
Committing: everything is sent, the server has not answered. Applying: the version is being made
durable in the file. Remembering: the sync itself is done, its sidecar not yet written."""
ENDED: Final = "after the end"
"""The process has told its result."""


@dataclass
class Sync:
    """A push or pull that runs. `phase` is the last it told of, as far as it has been heard."""

    process: Any
    told: Connection
    phase: str = "before hello"
    times: dict[str, float] = field(default_factory=dict)
    """When each phase began, by the monotonic clock."""
    ending: tuple[str, Any] | None = None
    gate: Connection | None = None

    def release(self) -> None:
        """Let a process begin that was held."""
        assert self.gate is not None
        self.gate.send(True)
        self.gate.close()

    def wait_for(self, phase: str, way: str) -> None:
        """Until the process is in `phase` or beyond it."""
        phases = (*PHASES[way], ENDED)
        while phases.index(self.phase) < phases.index(phase) and self._hear():
            pass

    def hear_all(self) -> None:
        """What has been told by now."""
        while not self.told.closed and self.told.poll() and self._hear():
            pass

    def _hear(self) -> bool:
        try:
            kind, *said = self.told.recv()
        except (EOFError, ConnectionResetError):
            return False
        if kind == "phase":
            self.phase, self.times[said[0]] = said
        else:
            self.phase, self.ending = ENDED, (kind, said[0])
            self.times[ENDED] = said[1]
        return True

    def end(self) -> tuple[str, Any] | None:
        """("done", result) or ("failed", error code), or None: it was killed, or died, first."""
        while not self.told.closed and self._hear():
            pass
        self.process.join()
        self.told.close()
        return self.ending

    @property
    def crashed(self) -> bool:
        """Whether it ended as no program should that nobody has killed. Only after `end`."""
        return self.process.exitcode not in (0, -signal.SIGKILL)


def start_sync(
    way: str,
    path: Path,
    server: str,
    token: str,
    file_bytes_max: int | None = None,
    protocol: int | None = None,
    link_bytes_per_second: float = 0,
    held: bool = False,
    **arguments: Any,
) -> Sync:
    """Start `way` ("push" or "pull").

    It may write files of at most `file_bytes_max`; its link carries so much (0: loopback's speed).
    `held`: the process waits for `release`.
    """
    told, child_end = processes.Pipe(duplex=False)
    child_gate, gate = processes.Pipe(duplex=False) if held else (None, None)
    process = processes.Process(
        target=_sync,
        args=(way, path, server, token, file_bytes_max, protocol, link_bytes_per_second),
        kwargs={"arguments": arguments, "told": child_end, "gate": child_gate},
        daemon=True,
    )
    process.start()
    child_end.close()
    if child_gate is not None:
        child_gate.close()
    return Sync(process, told, times={"before hello": time.monotonic()}, gate=gate)


class _Teller:
    """Tells each phase once."""

    def __init__(self, way: str, to: Connection) -> None:
        self._order = PHASES[way]
        self._at = 0
        self._to = to

    def enter(self, phase: str) -> None:
        place = self._order.index(phase)
        if place > self._at:
            self._at = place
            self._to.send(("phase", phase, time.monotonic()))

    def hear(self, progress: Progress) -> None:
        if progress.phase == "applying":
            self.enter("applying")

    def waiting(self) -> None:
        """A push that has sent pages and waits for the server has sent all: one window is asked
        for at once."""
        if self._order[self._at] == "streaming" and "committing" in self._order:
            self.enter("committing")

    def closing(self) -> None:
        """A pull closes its connection as soon as the version is applied."""
        if self._order[self._at] == "applying":
            self.enter("remembering")

    def frame(self, frame: bytes, sent: bool) -> None:
        """A frame that was sent or received; its kind stands near its start."""
        head = bytes(frame[:40])
        if b"hello" in head:
            self.enter("greeting" if sent else self._order[2])
        elif b"page_data" in head:
            self.enter("streaming")
        elif b"sync_complete" in head and "committing" in self._order:
            self.enter("remembering")


class _Wire:
    """The client's transport, listened to, and slow if it shall be."""

    def __init__(self, inner: Any, teller: _Teller, bytes_per_second: float) -> None:
        self._inner = inner
        self._teller = teller
        self._seconds_per_byte = 1 / bytes_per_second if bytes_per_second else 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def send(self, frame: Any) -> None:
        self._teller.frame(frame, True)
        await self._inner.send(frame)
        await asyncio.sleep(len(frame) * self._seconds_per_byte)

    async def receive(self) -> bytes:
        self._teller.waiting()
        frame: bytes = await self._inner.receive()
        self._teller.frame(frame, False)
        await asyncio.sleep(len(frame) * self._seconds_per_byte)
        return frame

    def receive_nowait(self) -> bytes | None:
        frame: bytes | None = self._inner.receive_nowait()
        if frame is not None:
            self._teller.frame(frame, False)
        return frame

    async def close(self, code: int, reason: str) -> None:
        self._teller.closing()
        await self._inner.close(code, reason)


def _sync(
    way: str,
    path: Path,
    server: str,
    token: str,
    file_bytes_max: int | None,
    protocol: int | None,
    link_bytes_per_second: float,
    arguments: dict[str, Any],
    told: Connection,
    gate: Connection | None,
) -> None:
    if gate is not None:
        gate.recv()
    if file_bytes_max is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))
    teller = _Teller(way, told)

    async def listened(url: str, bearer: str) -> Any:
        return _Wire(await connect(url, bearer, way), teller, link_bytes_per_second)

    replica = AsyncReplica(
        path, server=server, token=token, retries=0, compress="never", protocol=protocol,
        progress=teller.hear,
    )  # fmt: skip
    replica.options = replace(replica.options, connector=listened)
    try:
        result = asyncio.run(getattr(replica, way)(**arguments))
        told.send(("done", result, time.monotonic()))
    except EdgeReplicaError as error:
        told.send(("failed", error.code, time.monotonic()))


def usual_seconds(samples: list[Sync], way: str) -> dict[str, float]:
    """How long each phase takes, from syncs that were not disturbed."""
    found = {}
    for phase, following in zip(PHASES[way], (*PHASES[way][1:], ENDED), strict=True):
        lengths = [
            sync.times[following] - sync.times[phase]
            for sync in samples
            if phase in sync.times and following in sync.times
        ]
        if lengths:
            found[phase] = median(lengths)
    return found
