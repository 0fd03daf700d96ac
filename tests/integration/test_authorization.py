"""The authorization matrix: every call by every caller, as `specs/authorization.md` says."""

import itertools
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.identity_provider.provider import Person
from tests.integration.running import PASSWORD, Running, narrowed, run
from tests.interop import v1_peer
from websockets.exceptions import InvalidStatus

from edgereplica.app.authorization import CALLERS, RULES, main, outcome, table
from edgereplica.app.settings import DEV_KEY
from edgereplica.app.tokens import Identity, Keyring

REPOSITORY = Path(__file__).parents[2]
SPECIFICATION = REPOSITORY / "specs" / "authorization.md"
_numbers = itertools.count(1)
SYNC_CALLERS = {"push token", "pull token"}
PAGE = b"SQLite format 3\0".ljust(4096, b"x")


@dataclass
class Cell:
    """An organization with an admin and a member, a database, and a stranger's."""

    world: Running
    admin: str
    admin_who: Any
    member: str
    member_who: Any
    database: str
    stranger: str
    strangers_database: str

    @classmethod
    async def make(cls, world: Running) -> "Cell":
        number = next(_numbers)
        admin, admin_who = await world.signup(f"admin-{number}@example.org")
        database = await world.database(admin)
        invited = f"member-{number}@example.org"
        joining, member_who = await world.signup(invited)
        invitation = await world.ok("InviteMember", {"email": invited}, admin)
        await world.ok("AcceptInvitation", {"invitation": invitation["invitation"]}, joining)
        switched = await world.ok("SwitchOrganization", {"orgId": admin_who["orgId"]}, joining)
        stranger, _ = await world.signup(f"stranger-{number}@example.org")
        theirs = await world.database(stranger)
        return cls(
            world,
            admin,
            admin_who,
            switched["sessionToken"],
            member_who,
            database,
            stranger,
            theirs,
        )

    async def token(self, caller: str) -> str | None:
        match caller:
            case "nobody":
                return None
            case "member":
                return self.member
            case "push token" | "pull token":
                direction = caller.partition(" ")[0]
                return await self.world.sync_token(self.admin, self.database, direction)
            case "push token, direction=pull":
                token = await self.world.sync_token(self.admin, self.database, "push")
                return narrowed(token, "direction=pull")
            case "invitation":
                body = {"email": "somebody@example.org"}
                return str((await self.world.ok("InviteMember", body, self.admin))["invitation"])
        caveat = caller.partition(", ")[2].replace("database=own", f"database={self.database}")
        caveat = caveat.replace("max_bytes", "max_bytes=1000")
        return narrowed(self.admin, caveat) if caveat else self.admin

    async def attempt(self, call: str, caller: str, *, own: bool) -> str:
        """The code of the call's answer."""
        method, _, purpose = call.partition(" ")
        token = await self.token(caller)
        if method == "sync":
            return await self.sync(purpose, caller, token, own=own)
        body = await self.body(method, purpose.strip("()"), caller, own=own)
        return (await self.world.call(method, body, token))[0]

    async def body(self, method: str, purpose: str, caller: str, *, own: bool) -> dict[str, Any]:
        world = self.world
        is_member = caller == "member"
        whole = self.member if is_member else self.admin
        who = self.member_who if is_member else self.admin_who
        database = {"databaseId": self.database if own else self.strangers_database}
        begin = {"provider": "github", "purpose": f"O_AUTH_PURPOSE_{purpose.upper()}"}
        world.idp.person = Person(subject=next(_numbers), email=f"p{next(_numbers)}@example.org")
        match method:
            case "Signup":
                return {"email": f"new-{next(_numbers)}@example.org", "password": PASSWORD}
            case "Login":
                return {"email": who["email"], "password": PASSWORD}
            case "StartOAuth":
                return {"provider": "google"}
            case "BeginOAuth":
                return begin
            case "CompleteOAuth":
                start = await world.ok("StartOAuth", {"provider": "github"})
                return {"state": start["state"], "code": world.consented(start["redirectUrl"])}
            case "CompleteLink":
                begin["purpose"] = "O_AUTH_PURPOSE_LINK"
                start = await world.ok("BeginOAuth", begin, whole)
                return {"state": start["state"], "code": world.consented(start["redirectUrl"])}
            case "CreateDatabase":
                return {"name": "another"}
            case "DeleteDatabase" | "GetRetention":
                return database
            case "SetRetention":
                return database | {"keepLast": 3}
            case "IssueSyncToken":
                pulls = caller.endswith("direction=pull")
                return database | {"direction": f"DIRECTION_{'PULL' if pulls else 'PUSH'}"}
            case "RevokeSession":
                await world.login(who["email"])
                listed = (await world.ok("ListSessions", {}, whole))["sessions"]
                return {"sessionId": next(e["id"] for e in listed if not e.get("current"))}
            case "RevokeToken":
                return {"token": await world.sync_token(whole, self.database, "pull")}
            case "ChangePassword":
                return {"oldPassword": PASSWORD, "newPassword": "another battery"}
            case "SwitchOrganization":
                return {"orgId": who["orgId"]}
            case "AcceptInvitation":
                made = await world.ok("InviteMember", {"email": who["email"]}, self.stranger)
                return {"invitation": made["invitation"]}
            case "InviteMember":
                return {"email": "friend@example.org"}
            case "SetMemberRole":
                return {"userId": self.member_who["userId"], "role": "admin"}
            case "RemoveMember":
                return {"userId": self.member_who["userId"]}
            case _:
                return {}

    async def sync(self, direction: str, caller: str, token: str | None, *, own: bool) -> str:
        """Push a page, or pull what the admin had pushed."""
        world, url = self.world, self.world.sync_url
        admins = await world.sync_token(self.admin, self.database, "push")
        assert (await v1_peer.push(url, admins, [PAGE])).sync_complete
        if not own:
            # No call gives such a token: only who holds the server's key can make one.
            token = self._forged(caller.partition(" ")[0])
        changed = PAGE.replace(b"x", b"y")
        try:
            if direction == "push":
                await v1_peer.push(url, token or "", [changed])
                moved = await self._content() == [changed]
                ended = None
            else:
                pulled = await v1_peer.pull(url, token or "")
                moved = pulled.pages == [PAGE]
                ended = pulled.ending
        except InvalidStatus as refused:
            assert refused.response.status_code == 401
            return "unauthenticated"
        except AssertionError as refused:
            return "not_found" if "there is no database" in str(refused) else "nothing moves"
        assert ended is None or ended.close_code in {1000, 1002, 1008}
        return "ok" if moved else "nothing moves"

    async def _content(self) -> list[bytes]:
        token = await self.world.sync_token(self.admin, self.database, "pull")
        return (await v1_peer.pull(self.world.sync_url, token)).pages

    def _forged(self, direction: str) -> str:
        who = self.admin_who
        identity = Identity(who["userId"], who["orgId"], who["email"], "admin")
        assert direction in {"push", "pull"}
        minted = Keyring([DEV_KEY]).mint_sync(
            identity,
            self.strangers_database,
            "push" if direction == "push" else "pull",
            now=time.time(),
            ttl_seconds=600,
            nonce=bytes(16),
        )
        return minted[0]


