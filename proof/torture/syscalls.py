"""Records what a process does to the files of a folder: ptrace(2), by way of `ctypes`.

Every system call that writes, cuts, syncs, names or removes a file is noted in the order of its
return, with the bytes it wrote: of all threads, of SQLite as of any other library, and without a
change to what is recorded. Linux 5.3 and newer, on x86-64 and arm64.

Files can also be written in ways that are not recorded (a shared mapping, io_uring): whoever
records compares what the notes lead to with what stands in the folder afterwards, by `disks`, which
also knows what they mean after a power loss.
"""

import ctypes
import os
import platform
import signal
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_SYSCALL, _SEIZE, _INTERRUPT, _LISTEN, _GET_INFO = 24, 0x4206, 0x4207, 0x4208, 0x420E
_OPTIONS: Final = 0x01 | 0x02 | 0x04 | 0x08 | 0x100000
"""TRACESYSGOOD, TRACEFORK, TRACEVFORK, TRACECLONE, EXITKILL."""
_WAIT: Final = 0x40000000 | 0x20000000
"""__WALL, __WNOTHREAD: this thread's tracees, and nobody else's children."""
_EVENT_STOP: Final = 128
_INFO: Final = struct.Struct("<B3xIQQ7Q")
_ENTRY, _EXIT = 1, 2
_AT_FDCWD: Final = -100
_ATTEMPTS_MAX: Final = 50

# name: (x86-64, arm64); None where there is none. Numbers from the kernel's unistd.h.
_NUMBERS: Final[dict[str, tuple[int | None, int | None]]] = {
    "open": (2, None), "creat": (85, None), "openat": (257, 56), "openat2": (437, 437),
    "write": (1, 64), "pwrite64": (18, 68), "writev": (20, 66), "pwritev": (296, 70),
    "pwritev2": (328, 287), "truncate": (76, 45), "ftruncate": (77, 46), "fallocate": (285, 47),
    "fsync": (74, 82), "fdatasync": (75, 83), "sync_file_range": (277, 84),
    "utimensat": (280, 88), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "link": (86, None), "linkat": (265, 37), "unlink": (87, None), "unlinkat": (263, 35),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None),
    "copy_file_range": (326, 285), "sendfile": (40, 71),
}  # fmt: skip
_BEFORE: Final = frozenset({"open", "creat", "openat", "openat2"})
"""Calls for which it matters what stood there before."""


@dataclass(frozen=True, slots=True)
class Note:
    """One call. `path` is relative to the folder; `file` numbers a file through all its names.

    What: create, mkdir, link (`path` now names `file`), rename (`path` to `to`), unlink, write
    (`data` at `offset`), truncate (to `offset` bytes), sync, sync_directory, touch.
    """

    what: str
    path: str = ""
    to: str = ""
    file: int = -1
    offset: int = 0
    data: bytes = b""
    mtime_ns: int = 0


class RecordingFailed(Exception):
    """The kernel refused, or the process did what cannot be recorded."""


def _numbers() -> dict[int, str]:
    place = {"x86_64": 0, "aarch64": 1}.get(platform.machine())
    if place is None:
        raise RecordingFailed(f"no table of system calls for {platform.machine()}")
    known = ((numbers[place], name) for name, numbers in _NUMBERS.items())
    return {number: name for number, name in known if number is not None}


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


def _ptrace(request: int, tid: int, address: Any = None, data: Any = None) -> int:
    found = int(_libc.ptrace(request, tid, address, data))
    if found < 0:
        error = ctypes.get_errno()
        raise ProcessLookupError(error, f"ptrace {request:#x}: {os.strerror(error)}")
    return found


