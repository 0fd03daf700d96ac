"""The sidecar `FILE-edgereplica`: what was last synced, so that the next sync need not find out.

Only a hint: a wrong, stale or missing one costs time, never correctness. Layout, all integers
little-endian:

    8    magic "ERside1\\n"
    4    length of the header
    8    xxh3_64 of the header
    …    header: a msgpack map
    32·n page hashes of the synced version, the lock-byte page's as zeros
    8·n  fingerprints of the local pages under the header's seed, page 1's of its masked bytes

The header carries a checksum of the arrays and their length follows from it, so that a torn or
foreign file is told apart; it can be read alone. The file is written aside and renamed, 0600, and
never read or written through a symbolic link.
"""

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from stat import S_ISREG
from typing import Any, Final, TypeVar

import msgpack
import msgspec
from xxhash import xxh3_64, xxh3_64_intdigest

from ..events.errors import InvalidArgument
from ..events.limits import DIGEST_BYTES
from ..events.pages import page_size as checked_page_size
from ..events.value import Value
from .hashing import FINGERPRINT_BYTES
from .local_errors import local_errors
from .local_files import (
    SIDECAR_TEMPORARY,
    open_private,
    resolved,
    sibling,
    sidecar_path,
    sync_directory,
)
from .local_state import FileState
from .ports import Buffer

_PREFIX: Final = struct.Struct("<8sIQ")
_MAGIC: Final = b"ERside1\n"
_NOT_A_SIDECAR: Final = (
    ValueError,  # msgpack's too
    KeyError,
    TypeError,
    AttributeError,
    InvalidArgument,
    struct.error,
)
_HEADER_BYTES_MAX: Final = 64 * 1024


_T = TypeVar("_T")


