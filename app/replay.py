"""A session written down, and run again.

A recording is JSON lines: a header (format, machine, wire version), then one line for each event
with the effects that the machine answered, or with the code of the error that refused it. `replay`
gives the events to a fresh machine of today's code and says where it first does something else: a
bug report brings its own reproduction, and needs no server, no file and no network.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..events.errors import EdgeReplicaError, InvalidArgument, LocalFileError
from ..events.limits import RECORDING_LINE_CHARS_MAX
from ..events.recording import FORMAT, FORMAT_VERSION, decode_event, encode
from ..events.session import Event
from ..fsm.effects import Effect
from ..fsm.machine import Machine
from ..fsm.registry import make_machine, name_of


class FileRecorder:
    """Writes a session to `path` (mode 0600, replacing what was there) as the driver runs it."""

    def __init__(self, path: Path, machine: Machine) -> None:
        self._path = path
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._file = os.fdopen(descriptor, "w", encoding="utf-8", buffering=1)
        except OSError as error:
            raise LocalFileError(f"cannot record to {path}: {error.strerror}") from error
        self._write(
            {
                "format": FORMAT,
                "version": FORMAT_VERSION,
                "machine": name_of(machine),
                "wire_version": getattr(machine, "wire_version", None),
            }
        )

    def record(self, event: Event, effects: tuple[Effect, ...]) -> None:
        self._write({"event": encode(event), "effects": encode(effects)})

    def refuse(self, event: Event, error: EdgeReplicaError) -> None:
        self._write({"event": encode(event), "refused": error.code})

    def close(self) -> None:
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        try:
            self._file.write(_text(line) + "\n")
        except OSError as error:
            raise LocalFileError(f"cannot record to {self._path}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """`difference` is None when the machine did what was recorded, else the first difference."""

    machine: str
    wire_version: int | None
    events: int
    same: bool
    difference: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def replay(path: Path) -> ReplayReport:
    """Run the recording again. `InvalidArgument` if the file is not a recording."""
    lines = _lines(path)
    header = next(lines, None)
    if header is None or header.get("format") != FORMAT:
        raise InvalidArgument(f"{path} is not a recorded session")
    if header.get("version") != FORMAT_VERSION:
        raise InvalidArgument(f"{path} is a recording of another format version")
    name, wire_version = str(header.get("machine")), header.get("wire_version")
    if wire_version not in (None, 1, 2):
        raise InvalidArgument(f"{path} is a recording of an unknown wire version")
    machine = make_machine(name, wire_version or 2)
    events = 0
    for line in lines:
        events += 1
        difference = _difference(machine, line)
        if difference is not None:
            return ReplayReport(name, wire_version, events, False, f"event {events}: {difference}")
    return ReplayReport(name, wire_version, events, True)


def _difference(machine: Machine, line: dict[str, Any]) -> str | None:
    event = decode_event(line.get("event"))
    state = machine.state_id
    try:
        answer = {"effects": encode(machine.handle(event))}
    except EdgeReplicaError as error:
        answer = {"refused": error.code}
    # A recording made by hand may hold what no peer can send.
    except (AssertionError, AttributeError, TypeError, ValueError) as error:
        answer = {"failed": repr(error)}
    recorded = {key: value for key, value in line.items() if key != "event"}
    if _text(answer) == _text(recorded):
        return None
    return (
        f"{type(event).__name__} in state {state}: recorded {_short(recorded)}, "
        f"now {_short(answer)}"
    )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            while text := file.readline(RECORDING_LINE_CHARS_MAX):
                if len(text) == RECORDING_LINE_CHARS_MAX:
                    raise InvalidArgument(f"{path} has a line longer than any recorded event")
                if not text.endswith("\n"):
                    # The last line of a process that was killed while it wrote.
                    return
                line = json.loads(text)
                if not isinstance(line, dict):
                    raise InvalidArgument(f"{path} is not a recorded session")
                yield line
    except OSError as error:
        raise LocalFileError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path} is not a recorded session") from error


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _short(value: dict[str, Any], chars_max: int = 500) -> str:
    text = _text(value)
    return text if len(text) <= chars_max else f"{text[:chars_max]}…"
