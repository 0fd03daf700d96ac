"""The secret of a login with a provider, and what is derived from it.

The secret is known to whoever began the login, and to nobody else: the server forgets it at once.
What the provider, the browser and the address bar see is `public_state`, a hash; the PKCE verifier
(RFC 7636) and the OpenID nonce are derived too, so that nothing which the server keeps, and nothing
that a browser ever shows, finishes a login. Both the server and the command line need this, so it
imports the standard library alone.
"""

import base64
import hashlib


def public_state(secret: str) -> str:
    """The state as the provider and the browser see it: 64 hex digits."""
    return hashlib.sha256(b"edgereplica oauth state:" + _bytes(secret)).hexdigest()


def code_verifier(secret: str) -> str:
    """The PKCE verifier: 43 characters of base64url."""
    return _base64url(hashlib.sha256(b"edgereplica pkce verifier:" + _bytes(secret)).digest())


def code_challenge(secret: str) -> str:
    """S256 of the verifier (RFC 7636 §4.2)."""
    return _base64url(hashlib.sha256(code_verifier(secret).encode()).digest())


def nonce(secret: str) -> str:
    """The OpenID Connect nonce, which comes back in the ID token."""
    return hashlib.sha256(b"edgereplica openid nonce:" + _bytes(secret)).hexdigest()


def _bytes(secret: str) -> bytes:
    return secret.encode(errors="replace")


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
