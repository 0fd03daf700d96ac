"""A small blocking client of `edgereplica.admin.v1.AccountService`, as `admin_client` is of
`AdminService`: sessions, revocation, passwords, organizations, logins with a provider.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from ..events.errors import InvalidArgument
from .admin_client import AdminClient, OAuthStart, Session

_PURPOSES = {"login": "O_AUTH_PURPOSE_LOGIN", "link": "O_AUTH_PURPOSE_LINK"}


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """One of the user's sessions; times in Unix seconds. `id` opens nothing."""

    id: str
    org_id: str
    method: str
    address: str
    agent: str
    opened_at_unix: int
    expires_at_unix: int
    current: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Organization:
    """`current`: whether the session is in it."""

    id: str
    name: str
    role: str
    current: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Member:
    user_id: str
    email: str
    role: str
    added_at_unix: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Invitation:
    """`invitation` is a secret for the invited person; good until `exp_unix` (seconds)."""

    invitation: str = field(repr=False)
    exp_unix: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class AccountClient(AdminClient):
    """Calls to one server; errors as in `AdminClient`."""

    service = "edgereplica.admin.v1.AccountService"

    def logout(self) -> None:
        self._call("Logout", {})

    def list_sessions(self) -> list[SessionEntry]:
        return [
            SessionEntry(
                id=self._text(e, "id"),
                org_id=self._text(e, "orgId"),
                method=self._text(e, "method"),
                address=self._text(e, "address"),
                agent=self._text(e, "agent"),
                opened_at_unix=self._integer(e, "openedAtUnix"),
                expires_at_unix=self._integer(e, "expiresAtUnix"),
                current=e.get("current") is True,
            )
            for e in self._list("ListSessions", "sessions")
        ]

    def revoke_session(self, session_id: str) -> None:
        self._call("RevokeSession", {"sessionId": session_id})

    def revoke_token(self, token: str) -> str:
        """What the token was for: "session", "sync" or "invite"."""
        return self._text(self._call("RevokeToken", {"token": token}), "purpose")

    def revoke_all_tokens(self) -> None:
        self._call("RevokeAllTokens", {})

    def change_password(self, old: str, new: str) -> Session:
        return self._session(self._call("ChangePassword", {"oldPassword": old, "newPassword": new}))

    def begin_oauth(self, provider: str, purpose: str, loopback_port: int = 0) -> OAuthStart:
        """`purpose` is "login" or "link"; the state of the answer is a secret."""
        if purpose not in _PURPOSES:
            raise InvalidArgument(f"a purpose is login or link, not {purpose!r}")
        request = {
            "provider": provider,
            "purpose": _PURPOSES[purpose],
            "loopbackPort": loopback_port,
        }
        answer = self._call("BeginOAuth", request)
        return OAuthStart(self._text(answer, "redirectUrl"), self._text(answer, "state"))

    def complete_link(self, state: str, code: str) -> tuple[str, str]:
        """The provider, and its address of the identity that was linked."""
        answer = self._call("CompleteLink", {"state": state, "code": code})
        return self._text(answer, "provider"), self._text(answer, "email")

    def list_organizations(self) -> list[Organization]:
        return [self._organization(e) for e in self._list("ListOrganizations", "organizations")]

    def switch_organization(self, org_id: str) -> Session:
        return self._session(self._call("SwitchOrganization", {"orgId": org_id}))

    def list_members(self) -> list[Member]:
        return [self._member(entry) for entry in self._list("ListMembers", "members")]

    def invite_member(self, email: str, role: str) -> Invitation:
        answer = self._call("InviteMember", {"email": email, "role": role})
        return Invitation(self._text(answer, "invitation"), self._integer(answer, "expUnix"))

    def accept_invitation(self, invitation: str) -> Organization:
        answer = self._call("AcceptInvitation", {"invitation": invitation})
        found = answer.get("organization", {})
        if not isinstance(found, dict):
            raise self._not_ours("its organization is no object")
        return self._organization(found)

    def set_member_role(self, user_id: str, role: str) -> Member:
        return self._member(self._call("SetMemberRole", {"userId": user_id, "role": role}))

    def remove_member(self, user_id: str) -> None:
        self._call("RemoveMember", {"userId": user_id})

    def _list(self, method: str, name: str) -> list[dict[str, Any]]:
        entries = self._call(method, {}).get(name, [])
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise self._not_ours(f"its {name} are no list of objects")
        return entries

    def _organization(self, entry: dict[str, Any]) -> Organization:
        return Organization(
            id=self._text(entry, "id"),
            name=self._text(entry, "name"),
            role=self._text(entry, "role"),
            current=entry.get("current") is True,
        )

    def _member(self, entry: dict[str, Any]) -> Member:
        return Member(
            user_id=self._text(entry, "userId"),
            email=self._text(entry, "email"),
            role=self._text(entry, "role"),
            added_at_unix=self._integer(entry, "addedAtUnix"),
        )
