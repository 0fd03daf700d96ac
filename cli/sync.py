"""`edgereplica sync`: push, pull and status of one local file.

These start in milliseconds: Typer is not imported here, see `options` and `fast`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from ..events.errors import InvalidArgument, Unauthenticated
from ..events.limits import LARGE_SESSION_BYTES
from .client import client_of, mint, read_token
from .console import (
    Interrupted,
    counted,
    emit,
    emit_json,
    human_bytes,
    human_seconds,
    local_time,
    note,
)
from .options import JsonOption, Option, ServerOption
from .progress import ProgressBar

if TYPE_CHECKING:
    from ..app.replica import Replica
    from ..app.results import Progress, ProgressHook, PullResult, PushResult, ReplicaStatus


class Compress(StrEnum):
    auto = "auto"
    always = "always"
    never = "never"


FileOption = Annotated[
    Path, Option("--db", metavar="FILE", show_default=False, help="The local SQLite file.")
]
TokenOption = Annotated[
    str | None,
    Option(
        "--token",
        metavar="T",
        show_default=False,
        help="A sync token. Other users can see it in process lists: prefer --token-file, "
        "EDGEREPLICA_SYNC_TOKEN or --database.",
    ),
]
TokenFileOption = Annotated[
    str | None,
    Option(
        "--token-file", metavar="FILE", show_default=False, help="Read the token here; - is stdin."
    ),
]
DatabaseOption = Annotated[
    str | None,
    Option(
        "--database",
        metavar="NAME-OR-ID",
        show_default=False,
        help="Without a token: mint one for this database with the cached session.",
    ),
]
DryRunOption = Annotated[bool, Option("--dry-run", help="Say what would move; change nothing.")]
RetriesOption = Annotated[
    int, Option("--retries", metavar="N", min=0, help="Attempts after a lost connection.")
]
BusyOption = Annotated[
    float,
    Option("--busy-timeout", metavar="SECONDS", min=0, help="How long to wait for a locked file."),
]
CompressOption = Annotated[
    Compress,
    Option("--compress", help="auto: when the link is slower than the compressor."),
]
ChecksumOption = Annotated[
    bool, Option("--checksum", help="Read the file even if it looks unchanged.")
]
RecordOption = Annotated[
    Path | None,
    Option(
        "--record",
        metavar="FILE",
        show_default=False,
        help="Record the session, of retries the last, for `edgereplica fsm replay`.",
    ),
]


def push(
    *,
    db: FileOption,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    database: DatabaseOption = None,
    message: Annotated[
        str, Option("--message", metavar="TEXT", help="Kept with the version.")
    ] = "",
    force: Annotated[
        bool, Option("--force", help="Replace the head even if it is not the base.")
    ] = False,
    dry_run: DryRunOption = False,
    checksum: ChecksumOption = False,
    compress: CompressOption = Compress.auto,
    retries: RetriesOption = 5,
    busy_timeout: BusyOption = 5.0,
    record: RecordOption = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Push the file: it becomes the database's next version, whole or not at all.

    Other processes may write to the file meanwhile. Only pages that the server does not hold
    travel. Exit code 3: somebody else pushed since (see `sync status`).

    \b
    Examples:
      edgereplica sync push --db app.db --database main
      edgereplica sync push --db app.db --token-file push.token --message "nightly"
      edgereplica sync push --db app.db --database main --dry-run
    """
    options: dict[str, Any] = {
        "busy_timeout_seconds": busy_timeout,
        "retries": retries,
        "compress": compress.value,
        "checksum": checksum,
        "record": record,
    }
    with ProgressBar(quiet=as_json) as bar, _interruptible(bar, db, "push"):
        credentials = _credentials(
            server=server,
            token=token,
            token_file=token_file,
            database=database,
            direction="push",
        )
        replica = _replica(db, credentials, bar, options)
        result = replica.push(force=force, message=message, dry_run=dry_run)
    _report(result, _pushed(result), as_json=as_json)


