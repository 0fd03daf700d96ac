"""Looking after accounts and organizations: sessions, revocation, passwords, members.

Use cases without a transport, as `app.admin`; who may call them is said in `app.authorization`.
What belongs to another user or organization answers like what does not exist.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..adapters.event_log import EventLog
from ..adapters.ports import Clock, Ids, Repo, Row, Statement
from ..adapters.projections import email_key
from ..events.domain import (
    DomainEvent,
    MemberAdded,
    MemberRemoved,
    MemberRoleChanged,
    Role,
    org_stream,
)
from ..events.errors import (
    AlreadyExists,
    ConcurrentAppend,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from ..events.limits import APPEND_ATTEMPTS_MAX, INVITATION_SECONDS, NONCE_BYTES, PASSWORD_CHARS_MAX
from ..events.oauth import ProviderIdentity
from .admin import check_password
from .authorization import authorize
from .email import check_email
from .oauth import OAuthLogins
from .passwords import Passwords
from .revocations import Revocations, revocation
from .sessions import Authenticated, SessionInfo, Sessions
from .tokens import Identity, Keyring, VerifiedClaims

_ROLES: dict[str, Role] = {"admin": "admin", "member": "member"}


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """A member of an organization; `added_at` in Unix seconds."""

    user_id: str
    email: str
    role: str
    added_at: float


@dataclass(frozen=True, slots=True)
class OrganizationInfo:
    """An organization as one of its members sees it."""

    org_id: str
    name: str
    role: str


class AccountService:
    """The use cases."""

    def __init__(
        self,
        *,
        repo: Repo,
        log: EventLog,
        keyring: Keyring,
        passwords: Passwords,
        sessions: Sessions,
        revocations: Revocations,
        oauth: OAuthLogins,
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._repo = repo
        self._log = log
        self._keyring = keyring
        self._passwords = passwords
        self._sessions = sessions
        self._revocations = revocations
        self._oauth = oauth
        self._clock = clock
        self._ids = ids

    # Sessions and tokens

    async def logout(self, session: VerifiedClaims) -> None:
        """End this session. The sync tokens that it issued stay: they were made to be left."""
        authorize(session, "Logout")
        await self._revocations.revoke(session, session.user_id, descendants=False)

    async def list_sessions(self, session: VerifiedClaims) -> list[SessionInfo]:
        authorize(session, "ListSessions")
        return await self._sessions.of_user(session.user_id)

    async def revoke_session(self, session: VerifiedClaims, session_id: str) -> None:
        """End one of the caller's sessions and what it issued."""
        authorize(session, "RevokeSession")
        for info in await self._sessions.of_user(session.user_id):
            if info.session_id == session_id:
                await self._revocations.revoke(
                    self._session_claims(session, info), session.user_id, descendants=True
                )
                return
        raise NotFound(f"you have no session {session_id}")

    async def revoke_token(self, session: VerifiedClaims, untrusted_token: str) -> str:
        """End a token and every narrowed copy of it; its purpose.

        `InvalidArgument` for what is no valid token, `NotFound` for one of somebody else.
        """
        authorize(session, "RevokeToken")
        try:
            claims = self._keyring.verify(untrusted_token, self._clock.now())
        except Unauthenticated as error:
            # The caller is known: it is the token that is wrong.
            raise InvalidArgument(f"this token opens nothing: {error.message}") from None
        administers = session.role == "admin" and claims.org_id == session.org_id
        if claims.user_id != session.user_id and not administers:
            raise NotFound("this is not a token of yours")
        await self._revocations.revoke(claims, session.user_id, descendants=True)
        return claims.purpose

    async def revoke_all(self, session: VerifiedClaims) -> None:
        """End every session and token of the caller, this one too."""
        authorize(session, "RevokeAllTokens")
        await self._revocations.revoke_all(session.user_id, "asked")

    async def change_password(
        self, session: VerifiedClaims, old_password: str, new_password: str
    ) -> Authenticated:
        """A new password; ends every token of the account, and opens a new session."""
        authorize(session, "ChangePassword")
        check_password(new_password)
        row = await self._repo.first(
            "SELECT password_hash FROM credentials WHERE user_id = ?", session.user_id
        )
        if row is None:
            raise PermissionDenied(
                "this account has no password: it logs in with a provider. An administrator of the "
                "server can give it one (`edgereplica admin reset-password`)"
            )
        right = await self._passwords.verify(
            row["password_hash"], old_password[:PASSWORD_CHARS_MAX]
        )
        if not right or len(old_password) > PASSWORD_CHARS_MAX:
            raise PermissionDenied("the old password is wrong")
        replaced = credential(session.user_id, await self._passwords.hash(new_password))
        epoch = await self._revocations.revoke_all(
            session.user_id, "password_changed", [replaced], since=session.epoch
        )
        identity = Identity(session.user_id, session.org_id, session.email, session.role)
        return await self._sessions.open(identity, "password change", epoch=epoch)

    # Logging in with a provider

    async def begin_link(
        self, session: VerifiedClaims, provider: str, loopback_port: int = 0
    ) -> tuple[str, str]:
        authorize(session, "BeginOAuth (link)")
        return await self._oauth.begin(
            provider, purpose="link", user_id=session.user_id, loopback_port=loopback_port
        )

    async def begin_login(self, provider: str, loopback_port: int = 0) -> tuple[str, str]:
        return await self._oauth.begin(provider, loopback_port=loopback_port)

    async def complete_link(
        self, session: VerifiedClaims, state: str, code: str
    ) -> ProviderIdentity:
        authorize(session, "CompleteLink")
        return await self._oauth.complete_link(state, code, session.user_id)

    # Organizations

    async def list_organizations(self, session: VerifiedClaims) -> list[OrganizationInfo]:
        authorize(session, "ListOrganizations")
        rows = await self._repo.all(
            "SELECT o.org_id, o.name, m.role FROM memberships m JOIN organizations o "
            "ON o.org_id = m.org_id WHERE m.user_id = ? ORDER BY m.added_at, o.org_id",
            session.user_id,
        )
        return [_organization(row) for row in rows]

    async def switch_organization(self, session: VerifiedClaims, org_id: str) -> Authenticated:
        """A session in another organization of the caller, until this one expires; this one stays.

        It proves nothing anew, so whatever ends all sessions ends it too.
        """
        authorize(session, "SwitchOrganization")
        found = {info.org_id: info for info in await self.list_organizations(session)}.get(org_id)
        if found is None:
            raise NotFound(f"there is no organization {org_id}")
        identity = Identity(session.user_id, org_id, session.email, found.role)
        return await self._sessions.open(
            identity, "switch", epoch=session.epoch, exp_max=session.exp
        )

    async def list_members(self, session: VerifiedClaims) -> list[MemberInfo]:
        authorize(session, "ListMembers")
        return await self._members(session.org_id)

    async def invite_member(
        self, session: VerifiedClaims, email: str, role: str
    ) -> tuple[str, int]:
        """An invitation to the session's organization, and when it expires (Unix seconds).

        It is good once, and only for the account of that e-mail address; whether there is one
        already, the answer does not say. Revoking it takes it back.
        """
        authorize(session, "InviteMember")
        invited = Identity(session.user_id, session.org_id, check_email(email), _role(role))
        return self._keyring.mint_invite(
            invited,
            now=self._clock.now(),
            ttl_seconds=INVITATION_SECONDS,
            nonce=self._ids.token_bytes(NONCE_BYTES),
            epoch=session.epoch,
        )

    async def accept_invitation(
        self, session: VerifiedClaims, untrusted_invitation: str
    ) -> OrganizationInfo:
        """Join the organization, if who invited is still an admin of it."""
        authorize(session, "AcceptInvitation")
        try:
            invitation = self._keyring.verify_invite(untrusted_invitation, self._clock.now())
        except Unauthenticated as error:
            raise InvalidArgument(f"this invitation is not good: {error.message}") from None
        try:
            inviter = await self._revocations.check(invitation)
        except Unauthenticated:
            raise InvalidArgument("this invitation was used before, or taken back") from None
        if inviter.role != "admin":
            raise InvalidArgument("this invitation is not good: who invited is no admin any more")
        if email_key(invitation.email) != email_key(session.email):
            raise PermissionDenied("this invitation is for another e-mail address")
        used = revocation(invitation, session.user_id, descendants=False)
        joined = MemberAdded(
            org_id=invitation.org_id, user_id=session.user_id, role=_role(invitation.role)
        )
        try:
            # The token's stream has no event yet: whoever comes second loses.
            await self._append(joined, lambda _: None, [(used.stream, 0, [used])])
        except AlreadyExists:
            raise AlreadyExists("you are a member of this organization already") from None
        row = await self._repo.first(
            "SELECT o.org_id, o.name, m.role FROM organizations o JOIN memberships m "
            "ON m.org_id = o.org_id WHERE o.org_id = ? AND m.user_id = ?",
            invitation.org_id,
            session.user_id,
        )
        if row is None:
            raise NotFound("there is no such organization any more")
        return _organization(row)

    async def set_member_role(self, session: VerifiedClaims, user_id: str, role: str) -> MemberInfo:
        authorize(session, "SetMemberRole")
        await self._check_member(session.org_id, user_id)
        changed = MemberRoleChanged(
            org_id=session.org_id, user_id=user_id, role=_role(role), changed_by=session.user_id
        )

        def check(members: dict[str, MemberInfo]) -> None:
            member = _member_of(members, user_id)
            if changed.role != "admin" and member.role == "admin":
                _keep_an_admin(members, user_id)

        await self._append(changed, check)
        members = {member.user_id: member for member in await self._members(session.org_id)}
        return _member_of(members, user_id)

    async def remove_member(self, session: VerifiedClaims, user_id: str) -> None:
        """End a membership, and with it every token that the user has for the organization."""
        authorize(session, "RemoveMember")
        if session.role != "admin" and user_id != session.user_id:
            raise PermissionDenied("only an admin of the organization may remove others")
        await self._check_member(session.org_id, user_id)
        removed = MemberRemoved(org_id=session.org_id, user_id=user_id, removed_by=session.user_id)

        def check(members: dict[str, MemberInfo]) -> None:
            if _member_of(members, user_id).role == "admin":
                _keep_an_admin(members, user_id)

        await self._append(removed, check)

    async def _append(
        self,
        event: MemberAdded | MemberRoleChanged | MemberRemoved,
        check: Callable[[dict[str, MemberInfo]], None],
        also: Sequence[tuple[str, int, Sequence[DomainEvent]]] = (),
    ) -> None:
        """Append to the organization's stream if `check` lets it, given the members of that moment.

        The stream's number is read before the members: if they change in between, the append loses
        and looks again. So two admins cannot each remove the other.
        """
        stream = org_stream(event.org_id)
        for _ in range(APPEND_ATTEMPTS_MAX):
            seq = await self._log.last(stream)
            members = {member.user_id: member for member in await self._members(event.org_id)}
            check(members)
            try:
                await self._log.append([(stream, seq, [event]), *also])
            except ConcurrentAppend:
                for other, expected, _ in also:
                    if await self._log.last(other) != expected:
                        raise InvalidArgument("this invitation was used before") from None
                continue
            return
        raise ConcurrentAppend("the log of this organization does not stand still")

    async def _check_member(self, org_id: str, user_id: str) -> None:
        """Before there is an event, which takes no text for an id that cannot be one."""
        _member_of({member.user_id: member for member in await self._members(org_id)}, user_id)

    async def _members(self, org_id: str) -> list[MemberInfo]:
        rows = await self._repo.all(
            "SELECT u.user_id, u.email, m.role, m.added_at FROM memberships m "
            "JOIN users u ON u.user_id = m.user_id WHERE m.org_id = ? "
            "ORDER BY m.added_at, u.user_id",
            org_id,
        )
        return [
            MemberInfo(row["user_id"], row["email"], row["role"], row["added_at"]) for row in rows
        ]

    def _session_claims(self, caller: VerifiedClaims, info: SessionInfo) -> VerifiedClaims:
        return VerifiedClaims(
            purpose="session",
            user_id=caller.user_id,
            org_id=info.org_id,
            email=caller.email,
            role="member",
            exp=int(info.expires_at),
            nonce=bytes.fromhex(info.session_id),
            key_id="",
            issued_at=int(info.opened_at),
        )


