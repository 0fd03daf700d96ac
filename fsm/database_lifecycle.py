"""The life of a database, and which events its log may take: from creation to deletion.

The rules, and why they are so:

- A version follows the head, or it is a conflict: whoever pushes says which version he replaces.
  This is the rule that `app.history` enforces with a compare-and-swap; the machine says what the
  rule is.
- What expires is never the head, and once expired a version stays so.
- Maps are moved only of versions that can be read; their content is what it was.
- A database that was deleted takes nothing more. Its name may be used again, for another database.

A machine is entered in the state of a folded history (`DatabaseLifecycle.of`) and asked about the
next event; or it is new and is given a whole stream.

Not here: what the events hold (`events.domain`), and their order among several writers
(`adapters.event_log`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from statemachine import State

from .machine import StrictMachine

if TYPE_CHECKING:  # for annotations only: clients draw machines without pydantic
    from ..events.domain import (
        DatabaseCreated,
        DatabaseDeleted,
        DomainEvent,
        MapsRewritten,
        RetentionSet,
        VersionCommitted,
        VersionsExpired,
    )


@dataclass(frozen=True, slots=True)
class AppendEvent:
    """The event belongs at the end of the stream. No result."""

    event: "DomainEvent"


@dataclass(frozen=True, slots=True)
class RefuseConflict:
    """The version does not follow the head. No result."""

    parent: int
    head: int


@dataclass(frozen=True, slots=True)
class RefuseEvent:
    """No correct program appends this here. No result."""

    reason: str


LifecycleEffect = AppendEvent | RefuseConflict | RefuseEvent


class DatabaseLifecycle(StrictMachine[LifecycleEffect]):
    title = "database's life"

    unborn = State(initial=True)
    empty = State()
    holding = State()
    deleted = State(final=True)

    database_created = unborn.to(empty, on="begin")
    version_committed = (
        empty.to(empty, internal=True, cond=["follows_head", "misnumbered"], on="refuse_number")
        | empty.to(holding, cond="follows_head", on="add_version")
        | empty.to(empty, internal=True, on="refuse_conflict")
        | holding.to(
            holding, internal=True, cond=["follows_head", "misnumbered"], on="refuse_number"
        )
        | holding.to(holding, internal=True, cond="follows_head", on="add_version")
        | holding.to(holding, internal=True, on="refuse_conflict")
    )
    retention_set = empty.to(empty, internal=True, on="note") | holding.to(
        holding, internal=True, on="note"
    )
    versions_expired = holding.to(
        holding, internal=True, cond="spares_head", on="expire"
    ) | holding.to(holding, internal=True, on="refuse_to_expire")
    maps_rewritten = holding.to(
        holding, internal=True, cond="all_committed", on="note"
    ) | holding.to(holding, internal=True, on="refuse_to_rewrite")
    database_deleted = empty.to(deleted, on="note") | holding.to(deleted, on="note")

    def __init__(self) -> None:
        self.head = 0
        self.expired = 0
        super().__init__()

    @classmethod
    def of(cls, *, created: bool, deleted: bool, head: int, expired: int) -> "DatabaseLifecycle":
        """The machine of a database whose history ends so."""
        machine = cls()
        machine.head, machine.expired = head, expired
        state = cls.unborn if not created else cls.holding if head else cls.empty
        machine.current_state_value = (cls.deleted if deleted else state).id
        return machine

    # Guards

    def follows_head(self, e: "VersionCommitted") -> bool:
        return e.parent == self.head

    def misnumbered(self, e: "VersionCommitted") -> bool:
        return e.version != e.parent + 1

    def spares_head(self, e: "VersionsExpired") -> bool:
        return self.expired <= e.through < self.head

    def all_committed(self, e: "MapsRewritten") -> bool:
        return all(one.version <= self.head for one in e.maps)

    # Actions

    def begin(self, e: "DatabaseCreated") -> None:
        self.emit(AppendEvent(e))

    def add_version(self, e: "VersionCommitted") -> None:
        self.head = e.version
        self.emit(AppendEvent(e))

    def expire(self, e: "VersionsExpired") -> None:
        self.expired = e.through
        self.emit(AppendEvent(e))

    def note(self, e: "RetentionSet | MapsRewritten | DatabaseDeleted") -> None:
        self.emit(AppendEvent(e))

    def refuse_number(self, e: "VersionCommitted") -> None:
        self.emit(RefuseEvent(f"version {e.version} follows version {e.parent}"))

    def refuse_conflict(self, e: "VersionCommitted") -> None:
        self.emit(RefuseConflict(e.parent, self.head))

    def refuse_to_expire(self, e: "VersionsExpired") -> None:
        self.emit(RefuseEvent(f"versions {self.expired} to {e.through} of {self.head} expire"))

    def refuse_to_rewrite(self, e: "MapsRewritten") -> None:
        newest = max(one.version for one in e.maps)
        self.emit(RefuseEvent(f"the map of version {newest} is moved, and the head is {self.head}"))
