"""The authorization matrix: every call by every caller on what is its own, another member's or a
stranger's, as `specs/authorization.md` says; and a refused call has changed nothing."""

import asyncio
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from protobuf import DescMethod
from tests.integration.organization_syncs import WIRES, Syncs
from tests.integration.organizations import (
    KEYRING,
    Organization,
    State,
    User,
    changed,
    mentioning,
    state_of,
)
from tests.integration.running import Running, run
from tests.interop import v1_peer
from websockets.exceptions import InvalidStatus

from edgereplica.app.authorization import (
    CALLERS,
    FAMILIES,
    RULES,
    cell,
    main,
    outcome,
    table,
    whose_of,
)

REPOSITORY = Path(__file__).parents[2]
SPECIFICATION = REPOSITORY / "specs" / "authorization.md"
CELLS = [(call, whose) for call in RULES for whose in whose_of(call)]
READS = {
    "Whoami",
    "ListDatabases",
    "ListSessions",
    "ListOrganizations",
    "ListMembers",
    "GetRetention",
    "IssueSyncToken",
    "InviteMember",
}
"""Calls that change nothing even if they are allowed: what they give is in their answer."""
ENDS_TOKENS = {"Logout", "RevokeSession", "RevokeToken", "RevokeAllTokens", "ChangePassword"}


def methods() -> dict[str, DescMethod]:
    """Every call of every service, by the generated code."""
    found: dict[str, DescMethod] = {}
    for path in sorted((REPOSITORY / "proto/edgereplica/admin/v1").glob("*.proto")):
        generated = importlib.import_module(
            f"edgereplica.proto.gen.edgereplica.admin.v1.{path.stem}_pb"
        )
        for service in generated.desc().services:
            for method in service.methods:
                assert method.name not in found
                found[method.name] = method
    return found


def test_every_call_of_every_service_has_a_rule() -> None:
    declared = methods()
    assert len(declared) > 20
    assert {call.partition(" ")[0] for call in RULES} - {"sync"} == set(declared)
    assert set(declared) >= READS | ENDS_TOKENS


def test_the_specification_is_as_generated(tmp_path: Path) -> None:
    assert SPECIFICATION.read_text() == table()
    assert main(["--check", str(SPECIFICATION)]) == 0
    other = tmp_path / "other.md"
    assert main(["--check", str(other)]) == 1
    assert main([str(other)]) == 0
    assert other.read_text() == table()


def test_the_tables_say_every_cell() -> None:
    """Callers share a column only where they are treated alike."""
    rows: dict[str, dict[str, str]] = {}
    titles: list[str] = []
    for line in SPECIFICATION.read_text().splitlines():
        words = [word.strip() for word in line.strip("|").split("|")]
        if line.startswith("| call"):
            titles = words[1:]
        elif line.startswith("| "):
            rows[words[0]] = dict(zip(titles, words[1:], strict=True))
    assert set(rows) == set(RULES)
    for call, columns in rows.items():
        said: dict[str, str] = {}
        for title, word in columns.items():
            for name in title.split("<br>"):
                ones = CALLERS if name == "anybody" else FAMILIES.get(name, (name,))
                assert not said.keys() & set(ones)
                said |= dict.fromkeys(ones, word)
        assert said == {caller: cell(call, caller) for caller in CALLERS}


