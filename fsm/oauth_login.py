"""A login with an identity provider, from the first question to the session.

The rules, and why they are so:

- A login is begun and finished by the same hand. The starter alone knows the secret of its state;
  the provider, the browser and whoever reads the address bar see a hash of it. So a callback
  address that was stolen finishes nothing, and a victim cannot be made to finish a stranger's
  login: his program does not know the secret. Whoever brings a code has shown the secret before
  this machine hears of it.
- A state is good once. It is claimed, atomically, before the code is shown to the provider: of two
  who come with the same secret one goes on. A step that fails afterwards ends the login; it is
  begun anew, never continued.
- A state is good for a while: too late is said as such, and the code is not even tried.
- A login finishes as what it was begun for. Linking is finished by the account that began it.
- Only an e-mail address that the provider has verified counts, and it only ever opens a *new*
  account. An existing account of that address is never merged with the identity: anybody may have
  signed up with the address of somebody else. Its owner logs in and links.
- An identity is known by the provider's subject; its e-mail may change hands.

A login outlives the request that began it. It is taken up again by giving a fresh machine the
`login_asked` that was remembered; the effects of that were performed then.

Not here: PKCE, the ID token, HTTP (`adapters.identity_*`); where states are kept (`app.oauth`).
"""

from dataclasses import dataclass

from statemachine import State

from ..events.oauth import (
    AccountFound,
    AccountReady,
    CodeBrought,
    IdentityProven,
    LoginAsked,
    LoginFailed,
    LoginPurpose,
    ProviderIdentity,
    StateClaimed,
)
from .machine import StrictMachine


@dataclass(frozen=True, slots=True)
class RememberLogin:
    """Keep the login until it expires. No result."""

    asked: LoginAsked


@dataclass(frozen=True, slots=True)
class SendToProvider:
    """Make the address at which the provider asks its user. No result."""

    provider: str
    public_state: str


@dataclass(frozen=True, slots=True)
class ClaimState:
    """→ StateClaimed"""

    public_state: str


@dataclass(frozen=True, slots=True)
class ProveIdentity:
    """→ IdentityProven: exchange the code, and learn whose it is."""

    provider: str


@dataclass(frozen=True, slots=True)
class FindAccount:
    """→ AccountFound"""

    identity: ProviderIdentity


@dataclass(frozen=True, slots=True)
class CreateAccount:
    """→ AccountReady or AccountCollided"""

    identity: ProviderIdentity


@dataclass(frozen=True, slots=True)
class LinkIdentity:
    """→ AccountReady or AccountCollided"""

    user_id: str
    identity: ProviderIdentity


@dataclass(frozen=True, slots=True)
class OpenSession:
    """The login is done. No result."""

    user_id: str
    provider: str


@dataclass(frozen=True, slots=True)
class ReportLinked:
    """The linking is done. No result."""

    identity: ProviderIdentity


@dataclass(frozen=True, slots=True)
class RefuseLogin:
    """Answer with this error of the error tree. No result."""

    code: str
    message: str


LoginEffect = (
    RememberLogin
    | SendToProvider
    | ClaimState
    | ProveIdentity
    | FindAccount
    | CreateAccount
    | LinkIdentity
    | OpenSession
    | ReportLinked
    | RefuseLogin
)


