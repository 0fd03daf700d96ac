"""Logging in with GitHub or Google, and linking such an identity to an account.

The rules are the machine's (`fsm.oauth_login`); this performs its effects: keeps begun logins in
the table `oauth_logins`, asks the provider, finds and makes accounts in the log.

How a login is bound to whoever began it, with the messages of the original service, which know only
`state` and `code`: StartOAuth answers with a *secret* state. The address it also answers with
carries the public state, a hash of the secret (`app.oauth_state`), and so does everything after it:
the provider, the callback, the page with the ready command. CompleteOAuth takes the secret. The
command line keeps it in its configuration file and finds it by the public state of the command that
the page shows. A stolen callback address finishes nothing; nor can a stranger have his login
finished by a victim.
"""

from collections import deque
from collections.abc import Mapping

from ..adapters.event_log import EventLog
from ..adapters.ports import Clock, CodeProof, IdentityProvider, Ids, Repo, Statement
from ..adapters.projections import email_key
from ..events.domain import (
    IdentityLinked,
    MemberAdded,
    OrganizationCreated,
    UserSignedUp,
    user_stream,
)
from ..events.errors import (
    AlreadyExists,
    ConcurrentAppend,
    EdgeReplicaError,
    InvalidArgument,
    LimitExceeded,
    Unauthenticated,
    Unimplemented,
    error_from_wire,
)
from ..events.limits import (
    OAUTH_LOGIN_KEPT_SECONDS,
    OAUTH_LOGINS_PENDING_MAX,
    OAUTH_PARAMETER_CHARS_MAX,
    OAUTH_STATE_BYTES,
)
from ..events.oauth import (
    AccountCollided,
    AccountFound,
    AccountReady,
    CodeBrought,
    IdentityProven,
    LoginAsked,
    LoginEvent,
    LoginFailed,
    LoginPurpose,
    ProviderIdentity,
    StateClaimed,
)
from ..fsm.oauth_login import (
    ClaimState,
    CreateAccount,
    FindAccount,
    LinkIdentity,
    LoginEffect,
    OAuthLogin,
    OpenSession,
    ProveIdentity,
    RefuseLogin,
    RememberLogin,
    ReportLinked,
    SendToProvider,
)
from . import oauth_state
from .email import check_email
from .sessions import Authenticated, Sessions

PROVIDERS = ("github", "google")


def callback_path(provider: str) -> str:
    return f"/oauth/{provider}/callback"


