"""GitHub (and GitHub Enterprise) as an identity provider.

GitHub has no ID token: whose the code is comes from its API, with the access token that the code
was exchanged for. The token is used for those two questions and forgotten. Source: docs.github.com,
"Authorizing OAuth apps" and "REST API endpoints for emails".
"""

from dataclasses import dataclass
from urllib.parse import urlencode

from ..events.errors import IdentityProviderFailed
from ..events.oauth import ProviderIdentity
from .identity_http import ProviderHttp
from .ports import CodeProof


@dataclass(frozen=True, slots=True)
class GitHubEndpoints:
    authorize_url: str = "https://github.com/login/oauth/authorize"
    token_url: str = "https://github.com/login/oauth/access_token"  # noqa: S105 - an address
    api_url: str = "https://api.github.com"


class GitHub:
    """One registered OAuth app."""

    name = "github"

    def __init__(self, client_id: str, client_secret: str, endpoints: GitHubEndpoints) -> None:
        self._client_id = client_id
        self._client_secret = client_secret
        self._endpoints = endpoints
        self._http = ProviderHttp(self.name)

    def authorize_url(
        self, *, public_state: str, redirect_uri: str, code_challenge: str, nonce: str
    ) -> str:
        query = {
            "client_id": self._client_id,
            "redirect_uri": redirect_uri,
            "response_type": "code",
            "scope": "user:email",
            "state": public_state,
            "code_challenge": code_challenge,
            "code_challenge_method": "S256",
        }
        return f"{self._endpoints.authorize_url}?{urlencode(query)}"

    async def identity(self, proof: CodeProof, now: float) -> ProviderIdentity:
        answer = await self._http.exchange(
            self._endpoints.token_url,
            {
                "grant_type": "authorization_code",
                "client_id": self._client_id,
                "client_secret": self._client_secret,
                "code": proof.code,
                "redirect_uri": proof.redirect_uri,
                "code_verifier": proof.code_verifier,
            },
        )
        token, api = answer["access_token"], self._endpoints.api_url
        user = await self._http.get(f"{api}/user", token)
        emails = await self._http.get(f"{api}/user/emails", token)
        subject = user.get("id") if isinstance(user, dict) else None
        if not isinstance(subject, int) or isinstance(subject, bool):
            raise IdentityProviderFailed("github named no user")
        return ProviderIdentity(self.name, str(subject), *_primary(emails))

    async def close(self) -> None:
        await self._http.close()


def _primary(emails: object) -> tuple[str, bool]:
    """The primary address and whether it is verified; of no other address is anything believed."""
    for entry in emails if isinstance(emails, list) else []:
        if isinstance(entry, dict) and entry.get("primary") is True:
            email = entry.get("email")
            if isinstance(email, str):
                return email, entry.get("verified") is True
    return "", False
