"""What the command line writes, and how an error is said.

Data goes to standard output, everything else to standard error. Text that came from a server or a
file is stripped of control characters before it reaches a terminal. No colour is ever written, so
NO_COLOR holds by itself. Left to others: which command failed (`root`), progress (`progress`).
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TextIO

from ..events.errors import EdgeReplicaError

EXIT_INTERRUPTED = 130
EXIT_OUTPUT_CLOSED = 141
"""128 + SIGINT and 128 + SIGPIPE, as a shell reports them."""

_HINTS = {
    "unauthenticated": "log in: `edgereplica login EMAIL`; for a sync token, mint a new one: "
    "`edgereplica db token ID --direction push|pull`",
    "permission_denied": "a token allows one direction of one database; "
    "`edgereplica db token ID --direction push|pull` mints the right one",
    "not_found": "`edgereplica db list` shows what is there",
    "already_exists": "choose another name; `edgereplica login EMAIL` if the account is yours",
    "limit_exceeded": "wait a while, or ask the server's operator to raise the limit",
    "conflict": "see what differs with `edgereplica sync status --db FILE`; pull the head into "
    "another file and merge, or replace it whole with --force",
    "unpushed_changes": "push them first, or give them up with --force "
    "(the old file is kept beside the new one)",
    "no_shared_history": "pull into a new file, or replace this one with --force "
    "(the old file is kept beside the new one)",
    "not_a_database": "name a SQLite file with --db",
    "file_busy": "wait for the other process, or raise --busy-timeout",
    "file_replaced": "run the command again",
    "disk_full": "make room and run the command again: what was sent is not sent twice",
    "network": "check the address (--server) and the connection, then run the command again",
    "server_shutting_down": "run the command again in a moment",
    "unimplemented": "the server's operator has to configure it",
    "storage": "the server's operator has to look at its log",
}


class OutputClosed(Exception):
    """The reader of standard output went away (`| head`)."""


class Interrupted(Exception):
    """Ctrl-C. The message says in what state things were left."""


def emit(text: str = "") -> None:
    """One line of data on standard output."""
    try:
        sys.stdout.write(printable(text) + "\n")
    except BrokenPipeError:
        raise OutputClosed from None


def emit_json(value: Any) -> None:
    """`value` on standard output: one line, or indented for a terminal."""
    indent = 2 if is_terminal(sys.stdout) else None
    emit(json.dumps(jsonable(value), indent=indent))


def note(text: str) -> None:
    """One line for the person at the terminal, on standard error."""
    with suppress(BrokenPipeError):  # nobody is there to be told
        sys.stderr.write(printable(text) + "\n")
        sys.stderr.flush()


def note_error(code: str, message: str, details: Mapping[str, Any] = MappingProxyType({})) -> None:
    """An error as `--json` has it."""
    content = {"code": code, "message": message, "details": jsonable(details)}
    note(json.dumps({"error": content}))


def report(error: EdgeReplicaError, *, as_json: bool) -> int:
    """Say `error` on standard error; the exit code."""
    if as_json:
        note_error(error.code, error.message, error.details)
        return error.exit_code
    note(f"error: {error.message}")
    hint = error.details.get("hint") or _HINTS.get(error.code)
    if hint:
        note(f"hint: {hint}")
    return error.exit_code


def jsonable(value: Any) -> Any:
    """`value` with bytes as hex and every container as JSON has it."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, Mapping):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(entry) for entry in value]
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """`text` without control characters, which could drive the reader's terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of left-aligned columns under `header`."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return [
        "  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]


def human_bytes(count: int) -> str:
    """`count` bytes in the binary unit a person reads: 512 B, 3.2 KiB, 51 MiB."""
    if count < 1024:
        return f"{count} B"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        amount /= 1024
        if amount < 999.5:
            return f"{amount:.1f} {unit}" if amount < 99.95 else f"{amount:.0f} {unit}"
    return f"{amount / 1024:.1f} TiB"


def human_seconds(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def local_time(unix: float) -> str:
    """`unix` seconds in the reader's time zone."""
    try:
        return datetime.fromtimestamp(unix, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    except (OverflowError, OSError, ValueError):
        return f"@{unix:g}"
