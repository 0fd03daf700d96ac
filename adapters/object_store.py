"""The object store behind page storage: a local directory, memory, S3, GCS or Azure, by obstore.

Objects are immutable and their keys are never used twice, so `put` creates and never replaces. A
local directory is made durable here, because obstore renames atomically but never syncs: the file,
its directory, and the parent of every directory this process first puts into are fsynced before
`put` returns. The other stores are durable when they answer.

A process that is killed in the middle of a put leaves a temporary file of obstore's in a local
directory. No list names it, so nobody else could ever remove it: listing does, once it is old.

`MeteredStore` counts requests and bytes around any store. What the objects mean is left to
`segments` and `map_format`.
"""

import asyncio
import contextlib
import errno
import os
import re
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, MemoryStore, from_url

from ..events.errors import AlreadyExists, InvalidArgument, NotFound, StorageError
from ..events.limits import (
    GC_GRACE_SECONDS,
    STORE_BACKOFF_SECONDS_MAX,
    STORE_RETRIES_MAX,
    STORE_RETRY_SECONDS_MAX,
)
from .ports import Buffer, ObjectInfo, ObjectStore, Payload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obstore.store import ObjectStore as AnyObstore

_KEY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_TEMPORARY: Final = re.compile(r".+#[0-9]+")
"""How obstore names a file until it is whole. No key has this form."""
_REMOTE_SCHEMES: Final = frozenset({"s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss"})
_ENDPOINT_VARIABLES: Final = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT",
    "AZURE_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
)
_FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# obstore reports an errno only inside its message ("… (os error 28)"); S3 servers name theirs.
_FULL_MESSAGE: Final = re.compile(
    r"\(os error (28|122|27|112)\)|StorageFull|QuotaExceeded|507 Insufficient"
)
_DURABLE_DIRECTORIES_MAX: Final = 4096
_PROBE_KEY: Final = "health/ready"
_PROBE: Final = bytes(4096)


def check_key(key: str) -> str:
    """`key`, refused unless it is segments of `[A-Za-z0-9._-]`, none hidden, joined by slashes."""
    if not _KEY.fullmatch(key):
        raise InvalidArgument(f"{key!r} is not an object key")
    return key


def open_store(where: str | Path) -> "ObstoreStore":
    """The store at a path or URL: `/dir`, `file://`, `memory://`, `s3://`, `gs://`, `az://`.

    A local directory is created. Credentials and endpoints of the others come from the usual
    environment variables of those systems. `InvalidArgument` for a URL that names none of them.
    """
    text = str(where)
    scheme = urlsplit(text).scheme if "://" in text else ""
    if scheme in ("", "file"):
        return LocalObjectStore(Path(unquote(urlsplit(text).path)) if scheme else Path(text))
    if scheme == "memory":
        return ObstoreStore(MemoryStore())
    if scheme not in _REMOTE_SCHEMES:
        raise InvalidArgument(f"no page store for {scheme}:// URLs")
    try:
        return RemoteObjectStore(
            from_url(
                text,
                client_options={"allow_http": _plain_http_wanted()},
                retry_config={
                    "max_retries": STORE_RETRIES_MAX,
                    "retry_timeout": timedelta(seconds=STORE_RETRY_SECONDS_MAX),
                    "backoff": {"max_backoff": timedelta(seconds=STORE_BACKOFF_SECONDS_MAX)},
                },
            )
        )
    except (BaseError, ValueError) as error:
        raise InvalidArgument(f"the page store's URL is refused: {_first_line(error)}") from error


def _plain_http_wanted() -> bool:
    """Whether the environment names an endpoint without TLS, as a local S3 server has.

    obstore reads the endpoint by itself, but wants the permission said twice.
    """
    return any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINT_VARIABLES)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _fail(key: str, doing: str, error: Exception) -> NoReturn:
    """Raise `error` as one of ours. The message names the key, never a path of the server."""
    if isinstance(error, AlreadyExistsError):
        raise AlreadyExists(f"the page store already holds {key}", key=key) from error
    if isinstance(error, NotFoundError | FileNotFoundError):
        raise NotFound(f"the page store holds no {key}", key=key) from error
    full = _FULL_MESSAGE.search(str(error)) is not None
    if full or (isinstance(error, OSError) and error.errno in _FULL_ERRNOS):
        reason, words = "disk_full", "no space left"
    elif isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
        reason, words = "denied", "permission denied"
    else:
        reason, words = "failed", "the store failed"
    raise StorageError(
        f"the page store could not {doing} {key}: {words}", key=key, reason=reason
    ) from error


@contextmanager
def _errors_of(key: str, doing: str) -> "Iterator[None]":
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        _fail(key, doing, error)


def check_range(key: str, offset: int, length: int, got: int) -> None:
    """Refuse a range read that came back short: the object is not what its reader expects."""
    if got != length:
        raise StorageError(
            f"the object {key} is truncated: {got} of {length} bytes at {offset}",
            key=key,
            reason="truncated",
        )


