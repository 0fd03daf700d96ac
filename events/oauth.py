"""What happens in a login with an identity provider, as the login's machine hears it.

Times are Unix seconds and arrive in the events: the machine reads no clock.
"""

from dataclasses import dataclass
from typing import Literal

LoginPurpose = Literal["login", "link"]


@dataclass(frozen=True, slots=True)
class ProviderIdentity:
    """Whom a provider named. `subject` is its lasting name for the person; an e-mail may change."""

    provider: str
    subject: str
    email: str
    email_verified: bool


@dataclass(frozen=True, slots=True)
class LoginAsked:
    """Somebody wants to log in, or (`user_id`) to link an identity to his account.

    `public_state` is what the provider and the browser see of the state. `loopback_port`: where the
    starter waits for the browser; None if he does not.
    """

    provider: str
    purpose: LoginPurpose
    public_state: str
    expires_at: float
    user_id: str | None = None
    loopback_port: int | None = None


@dataclass(frozen=True, slots=True)
class CodeBrought:
    """The starter is back with the secret of his state and the provider's code."""

    purpose: LoginPurpose
    at: float
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class StateClaimed:
    """`won`: nobody had claimed this state before."""

    won: bool


@dataclass(frozen=True, slots=True)
class IdentityProven:
    identity: ProviderIdentity


@dataclass(frozen=True, slots=True)
class AccountFound:
    """`owner_id`: whose identity it is; `email_taken`: another account has that address."""

    owner_id: str | None
    email_taken: bool


@dataclass(frozen=True, slots=True)
class AccountReady:
    """The account exists and has the identity."""

    user_id: str


@dataclass(frozen=True, slots=True)
class AccountCollided:
    """Somebody made that account or linked that identity in the same moment."""


@dataclass(frozen=True, slots=True)
class LoginFailed:
    """A step failed, with the error tree's code and words."""

    code: str
    message: str


LoginEvent = (
    LoginAsked
    | CodeBrought
    | StateClaimed
    | IdentityProven
    | AccountFound
    | AccountReady
    | AccountCollided
    | LoginFailed
)
