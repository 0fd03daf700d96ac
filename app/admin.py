"""Administration: accounts, databases and tokens, as use cases without a transport.

Rules about who may do what live here and only here. `rpc` turns these calls into Connect ones. A
caller without a session cannot call what needs one: those methods take the `VerifiedClaims` that
`session` gives.

What a role or a restriction allows is said in `authorization`, how sessions are opened in
`sessions`, how a login with a provider goes in `oauth`; accounts and organizations are looked after
in `accounts`.

A session may have been narrowed by its holder (caveats, see `tokens`); what it cannot do, a sync
token issued with it cannot do either.
"""

import asyncio
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from ..adapters.event_log import EventLog
from ..adapters.ports import Clock, Ids, Repo, Statement
from ..adapters.projections import email_key
from ..events.domain import DatabaseCreated, MemberAdded, OrganizationCreated, UserSignedUp
from ..events.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    Unauthenticated,
)
from ..events.limits import (
    DATABASE_NAME_CHARS_MAX,
    EMAIL_TYPED_CHARS_MAX,
    NONCE_BYTES,
    PASSWORD_CHARS_MAX,
    PASSWORD_CHARS_MIN,
)
from .authorization import authorize
from .email import check_email
from .history import DatabaseHistory, History
from .oauth import OAuthLogins
from .passwords import Passwords
from .quotas import Quotas
from .revocations import Revocations
from .sessions import Authenticated, Sessions
from .tokens import Direction, Identity, Keyring, VerifiedClaims

