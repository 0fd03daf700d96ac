"""Where a server keeps everything: a data directory, or PostgreSQL and a page store.

The one module that picks an adapter by the shape of a setting. Modules of PostgreSQL are imported
when a URL asks for them: they are an extra (`edgereplica[postgres]`).
"""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..adapters.notifier import LocalNotifier, RelayNotifier
from ..adapters.object_store import open_store
from ..adapters.ports import Notifier, ObjectStore, Repo
from ..adapters.sqlite_repo import SqliteRepo
from ..events.errors import InvalidArgument, StorageError
from ..events.limits import POSTGRES_CONNECTIONS_DEFAULT
from . import data_dir
from .settings import Settings

POSTGRES_SCHEMES = ("postgresql://", "postgres://")


@dataclass(frozen=True, slots=True)
class Place:
    """Either `directory` holds the repository, or `database_url` does (which may hold a password:
    it does not show in the `repr`)."""

    directory: Path
    database_url: str
    page_store_url: str
    connections: int = POSTGRES_CONNECTIONS_DEFAULT

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The place that `settings` name; `InvalidArgument` if they leave half of it open."""
        url = settings.database_url.get_secret_value()
        if url and not settings.page_store_url:
            raise InvalidArgument(
                "DATABASE_URL needs PAGE_STORE_URL beside it, a store that every server reaches: "
                "s3://bucket/prefix, gs://…, az://… or file:///shared/directory"
            )
        return cls(settings.data_dir, url, settings.page_store_url, settings.database_connections)

    @classmethod
    def at(cls, where: str, page_store_url: str = "") -> Self:
        """The place at a data directory or a `postgresql://` URL, as a command line names it."""
        if "://" not in where:
            return cls(Path(where).absolute(), "", page_store_url)
        if not where.startswith(POSTGRES_SCHEMES):
            raise InvalidArgument("a place is a data directory or a postgresql:// URL")
        if not page_store_url:
            raise InvalidArgument("a PostgreSQL place needs a page store, like s3://bucket/prefix")
        return cls(Path(), where, page_store_url)

    def __repr__(self) -> str:
        return f"Place({'PostgreSQL' if self.embedded is False else str(self.directory)!r})"

    @property
    def embedded(self) -> bool:
        return not self.database_url

    def exists(self) -> bool:
        """Whether there is a repository to open, as far as can be told without opening it."""
        return not self.embedded or data_dir.database_path(self.directory).exists()

    def require(self, option: str = "--data-dir") -> None:
        """`StorageError` if there is no repository: a mistyped directory is not to be made."""
        if not self.exists():
            raise StorageError(
                f"there is no database in {self.directory}",
                hint=f"check the path given with {option}",
            )

    def prepare(self) -> None:
        """Make what is missing of a data directory."""
        if self.embedded:
            data_dir.prepare(self.directory)

    @contextmanager
    def held(self) -> Iterator[tuple[int, ...]]:
        """Hold a data directory against other servers (`FileBusy`); PostgreSQL takes any number.

        Yields the descriptors that worker processes inherit, so that they hold it too.
        """
        if not self.embedded:
            yield ()
            return
        with data_dir.held(self.directory) as lock:
            yield (lock,)

    @asynccontextmanager
    async def repo(self) -> AsyncIterator[Repo]:
        """The repository, open inside of the block. `StorageError` if it cannot be."""
        opened: Repo
        if self.embedded:
            opened = await SqliteRepo.open(data_dir.database_path(self.directory))
        else:
            try:
                from ..adapters.postgres_repo import PostgresRepo  # noqa: PLC0415 - an extra
            except ImportError as error:
                raise _needs_extra(error) from error
            opened = await PostgresRepo.open(self.database_url, self.connections)
        try:
            yield opened
        finally:
            await opened.close()

    def store(self) -> ObjectStore:
        return open_store(self.page_store_url or data_dir.objects_path(self.directory))

    def notifier(self, repo: Repo, server_id: str, channel: socket.socket | None) -> Notifier:
        """What tells the other servers on this place: those of all machines, the other workers
        behind `channel`, or nobody."""
        if self.embedded:
            return RelayNotifier(channel) if channel else LocalNotifier()
        from ..adapters.postgres_notifier import PostgresNotifier  # noqa: PLC0415 - an extra

        return PostgresNotifier(self.database_url, repo, server_id)


def _needs_extra(error: ImportError) -> StorageError:
    return StorageError(
        f"PostgreSQL needs another package ({error.name}): pip install 'edgereplica[postgres]'"
    )
