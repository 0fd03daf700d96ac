"""What the authorization matrix is tried on: an organization with everybody who might call, and the
whole state of its server.

`Organization` has for every caller of `edgereplica.app.authorization` a token, and for every call a
request that names something of the caller's own, of another member's or of a stranger's.
"""

import contextlib
import itertools
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.identity_provider.provider import Person
from tests.integration.running import PASSWORD, Running, narrowed

from edgereplica.app.settings import DEV_KEY
from edgereplica.app.tokens import Identity, Keyring

_numbers = itertools.count(1)
KEYRING = Keyring([DEV_KEY])
STATE = (
    "events",
    "users",
    "identities",
    "credentials",
    "organizations",
    "memberships",
    "sessions",
    "oauth_logins",
    "revoked_tokens",
    "token_epochs",
    "databases",
    "staged_segments",
)
"""All tables but those that say what the server is doing at the moment."""
MISSING = "0123456789abcdef0123456789abcdef"
State = dict[str, set[tuple[Any, ...]]]


def state_of(data_dir: Path) -> State:
    """Everything that the server knows."""
    # The module that the server uses: two SQLite libraries in a process break each other's locks.
    uri = f"file:{data_dir / 'edgereplica.db'}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as opened:
        opened.execute("BEGIN")
        return {table: set(opened.execute(f"SELECT * FROM {table}")) for table in STATE}


def changed(before: State, after: State) -> list[str]:
    """The tables that differ."""
    return [table for table in STATE if before[table] != after[table]]


def mentioning(state: State, words: Sequence[str]) -> set[tuple[Any, ...]]:
    rows = set().union(*state.values())
    return {row for row in rows if any(word in str(row) for word in words)}


@dataclass
class User:
    """`session` is in the organization, `home` in the user's own."""

    email: str
    user_id: str
    personal: str
    home: str
    session: str

    @classmethod
    async def signup(cls, world: Running) -> "User":
        email = f"user-{next(_numbers)}@example.org"
        session, who = await world.signup(email)
        return cls(email, who["userId"], who["orgId"], session, session)

    async def join(self, world: Running, admin: "User", role: str) -> None:
        body = {"email": self.email, "role": role}
        made = await world.ok("InviteMember", body, admin.home)
        await world.ok("AcceptInvitation", {"invitation": made["invitation"]}, self.home)
        self.session = await self.switched(world, admin.personal)

    async def switched(self, world: Running, organization: str) -> str:
        said = await world.ok("SwitchOrganization", {"orgId": organization}, self.home)
        return str(said["sessionToken"])


