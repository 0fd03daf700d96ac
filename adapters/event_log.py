"""The append-only log of domain events, over any `Repo`.

An append is one transaction: events, the projections they change, and nothing else happens if it
fails. A stream's sequence numbers run 1, 2, 3 … without gaps, and an append names the last number
its author saw; if the stream has moved since, the append loses with `ConcurrentAppend`. That is the
compare-and-swap everything else stands on.
"""

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from ..events import domain
from ..events.errors import AlreadyExists, ConcurrentAppend, StorageError
from ..events.limits import EVENTS_PER_READ_MAX
from .ports import Clock, Repo, Row, Statement
from .projections import EMPTY_ALL, project

# The stream's last number is compared where it is read: a number that is not the next one becomes
# NULL, which the column refuses, and two that are both the next one meet in the unique key.
_APPEND = (
    "INSERT INTO events (stream, seq, kind, data, recorded_at) VALUES (?, "
    "CASE WHEN (SELECT COALESCE(MAX(seq), 0) FROM events WHERE stream = ?) = ? "
    "THEN CAST(? AS BIGINT) END, ?, ?, ?)"
)


class Append(NamedTuple):
    """Events for one stream, whose last sequence number is `expected_seq` (0: it is new)."""

    stream: str
    expected_seq: int
    events: Sequence[domain.DomainEvent]


class Recorded(NamedTuple):
    """An event as the log holds it. `recorded_at` is in Unix seconds."""

    position: int
    stream: str
    seq: int
    recorded_at: float
    event: domain.DomainEvent


class Stored(NamedTuple):
    """An event as it lies in the log, not decoded: `domain.decode(kind, data)` is the event."""

    seq: int
    kind: str
    data: str


class Snapshot(NamedTuple):
    """A fold of a stream up to the event `seq`, in whatever form its reader understands."""

    seq: int
    state: str
    chunks: tuple[str, ...]


class EventLog:
    """Reads and appends; see the module's docstring."""

    def __init__(self, repo: Repo, clock: Clock) -> None:
        self._repo = repo
        self._clock = clock

    async def append(
        self,
        appends: Sequence[Append | tuple[str, int, Sequence[domain.DomainEvent]]],
        also: Sequence[Statement] = (),
    ) -> float:
        """Append to all the streams, or to none; the time that was recorded.

        `also` runs in the same transaction. Raises `ConcurrentAppend` if a stream is not where its
        author saw it, `AlreadyExists` (with `table`) if a projection refuses, as for a name taken.
        """
        recorded_at = self._clock.now()
        statements = []
        for stream, expected_seq, events in appends:
            for seq, event in enumerate(events, expected_seq + 1):
                if event.stream != stream:
                    raise ValueError(f"{event.kind} belongs to {event.stream}, not to {stream}")
                kind, data = domain.encode(event)
                parameters = (stream, stream, seq - 1, seq, kind, data, recorded_at)
                statements.append(Statement(_APPEND, parameters))
                statements.extend(project(event, recorded_at))
        try:
            await self._repo.batch([*statements, *also])
        except (AlreadyExists, StorageError) as error:
            if error.details.get("table") != "events":
                raise
            streams = ", ".join(append[0] for append in appends)
            raise ConcurrentAppend(f"another append came first to one of {streams}") from error
        return recorded_at

    async def read(self, stream: str, after_seq: int = 0) -> list[Recorded]:
        """The events of `stream` with a sequence number above `after_seq`, in order."""
        rows = await self._repo.all(
            "SELECT position, stream, seq, kind, data, recorded_at FROM events "
            "WHERE stream = ? AND seq > ? ORDER BY seq",
            stream,
            after_seq,
        )
        return [_recorded(row) for row in rows]

    async def stored(self, stream: str, after_seq: int = 0) -> list[Stored]:
        """What `read` gives, for a fold that need not decode all of it."""
        rows = await self._repo.all(
            "SELECT seq, kind, data FROM events WHERE stream = ? AND seq > ? ORDER BY seq",
            stream,
            after_seq,
        )
        return [Stored(row["seq"], row["kind"], row["data"]) for row in rows]

    async def snapshot(self, stream: str) -> Snapshot | None:
        """The last snapshot of `stream`, if there is one: one statement, hence of one moment."""
        rows = await self._repo.all(
            "SELECT s.seq, s.state, c.data FROM stream_snapshots s "
            "LEFT JOIN stream_snapshot_chunks c ON c.stream = s.stream "
            "WHERE s.stream = ? ORDER BY c.number",
            stream,
        )
        if not rows:
            return None
        chunks = tuple(row["data"] for row in rows if row["data"] is not None)
        return Snapshot(rows[0]["seq"], rows[0]["state"], chunks)

    async def write_snapshot(self, stream: str, snapshot: Snapshot) -> None:
        """Replace the snapshot of `stream`."""
        insert = "INSERT INTO stream_snapshot_chunks (stream, number, data) VALUES (?, ?, ?)"
        await self._repo.batch(
            [
                Statement(
                    "INSERT INTO stream_snapshots (stream, seq, state) VALUES (?, ?, ?) "
                    "ON CONFLICT (stream) DO UPDATE SET seq = excluded.seq, state = excluded.state",
                    (stream, snapshot.seq, snapshot.state),
                ),
                Statement("DELETE FROM stream_snapshot_chunks WHERE stream = ?", (stream,)),
                *(
                    Statement(insert, (stream, number, data))
                    for number, data in enumerate(snapshot.chunks)
                ),
            ]
        )

    async def last(self, stream: str) -> int:
        """The last sequence number of `stream`; 0 if it has none."""
        row = await self._repo.first("SELECT MAX(seq) AS seq FROM events WHERE stream = ?", stream)
        return int(row["seq"] or 0) if row else 0

    def all(self, after_position: int = 0) -> AsyncIterator[Recorded]:
        """Every event above `after_position` in the order of appending, read in pieces."""
        return _all(self._repo, after_position)


async def rebuild(repo: Repo) -> int:
    """Make every projection again from the log, in one transaction; how many events were folded.

    Nothing is held in memory but one piece of the log. Other writers wait until it is done, and a
    reader sees the old tables or the new ones.
    """
    folded = 0

    async def statements() -> AsyncIterator[Statement]:
        nonlocal folded
        for statement in EMPTY_ALL:
            yield statement
        async for recorded in _all(repo, 0):
            for statement in project(recorded.event, recorded.recorded_at):
                yield statement
            folded += 1

    await repo.batch(statements())
    return folded


async def _all(repo: Repo, after_position: int) -> AsyncIterator[Recorded]:
    while True:
        rows = await repo.all(
            "SELECT position, stream, seq, kind, data, recorded_at FROM events "
            "WHERE position > ? ORDER BY position LIMIT ?",
            after_position,
            EVENTS_PER_READ_MAX,
        )
        for row in rows:
            yield _recorded(row)
        if len(rows) < EVENTS_PER_READ_MAX:
            return
        after_position = rows[-1]["position"]


def _recorded(row: Row) -> Recorded:
    event = domain.decode(row["kind"], row["data"])
    return Recorded(row["position"], row["stream"], row["seq"], row["recorded_at"], event)
