"""What a power loss may leave of a recording: disks with any part of the unsynced writes lost.

`Disk` follows the notes of `syscalls` and keeps apart what is durable: the content of a file up to
its last fsync, the names of a folder up to the last fsync of that folder. All later writes may be
lost each for itself, in any combination, cut into sectors; all later changes of names too, either
the last ones (as a file system with a journal does) or any. A rename is one change.

A file system may keep more, and in a better order, than this asks of it: nothing here counts on
that.
"""

from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from .syscalls import Note, RecordingFailed

SECTOR_BYTES: Final = 512
FOLDER: Final = -1
"""Stands for a folder where names stand for files."""
NOT_DURABLE_EVER: Final = "-shm"
"""SQLite's shared memory is made anew after a crash, and never part of an image."""

LOSSES_THAT_COUNT_NOT: Final = (NOT_DURABLE_EVER, "-edgereplica-lock")
"""A lock that nobody holds says nothing, whether it is there or not."""


@dataclass
class _File:
    """`now` as written; `durable` as synced (None: never); `writes` since then."""

    now: bytearray
    durable: bytes | None
    mtimes: list[int]
    writes: list[Note] = field(default_factory=list)


Changes = dict[str, int | None]
"""One change of names: path → its file, FOLDER, or None where the name goes away."""


@dataclass
class Disk:
    """The files of a folder, followed through the notes."""

    files: dict[int, _File] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    pending: dict[str, list[Changes]] = field(default_factory=dict)
    """Folder → the changes of names in it since it was synced."""

    @classmethod
    def of(cls, root: Path, files: dict[int, Path]) -> "Disk":
        """Everything under `root` as it stands now, durable."""
        disk = cls()
        for path in root.rglob("*"):
            if path.is_dir():
                disk.names[str(path.relative_to(root))] = FOLDER
        for number, relative in files.items():
            path = root / relative
            data = path.read_bytes()
            disk.files[number] = _File(bytearray(data), data, [path.stat().st_mtime_ns])
            disk.names[str(relative)] = number
        disk.durable = dict(disk.names)
        return disk

    def require(self, root: Path) -> None:
        """`RecordingFailed` unless this is what stands under `root`: no write passed unseen."""
        now = {
            path: bytes(self.files[number].now) if number != FOLDER else None
            for path, number in self.names.items()
            if not path.endswith(NOT_DURABLE_EVER)
        }
        standing = {
            str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
            for path in root.rglob("*")
            if not path.name.endswith(NOT_DURABLE_EVER)
        }
        if now != standing:
            wrong = sorted(
                path
                for path in {*now, *standing}
                if now.get(path, b"-") != standing.get(path, b"-")
            )
            raise RecordingFailed(f"the recording does not lead to what stands there: {wrong}")

    def follow(self, note: Note) -> None:
        getattr(self, f"_{note.what}")(note)

    def _create(self, note: Note) -> None:
        self.files[note.file] = _File(bytearray(), None, [note.mtime_ns])
        self._change({note.path: note.file})

    def _mkdir(self, note: Note) -> None:
        self._change({note.path: FOLDER})

    def _link(self, note: Note) -> None:
        self._change({note.path: note.file})

    def _unlink(self, note: Note) -> None:
        self._change({note.path: None})

    def _rename(self, note: Note) -> None:
        file = self.names[note.path]
        if _folder(note.path) == _folder(note.to):
            self._change({note.path: None, note.to: file})
        else:
            self._change({note.to: file})
            self._change({note.path: None})

    def _change(self, changes: Changes) -> None:
        for path, file in changes.items():
            if file is None:
                del self.names[path]
            else:
                self.names[path] = file
            self.pending.setdefault(_folder(path), [])
        self.pending[_folder(next(iter(changes)))].append(changes)

    def _write(self, note: Note) -> None:
        file = self.files[note.file]
        _write_into(file.now, note.offset, note.data)
        file.writes.append(note)
        file.mtimes.append(note.mtime_ns)

    def _truncate(self, note: Note) -> None:
        file = self.files[note.file]
        _cut(file.now, note.offset)
        file.writes.append(note)
        file.mtimes.append(note.mtime_ns)

    def _touch(self, note: Note) -> None:
        self.files[note.file].mtimes.append(note.mtime_ns)

    def _sync(self, note: Note) -> None:
        file = self.files[note.file]
        file.durable = bytes(file.now)
        file.writes = []
        file.mtimes = [note.mtime_ns]

    def _sync_directory(self, note: Note) -> None:
        for changes in self.pending.pop(note.path, []):
            _apply(self.durable, changes)

    def image(self, dice: Random) -> "Image":
        """One disk that a power loss now may leave."""
        names = dict(self.durable)
        for pending in self.pending.values():
            for changes in _some(pending, dice):
                _apply(names, changes)
        kept = dice.choice((0.0, 0.2, 0.5, 0.8, 1.0))
        found = Image({}, {}, [path for path, file in names.items() if file == FOLDER])
        contents: dict[int, bytes] = {}
        for path, number in names.items():
            if number == FOLDER or path.endswith(NOT_DURABLE_EVER):
                continue
            if number not in contents:
                contents[number] = _survived(self.files[number], kept, dice)
            found.files[path] = contents[number]
            found.mtimes[path] = dice.choice(self.files[number].mtimes)
        return found

    def may_lose(self) -> bool:
        """Whether anything that counts was written, or named, and is not synced."""
        return any(
            not path.endswith(LOSSES_THAT_COUNT_NOT)
            for pending in self.pending.values()
            for changes in pending
            for path in changes
        ) or any(
            self.files[number].writes
            for path, number in self.durable.items()
            if number != FOLDER and not path.endswith(LOSSES_THAT_COUNT_NOT)
        )

    def has_lost(self, image: "Image") -> bool:
        """Whether `image` is not simply what had been written."""
        files = {
            path: bytes(self.files[number].now)
            for path, number in self.names.items()
            if number != FOLDER and not path.endswith(LOSSES_THAT_COUNT_NOT)
        }
        left = {
            path: data
            for path, data in image.files.items()
            if not path.endswith(LOSSES_THAT_COUNT_NOT)
        }
        return files != left