def test_every_call_of_both_services_has_a_rule() -> None:
    named = {call.partition(" ")[0] for call in RULES} - {"sync"}
    files = sorted((REPOSITORY / "proto/edgereplica/admin/v1").glob("*.proto"))
    declared = re.findall(r"^  rpc (\w+)\(", "".join(map(Path.read_text, files)), re.MULTILINE)
    assert len(declared) > 20
    assert named == set(declared)


def test_the_specification_is_as_generated(tmp_path: Path) -> None:
    assert SPECIFICATION.read_text() == table()
    assert main(["--check", str(SPECIFICATION)]) == 0
    other = tmp_path / "other.md"
    assert main(["--check", str(other)]) == 1
    assert main([str(other)]) == 0
    assert other.read_text() == table()


@pytest.mark.parametrize("caller", CALLERS)
def test_every_cell(tmp_path: Path, caller: str) -> None:
    async def check(world: Running) -> None:
        wrong = []
        for call, rule in RULES.items():
            for own in (True, False) if rule.names_database else (True,):
                if (
                    not own
                    and call.startswith("sync")
                    and caller not in {"push token", "pull token"}
                ):
                    continue
                cell = await Cell.make(world)
                said = await cell.attempt(call, caller, own=own)
                expected = outcome(call, caller, own=own)
                if said != expected:
                    wrong.append((call, caller, own, said, expected))
        assert wrong == []

    run(tmp_path, check)