class Recorder:
    """`notes` of what a process does to files under `root`, from `attached` to its end.

    Nobody else in this process may wait for it meanwhile: the wait would take its stops.
    """

    def __init__(self, root: Path) -> None:
        self.root = str(root.resolve())
        self.notes: list[Note] = []
        self.files: dict[int, Path] = {}
        """Files that stood there at the beginning, by number."""
        self.failure: BaseException | None = None
        self._numbers: dict[int, int] = {}
        self._names = _numbers()
        self._entered: dict[int, tuple[str, tuple[int, ...], Any]] = {}
        self._tids: set[int] = set()
        self._attached = threading.Event()
        self._info = ctypes.create_string_buffer(_INFO.size)
        for path in sorted(root.rglob("*")):
            if path.is_file():
                self.files[len(self.files)] = path.relative_to(root)
                self._numbers[path.stat().st_ino] = len(self.files) - 1
        self._next = len(self.files)

    @contextmanager
    def attached(self, pid: int) -> Iterator[None]:
        """Record while the block runs; at its end the process must have ended, or be ending."""
        thread = threading.Thread(target=self._record, args=(pid,), daemon=True)
        thread.start()
        self._attached.wait()
        try:
            yield
        finally:
            thread.join()
            if self.failure is not None:
                raise RecordingFailed(f"cannot record: {self.failure!r}") from self.failure

    def _record(self, pid: int) -> None:
        try:
            self._seize(pid)
            self._attached.set()
            while self._tids:
                self._wait()
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits for this thread
            self.failure = error
        finally:
            self._attached.set()
            if self.failure is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _seize(self, pid: int) -> None:
        """All threads there are; one that is being made meanwhile is found by looking again."""
        for _ in range(_ATTEMPTS_MAX):
            fresh = {int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()} - self._tids
            if not fresh:
                return
            for tid in fresh:
                with suppress(FileNotFoundError):
                    _ptrace(_SEIZE, tid, None, _OPTIONS)
                    _ptrace(_INTERRUPT, tid)
                    self._tids.add(tid)

    def _wait(self) -> None:
        try:
            tid, status = os.waitpid(-1, _WAIT)
        except ChildProcessError:
            self._tids.clear()
            return
        if not os.WIFSTOPPED(status):
            self._tids.discard(tid)
            self._entered.pop(tid, None)
            return
        self._tids.add(tid)
        stopped_by, event = os.WSTOPSIG(status), status >> 16
        with suppress(ProcessLookupError):
            if stopped_by == signal.SIGTRAP | 0x80:
                self._syscall(tid)
                _ptrace(_SYSCALL, tid)
            elif event == _EVENT_STOP and stopped_by != signal.SIGTRAP:
                _ptrace(_LISTEN, tid)
            else:
                _ptrace(_SYSCALL, tid, None, 0 if event else stopped_by)

    def _syscall(self, tid: int) -> None:
        _ptrace(_GET_INFO, tid, _INFO.size, self._info)
        kind, _, _, _, first, *rest = _INFO.unpack(self._info.raw)
        if kind == _ENTRY:
            name = self._names.get(first)
            if name is not None:
                arguments = tuple(rest)
                before = None
                if name in _BEFORE:
                    path = self._path(tid, *_opened(name, arguments))
                    before = (path, path is not None and Path(self.root, path).exists())
                self._entered[tid] = (name, arguments, before)
        elif kind == _EXIT and tid in self._entered:
            name, arguments, before = self._entered.pop(tid)
            failed = rest[0] & 0xFF
            if not failed:
                _RETURNED[name](self, tid, arguments, first, before)

    # What a call's arguments mean

    def _text(self, tid: int, address: int) -> str:
        found = b""
        while b"\0" not in found and len(found) < 8192:
            # Not across a page: the next one may not be there.
            found += self._memory(tid, address + len(found), 4096 - (address + len(found)) % 4096)
        return os.fsdecode(found.split(b"\0", 1)[0])

    @staticmethod
    def _memory(tid: int, address: int, length: int) -> bytes:
        with Path(f"/proc/{tid}/mem").open("rb", buffering=0) as memory:
            data = os.pread(memory.fileno(), length, address)
        if not data and length:
            raise RecordingFailed("the memory of the process cannot be read")
        return data

    def _path(self, tid: int, directory: int, address: int) -> str | None:
        """The path relative to the root; None if it lies elsewhere."""
        text = self._text(tid, address)
        if not text.startswith("/"):
            where = "cwd" if _signed(directory) == _AT_FDCWD else f"fd/{_signed(directory)}"
            text = f"{Path(f'/proc/{tid}/{where}').readlink()}/{text}"
        # The folder may be reached through a symbolic link; the file itself may not stand yet.
        path = Path(os.path.normpath(text))
        return self._inside(str(path.parent.resolve() / path.name))

    def _inside(self, path: str) -> str | None:
        if path == self.root:
            return ""
        return path[len(self.root) + 1 :] if path.startswith(self.root + "/") else None

    def _descriptor(self, tid: int, descriptor: int) -> os.stat_result | None:
        """The status of an open file under the root."""
        where = _open_file(tid, descriptor)
        try:
            if self._inside(str(where.readlink()).removesuffix(" (deleted)")) is None:
                return None
            return where.stat()
        except FileNotFoundError:
            return None

    def _file(self, tid: int, descriptor: int) -> tuple[int, os.stat_result] | None:
        """The number of an open file, unless it lies elsewhere or has never had a name."""
        status = self._descriptor(tid, descriptor)
        number = None if status is None else self._numbers.get(status.st_ino)
        return None if status is None or number is None else (number, status)

    def _named(self, path: str) -> int:
        return self._numbers[Path(self.root, path).stat().st_ino]

    # One method for each kind of call: (thread, arguments, result, what stood there before)

    def _on_open(self, tid: int, args: tuple[int, ...], descriptor: int, before: Any) -> None:
        path, stood = before
        if path is None:
            return
        status = _open_file(tid, descriptor).stat()
        if not stood:
            self._numbers[status.st_ino] = self._next
            self.notes.append(Note("create", path, file=self._next, mtime_ns=status.st_mtime_ns))
            self._next += 1
        elif status.st_ino in self._numbers and status.st_size == 0:
            # Perhaps O_TRUNC did that; if the file was empty before, saying it again is harmless.
            self._cut(self._numbers[status.st_ino], 0, status)

    def _on_write(self, tid: int, args: tuple[int, ...], count: int, _: Any) -> None:
        found = self._file(tid, args[0])
        if found is None:
            return
        position = self._position(tid, args[0])
        self._wrote(found, position - count, self._memory(tid, args[1], count))

    def _on_pwrite(self, tid: int, args: tuple[int, ...], count: int, _: Any) -> None:
        found = self._file(tid, args[0])
        if found is not None:
            self._wrote(found, args[3], self._memory(tid, args[1], count))

    def _on_writev(self, tid: int, args: tuple[int, ...], count: int, _: Any) -> None:
        found = self._file(tid, args[0])
        if found is not None:
            data = self._gathered(tid, args[1], args[2], count)
            self._wrote(found, self._position(tid, args[0]) - count, data)

    def _on_pwritev(self, tid: int, args: tuple[int, ...], count: int, _: Any) -> None:
        found = self._file(tid, args[0])
        if found is not None:
            self._wrote(found, args[3], self._gathered(tid, args[1], args[2], count))

    def _gathered(self, tid: int, address: int, vectors: int, count: int) -> bytes:
        table = self._memory(tid, address, 16 * vectors)
        pieces = struct.iter_unpack("<QQ", table)
        return b"".join(self._memory(tid, at, size) for at, size in pieces if size)[:count]

    @staticmethod
    def _position(tid: int, descriptor: int) -> int:
        info = Path(f"/proc/{tid}/fdinfo/{descriptor}").read_text(encoding="ascii")
        return int(info.split()[1])

    def _wrote(self, found: tuple[int, os.stat_result], offset: int, data: bytes) -> None:
        file, status = found
        note = Note("write", file=file, offset=offset, data=data, mtime_ns=status.st_mtime_ns)
        self.notes.append(note)

    def _on_ftruncate(self, tid: int, args: tuple[int, ...], _: int, __: Any) -> None:
        found = self._file(tid, args[0])
        if found is not None:
            self._cut(found[0], found[1].st_size, found[1])

    def _cut(self, file: int, size: int, status: os.stat_result) -> None:
        self.notes.append(Note("truncate", file=file, offset=size, mtime_ns=status.st_mtime_ns))

    def _on_fsync(self, tid: int, args: tuple[int, ...], _: int, __: Any) -> None:
        status = self._descriptor(tid, args[0])
        if status is None:
            return
        if stat.S_ISDIR(status.st_mode):
            path = self._inside(str(_open_file(tid, args[0]).readlink()))
            self.notes.append(Note("sync_directory", path or ""))
        elif status.st_ino in self._numbers:
            file = self._numbers[status.st_ino]
            self.notes.append(Note("sync", file=file, mtime_ns=status.st_mtime_ns))

    def _on_utimensat(self, tid: int, args: tuple[int, ...], _: int, __: Any) -> None:
        if args[1] == 0:
            found = self._file(tid, args[0])
            if found is not None:
                self.notes.append(Note("touch", file=found[0], mtime_ns=found[1].st_mtime_ns))

    def _on_rename(self, tid: int, args: tuple[int, ...], _: int, __: Any) -> None:
        self._renamed(self._path(tid, _AT_FDCWD, args[0]), self._path(tid, _AT_FDCWD, args[1]))

    def _on_renameat(self, tid: int, args: tuple[int, ...], _: int, __: Any) -> None:
        self._renamed(self._path(tid, args[0], args[1]), self._path(tid, args[2], args[3]))

    def _renamed(self, old: str | None, new: str | None) -> None:
        if old is None and new is None:
            return
        if old is None or new is None:
            raise RecordingFailed(f"a file moved into the folder or out of it: {old} to {new}")
        self.notes.append(Note("rename", old, to=new))

    def _on_link(self, tid: int, args: tuple[int, ...], _: int, __: Any) -> None:
        self._linked(self._path(tid, _AT_FDCWD, args[1]))

    def _on_linkat(self, tid: int, args: tuple[int, ...], _: int, __: Any) -> None:
        self._linked(self._path(tid, args[2], args[3]))

    def _linked(self, path: str | None) -> None:
        if path is not None:
            self.notes.append(Note("link", path, file=self._named(path)))

    def _on_unlink(self, tid: int, args: tuple[int, ...], _: int, __: Any) -> None:
        self._unlinked(self._path(tid, _AT_FDCWD, args[0]))

    def _on_unlinkat(self, tid: int, args: tuple[int, ...], _: int, __: Any) -> None:
        self._unlinked(self._path(tid, args[0], args[1]))

    def _unlinked(self, path: str | None) -> None:
        if path is not None:
            self.notes.append(Note("unlink", path))

    def _on_mkdir(self, tid: int, args: tuple[int, ...], _: int, __: Any) -> None:
        self._made(self._path(tid, _AT_FDCWD, args[0]))

    def _on_mkdirat(self, tid: int, args: tuple[int, ...], _: int, __: Any) -> None:
        self._made(self._path(tid, args[0], args[1]))

    def _made(self, path: str | None) -> None:
        if path is not None:
            self.notes.append(Note("mkdir", path))

    def _on_descriptor_unknown(self, tid: int, args: tuple[int, ...], _: int, __: Any) -> None:
        if any(self._file(tid, descriptor) for descriptor in args[:3:2]):
            raise RecordingFailed("a file was written by a call that cannot be recorded")

    def _on_truncate(self, tid: int, args: tuple[int, ...], _: int, __: Any) -> None:
        if self._path(tid, _AT_FDCWD, args[0]) is not None:
            raise RecordingFailed("a file was cut by its name, which cannot be recorded")


