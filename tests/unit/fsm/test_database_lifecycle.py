"""The database's machine: every pair of state and event, and its agreement with the fold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgereplica.adapters.event_log import Stored
from edgereplica.app.history import History, fold
from edgereplica.events import domain
from edgereplica.events.domain import (
    DatabaseCreated,
    DatabaseDeleted,
    DomainEvent,
    MapsRewritten,
    RetentionSet,
    RewrittenMap,
    VersionCommitted,
    VersionsExpired,
)
from edgereplica.events.errors import ProtocolViolation
from edgereplica.events.pages import digest, page_size
from edgereplica.fsm.database_lifecycle import (
    AppendEvent,
    DatabaseLifecycle,
    RefuseConflict,
    RefuseEvent,
)
from edgereplica.fsm.diagrams import events_of, steps
from edgereplica.fsm.machine import trigger_of
from edgereplica.fsm.registry import DRAWN


def version(number: int, parent: int | None = None) -> VersionCommitted:
    return VersionCommitted(
        database_id="d",
        version=number,
        parent=number - 1 if parent is None else parent,
        page_size=page_size(4096),
        page_count=1,
        root=digest(bytes(32)),
        author_id="u",
        author_email="u@example.org",
        message="",
        committed_at=float(number),
        map_key=f"maps/{number}",
        map_is_snapshot=True,
        segments=(),
        pages_changed=1,
        stored_bytes=1,
    )


def moved(number: int) -> MapsRewritten:
    one = RewrittenMap(version=number, map_key="moved", map_is_snapshot=True, segments=())
    return MapsRewritten(database_id="d", maps=(one,))


CREATED = DatabaseCreated(database_id="d", org_id="o", name="main", created_by="u")
KEEP = RetentionSet(database_id="d", keep_last=1, keep_days=None, set_by="u")
DELETED = DatabaseDeleted(database_id="d", deleted_by="u")
EXPIRED = VersionsExpired(database_id="d", through=1)
WAY_TO: dict[str, list[DomainEvent]] = {
    "unborn": [],
    "empty": [CREATED],
    "holding": [CREATED, version(1), version(2)],
    "deleted": [CREATED, version(1), DELETED],
}
EVENTS = [CREATED, version(1), KEEP, EXPIRED, moved(1), DELETED]


def after(events: list[DomainEvent]) -> DatabaseLifecycle:
    machine = DatabaseLifecycle()
    for event in events:
        assert machine.handle(event) == (AppendEvent(event),)
    return machine


def test_every_state_is_reached_and_every_event_tried() -> None:
    assert DRAWN["database_lifecycle"] is DatabaseLifecycle
    assert {state.id for state in DatabaseLifecycle.states} == WAY_TO.keys()
    assert {trigger_of(event) for event in EVENTS} == set(events_of(DatabaseLifecycle))
    for state, way in WAY_TO.items():
        assert after(way).state_id == state


@pytest.mark.parametrize("state", WAY_TO)
@pytest.mark.parametrize("event", EVENTS, ids=trigger_of)
def test_what_a_state_does_not_allow_is_refused_and_changes_nothing(
    state: str, event: DomainEvent
) -> None:
    machine = after(WAY_TO[state])
    before = (machine.state_id, machine.head, machine.expired)
    if (state, trigger_of(event)) in {(s.source, s.event) for s in steps(DatabaseLifecycle)}:
        assert len(machine.handle(event)) == 1
        return
    with pytest.raises(ProtocolViolation, match=state):
        machine.handle(event)
    assert (machine.state_id, machine.head, machine.expired) == before


@pytest.mark.parametrize(
    ("way", "event", "refusal"),
    [
        ("holding", version(2), RefuseConflict(1, 2)),
        ("holding", version(4), RefuseConflict(3, 2)),
        ("empty", version(2), RefuseConflict(1, 0)),
        ("empty", version(2, 0), RefuseEvent("version 2 follows version 0")),
        ("holding", version(4, 2), RefuseEvent("version 4 follows version 2")),
        (
            "holding",
            VersionsExpired(database_id="d", through=2),
            RefuseEvent("versions 0 to 2 of 2 expire"),
        ),
        (
            "holding",
            moved(3),
            RefuseEvent("the map of version 3 is moved, and the head is 2"),
        ),
    ],
)
def test_a_refusal_says_why_and_changes_nothing(
    way: str, event: DomainEvent, refusal: object
) -> None:
    machine = after(WAY_TO[way])
    before = (machine.state_id, machine.head, machine.expired)
    assert machine.handle(event) == (refusal,)
    assert (machine.state_id, machine.head, machine.expired) == before


def test_what_has_expired_stays_so() -> None:
    machine = after([CREATED, version(1), version(2), version(3)])
    machine.handle(VersionsExpired(database_id="d", through=2))
    assert machine.handle(EXPIRED) == (RefuseEvent("versions 2 to 1 of 3 expire"),)


def test_what_was_let_go_already_may_be_let_go_again() -> None:
    machine = after([CREATED, version(1), version(2), version(3)])
    for _ in range(2):
        event = VersionsExpired(database_id="d", through=2)
        assert machine.handle(event) == (AppendEvent(event),)


def test_the_map_of_the_head_may_be_moved() -> None:
    machine = after([CREATED, version(1), version(2)])
    assert machine.handle(moved(2)) == (AppendEvent(moved(2)),)


def test_a_database_that_was_never_created_may_only_be_created() -> None:
    machine = DatabaseLifecycle.of(created=False, deleted=False, head=0, expired=0)
    assert machine.state_id == "unborn"


NUMBERS = st.integers(1, 5)
ANY_EVENT = st.one_of(
    st.sampled_from([CREATED, KEEP, DELETED]),
    st.builds(version, NUMBERS),
    st.builds(moved, NUMBERS),
    st.builds(lambda through: VersionsExpired(database_id="d", through=through), NUMBERS),
)


@given(st.lists(ANY_EVENT, max_size=30))
def test_a_machine_entered_from_the_fold_is_the_one_that_lived_through_it(
    offered: list[DomainEvent],
) -> None:
    """Whatever it lets into the stream, the fold of the stream leads back to the same machine."""
    lived, history = DatabaseLifecycle(), History("d")
    for event in [CREATED, version(1), *offered]:
        try:
            (effect,) = lived.handle(event)
        except ProtocolViolation:
            continue
        if isinstance(effect, AppendEvent):
            history = fold(history, [Stored(history.seq + 1, *domain.encode(event))])
        entered = DatabaseLifecycle.of(
            created=bool(history.org_id),
            deleted=history.deleted,
            head=history.head_version,
            expired=history.expired,
        )
        assert (entered.state_id, entered.head, entered.expired) == (
            lived.state_id,
            lived.head,
            lived.expired,
        )
