"""A sync in a process of its own, for a process that has the file open itself.

POSIX locks belong to a process: whatever descriptor of a file it closes, it drops the locks of
every connection that it has to it (sqlite.org/howtocorrupt.html §2.2.1), also those of an
application that calls `Replica`. A process of its own has its own locks. It ends with its caller.

It is `python -m edgereplica.app.own_process`, and speaks JSON lines: on standard input a `Job`,
then a token for each that it asks for; on standard output what it has to say, a `Said` each. The
end of its standard input ends it.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from ..events.errors import EdgeReplicaError, FileBusy, LocalFileError, error_from_wire
from ..events.value import Value
from .client_session import Options
from .results import Progress

T = TypeVar("T")
Method = Literal["push", "pull", "status"]
_STOP_SECONDS_MAX = 10.0
"""How long it may take to stop by itself; it may be killed at any moment, like every sync."""
_LINE_BYTES = 64 * 1024 * 1024
"""asyncio reads lines of no more; the longest are conflicts, with the pages that differ."""

_JOB_VARIABLE = "EDGEREPLICA_OWN_PROCESS"
_HERE = ("renew_token", "progress", "connector")
"""The options that are code, and stay with the caller."""


class Job(Value, frozen=True):
    path: str
    method: Method
    choices: dict[str, Any]
    options: dict[str, Any]
    tells: bool
    renews: bool


class Said(Value, frozen=True, omit_defaults=True):
    """One of: progress, a token is asked for, the result, an error as on the wire."""

    progress: Progress | None = None
    renew: bool = False
    result: dict[str, Any] | None = None
    error: tuple[str, str, dict[str, Any]] | None = None


async def sync_in_own_process(
    path: Path, options: Options, method: Method, choices: dict[str, Any], kind: type[T]
) -> T:
    """What `AsyncReplica.<method>(**choices)` comes to, its errors too, in a process of its own.

    `FileBusy` if there can be none.
    """
    if not sys.executable or _JOB_VARIABLE in os.environ:
        raise FileBusy(
            f"{path} is open in this very process, whose locks on it would be lost",
            path=str(path),
            hint="close that connection first, or use `edgereplica sync`",
        )
    chosen = {name: getattr(options, name) for name in Options.__dataclass_fields__}
    job = Job(
        path=str(path.absolute()),
        method=method,
        choices=choices,
        options={name: value for name, value in chosen.items() if name not in _HERE},
        tells=options.progress is not None,
        renews=options.renew_token is not None,
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), _JOB_VARIABLE: "1"},
        start_new_session=True,  # Ctrl-C is for the caller, which then ends it
        limit=_LINE_BYTES,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    said = Said()
    try:
        _write(process.stdin, job)
        # To the end, although the last one says it all: then there is nobody left to interrupt.
        async for line in process.stdout:
            said = msgspec.json.decode(line, type=Said)
            if said.progress is not None:
                options.tell(said.progress)
            if said.renew and options.renew_token is not None:
                _write(process.stdin, await asyncio.to_thread(options.renew_token))
    finally:
        await _end(process)
    if said.error is not None:
        raise error_from_wire(*said.error)
    if said.result is None:
        raise LocalFileError(
            f"the process that was to sync {path} died ({process.returncode})",
            hint="close the connections that this process has to the file, and try again",
        )
    return msgspec.convert(said.result, kind)


def _write(stream: asyncio.StreamWriter, value: object) -> None:
    with suppress(ConnectionError):  # it died: what it said until then tells
        stream.write(msgspec.json.encode(value, enc_hook=str) + b"\n")


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(_STOP_SECONDS_MAX):
            await process.wait()
    except (TimeoutError, asyncio.CancelledError):
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise


# The other side


def main() -> int:
    """Do the job on standard input; 0 if there was an answer to give."""
    # A caller that ignores the signal hands that down.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # What anything else prints must not stand between the JSON lines.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def say(said: Said) -> None:
        with suppress(BrokenPipeError):
            out.write(msgspec.json.encode(said, enc_hook=str) + b"\n")

    # Unbuffered: a thread that waits in a buffer would hold up the end of the process.
    lines = open(0, "rb", buffering=0)  # noqa: SIM115 - as long as the process
    job = msgspec.json.decode(lines.readline(), type=Job)
    tokens = _Tokens(lines, say)
    threading.Thread(target=tokens.read, daemon=True).start()
    try:
        result = asyncio.run(_sync(job, say, tokens.renew))
    except KeyboardInterrupt:
        return 130
    except EdgeReplicaError as error:
        say(Said(error=(error.code, error.message, dict(error.details))))
    else:
        say(Said(result=result.to_dict()))
    return 0


class _Tokens:
    """Those that the caller mints; the lines that come after the job."""

    def __init__(self, lines: Iterable[bytes], say: Callable[[Said], None]) -> None:
        self._lines = lines
        self._say = say
        self._token = ""
        self._came = threading.Semaphore(0)

    def renew(self) -> str:
        self._say(Said(renew=True))
        self._came.acquire()
        return self._token

    def read(self) -> None:
        for line in self._lines:
            self._token = msgspec.json.decode(line, type=str)
            self._came.release()
        os.kill(os.getpid(), signal.SIGINT)


async def _sync(job: Job, say: Callable[[Said], None], renew: Callable[[], str]) -> Value:
    from .replica import AsyncReplica  # noqa: PLC0415 - it imports this module

    record = job.options.pop("record")
    replica = AsyncReplica(job.path, server=job.options["server"], token=job.options["token"])
    replica.options = Options(
        **job.options,
        record=None if record is None else Path(record),
        renew_token=renew if job.renews else None,
        progress=(lambda progress: say(Said(progress=progress))) if job.tells else None,
    )
    result: Value = await getattr(replica, job.method)(**job.choices)
    return result


if __name__ == "__main__":
    sys.exit(main())