_DATABASE_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{DATABASE_NAME_CHARS_MAX}}}")


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long tokens live, in seconds."""

    session_seconds: int = 86_400
    sync_token_seconds: int = 3_600
    sync_token_seconds_max: int = 86_400


@dataclass(frozen=True, slots=True)
class DatabaseInfo:
    """A database as its organization sees it; `created_at` in Unix seconds."""

    database_id: str
    org_id: str
    name: str
    created_at: float


class AdminService:
    """The use cases. `database_deleted` is told the id of a database that is gone."""

    def __init__(
        self,
        *,
        repo: Repo,
        log: EventLog,
        histories: DatabaseHistory,
        keyring: Keyring,
        passwords: Passwords,
        clock: Clock,
        ids: Ids,
        lifetimes: Lifetimes,
        database_deleted: Callable[[str], None] = lambda _: None,
        revocations: Revocations | None = None,
        sessions: Sessions | None = None,
        oauth: OAuthLogins | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        self._repo = repo
        self._log = log
        self._histories = histories
        self._keyring = keyring
        self._passwords = passwords
        self._clock = clock
        self._ids = ids
        self._lifetimes = lifetimes
        self._database_deleted = database_deleted
        self._deleting: set[asyncio.Task[None]] = set()
        self._quotas = quotas or Quotas()
        self._sessions = sessions or Sessions(
            repo=repo,
            keyring=keyring,
            revocations=revocations or Revocations(repo, log),
            clock=clock,
            ids=ids,
            ttl_seconds=lifetimes.session_seconds,
        )
        self._oauth = oauth or OAuthLogins(
            providers={},
            redirect_base="",
            repo=repo,
            log=log,
            sessions=self._sessions,
            clock=clock,
            ids=ids,
        )

    async def signup(self, email: str, password: str) -> Authenticated:
        """Make a user, its personal organization and its admin membership, in one transaction."""
        email = check_email(email)
        check_password(password)
        password_hash = await self._passwords.hash(password)
        user_id, org_id = self._ids.new_id(), self._ids.new_id()
        user = UserSignedUp(
            user_id=user_id, email=email, provider="password", subject=email_key(email)
        )
        org = OrganizationCreated(org_id=org_id, name=email, personal=True)
        member = MemberAdded(org_id=org_id, user_id=user_id, role="admin")
        credential = Statement(
            "INSERT INTO credentials (user_id, password_hash) VALUES (?, ?)",
            (user_id, password_hash),
        )
        try:
            await self._log.append(
                [(user.stream, 0, [user]), (org.stream, 0, [org, member])], [credential]
            )
        except AlreadyExists:
            raise AlreadyExists("this e-mail address is already registered") from None
        return await self._sessions.open(Identity(user_id, org_id, email, "admin"), "password")

    async def login(self, email: str, password: str) -> Authenticated:
        """Open a session. An unknown address and a wrong password answer, and cost, the same."""
        user = await self._repo.first(
            "SELECT u.user_id, c.password_hash, COALESCE(e.epoch, 0) AS epoch FROM users u "
            "JOIN credentials c ON c.user_id = u.user_id "
            "LEFT JOIN token_epochs e ON e.user_id = u.user_id WHERE u.email_key = ?",
            # Cut off first: normalizing takes the square of the accents in a row.
            email_key(_storable(email[:EMAIL_TYPED_CHARS_MAX])),
        )
        stored: str | None = user["password_hash"] if user else None
        right = await self._passwords.verify(stored, _storable(password[:PASSWORD_CHARS_MAX]))
        if user is None or stored is None or not right or len(password) > PASSWORD_CHARS_MAX:
            raise Unauthenticated("wrong e-mail address or password")
        if self._passwords.needs_rehash(stored):
            await self._repo.execute(
                "UPDATE credentials SET password_hash = ? WHERE user_id = ? AND password_hash = ?",
                await self._passwords.hash(password),
                user["user_id"],
                stored,
            )
        # The epoch of this password: the check took a while, and another may be valid by now.
        return await self._sessions.open_first(user["user_id"], "password", epoch=user["epoch"])

    async def session(self, untrusted_token: str) -> VerifiedClaims:
        """The session that a token opens, with the role its user has today."""
        return await self._sessions.verify(untrusted_token)

    async def create_database(self, session: VerifiedClaims, name: str) -> DatabaseInfo:
        authorize(session, "CreateDatabase")
        if not _DATABASE_NAME.fullmatch(name):
            raise InvalidArgument(
                f"a database name has 1 to {DATABASE_NAME_CHARS_MAX} characters of A-Z a-z 0-9 _ -"
            )
        await self._quotas.check_databases(self._repo, session.org_id)
        event = DatabaseCreated(
            database_id=self._ids.new_id(),
            org_id=session.org_id,
            name=name,
            created_by=session.user_id,
        )
        try:
            created_at = await self._log.append([(event.stream, 0, [event])])
        except AlreadyExists:
            raise AlreadyExists(f"there is already a database named {name}") from None
        return DatabaseInfo(event.database_id, event.org_id, name, created_at)

    async def list_databases(self, session: VerifiedClaims) -> list[DatabaseInfo]:
        """The organization's databases that this session may see, the oldest first."""
        rows = await self._repo.all(
            "SELECT database_id, org_id, name, created_at FROM databases "
            "WHERE org_id = ? AND deleted_at IS NULL ORDER BY created_at, database_id",
            session.org_id,
        )
        return [
            DatabaseInfo(row["database_id"], row["org_id"], row["name"], row["created_at"])
            for row in rows
            if session.database_id in {None, row["database_id"]}
        ]

    async def delete_database(self, session: VerifiedClaims, database_id: str) -> None:
        """Delete a database and end its sessions; its objects are left to garbage collection."""
        authorize(session, "DeleteDatabase", database_id)
        history = await self._histories.open(database_id, session.org_id)
        # To its end, whether or not the caller hangs up meanwhile: what was deleted must be told.
        deleting = asyncio.create_task(self._delete(history, session.user_id))
        self._deleting.add(deleting)
        deleting.add_done_callback(self._deleting.discard)
        await asyncio.shield(deleting)

    async def _delete(self, history: History, deleted_by: str) -> None:
        await self._histories.delete(history, deleted_by)
        self._database_deleted(history.database_id)

    async def issue_sync_token(
        self,
        session: VerifiedClaims,
        database_id: str,
        direction: Direction | None,
        ttl_seconds: int = 0,
    ) -> tuple[str, int]:
        """A token for one direction of one database, and when it expires (Unix seconds).

        A `ttl_seconds` of 0 or less is the default; more than the maximum is the maximum.
        """
        if direction is None:
            raise InvalidArgument("the direction is missing: push or pull")
        authorize(session, f"IssueSyncToken ({direction})", database_id)
        found = await self._repo.first(
            "SELECT 1 AS found FROM databases "
            "WHERE database_id = ? AND org_id = ? AND deleted_at IS NULL",
            database_id,
            session.org_id,
        )
        if found is None:
            raise NotFound(f"there is no database {database_id}")
        lifetimes, now = self._lifetimes, self._clock.now()
        ttl_seconds = min(
            ttl_seconds if ttl_seconds > 0 else lifetimes.sync_token_seconds,
            lifetimes.sync_token_seconds_max,
        )
        if session.narrowed:
            ttl_seconds = min(ttl_seconds, session.exp - int(now))
        return self._keyring.mint_sync(
            Identity(session.user_id, session.org_id, session.email, session.role),
            database_id,
            direction,
            now=now,
            ttl_seconds=ttl_seconds,
            nonce=self._ids.token_bytes(NONCE_BYTES),
            max_bytes=session.max_bytes,
            max_version=session.max_version,
            epoch=session.epoch,
            parent_nonce=session.nonce,
        )

    async def start_oauth(self, provider: str) -> tuple[str, str]:
        """Where to log in with `provider`, and the state to come back with: a secret."""
        return await self._oauth.begin(provider)

    async def complete_oauth(self, state: str, code: str) -> Authenticated:
        """Open a session for whom the provider names."""
        return await self._oauth.complete_login(state, code)


def check_password(password: str) -> None:
    if not PASSWORD_CHARS_MIN <= len(password) <= PASSWORD_CHARS_MAX:
        raise InvalidArgument(
            f"a password has {PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters"
        )


def _storable(text: str) -> str:
    """`text` as a database and a hash can take it: what is not Unicode matches nothing."""
    return unicodedata.normalize("NFC", text).encode(errors="replace").decode()