class OAuthLogins:
    """The logins of one server. Without `providers`, everything is `Unimplemented`."""

    def __init__(
        self,
        *,
        providers: Mapping[str, IdentityProvider],
        redirect_base: str,
        repo: Repo,
        log: EventLog,
        sessions: Sessions,
        clock: Clock,
        ids: Ids,
        ttl_seconds: int = 600,
    ) -> None:
        self._providers = providers
        self._redirect_base = redirect_base.rstrip("/")
        self._repo = repo
        self._log = log
        self._sessions = sessions
        self._clock = clock
        self._ids = ids
        self._ttl_seconds = ttl_seconds

    async def begin(
        self,
        provider: str,
        *,
        purpose: LoginPurpose = "login",
        user_id: str | None = None,
        loopback_port: int = 0,
    ) -> tuple[str, str]:
        """Where the user gives his consent, and the secret state to finish with.

        With a `loopback_port`, the browser is sent on to that port of its own machine.
        """
        if provider not in PROVIDERS:
            raise InvalidArgument(f"the provider is one of: {', '.join(PROVIDERS)}")
        if provider not in self._providers:
            raise Unimplemented(f"logging in with {provider} is not configured on this server")
        if loopback_port and not 1024 <= loopback_port <= 65535:
            raise InvalidArgument("the loopback port is one of 1024 to 65535")
        secret = self._ids.token_bytes(OAUTH_STATE_BYTES).hex()
        asked = LoginAsked(
            provider=provider,
            purpose=purpose,
            public_state=oauth_state.public_state(secret),
            expires_at=self._clock.now() + self._ttl_seconds,
            user_id=user_id,
            loopback_port=loopback_port or None,
        )
        run = _Run(self, secret)
        await run.feed(asked)
        return run.redirect_url, secret

    async def complete_login(self, state: str, code: str) -> Authenticated:
        """Finish a login with the secret of its state."""
        run = await self._resume(state, code)
        await run.feed(CodeBrought("login", self._clock.now()))
        assert run.opened is not None
        return run.opened

    async def complete_link(self, state: str, code: str, user_id: str) -> ProviderIdentity:
        """Finish the linking that this user began."""
        run = await self._resume(state, code)
        await run.feed(CodeBrought("link", self._clock.now(), user_id))
        assert run.linked is not None
        return run.linked

    async def loopback_port(self, provider: str, public_state: str) -> int | None:
        """Where the starter of this login waits for the browser, if he does and still may."""
        row = await self._repo.first(
            "SELECT loopback_port FROM oauth_logins "
            "WHERE public_state = ? AND provider = ? AND expires_at > ?",
            public_state,
            provider,
            self._clock.now(),
        )
        return row["loopback_port"] if row else None

    async def close(self) -> None:
        for provider in self._providers.values():
            await provider.close()

    async def _resume(self, secret: str, code: str) -> "_Run":
        if not secret or not code:
            raise InvalidArgument("the state or the code is missing")
        if max(len(secret), len(code)) > OAUTH_PARAMETER_CHARS_MAX:
            raise InvalidArgument("the state or the code is too long")
        if not self._providers:
            raise Unimplemented("logging in with a provider is not configured on this server")
        asked = await self._remembered(oauth_state.public_state(secret))
        if asked is None:
            if await self._remembered(secret) is not None:
                raise Unauthenticated(
                    "this is the state that the browser shows; a login is finished where it was "
                    "begun, with the secret state that it was begun with"
                )
            raise Unauthenticated("there is no such login: begin it again")
        return _Run(self, secret, code, asked)

    async def _remembered(self, public_state: str) -> LoginAsked | None:
        row = await self._repo.first(
            "SELECT provider, purpose, user_id, loopback_port, expires_at FROM oauth_logins "
            "WHERE public_state = ?",
            oauth_text(public_state),
        )
        if row is None or row["provider"] not in self._providers:
            return None
        return LoginAsked(
            provider=row["provider"],
            purpose=row["purpose"],
            public_state=public_state,
            expires_at=row["expires_at"],
            user_id=row["user_id"],
            loopback_port=row["loopback_port"],
        )

    # What the machine asks for

    async def remember(self, asked: LoginAsked) -> None:
        now = self._clock.now()
        forgotten = now - OAUTH_LOGIN_KEPT_SECONDS
        # What is only deleted below must not count here, or a full table would stay full for good.
        pending = await self._repo.first(
            "SELECT COUNT(*) AS n FROM oauth_logins WHERE expires_at >= ?", forgotten
        )
        if pending is not None and pending["n"] >= OAUTH_LOGINS_PENDING_MAX:
            raise LimitExceeded(
                "too many logins are under way; try again shortly",
                limit="oauth_logins_pending",
                value=OAUTH_LOGINS_PENDING_MAX,
            )
        await self._repo.batch(
            [
                Statement(
                    "DELETE FROM oauth_logins WHERE expires_at < ?",
                    (forgotten,),
                ),
                Statement(
                    "INSERT INTO oauth_logins (public_state, provider, purpose, user_id, "
                    "loopback_port, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        asked.public_state,
                        asked.provider,
                        asked.purpose,
                        asked.user_id,
                        asked.loopback_port,
                        asked.expires_at,
                    ),
                ),
            ]
        )

    def authorize_url(self, provider: str, secret: str) -> str:
        return self._providers[provider].authorize_url(
            public_state=oauth_state.public_state(secret),
            redirect_uri=self._redirect_base + callback_path(provider),
            code_challenge=oauth_state.code_challenge(secret),
            nonce=oauth_state.nonce(secret),
        )

    async def claim(self, public_state: str) -> bool:
        """True for the first who asks, whatever happens at once."""
        claimed = await self._repo.execute(
            "UPDATE oauth_logins SET claimed_at = ? WHERE public_state = ? AND claimed_at IS NULL",
            self._clock.now(),
            public_state,
        )
        return claimed == 1

    async def prove(self, provider: str, secret: str, code: str) -> ProviderIdentity:
        proof = CodeProof(
            code=code,
            redirect_uri=self._redirect_base + callback_path(provider),
            code_verifier=oauth_state.code_verifier(secret),
            nonce=oauth_state.nonce(secret),
        )
        return await self._providers[provider].identity(proof, self._clock.now())

    async def find(self, identity: ProviderIdentity) -> AccountFound:
        owner = await self._repo.first(
            "SELECT user_id FROM identities WHERE provider = ? AND subject = ?",
            identity.provider,
            identity.subject,
        )
        taken = await self._repo.first(
            "SELECT user_id FROM users WHERE email_key = ?", email_key(check_email(identity.email))
        )
        return AccountFound(owner["user_id"] if owner else None, email_taken=taken is not None)

    async def create(self, identity: ProviderIdentity) -> str:
        """A user with a personal organization, as signing up makes one, but without a password."""
        user_id, org_id = self._ids.new_id(), self._ids.new_id()
        email = check_email(identity.email)
        user = UserSignedUp(
            user_id=user_id, email=email, provider=identity.provider, subject=identity.subject
        )
        org = OrganizationCreated(org_id=org_id, name=email, personal=True)
        member = MemberAdded(org_id=org_id, user_id=user_id, role="admin")
        await self._log.append([(user.stream, 0, [user]), (org.stream, 0, [org, member])])
        return user_id

    async def link(self, user_id: str, identity: ProviderIdentity) -> None:
        event = IdentityLinked(
            user_id=user_id, provider=identity.provider, subject=identity.subject
        )
        stream = user_stream(user_id)
        await self._log.append([(stream, await self._log.last(stream), [event])])

    async def open_session(self, user_id: str, provider: str) -> Authenticated:
        return await self._sessions.open_first(user_id, provider)