def pull(
    *,
    db: FileOption,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    database: DatabaseOption = None,
    at: Annotated[
        str | None,
        Option(
            "--at",
            metavar="VERSION|TIME",
            show_default=False,
            help="An older version: its number, or a time like 2026-11-22T10:00 or @1763806200.",
        ),
    ] = None,
    force: Annotated[
        bool, Option("--force", help="Overwrite changes never pushed, or another file.")
    ] = False,
    no_backup: Annotated[
        bool, Option("--no-backup", help="With --force: do not keep the old file.")
    ] = False,
    dry_run: DryRunOption = False,
    checksum: ChecksumOption = False,
    compress: CompressOption = Compress.auto,
    retries: RetriesOption = 5,
    busy_timeout: BusyOption = 5.0,
    record: RecordOption = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pull the database's newest version into the file, whole or not at all.

    Other processes may read the file meanwhile. Exit code 3: the file holds changes that were
    never pushed, or has nothing to do with this database; --force overwrites it and keeps the
    old file beside it.

    \b
    Examples:
      edgereplica sync pull --db copy.db --database main
      edgereplica sync pull --db copy.db --token-file pull.token
      edgereplica sync pull --db old.db --database main --at 3
    """
    options: dict[str, Any] = {
        "busy_timeout_seconds": busy_timeout,
        "retries": retries,
        "compress": compress.value,
        "checksum": checksum,
        "record": record,
    }
    moment = _moment(at)
    with ProgressBar(quiet=as_json) as bar, _interruptible(bar, db, "pull"):
        credentials = _credentials(
            server=server,
            token=token,
            token_file=token_file,
            database=database,
            direction="pull",
        )
        replica = _replica(db, credentials, bar, options)
        result = replica.pull(force=force, backup=not no_backup, at=moment, dry_run=dry_run)
    _report(result, _pulled(result), as_json=as_json)


def status(
    *,
    db: FileOption,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    database: DatabaseOption = None,
    checksum: ChecksumOption = False,
    retries: RetriesOption = 5,
    busy_timeout: BusyOption = 5.0,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show base, head and local changes, and what push and pull would do.

    \b
    Examples:
      edgereplica sync status --db app.db --database main
      edgereplica sync status --db app.db --database main --json
    """
    options: dict[str, Any] = {
        "busy_timeout_seconds": busy_timeout,
        "retries": retries,
        "checksum": checksum,
    }
    with ProgressBar(quiet=as_json) as bar, _interruptible(bar, db, "status"):
        credentials = _credentials(
            server=server,
            token=token,
            token_file=token_file,
            database=database,
            direction="pull",
        )
        found = _replica(db, credentials, bar, options).status()
    _report(found, _standing(found, credentials.server), as_json=as_json)


SYNC_COMMANDS: Mapping[str, Callable[..., None]] = {"push": push, "pull": pull, "status": status}


class _Credentials(NamedTuple):
    """`renew` mints another token like it, if this one was minted here."""

    server: str
    token: str
    renew: Callable[[], str] | None = None


def _credentials(
    *,
    server: str | None,
    token: str | None,
    token_file: str | None,
    database: str | None,
    direction: str,
) -> _Credentials:
    """The normalized server and a sync token: the one given, or one minted for `database`."""
    given = read_token(token, token_file)
    if given is not None and database is not None:
        # A token names its database itself; obeying one of the two silently could write to the
        # wrong one.
        raise InvalidArgument(
            "there is a sync token and --database too",
            hint="leave --database out, or the token (is EDGEREPLICA_SYNC_TOKEN set?)",
        )
    client = client_of(server)
    if given is not None:
        return _Credentials(client.server, given)
    if database is None:
        raise Unauthenticated(
            f"no sync token to {direction} with",
            hint="give --database NAME-OR-ID after `edgereplica login`, or a token by "
            "--token-file or EDGEREPLICA_SYNC_TOKEN",
        )

    def minted() -> str:
        return mint(client.admin(), database, direction).token

    return _Credentials(client.server, minted(), minted)


def _replica(
    path: Path, credentials: _Credentials, bar: ProgressBar, options: dict[str, Any]
) -> "Replica":
    from ..app.replica import Replica

    return Replica(
        path,
        server=credentials.server,
        token=credentials.token,
        renew_token=credentials.renew,
        progress=_watched_by(bar),
        **options,
    )


def _watched_by(bar: ProgressBar) -> "ProgressHook":
    """`bar`; and memory is kept for the next batch once a sync turns out to be large.

    The API leaves that alone: an application's memory is its own affair.
    """

    def hook(progress: "Progress") -> None:
        if progress.bytes_sent + progress.bytes_received > LARGE_SESSION_BYTES:
            from ..app.memory import keep_freed

            keep_freed()
        bar(progress)

    return hook


@contextmanager
def _interruptible(bar: ProgressBar, path: Path, command: str) -> Iterator[None]:
    """Ctrl-C in words that are true at that moment."""
    try:
        yield
    except KeyboardInterrupt:
        again = f"`edgereplica sync status --db {path}` tells which"
        if command == "push" and "committing" in bar.phases:
            words = f"the server has the whole new version or none of it; {again}"
        elif command == "pull" and "applying" in bar.phases:
            words = f"{path} is wholly the old version or wholly the new one; {again}"
        else:
            words = f"nothing was changed, neither {path} nor the server's head"
            if command == "push":
                words += "; pages already sent are not sent again"
        raise Interrupted(f"interrupted: {words}") from None


def _moment(text: str | None) -> int | float | None:
    """`--at` as `Replica.pull` takes it: a version (int) or Unix seconds (float)."""
    if text is None:
        return None
    from datetime import datetime

    try:
        if text.isdecimal():
            return int(text)
        if text.startswith("@"):
            return float(text[1:])
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError):
        raise InvalidArgument(
            f"--at {text!r} is neither a version nor a time",
            hint="write a version like 3, a time like 2026-11-22T10:00, or @UNIX_SECONDS",
        ) from None