def _open_file(tid: int, descriptor: int) -> Path:
    return Path(f"/proc/{tid}/fd/{_signed(descriptor)}")


def _signed(value: int) -> int:
    """A C int out of a register."""
    return ctypes.c_int(value & 0xFFFF_FFFF).value


def _opened(name: str, arguments: tuple[int, ...]) -> tuple[int, int]:
    """(directory, address of the path) of a call that opens."""
    if name.startswith("openat"):
        return arguments[0], arguments[1]
    return _AT_FDCWD, arguments[0]


_RETURNED: Final = {
    "open": Recorder._on_open, "creat": Recorder._on_open, "openat": Recorder._on_open,
    "openat2": Recorder._on_open, "write": Recorder._on_write, "pwrite64": Recorder._on_pwrite,
    "writev": Recorder._on_writev, "pwritev": Recorder._on_pwritev,
    "pwritev2": Recorder._on_pwritev, "ftruncate": Recorder._on_ftruncate,
    "fallocate": Recorder._on_ftruncate, "fsync": Recorder._on_fsync,
    "fdatasync": Recorder._on_fsync, "utimensat": Recorder._on_utimensat,
    "rename": Recorder._on_rename, "renameat": Recorder._on_renameat,
    "renameat2": Recorder._on_renameat, "link": Recorder._on_link, "linkat": Recorder._on_linkat,
    "unlink": Recorder._on_unlink, "unlinkat": Recorder._on_unlinkat,
    "rmdir": Recorder._on_unlink, "mkdir": Recorder._on_mkdir, "mkdirat": Recorder._on_mkdirat,
    "truncate": Recorder._on_truncate, "sync_file_range": Recorder._on_descriptor_unknown,
    "copy_file_range": Recorder._on_descriptor_unknown,
    "sendfile": Recorder._on_descriptor_unknown,
}  # fmt: skip
