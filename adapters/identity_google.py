"""Google (or any OpenID Connect provider) as an identity provider.

Whose the code is stands in the ID token: a signed statement for this client, about this login.
Everything that OpenID Connect Core 1.0 §3.1.3.7 asks for is checked: signature by one of the
provider's keys with a public-key algorithm, issuer, audience, authorized party, times, nonce.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import jwt

from ..events.errors import IdentityProviderFailed, Unauthenticated
from ..events.limits import PROVIDER_CLOCK_SKEW_SECONDS, PROVIDER_KEYS_REFETCH_SECONDS
from ..events.oauth import ProviderIdentity
from .identity_http import ProviderHttp
from .ports import CodeProof

_ALGORITHMS: Final = ["RS256", "ES256"]


@dataclass(frozen=True, slots=True)
class GoogleEndpoints:
    authorize_url: str = "https://accounts.google.com/o/oauth2/v2/auth"
    token_url: str = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
    keys_url: str = "https://www.googleapis.com/oauth2/v3/certs"
    issuer: str = "https://accounts.google.com"


class Google:
    """One registered client."""

    name = "google"

    def __init__(self, client_id: str, client_secret: str, endpoints: GoogleEndpoints) -> None:
        self._client_id = client_id
        self._client_secret = client_secret
        self._endpoints = endpoints
        self._http = ProviderHttp(self.name)
        self._keys: dict[str, jwt.PyJWK] = {}
        self._keys_fetched_at = float("-inf")

    def authorize_url(
        self, *, public_state: str, redirect_uri: str, code_challenge: str, nonce: str
    ) -> str:
        query = {
            "client_id": self._client_id,
            "redirect_uri": redirect_uri,
            "response_type": "code",
            "scope": "openid email",
            "state": public_state,
            "nonce": nonce,
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
        claims = await self._verified(answer.get("id_token"), proof.nonce, now)
        email = claims.get("email")
        return ProviderIdentity(
            self.name,
            claims["sub"],
            email if isinstance(email, str) else "",
            claims.get("email_verified") is True,
        )

    async def close(self) -> None:
        await self._http.close()

    async def _verified(self, untrusted: object, nonce: str, now: float) -> Mapping[str, Any]:
        """The ID token's claims; `Unauthenticated` unless all of it holds."""
        if not isinstance(untrusted, str):
            raise IdentityProviderFailed("google sent no ID token")
        try:
            key = await self._key(jwt.get_unverified_header(untrusted).get("kid"), now)
            claims: dict[str, Any] = jwt.decode(
                untrusted,
                key,
                algorithms=_ALGORITHMS,
                audience=self._client_id,
                issuer=self._endpoints.issuer,
                options={
                    "require": ["exp", "iat", "iss", "aud", "sub", "nonce"],
                    # Times are held against this server's own clock below.
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.PyJWTError:
            raise _not_believed() from None
        if not _timely(claims, now) or claims["nonce"] != nonce:
            raise _not_believed()
        if claims.get("azp", self._client_id) != self._client_id or not claims["sub"]:
            raise _not_believed()
        return claims

    async def _key(self, key_id: object, now: float) -> jwt.PyJWK:
        """The provider's key of that id; an unknown one fetches the keys, but not in a flood."""
        if not isinstance(key_id, str):
            raise _not_believed()
        age = now - self._keys_fetched_at
        if key_id not in self._keys and not 0 <= age < PROVIDER_KEYS_REFETCH_SECONDS:
            answer = await self._http.get(self._endpoints.keys_url)
            self._keys, self._keys_fetched_at = _keys_of(answer), now
        if key_id not in self._keys:
            raise _not_believed()
        return self._keys[key_id]


def _keys_of(answer: object) -> dict[str, jwt.PyJWK]:
    entries = answer.get("keys") if isinstance(answer, dict) else None
    keys: dict[str, jwt.PyJWK] = {}
    for entry in entries if isinstance(entries, list) else []:
        # Symmetric keys have no business in a public document: a token signed with one proves
        # nothing. The algorithm is the key's own, whatever the token's header says.
        if isinstance(entry, dict) and entry.get("kty") in {"RSA", "EC"}:
            try:
                keys[str(entry.get("kid"))] = jwt.PyJWK(entry)
            except jwt.PyJWTError:
                continue
    if not keys:
        raise IdentityProviderFailed("google published no keys")
    return keys


def _timely(claims: Mapping[str, Any], now: float) -> bool:
    exp, iat = claims["exp"], claims["iat"]
    if not all(isinstance(at, int | float) for at in (exp, iat, claims.get("nbf", 0))):
        return False
    skew = PROVIDER_CLOCK_SKEW_SECONDS
    return bool(now < exp + skew and iat <= now + skew and claims.get("nbf", 0) <= now + skew)


def _not_believed() -> Unauthenticated:
    return Unauthenticated("google's ID token does not hold; begin the login again")
