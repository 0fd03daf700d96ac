"""The login's machine: every pair of state and event, and every way through it."""

import re
from dataclasses import replace

import pytest

from edgereplica.events.errors import ProtocolViolation
from edgereplica.events.oauth import (
    AccountCollided,
    AccountFound,
    AccountReady,
    CodeBrought,
    IdentityProven,
    LoginAsked,
    LoginEvent,
    LoginFailed,
    ProviderIdentity,
    StateClaimed,
)
from edgereplica.fsm.diagrams import events_of, steps
from edgereplica.fsm.machine import trigger_of
from edgereplica.fsm.oauth_login import (
    ClaimState,
    CreateAccount,
    FindAccount,
    LinkIdentity,
    OAuthLogin,
    OpenSession,
    ProveIdentity,
    RefuseLogin,
    RememberLogin,
    ReportLinked,
    SendToProvider,
)
from edgereplica.fsm.registry import DRAWN

ASKED = LoginAsked("github", "login", "public", expires_at=100.0)
ASKED_LINK = replace(ASKED, purpose="link", user_id="u-1")
BROUGHT = CodeBrought("login", at=99.9)
BROUGHT_LINK = CodeBrought("link", at=99.9, user_id="u-1")
WHO = ProviderIdentity("github", "7", "a@example.org", email_verified=True)
NOBODY = AccountFound(None, email_taken=False)
EVENTS: list[LoginEvent] = [
    ASKED,
    BROUGHT,
    StateClaimed(won=True),
    IdentityProven(WHO),
    NOBODY,
    AccountReady("u-1"),
    AccountCollided(),
    LoginFailed("unauthenticated", "no"),
]
TO_MATCHING = [ASKED, BROUGHT, StateClaimed(won=True), IdentityProven(WHO)]
TO_MATCHING_LINK = [ASKED_LINK, BROUGHT_LINK, StateClaimed(won=True), IdentityProven(WHO)]
WAY_TO: dict[str, list[LoginEvent]] = {
    "unasked": [],
    "awaiting_code": [ASKED],
    "claiming": TO_MATCHING[:2],
    "proving": TO_MATCHING[:3],
    "matching": TO_MATCHING,
    "creating": [*TO_MATCHING, NOBODY],
    "linking": [*TO_MATCHING_LINK, NOBODY],
    "logged_in": [*TO_MATCHING, NOBODY, AccountReady("u-1")],
    "linked": [*TO_MATCHING_LINK, NOBODY, AccountReady("u-1")],
    "expired": [ASKED, replace(BROUGHT, at=100.0)],
    "refused": [ASKED, LoginFailed("unauthenticated", "no")],
}


def after(events: list[LoginEvent]) -> OAuthLogin:
    machine = OAuthLogin()
    for event in events:
        machine.handle(event)
    return machine


def test_every_state_is_reached_and_every_event_tried() -> None:
    assert DRAWN["oauth_login"] is OAuthLogin
    for state, way in WAY_TO.items():
        assert after(way).state_id == state
    assert {state.id for state in OAuthLogin.states} == WAY_TO.keys()
    assert {trigger_of(event) for event in EVENTS} == set(events_of(OAuthLogin))


@pytest.mark.parametrize("state", WAY_TO)
@pytest.mark.parametrize("event", EVENTS, ids=trigger_of)
def test_what_a_state_does_not_allow_is_refused_and_changes_nothing(
    state: str, event: LoginEvent
) -> None:
    machine = after(WAY_TO[state])
    before = (machine.asked, machine.identity)
    allowed = {step.event for step in steps(OAuthLogin) if step.source == state}
    if trigger_of(event) in allowed:
        assert machine.handle(event)
        assert machine.state_id != state
        return
    with pytest.raises(ProtocolViolation, match=state):
        machine.handle(event)
    assert (machine.state_id, machine.asked, machine.identity) == (state, *before)


def test_a_first_login_makes_an_account() -> None:
    machine = OAuthLogin()
    assert machine.handle(ASKED) == (RememberLogin(ASKED), SendToProvider("github", "public"))
    assert machine.handle(BROUGHT) == (ClaimState("public"),)
    assert machine.handle(StateClaimed(won=True)) == (ProveIdentity("github"),)
    assert machine.handle(IdentityProven(WHO)) == (FindAccount(WHO),)
    assert machine.handle(NOBODY) == (CreateAccount(WHO),)
    assert machine.handle(AccountReady("u-9")) == (OpenSession("u-9", "github"),)
    assert machine.finished


def test_a_known_identity_opens_its_account_whatever_its_address_is_now() -> None:
    for taken in (False, True):
        effects = after(TO_MATCHING).handle(AccountFound("u-2", email_taken=taken))
        assert effects == (OpenSession("u-2", "github"),)


def test_a_link_reports_and_opens_nothing() -> None:
    for found in (NOBODY, AccountFound(None, email_taken=True)):
        machine = after(TO_MATCHING_LINK)
        assert machine.handle(found) == (LinkIdentity("u-1", WHO),)
        assert machine.handle(AccountReady("u-1")) == (ReportLinked(WHO),)
    assert after(TO_MATCHING_LINK).handle(AccountFound("u-1", email_taken=True)) == (
        ReportLinked(WHO),
    )


def test_a_collision_looks_again() -> None:
    for way in (TO_MATCHING, TO_MATCHING_LINK):
        machine = after([*way, NOBODY])
        assert machine.handle(AccountCollided()) == (FindAccount(WHO),)
        assert machine.state_id == "matching"


EXPIRED = "^this login has expired: begin it again$"
STRANGER = "^this login was begun for something else, or by another account$"
REFUSALS: dict[str, tuple[list[LoginEvent], str, str]] = {
    "too late by nothing": ([ASKED, replace(BROUGHT, at=100.0)], "unauthenticated", EXPIRED),
    "a login finished as a link": ([ASKED, BROUGHT_LINK], "permission_denied", STRANGER),
    "a link finished as a login": ([ASKED_LINK, BROUGHT], "permission_denied", STRANGER),
    "another account's link": (
        [ASKED_LINK, replace(BROUGHT_LINK, user_id="u-2")],
        "permission_denied",
        STRANGER,
    ),
    "a state claimed before": (
        [ASKED, BROUGHT, StateClaimed(won=False)],
        "unauthenticated",
        "^this login was finished or tried before: begin it again$",
    ),
    "an unverified address": (
        [*TO_MATCHING[:3], IdentityProven(replace(WHO, email_verified=False))],
        "permission_denied",
        "verified",
    ),
    "no address": (
        [*TO_MATCHING[:3], IdentityProven(replace(WHO, email=""))],
        "permission_denied",
        "verified",
    ),
    "an address that has an account": (
        [*TO_MATCHING, AccountFound(None, email_taken=True)],
        "already_exists",
        "oauth link github",
    ),
    "linking what is another's": (
        [*TO_MATCHING_LINK, AccountFound("u-2", email_taken=False)],
        "already_exists",
        "another account",
    ),
    "what a step failed with": (
        [*TO_MATCHING, LoginFailed("identity_provider", "down")],
        "identity_provider",
        "down",
    ),
}


def test_a_login_begins_with_nothing() -> None:
    assert (OAuthLogin().asked, OAuthLogin().identity) == (None, None)


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    events, code, words = REFUSALS[name]
    machine = after(events[:-1])
    (effect,) = machine.handle(events[-1])
    assert isinstance(effect, RefuseLogin)
    assert effect.code == code
    assert re.search(words, effect.message)
    assert machine.finished
