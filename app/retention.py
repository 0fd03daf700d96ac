"""Retention: which versions of a database are kept, and which may go.

The rule is an event of the database (`RetentionSet`); what it takes is one too (`VersionsExpired`),
so every server agrees on what can still be read. Versions go from the oldest on, without gaps. The
head stays, and so does whatever a running push or pull has opened and all that is newer. Applying
the rule is left to garbage collection, since it takes references away.
"""

from dataclasses import dataclass

from ..events.domain import RetentionSet, VersionsExpired
from ..events.errors import InvalidArgument
from ..events.limits import KEEP_DAYS_MAX, KEEP_LAST_VERSIONS_MAX
from .history import DatabaseHistory, History

_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Retention:
    """A version is kept if either rule keeps it; without a rule all are.

    `keep_days`: whoever asks for the state of any moment of the last so many days gets it, so the
    version that was the head when they began is kept as well.
    """

    keep_last: int | None = None
    keep_days: int | None = None

    def __post_init__(self) -> None:
        for value, limit in (
            (self.keep_last, KEEP_LAST_VERSIONS_MAX),
            (self.keep_days, KEEP_DAYS_MAX),
        ):
            if value is not None and not 1 <= value <= limit:
                raise InvalidArgument(f"retention takes 1 to {limit} versions or days, not {value}")

    def __str__(self) -> str:
        last = f"the last {self.keep_last} versions" if self.keep_last else ""
        days = f"the versions of the last {self.keep_days} days" if self.keep_days else ""
        return " and ".join(filter(None, (last, days))) or "all versions"


async def set_retention(
    histories: DatabaseHistory, history: History, retention: Retention, set_by: str
) -> None:
    """Make `retention` the database's rule from now on; nothing is written if it is already."""
    if retention == retention_of(history):
        return
    event = RetentionSet(
        database_id=history.database_id,
        keep_last=retention.keep_last,
        keep_days=retention.keep_days,
        set_by=set_by,
    )
    await histories.append(history, event)


def retention_of(history: History) -> Retention:
    rule = history.retention
    return Retention() if rule is None else Retention(rule.keep_last, rule.keep_days)


def expiring(history: History, now: float, pinned: int | None) -> VersionsExpired | None:
    """What the database's rule takes at `now` (Unix seconds); None if nothing.

    `pinned` is the lowest version that a running session uses, None if none runs.
    """
    rule = retention_of(history)
    if history.deleted or rule == Retention():
        return None
    keep_from = history.head_version
    if rule.keep_last is not None:
        keep_from = min(keep_from, history.head_version - rule.keep_last + 1)
    if rule.keep_days is not None:
        keep_from = min(keep_from, _head_at(history, now - rule.keep_days * _DAY_SECONDS))
    if pinned is not None:
        keep_from = min(keep_from, pinned)
    if keep_from <= history.oldest:
        return None
    return VersionsExpired(database_id=history.database_id, through=keep_from - 1)


def _head_at(history: History, unix: float) -> int:
    """The oldest version that was the head at `unix` or later."""
    number = history.head_version
    while number > history.oldest and history.outline(number).committed_at > unix:
        number -= 1
    return number