@dataclass
class Attempt:
    """One caller's call on one thing."""

    organization: Organization
    call: str
    caller: str
    whose: str
    variant: str

    @property
    def method(self) -> str:
        return self.call.partition(" ")[0]

    async def made(
        self, data_dir: Path, known: dict[str, DescMethod], expected: str
    ) -> tuple[str, bool, str]:
        """The code of the answer, whether anything changed, and a refusal's words.

        What else an answer must be is looked at if its code is the `expected` one.
        """
        organization, world = self.organization, self.organization.world
        body = await organization.body(self.call, self.caller, self.whose, self.variant)
        assert bool(body) == bool(known[self.method].input.fields), "fill in the request"
        token = await organization.token(self.caller)
        before = state_of(data_dir)
        code, said = await world.call(self.method, body, token)
        after = state_of(data_dir)
        if code == expected == "ok":
            self._check_done(before, after, body, said)
        elif code == expected:
            assert changed(before, after) == [], "what was refused changed something"
            if self.method in ENDS_TOKENS:
                await self._check_alive(body)
        words = str(said.get("message", ""))
        for value in body.values():
            words = words.replace(str(value), "…")
        return code, before != after, words

    def _check_done(
        self, before: State, after: State, body: dict[str, Any], said: dict[str, Any]
    ) -> None:
        """It was done, in the caller's organization alone, and says nothing of a stranger's."""
        organization, strange = self.organization, self.organization.strangers_words
        assert bool(changed(before, after)) == (self.method not in READS)
        if self.method != "AcceptInvitation":  # it is the stranger's
            touched = mentioning(before, strange) ^ mentioning(after, strange)
            assert touched == set(), "something of a stranger's changed"
            assert [word for word in strange if word in json.dumps(said)] == []
        if "database=own" in self.caller and self.method == "ListDatabases":
            assert [one["id"] for one in said["databases"]] == [organization.database]
        if whoami := said.get("whoami"):
            roles = {(row[0], row[1]): row[2] for row in after["memberships"]}
            assert whoami["role"] == roles.get((whoami["orgId"], whoami["userId"]))
            assert whoami["orgId"] == body.get("orgId", whoami["orgId"])
        if self.method == "IssueSyncToken":
            self._check_narrowed(body, said["token"])

    def _check_narrowed(self, body: dict[str, Any], token: str) -> None:
        """The sync token is the caller's, for what was asked, and can no more than its session."""
        organization = self.organization
        claims = KEYRING.verify_sync(token, 0)
        assert claims.user_id == organization.user(self.caller).user_id
        assert claims.org_id == organization.admin.personal
        assert claims.database_id == body["databaseId"]
        assert body["direction"] == f"DIRECTION_{str(claims.direction).upper()}"
        assert claims.max_bytes == (1000 if "max_bytes" in self.caller else None)
        assert claims.max_version == (7 if "max_version" in self.caller else None)

    async def _check_alive(self, body: dict[str, Any]) -> None:
        """Nobody's token ended, whatever the server may remember beside its tables."""
        organization, world = self.organization, self.organization.world
        users: list[User] = [
            organization.admin,
            organization.colleague,
            organization.member,
            organization.stranger,
        ]
        tokens = [session for user in users for session in (user.home, user.session)]
        named = body.get("token")
        if named and self.variant.endswith("sync"):
            try:
                async with v1_peer.session(world.sync_url, named) as peer:
                    await peer.hello()
            except InvalidStatus as refused:
                raise AssertionError("a refused call ended a sync token") from refused
        elif named and self.variant.endswith("session"):
            tokens.append(named)
        for code, _ in await asyncio.gather(*(world.call("Whoami", {}, one) for one in tokens)):
            assert code == "ok", "a refused call ended a token"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_of_a_call(tmp_path: Path, family: str) -> None:
    calls = [pair for pair in CELLS if not pair[0].startswith("sync")]
    known = methods()

    async def check(world: Running) -> None:
        wrong: list[object] = []
        organization: Organization | None = None
        refusals: dict[tuple[str, ...], str] = {}
        for caller in FAMILIES[family]:
            for call, whose in calls:
                expected = outcome(call, caller, whose)
                organization = organization or await Organization.make(world)
                variants = organization.variants(call.partition(" ")[0], caller, whose)
                # Without a session nothing of the request is looked at.
                for variant in variants[:1] if expected == "unauthenticated" else variants:
                    organization = organization or await Organization.make(world)
                    attempt = Attempt(organization, call, caller, whose, variant)
                    try:
                        code, spent, words = await attempt.made(tmp_path / "data", known, expected)
                    except AssertionError as error:
                        wrong.append((call, caller, whose, variant, str(error)))
                        organization = None
                        continue
                    if code != expected:
                        wrong.append((call, caller, whose, variant, code, expected))
                    if variant in {"theirs", "missing"}:
                        same = refusals.setdefault((call, caller, whose), words)
                        if words != same:
                            wrong.append((call, caller, whose, words, same))
                    if spent and RULES[call].needs != "nothing":
                        organization = None  # it is not what it was
        assert wrong == []

    run(tmp_path, check)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_of_a_sync(tmp_path: Path, family: str) -> None:
    calls = [pair for pair in CELLS if pair[0].startswith("sync")]
    syncs = Syncs.make(tmp_path)

    async def check(world: Running) -> None:
        wrong: list[object] = []
        organization = await Organization.make(world)
        await syncs.prepare(organization)
        for caller in FAMILIES[family]:
            for call, whose in calls:
                expected = outcome(call, caller, whose)
                for wire in WIRES:
                    before = state_of(tmp_path / "data")
                    try:
                        said = await syncs.attempt(organization, call, caller, whose, wire)
                    except AssertionError as error:
                        wrong.append((call, caller, whose, wire, str(error)))
                        continue
                    if said != expected:
                        wrong.append((call, caller, whose, wire, said, expected))
                    tables = changed(before, state_of(tmp_path / "data"))
                    if bool(tables) != (said == "ok" and "push" in call):
                        wrong.append((call, caller, whose, wire, said, tables))
                    if tables:
                        await syncs.prepare(organization)
        assert wrong == []

    run(tmp_path, check)


@pytest.mark.parametrize("call", ["RemoveMember", "SetMemberRole"])
def test_the_last_admin_stays_one(tmp_path: Path, call: str) -> None:
    async def check(world: Running) -> None:
        organization = await Organization.make(world)
        admin = organization.admin
        await world.ok("RemoveMember", {"userId": organization.colleague.user_id}, admin.home)
        before = state_of(tmp_path / "data")
        for caller in (admin, organization.member):
            body = {"userId": admin.user_id} | ({"role": "member"} if "Role" in call else {})
            code, _ = await world.call(call, body, caller.session)
            assert code == ("invalid_argument" if caller is admin else "permission_denied")
        assert state_of(tmp_path / "data") == before

    run(tmp_path, check)