class OAuthLogin(StrictMachine[LoginEffect]):
    title = "login with a provider"

    unasked = State(initial=True)
    awaiting_code = State()
    claiming = State()
    proving = State()
    matching = State()
    creating = State()
    linking = State()
    logged_in = State(final=True)
    linked = State(final=True)
    expired = State(final=True)
    refused = State(final=True)

    login_asked = unasked.to(awaiting_code, on="send_to_provider")
    code_brought = (
        awaiting_code.to(expired, cond="too_late", on="refuse_late")
        | awaiting_code.to(refused, cond="begun_for_another", on="refuse_stranger")
        | awaiting_code.to(claiming, on="claim")
    )
    state_claimed = claiming.to(proving, cond="won", on="prove") | claiming.to(
        refused, on="refuse_replay"
    )
    identity_proven = proving.to(matching, cond="verified", on="find") | proving.to(
        refused, on="refuse_unverified"
    )
    account_found = (
        matching.to(logged_in, cond=["is_login", "known"], on="open")
        | matching.to(refused, cond=["is_login", "email_taken"], on="refuse_merge")
        | matching.to(creating, cond="is_login", on="create")
        | matching.to(linked, cond="is_own", on="report_linked")
        | matching.to(refused, cond="known", on="refuse_other_owner")
        | matching.to(linking, on="link")
    )
    account_ready = creating.to(logged_in, on="open_new") | linking.to(linked, on="report_linked")
    account_collided = creating.to(matching, on="find_again") | linking.to(
        matching, on="find_again"
    )
    login_failed = (
        awaiting_code.to(refused, on="refuse")
        | claiming.to(refused, on="refuse")
        | proving.to(refused, on="refuse")
        | matching.to(refused, on="refuse")
        | creating.to(refused, on="refuse")
        | linking.to(refused, on="refuse")
    )

    def __init__(self) -> None:
        self.asked: LoginAsked | None = None
        self.identity: ProviderIdentity | None = None
        super().__init__()

    # Guards

    def too_late(self, e: CodeBrought) -> bool:
        return e.at >= self._asked.expires_at

    def begun_for_another(self, e: CodeBrought) -> bool:
        return e.purpose != self._asked.purpose or e.user_id != self._asked.user_id

    def won(self, e: StateClaimed) -> bool:
        return e.won

    def verified(self, e: IdentityProven) -> bool:
        return e.identity.email_verified and bool(e.identity.email)

    def is_login(self) -> bool:
        purpose: LoginPurpose = self._asked.purpose
        return purpose == "login"

    def known(self, e: AccountFound) -> bool:
        return e.owner_id is not None

    def email_taken(self, e: AccountFound) -> bool:
        return e.email_taken

    def is_own(self, e: AccountFound) -> bool:
        return e.owner_id is not None and e.owner_id == self._asked.user_id

    # Actions

    @property
    def _asked(self) -> LoginAsked:
        assert self.asked is not None
        return self.asked

    @property
    def _proven(self) -> ProviderIdentity:
        assert self.identity is not None
        return self.identity

    def send_to_provider(self, e: LoginAsked) -> None:
        self.asked = e
        self.emit(RememberLogin(e), SendToProvider(e.provider, e.public_state))

    def claim(self, e: CodeBrought) -> None:
        self.emit(ClaimState(self._asked.public_state))

    def prove(self, e: StateClaimed) -> None:
        self.emit(ProveIdentity(self._asked.provider))

    def find(self, e: IdentityProven) -> None:
        self.identity = e.identity
        self.emit(FindAccount(e.identity))

    def find_again(self) -> None:
        self.emit(FindAccount(self._proven))

    def open(self, e: AccountFound) -> None:
        assert e.owner_id is not None
        self.emit(OpenSession(e.owner_id, self._asked.provider))

    def create(self, e: AccountFound) -> None:
        self.emit(CreateAccount(self._proven))

    def open_new(self, e: AccountReady) -> None:
        self.emit(OpenSession(e.user_id, self._asked.provider))

    def link(self, e: AccountFound) -> None:
        assert self._asked.user_id is not None
        self.emit(LinkIdentity(self._asked.user_id, self._proven))

    def report_linked(self) -> None:
        self.emit(ReportLinked(self._proven))

    def refuse(self, e: LoginFailed) -> None:
        self.emit(RefuseLogin(e.code, e.message))

    def refuse_late(self, e: CodeBrought) -> None:
        self.emit(RefuseLogin("unauthenticated", "this login has expired: begin it again"))

    def refuse_stranger(self, e: CodeBrought) -> None:
        message = "this login was begun for something else, or by another account"
        self.emit(RefuseLogin("permission_denied", message))

    def refuse_replay(self, e: StateClaimed) -> None:
        message = "this login was finished or tried before: begin it again"
        self.emit(RefuseLogin("unauthenticated", message))

    def refuse_unverified(self, e: IdentityProven) -> None:
        message = f"{self._asked.provider} has not verified the e-mail address of this account"
        self.emit(RefuseLogin("permission_denied", message))

    def refuse_merge(self, e: AccountFound) -> None:
        provider = self._asked.provider
        message = (
            f"there is already an account of {self._proven.email}; log in to it as before, then "
            f"`edgereplica oauth link {provider}` lets you log in with {provider} too"
        )
        self.emit(RefuseLogin("already_exists", message))

    def refuse_other_owner(self, e: AccountFound) -> None:
        message = f"this {self._asked.provider} identity is linked to another account"
        self.emit(RefuseLogin("already_exists", message))