def _report(result: Any, lines: list[str], *, as_json: bool) -> None:
    if as_json:
        emit_json(result.to_dict())
        return
    for line in lines:
        emit(line)


def _pushed(result: "PushResult") -> list[str]:
    pages = counted(result.page_count, "page")
    if result.outcome == "unchanged":
        return [f"unchanged: {_version(result.version)} is what the server has ({pages})"]
    if result.outcome == "dry_run":
        if not result.pages_changed and not result.would_conflict:
            return [f"nothing to push: the server has {_version(result.version)} ({pages})"]
        size = human_bytes(result.pages_changed * result.page_size)
        lines = [f"would push {result.pages_changed:,} of {pages}, {size}; nothing was changed"]
        if result.would_conflict:
            lines.append(
                f"it would be refused: the head is {_version(result.head_before)}, "
                "which the file is not based on"
            )
        return lines
    sent = f"{result.pages_sent:,} of {pages} sent"
    lines = [f"pushed {_version(result.version)}: {sent}, {_traffic(result)}"]
    if result.pages_resumed:
        held = counted(result.pages_resumed, "page")
        lines.append(f"{held} lay on the server already and were not sent again")
    return lines


def _pulled(result: "PullResult") -> list[str]:
    pages = counted(result.page_count, "page")
    if result.outcome == "unchanged":
        return [f"unchanged: the file is {_version(result.version)} ({pages})"]
    received = f"{result.pages_received:,} of {pages}"
    if result.outcome == "dry_run":
        if not result.pages_received and not result.would_refuse:
            return [f"nothing to pull: the file is {_version(result.version)} ({pages})"]
        lines = [f"would pull {_version(result.version)}: {received}; nothing was changed"]
        if result.would_refuse:
            lines.append(f"it would be refused: {result.would_refuse.replace('_', ' ')}")
        return lines
    if result.backup_path:
        note(f"the old file is kept as {result.backup_path}")
    return [f"pulled {_version(result.version)}: {received} received, {_traffic(result)}"]


def _standing(status: "ReplicaStatus", server: str) -> list[str]:
    size = f"{counted(status.page_count, 'page')} of {status.page_size:,} bytes"
    head = _version(status.head)
    if status.head and status.head_author:
        head += f" by {status.head_author}"
    if status.head and status.head_committed_at is not None:
        head += f", {local_time(status.head_committed_at)}"
    changed = status.pages_changed_locally
    return [
        f"file      {status.path}, {size if status.exists else 'not there yet'}",
        f"database  {status.database or 'unknown'}",
        f"server    {status.server or server}",
        f"base      {_version(status.base)}",
        f"head      {head}",
        "changed   " + ("unknown" if changed is None else f"{counted(changed, 'page')} locally"),
        f"push      {_PUSH_WORDS[status.push]}",
        f"pull      {_PULL_WORDS[status.pull]}",
    ]


_PUSH_WORDS = {
    "nothing": "nothing to do",
    "push": "would make a new version",
    "conflict": "would be refused: the head is not the file's base",
    "unknown": "unknown",
}
_PULL_WORDS = {
    "nothing": "nothing to do",
    "pull": "would bring the head",
    "refused": "would be refused: the file holds changes never pushed, or another history",
    "unknown": "unknown",
}


def _version(version: int | None) -> str:
    return f"version {version}" if version else "no version"


def _traffic(result: "PushResult | PullResult") -> str:
    return (
        f"{human_bytes(result.bytes_sent)} up, {human_bytes(result.bytes_received)} down, "
        f"{human_seconds(result.seconds)}"
    )
