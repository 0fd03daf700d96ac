"""Resetting a password from the server's own machine, beside a server that may be running."""

import asyncio

from ..adapters import migrations
from ..adapters.clock import SystemClock
from ..adapters.event_log import EventLog
from ..events.errors import StorageError
from . import accounts
from .passwords import Passwords
from .places import Place
from .settings import Settings


def reset_password(settings: Settings, email: str, new_password: str) -> None:
    """Give an account a new password, and end all its sessions and tokens.

    `NotFound` without such an account, `InvalidArgument` for a bad password.
    """
    place = Place.of(settings)
    place.require()

    async def run() -> None:
        passwords = Passwords()
        try:
            async with place.repo() as repo:
                if await migrations.pending(repo):
                    raise StorageError("the database is not migrated: `edgereplica admin migrate`")
                log = EventLog(repo, SystemClock())
                await accounts.reset_password(repo, log, passwords, email, new_password)
        finally:
            passwords.close()

    asyncio.run(run())