@dataclass
class Image:
    """A disk after a power loss: contents and times by path, and the folders there are."""

    files: dict[str, bytes]
    mtimes: dict[str, int]
    folders: list[str]


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _apply(names: dict[str, int], changes: Changes) -> None:
    for path, file in changes.items():
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file


def _some(pending: list[Changes], dice: Random) -> list[Changes]:
    """The changes that survived: all up to some moment, or any."""
    if dice.random() < 0.5:
        return pending[: dice.randrange(len(pending) + 1)]
    return [changes for changes in pending if dice.random() < 0.5]


def _survived(file: _File, kept: float, dice: Random) -> bytes:
    """The durable content with some of the later writes, whole or in part."""
    data = bytearray(file.durable or b"")
    for note in file.writes:
        if note.what == "truncate":
            if dice.random() < kept:
                _cut(data, note.offset)
        elif dice.random() < 0.7:
            if dice.random() < kept:
                _write_into(data, note.offset, note.data)
        else:
            _write_sectors(data, note, kept, dice)
    return bytes(data)


def _write_sectors(data: bytearray, note: Note, kept: float, dice: Random) -> None:
    at = 0
    while at < len(note.data):
        length = SECTOR_BYTES - (note.offset + at) % SECTOR_BYTES
        if dice.random() < kept:
            _write_into(data, note.offset + at, note.data[at : at + length])
        at += length


def _write_into(data: bytearray, offset: int, written: bytes) -> None:
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(written)] = written


def _cut(data: bytearray, size: int) -> None:
    if size < len(data):
        del data[size:]
    else:
        data.extend(bytes(size - len(data)))
