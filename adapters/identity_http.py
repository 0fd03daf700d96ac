"""Requests to an identity provider: bounded in time and size, never redirected, never quoted.

Whatever a provider answers is data from elsewhere. An error says which provider failed and how, but
repeats neither what was sent (codes, secrets) nor what came back.
"""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import httpx

from ..events.errors import IdentityProviderFailed, Unauthenticated
from ..events.limits import PROVIDER_ANSWER_BYTES_MAX, PROVIDER_SECONDS_MAX


class ProviderHttp:
    """JSON over HTTP for the provider called `name`."""

    def __init__(self, name: str, seconds_max: float = PROVIDER_SECONDS_MAX) -> None:
        self._name = name
        self._client = httpx.AsyncClient(
            timeout=seconds_max, follow_redirects=False, headers={"user-agent": "edgereplica"}
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def exchange(self, url: str, form: Mapping[str, str]) -> dict[str, Any]:
        """The token endpoint's answer to `form` (RFC 6749 §4.1.3).

        `Unauthenticated` if the provider refuses the code. GitHub says so with status 200.
        """
        status, answer = await self._send("POST", url, form=form)
        if isinstance(answer, dict):
            if "error" in answer and status < 500:
                raise self._refusal(answer["error"])
            if status == 200 and isinstance(answer.get("access_token"), str):
                return answer
        raise self._failed(f"answered the exchange of the code with HTTP {status}")

    async def get(self, url: str, access_token: str | None = None) -> Any:
        """The JSON at `url`; `IdentityProviderFailed` for every status but 200."""
        status, answer = await self._send("GET", url, access_token=access_token)
        if status != 200 or answer is None:
            raise self._failed(f"answered HTTP {status}")
        return answer

    async def _send(
        self,
        method: str,
        url: str,
        *,
        form: Mapping[str, str] | None = None,
        access_token: str | None = None,
    ) -> tuple[int, Any]:
        headers = {"accept": "application/json"}
        if access_token is not None:
            headers["authorization"] = f"Bearer {access_token}"
        content = None
        if form is not None:
            headers["content-type"] = "application/x-www-form-urlencoded"
            content = urlencode(form).encode()
        body = bytearray()
        try:
            request = self._client.stream(method, url, headers=headers, content=content)
            async with request as response:
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > PROVIDER_ANSWER_BYTES_MAX:
                        raise self._failed("sent far too much")
        except httpx.TimeoutException:
            raise self._failed("did not answer in time") from None
        except httpx.HTTPError as error:
            raise self._failed(f"cannot be reached ({type(error).__name__})") from None
        return response.status_code, _json(bytes(body))

    def _refusal(self, error: object) -> Exception:
        if error in {"invalid_client", "unauthorized_client", "incorrect_client_credentials"}:
            # The operator's mistake, not the user's.
            return self._failed("does not accept this server's client id and secret")
        return Unauthenticated(
            f"{self._name} refused the code: it has expired, was used before, or belongs to "
            "another login; begin the login again"
        )

    def _failed(self, what: str) -> IdentityProviderFailed:
        return IdentityProviderFailed(f"{self._name} {what}; begin the login again")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