def _typed(value: Any, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        raise TypeError(f"a sidecar holds {type(value).__name__} for {kind.__name__}")
    return value


class SidecarHeader(Value, frozen=True):
    """What the arrays are about.

    `database` is the id the server gave; `version` is None where the peer knows none (wire v1).
    `root` is that of the synced version, `state` that of the local file when it equalled it,
    `seed` (64 bits) the key of the fingerprints.
    """

    server: str
    database: str
    version: int | None
    root: bytes
    page_size: int
    page_count: int
    state: FileState
    seed: int

    @classmethod
    def from_map(cls, data: dict[str, Any]) -> "SidecarHeader":
        """Raises KeyError, TypeError, ValueError or InvalidArgument for a foreign map."""
        header = cls(
            server=_typed(data["server"], str),
            database=_typed(data["database"], str),
            version=None if data["version"] is None else _typed(data["version"], int),
            root=_typed(data["root"], bytes),
            page_size=checked_page_size(_typed(data["page_size"], int)),
            page_count=_typed(data["page_count"], int),
            state=FileState.from_dict(data["state"]),
            seed=_typed(data["seed"], int),
        )
        if len(header.root) != DIGEST_BYTES or header.page_count < 0 or (header.version or 0) < 0:
            raise ValueError("the sidecar's numbers make no sense")
        return header

    def to_map(self) -> dict[str, Any]:
        return {
            "server": self.server,
            "database": self.database,
            "version": self.version,
            "root": self.root,
            "page_size": self.page_size,
            "page_count": self.page_count,
            "state": self.state.to_dict(),
            "seed": self.seed,
        }


class Sidecar(msgspec.Struct):
    """`hashes` [page_count * 32] and `fingerprints` [page_count * 8] belong to the holder."""

    header: SidecarHeader
    hashes: bytearray
    fingerprints: bytearray

    @staticmethod
    def load_header(path: Path) -> SidecarHeader | None:
        """The header alone of the sidecar of the database at `path`; None if there is no good one.

        The arrays are not looked at: `load` may still find them torn.
        """
        descriptor = _open(path)
        if descriptor is None:
            return None
        try:
            found = _read_header(descriptor)
            return found[0] if found else None
        finally:
            os.close(descriptor)

    @classmethod
    def load(cls, path: Path) -> "Sidecar | None":
        """The whole sidecar of the database at `path`; None if there is no good one."""
        descriptor = _open(path)
        if descriptor is None:
            return None
        try:
            found = _read_header(descriptor)
            if found is None:
                return None
            header, checksum, at = found
            hashes = bytearray(header.page_count * DIGEST_BYTES)
            fingerprints = bytearray(header.page_count * FINGERPRINT_BYTES)
            for array in (hashes, fingerprints):
                if not _fill(descriptor, at, array):
                    return None
                at += len(array)
            if _checksum(hashes, fingerprints) != checksum:
                return None
            return cls(header, hashes, fingerprints)
        except OSError:
            return None
        finally:
            os.close(descriptor)

    @staticmethod
    def save(
        path: Path,
        header: SidecarHeader,
        hashes: Buffer,
        fingerprints: Buffer,
        *,
        durable: bool = False,
    ) -> None:
        """Write the sidecar of the database at `path`; `durable`: so that a power loss leaves it.

        Raises LocalFileError, DiskFull.
        """
        sizes = (header.page_count * DIGEST_BYTES, header.page_count * FINGERPRINT_BYTES)
        if (len(hashes), len(fingerprints)) != sizes:
            raise InvalidArgument("the sidecar's arrays do not fit its page count")
        packed = msgpack.packb({**header.to_map(), "arrays": _checksum(hashes, fingerprints)})
        prefix = _PREFIX.pack(_MAGIC, len(packed), xxh3_64_intdigest(packed))
        _install(path, (prefix, packed, hashes, fingerprints), durable)

    @staticmethod
    def move(path: Path, to: Path) -> None:
        """Make the sidecar of the database at `path` that of the one at `to`."""
        sidecar = sidecar_path(path)
        with local_errors(sidecar):
            sidecar.replace(sidecar_path(to))

    @staticmethod
    def remove(path: Path) -> None:
        """Forget the sync of the database at `path`; nothing happens if there is none."""
        sidecar = sidecar_path(path)
        with local_errors(sidecar):
            sidecar.unlink(missing_ok=True)


def _install(path: Path, parts: Iterable[Buffer], durable: bool) -> None:
    """Write aside, then rename: a rename replaces a symbolic link, it does not follow it."""
    sidecar, temporary = sidecar_path(path), sibling(resolved(path), SIDECAR_TEMPORARY)
    with local_errors(sidecar):
        temporary.unlink(missing_ok=True)
        descriptor = open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for part in parts:
                    file.write(part)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(sidecar)
            if durable:
                sync_directory(sidecar.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _checksum(*arrays: Buffer) -> int:
    hasher = xxh3_64()
    for array in arrays:
        hasher.update(array)
    return int(hasher.intdigest())


def _open(path: Path) -> int | None:
    """A descriptor of the sidecar, if it is a file that this user or the database's owner made."""
    try:
        descriptor = open_private(sidecar_path(path), os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    status = os.fstat(descriptor)
    owners = {os.geteuid(), _owner(path)}
    if not S_ISREG(status.st_mode) or status.st_uid not in owners:
        os.close(descriptor)
        return None
    return descriptor


def _owner(path: Path) -> int:
    try:
        return path.stat().st_uid
    except OSError:
        return os.geteuid()


def _fill(descriptor: int, at: int, into: bytearray) -> bool:
    view = memoryview(into)
    while view:
        count = os.preadv(descriptor, [view], at)
        if count == 0:
            return False
        view, at = view[count:], at + count
    return True


def _read_header(descriptor: int) -> tuple[SidecarHeader, int, int] | None:
    """Header, checksum of the arrays, and where they begin."""
    try:
        start = os.pread(descriptor, _PREFIX.size + _HEADER_BYTES_MAX, 0)
        magic, length, checksum = _PREFIX.unpack_from(start)
        packed = start[_PREFIX.size : _PREFIX.size + length]
        if magic != _MAGIC or len(packed) != length or xxh3_64_intdigest(packed) != checksum:
            return None
        data = msgpack.unpackb(packed)
        header, arrays, at = SidecarHeader.from_map(data), data["arrays"], _PREFIX.size + length
        size = at + header.page_count * (DIGEST_BYTES + FINGERPRINT_BYTES)
        if os.fstat(descriptor).st_size != size:
            return None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        InvalidArgument,
        struct.error,
    ):
        return None
    return header, arrays, at