class ObstoreStore:
    """Any store that obstore speaks to, as an `ObjectStore`."""

    def __init__(self, store: "AnyObstore") -> None:
        self._store = store

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        check_key(key)
        with _errors_of(key, "write"):
            # One request, never multipart: only a single put can be told to create.
            await obstore.put_async(
                self._store, key, iter(parts), mode="create", use_multipart=False
            )

    async def get(self, key: str) -> memoryview:
        with _errors_of(check_key(key), "read"):
            result = await obstore.get_async(self._store, key)
            return memoryview(await result.bytes_async())

    async def get_range(self, key: str, offset: int, length: int) -> memoryview:
        check_key(key)
        if length == 0:
            return memoryview(b"")
        with _errors_of(key, "read"):
            data = await obstore.get_range_async(self._store, key, start=offset, length=length)
        check_range(key, offset, length, len(data))
        return memoryview(data)

    async def get_tail(self, key: str, length: int) -> tuple[memoryview, int]:
        with _errors_of(check_key(key), "read"):
            result = await obstore.get_async(
                self._store, key, options={"range": {"suffix": length}}
            )
            size = result.meta["size"]
            return memoryview(await result.bytes_async()), size

    async def delete(self, key: str) -> None:
        try:
            with _errors_of(check_key(key), "delete"):
                await obstore.delete_async(self._store, key)
        except NotFound:
            return

    async def list(self, prefix: str) -> list[ObjectInfo]:
        found: list[ObjectInfo] = []
        with _errors_of(prefix, "list"):
            async for batch in obstore.list(self._store, check_key(prefix)):
                found += [
                    ObjectInfo(meta["path"], meta["size"], meta["last_modified"].timestamp())
                    for meta in batch
                ]
        return sorted(found, key=lambda info: info.key)

    async def check(self) -> None:
        # The one object that is overwritten: any number of servers may probe at once.
        with _errors_of(_PROBE_KEY, "write"):
            await obstore.put_async(self._store, _PROBE_KEY, _PROBE, use_multipart=False)
        if await self.get(_PROBE_KEY) != _PROBE:
            raise StorageError("the page store gives back other bytes than it took")


class RemoteObjectStore(ObstoreStore):
    """A store behind a network, where an answer can be lost."""

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        try:
            await super().put(key, parts)
        except AlreadyExists:
            # A request that was answered with a failure may have been carried out; sent again, it
            # finds its own object.
            if await self.get(key) != b"".join(parts):
                raise


class LocalObjectStore(ObstoreStore):
    """A directory of this machine, durable when `put` returns."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        with _errors_of(str(root), "create"):
            _make_durable_directory(self._root)
            super().__init__(LocalStore(self._root))
        self._durable: set[Path] = {self._root}

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        path = self._root / check_key(key)
        with _errors_of(key, "write"):
            if path.parent not in self._durable:
                await asyncio.to_thread(_make_durable_directory, path.parent, self._root)
                if len(self._durable) >= _DURABLE_DIRECTORIES_MAX:
                    self._durable.clear()  # forgetting one costs an fsync, nothing else
                self._durable.add(path.parent)
        await super().put(key, parts)
        if isinstance(parts, Payload):
            parts.release()
        with _errors_of(key, "sync"):
            await asyncio.to_thread(_sync_file_and_directory, path)

    async def list(self, prefix: str) -> list[ObjectInfo]:
        found = await super().list(prefix)
        await asyncio.to_thread(_remove_leftovers, self._root / prefix)
        return found


def _remove_leftovers(directory: Path) -> None:
    """Remove temporary files of puts that ended long ago, one way or the other."""
    due = time.time() - GC_GRACE_SECONDS
    with contextlib.suppress(OSError):  # gone already, or a directory that is only to be read
        for path in directory.iterdir():
            if _TEMPORARY.fullmatch(path.name) and path.lstat().st_mtime < due:
                path.unlink()


def _make_durable_directory(directory: Path, root: Path | None = None) -> None:
    """Create `directory` and sync every parent's entry for it, up to `root`.

    Without a root, only parents of what is missing are synced. Directories that exist are synced
    too: another process may have made them a moment ago and not yet synced them.
    """
    chain: list[Path] = []
    for path in (directory, *directory.parents):
        if path == root or (root is None and path.exists()):
            break
        chain.append(path)
    directory.mkdir(parents=True, exist_ok=True)
    for path in reversed(chain):
        _sync(path.parent)


def _sync_file_and_directory(path: Path) -> None:
    _sync(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a directory; NTFS journals its entries.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class StoreUsage:
    """Requests and payload bytes that went to a store."""

    puts: int = 0
    gets: int = 0
    lists: int = 0
    deletes: int = 0
    put_bytes: int = 0
    get_bytes: int = 0

    def since(self, earlier: "StoreUsage") -> "StoreUsage":
        return StoreUsage(
            *(getattr(self, name) - getattr(earlier, name) for name in self.__slots__)
        )


class MeteredStore:
    """Counts what passes to another store; failed requests count too, as a provider bills them."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner
        self._usage = StoreUsage()

    @property
    def usage(self) -> StoreUsage:
        """A copy of the counts so far."""
        return replace(self._usage)

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        self._usage.puts += 1
        self._usage.put_bytes += sum(memoryview(part).nbytes for part in parts)
        await self._inner.put(key, parts)

    async def get(self, key: str) -> memoryview:
        self._usage.gets += 1
        data = await self._inner.get(key)
        self._usage.get_bytes += len(data)
        return data

    async def get_range(self, key: str, offset: int, length: int) -> memoryview:
        self._usage.gets += 1
        data = await self._inner.get_range(key, offset, length)
        self._usage.get_bytes += len(data)
        return data

    async def get_tail(self, key: str, length: int) -> tuple[memoryview, int]:
        self._usage.gets += 1
        data, size = await self._inner.get_tail(key, length)
        self._usage.get_bytes += len(data)
        return data, size

    async def delete(self, key: str) -> None:
        self._usage.deletes += 1
        await self._inner.delete(key)

    async def list(self, prefix: str) -> list[ObjectInfo]:
        self._usage.lists += 1
        return await self._inner.list(prefix)

    async def check(self) -> None:
        await self._inner.check()