async def reset_password(
    repo: Repo, log: EventLog, passwords: Passwords, email: str, new_password: str
) -> None:
    """Give an account a password without asking for the old one, and end all its tokens.

    For an administrator of the server, who holds the data directory. `NotFound` without an account.
    """
    check_password(new_password)
    row = await repo.first(
        "SELECT user_id FROM users WHERE email_key = ?", email_key(check_email(email))
    )
    if row is None:
        raise NotFound(f"there is no account of {email}")
    replaced = credential(row["user_id"], await passwords.hash(new_password))
    await Revocations(repo, log).revoke_all(row["user_id"], "password_reset", [replaced])


def credential(user_id: str, password_hash: str) -> Statement:
    """Replaces the password of a user, or gives him the first."""
    return Statement(
        "INSERT INTO credentials (user_id, password_hash) VALUES (?, ?) "
        "ON CONFLICT (user_id) DO UPDATE SET password_hash = excluded.password_hash",
        (user_id, password_hash),
    )


def _role(role: str) -> Role:
    if role and role not in _ROLES:
        raise InvalidArgument("a role is admin or member")
    return _ROLES[role or "member"]


def _member_of(members: dict[str, MemberInfo], user_id: str) -> MemberInfo:
    if user_id not in members:
        raise NotFound("the organization has no such member")
    return members[user_id]


def _keep_an_admin(members: dict[str, MemberInfo], leaving: str) -> None:
    if not any(m.role == "admin" and m.user_id != leaving for m in members.values()):
        raise InvalidArgument("the last admin of an organization stays an admin of it")


def _organization(row: Row) -> OrganizationInfo:
    return OrganizationInfo(row["org_id"], row["name"], row["role"])