@dataclass
class Organization:
    """The admin's own organization with two databases; the other members; and a stranger.

    The admin is also a member (no admin) of the member's own organization.
    """

    world: Running
    admin: User
    colleague: User
    """The other admin."""
    member: User
    former: User
    former_tokens: dict[str, str]
    stranger: User
    database: str
    second: str
    members_database: str
    strangers_database: str

    @classmethod
    async def make(cls, world: Running) -> "Organization":
        admin, colleague, member, former, stranger = [await User.signup(world) for _ in range(5)]
        database = await world.database(admin.home)
        second = await world.database(admin.home, "second")
        await colleague.join(world, admin, "admin")
        await member.join(world, admin, "member")
        await former.join(world, admin, "member")
        tokens = {
            way: await world.sync_token(former.session, database, way) for way in ("push", "pull")
        }
        await world.ok("RemoveMember", {"userId": former.user_id}, admin.home)
        there = await world.ok("InviteMember", {"email": admin.email}, member.home)
        await world.ok("AcceptInvitation", {"invitation": there["invitation"]}, admin.home)
        members = await world.database(member.home)
        strangers = await world.database(stranger.home)
        return cls(
            world=world,
            admin=admin,
            colleague=colleague,
            member=member,
            former=former,
            former_tokens=tokens,
            stranger=stranger,
            database=database,
            second=second,
            members_database=members,
            strangers_database=strangers,
        )

    @property
    def strangers_words(self) -> tuple[str, ...]:
        """What says something of the stranger."""
        stranger = self.stranger
        return (stranger.user_id, stranger.personal, stranger.email, self.strangers_database)

    def user(self, caller: str) -> User:
        """Who calls; for a caller without rights, whose things it goes for."""
        return self.member if caller.startswith("member") else self.admin

    async def token(self, caller: str) -> str | None:
        whole = self.user(caller).session
        if caller == "nobody":
            return None
        if caller == "invitation":
            body = {"email": "somebody@example.org"}
            return str((await self.world.ok("InviteMember", body, whole))["invitation"])
        if caller.startswith("former"):
            way = caller.removeprefix("former member's ").removesuffix(" token")
            return self.former_tokens.get(way, self.former.session)
        words, _, restriction = caller.partition(", ")
        if words.endswith(" token"):
            way = "push" if "push" in words else "pull"
            token = await self.world.sync_token(whole, self.database, way)
        else:
            token = whole
        caveat = {"max_bytes": "max_bytes=1000", "max_version": "max_version=7"}.get(
            restriction, restriction.replace("=own", f"={self.database}")
        )
        return narrowed(token, caveat) if caveat else token

    def forged(self, caller: str, direction: str, database: str) -> str:
        """A sync token that only the holder of the server's key can make."""
        user = self.former if caller.startswith("former") else self.user(caller)
        way: Literal["push", "pull"] = "push" if direction == "push" else "pull"
        identity = Identity(user.user_id, self.admin.personal, user.email, "admin")
        nonce = next(_numbers).to_bytes(16, "big")
        return KEYRING.mint_sync(
            identity, database, way, now=time.time(), ttl_seconds=600, nonce=nonce
        )[0]

    def variants(self, method: str, caller: str, whose: str) -> tuple[str, ...]:
        """In how many ways the thing can be of whose it is."""
        match method, whose:
            case "RevokeToken", "own" if self.user(caller) is self.member:
                return ("sync", "session")  # a member invites nobody
            case "RevokeToken", "foreign":
                return ("sync", "session", "invite", "fellow's sync", "fellow's session")
            case "RevokeToken", _:
                return ("sync", "session", "invite")
            case "AcceptInvitation", "foreign":
                return ("session", "sync")
            case "CompleteOAuth" | "CompleteLink", _:
                return ("",)
            case _, "foreign":
                return ("theirs", "missing")
        return ("",)

    async def body(self, call: str, caller: str, whose: str, variant: str) -> dict[str, Any]:
        """The request; a method that this does not know has no fields, or it is an error."""
        world, user, friend = self.world, self.user(caller), f"new-{next(_numbers)}@example.org"
        method, _, purpose = call.partition(" ")
        match method:
            case "Signup":
                return {"email": friend, "password": PASSWORD}
            case "Login":
                return {"email": user.email, "password": PASSWORD}
            case "StartOAuth":
                return {"provider": "google"}
            case "BeginOAuth":
                return _begin(purpose.strip("()"))
            case "CompleteOAuth" | "CompleteLink":
                return await self._completed(method, user, whose)
            case "CreateDatabase":
                return {"name": "another"}
            case "DeleteDatabase" | "GetRetention":
                return {"databaseId": self._databases(whose, variant)}
            case "SetRetention":
                return {"databaseId": self._databases(whose, variant), "keepLast": 3}
            case "IssueSyncToken":
                direction = f"DIRECTION_{purpose.strip('()').upper()}"
                return {"databaseId": self._databases(whose, variant), "direction": direction}
            case "InviteMember":
                return {"email": friend}
            case "SetMemberRole":
                role = "admin" if user is self.member and whose == "own" else "member"
                return {"userId": self._member_id(user, whose, variant), "role": role}
            case "RemoveMember":
                return {"userId": self._member_id(user, whose, variant)}
            case "ChangePassword":
                return {"oldPassword": PASSWORD, "newPassword": "another battery"}
            case "RevokeSession":
                return {"sessionId": await self._session_id(user, whose, variant)}
            case "RevokeToken":
                return {"token": await self._named_token(user, whose, variant)}
            case "SwitchOrganization":
                own, foreign = self.admin.personal, self.stranger.personal
                other = self.member.personal
                found = {"own": own, "other": other, "foreign": foreign}[whose]
                return {"orgId": MISSING if variant == "missing" else found}
            case "AcceptInvitation":
                if variant:
                    return {"invitation": await self._token_of(user, self.database, variant)}
                email = user.email if whose == "own" else self.colleague.email
                made = await world.ok("InviteMember", {"email": email}, self.stranger.home)
                return {"invitation": made["invitation"]}
        return {}

    def _databases(self, whose: str, variant: str) -> str:
        found = {"own": self.database, "other": self.second, "foreign": self.strangers_database}
        return MISSING if variant == "missing" else found[whose]

    def _member(self, user: User, whose: str) -> User:
        return {"own": user, "other": self.colleague, "foreign": self.stranger}[whose]

    def _member_id(self, user: User, whose: str, variant: str) -> str:
        return MISSING if variant == "missing" else self._member(user, whose).user_id

    async def _session_id(self, user: User, whose: str, variant: str) -> str:
        if variant == "missing":
            return MISSING
        of = self._member(user, whose)
        await self.world.login(of.email)
        listed = (await self.world.ok("ListSessions", {}, of.session))["sessions"]
        return str(next(one["id"] for one in listed if not one.get("current")))

    async def _named_token(self, user: User, whose: str, variant: str) -> str:
        if variant.startswith("fellow's"):
            there = self.member.home
            if user is self.member:
                there = await self.admin.switched(self.world, self.member.personal)
            if variant.endswith("session"):
                return there
            return await self.world.sync_token(there, self.members_database, "pull")
        of = self._member(user, whose)
        database = self.strangers_database if of is self.stranger else self.database
        return await self._token_of(of, database, variant)

    async def _token_of(self, of: User, database: str, kind: str) -> str:
        if kind == "sync":
            return await self.world.sync_token(of.session, database, "pull")
        if kind == "session":
            return of.session
        body = {"email": f"new-{next(_numbers)}@example.org"}
        return str((await self.world.ok("InviteMember", body, of.session))["invitation"])

    async def _completed(self, method: str, user: User, whose: str) -> dict[str, Any]:
        world, number = self.world, next(_numbers)
        world.idp.person = Person(subject=number, email=f"person-{number}@example.org")
        links = (method == "CompleteLink") == (whose != "other")
        beginner = self.stranger if whose == "foreign" else user
        begin = _begin("link" if links else "login")
        start = await world.ok("BeginOAuth", begin, beginner.session if links else None)
        return {"state": start["state"], "code": world.consented(start["redirectUrl"])}


def _begin(purpose: str) -> dict[str, str]:
    return {"provider": "github", "purpose": f"O_AUTH_PURPOSE_{purpose.upper()}"}