class _Run:
    """One request's part of a login: the machine, and what its effects give."""

    def __init__(
        self, logins: OAuthLogins, secret: str, code: str = "", resumed: LoginAsked | None = None
    ) -> None:
        self._logins = logins
        self._secret = secret
        self._code = code
        self._machine = OAuthLogin()
        if resumed is not None:
            self._machine.handle(resumed)  # its effects were performed when it was new
        self.redirect_url = ""
        self.opened: Authenticated | None = None
        self.linked: ProviderIdentity | None = None

    async def feed(self, event: LoginEvent) -> None:
        """Give the machine `event` and all that follows; raises what the machine refuses with."""
        queue: deque[LoginEvent] = deque([event])
        while queue:
            for effect in self._machine.handle(queue.popleft()):
                try:
                    result = await self._perform(effect)
                except (AlreadyExists, ConcurrentAppend):
                    if not isinstance(effect, CreateAccount | LinkIdentity):
                        raise
                    result = AccountCollided()
                except EdgeReplicaError as error:
                    if self._machine.finished or isinstance(effect, RememberLogin):
                        raise
                    result = LoginFailed(error.code, error.message)
                if result is not None:
                    queue.append(result)

    async def _perform(self, effect: LoginEffect) -> LoginEvent | None:
        logins = self._logins
        match effect:
            case RememberLogin(asked):
                await logins.remember(asked)
            case SendToProvider(provider):
                self.redirect_url = logins.authorize_url(provider, self._secret)
            case ClaimState(public_state):
                return StateClaimed(await logins.claim(public_state))
            case ProveIdentity(provider):
                return IdentityProven(await logins.prove(provider, self._secret, self._code))
            case FindAccount(identity):
                return await logins.find(identity)
            case CreateAccount(identity):
                return AccountReady(await logins.create(identity))
            case LinkIdentity(user_id, identity):
                await logins.link(user_id, identity)
                return AccountReady(user_id)
            case OpenSession(user_id, provider):
                self.opened = await logins.open_session(user_id, provider)
            case ReportLinked(identity):
                self.linked = identity
            case RefuseLogin(code, message):
                raise error_from_wire(code, message)
        return None


def oauth_text(text: str) -> str:
    """`text` as a database can take it: what is not Unicode matches nothing."""
    return text.encode(errors="replace").decode()
