"""Passwords: argon2id in a small thread pool of its own.

The parameters are OWASP's first choice (Password Storage Cheat Sheet: argon2id, 19 MiB, 2
iterations, 1 lane). A check takes tens of milliseconds and 19 MiB, so the pool and its queue are
bounded: a flood of logins is refused instead of starving syncs, which have their own threads.
Rules about length, and who has which password, are left to `app.admin`.
"""

import base64
import secrets
import threading
import unicodedata
from asyncio import wrap_future
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from ..events.errors import InvalidArgument, RateLimited, StorageError
from ..events.limits import PASSWORD_QUEUE_MAX, PASSWORD_RETRY_SECONDS, PASSWORD_THREADS_MAX

_T = TypeVar("_T")

MEMORY_KIB = 19 * 1024
ITERATIONS = 2
LANES = 1


class Passwords:
    """Hashes and verifies; close it when the server stops."""

    def __init__(
        self,
        *,
        memory_kib: int = MEMORY_KIB,
        iterations: int = ITERATIONS,
        threads: int = PASSWORD_THREADS_MAX,
        queue_max: int = PASSWORD_QUEUE_MAX,
    ) -> None:
        self._hasher = PasswordHasher(
            time_cost=iterations, memory_cost=memory_kib, parallelism=LANES, type=Type.ID
        )
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="password")
        self._queue_max = queue_max
        self._pending = 0
        self._lock = threading.Lock()
        # A hash of the same parameters that no password has: what an unknown user is checked with.
        salt, tag = (
            base64.b64encode(secrets.token_bytes(count)).rstrip(b"=").decode()
            for count in (self._hasher.salt_len, self._hasher.hash_len)
        )
        parameters = f"m={memory_kib},t={iterations},p={LANES}"
        self._nobody = f"$argon2id$v=19${parameters}${salt}${tag}"

    async def hash(self, password: str) -> str:
        encoded = _encode(password)
        return await self._run(lambda: self._hasher.hash(encoded))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether `password` has the hash `stored`; None stands for a user that does not exist.

        An unknown user costs what a known one does, and is never right.
        """
        encoded = _encode(password)
        right = await self._run(lambda: self._check(stored or self._nobody, encoded))
        return right and stored is not None

    def needs_rehash(self, stored: str) -> bool:
        """Whether `stored` was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _check(self, stored: str, encoded: bytes) -> bool:
        try:
            return self._hasher.verify(stored, encoded)
        except VerifyMismatchError:
            return False
        except (InvalidHashError, VerificationError) as error:
            raise StorageError("a stored password hash is damaged") from error

    async def _run(self, work: Callable[[], _T]) -> _T:
        with self._lock:
            if self._pending >= self._queue_max:
                raise RateLimited(
                    "the server is checking too many passwords; try again shortly",
                    limit="password_queue",
                    value=self._queue_max,
                    retry_after_seconds=PASSWORD_RETRY_SECONDS,
                )
            self._pending += 1
        future = self._pool.submit(work)
        future.add_done_callback(self._done)
        return await wrap_future(future)

    def _done(self, _: Future[_T]) -> None:
        with self._lock:
            self._pending -= 1


def _encode(password: str) -> bytes:
    """One spelling (NFC) of what a person typed, whatever keyboard it came from."""
    try:
        return unicodedata.normalize("NFC", password).encode()
    except UnicodeEncodeError:
        raise InvalidArgument("the password is not valid Unicode") from None
