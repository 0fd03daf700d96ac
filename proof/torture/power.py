"""Power loss: what was written and not synced may be gone, in any combination.

The writes, renames and fsyncs of the page storage's local store and of a fresh pull are recorded
where they happen. An image is the disk at one moment of the recording with a random part of what
was not yet synced lost: contents cut short or zeroed, names missing. From it, everything that was
durable by contract must be readable: each version whose commit had been acknowledged; of a fresh
pull, the old state or the whole file under its name.

SQLite's own writes (the log of the server, an application in place) are SQLite's to make durable;
both connections are checked to run with `synchronous=FULL`.
"""

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.unit.adapters.page_storage_model import SIZE, Database, as_dict, page, small_segments

from edgereplica.adapters import local_fresh, object_store, sqlite_repo
from edgereplica.adapters.local_apply import _SETTINGS as APPLY_SETTINGS
from edgereplica.adapters.local_fresh import FreshFile
from edgereplica.adapters.memory_store import MemoryStore

from .world import Violation

Counts = dict[str, int | float | str]


@dataclass
class File:
    """`data` as written, `durable` as last synced (None: never)."""

    data: bytes = b""
    durable: bytes | None = None


@dataclass
class Disk:
    """Files by number, names by directory; what is durable of both."""

    files: list[File] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    durable_names: dict[str, int] = field(default_factory=dict)

    def write(self, path: str, data: bytes) -> None:
        self.files.append(File(data))
        self.names[path] = len(self.files) - 1

    def overwrite(self, path: str, offset: int, data: bytes) -> None:
        file = self.files[self.names[path]]
        held = file.data.ljust(offset, b"\0")
        file.data = held[:offset] + data + held[offset + len(data) :]

    def sync(self, path: str) -> None:
        if path in self.names:
            file = self.files[self.names[path]]
            file.durable = file.data
            return
        for name in set(self.names) | set(self.durable_names):
            if os.path.dirname(name) == path:  # noqa: PTH120 - names, not files
                if name in self.names:
                    self.durable_names[name] = self.names[name]
                else:
                    self.durable_names.pop(name, None)

    def image(self, dice: Random) -> dict[str, bytes]:
        """One disk that a power loss may leave."""
        found: dict[str, bytes] = {}
        for name in set(self.names) | set(self.durable_names):
            now, durable = self.names.get(name), self.durable_names.get(name)
            number = now if now == durable else dice.choice((now, durable))
            if number is None or not self._parents_stand(name, dice):
                continue
            found[name] = _content(self.files[number], dice)
        return found

    def _parents_stand(self, name: str, dice: Random) -> bool:
        return name in self.durable_names or dice.random() < 0.8


def _content(file: File, dice: Random) -> bytes:
    if file.durable == file.data:
        return file.data
    kind = dice.randrange(4)
    if kind == 0:
        return file.durable or b""
    if kind == 1:
        return file.data[: dice.randrange(len(file.data) + 1)]
    blocks = bytearray(file.data)
    for at in range(0, len(blocks), 512):
        if dice.random() < 0.5:
            blocks[at : at + 512] = bytes(len(blocks[at : at + 512]))
    return bytes(blocks)


@contextmanager
def _replaced(**attributes: tuple[Any, str, Any]) -> Iterator[None]:
    """Set (object, name, value) for the duration."""
    old = [(where, name, getattr(where, name)) for where, name, _ in attributes.values()]
    for where, name, value in attributes.values():
        setattr(where, name, value)
    try:
        yield
    finally:
        for where, name, value in old:
            setattr(where, name, value)


def page_storage(root: Path, count: int, dice: Random) -> Counts:
    """Images of the object store while versions are pushed; each acknowledged one is read back."""
    disk, checked, lost = Disk(), 0, 0
    store_root = root / "objects"
    real_put, real_sync = object_store.ObstoreStore.put, object_store._sync

    async def put(self: Any, key: str, parts: Any) -> None:
        await real_put(self, key, parts)
        disk.write(str(store_root / key), b"".join(bytes(part) for part in parts))
        take()

    def sync(path: Path) -> None:
        real_sync(path)
        disk.sync(str(path))

    images: list[tuple[int, dict[str, bytes]]] = []
    wanted = {"now": 0.0}
    history: list[Any] = []
    contents: list[dict[int, bytes]] = []

    def take() -> None:
        """Some images at each moment when something is on its way."""
        wanted["now"] += per_step
        while wanted["now"] >= 1 and len(images) < count:
            wanted["now"] -= 1
            images.append((len(contents), disk.image(dice)))

    async def work() -> None:
        database = Database(object_store.open_store(store_root))
        pages = [page(n) for n in range(120)]
        fresh = 1000
        for _ in range(pushes):
            for _ in range(dice.choice((1, 10, 60))):
                pages[dice.randrange(len(pages))] = page(fresh)
                fresh += 1
            await database.push(pages, dice.choice(("raw", "zstd")))
            contents.append(as_dict(pages))
            history[:] = database.history
            take()

    pushes = max(4, min(40, count // 4))
    per_step = count / (pushes * 2)
    with (
        _replaced(put=(object_store.ObstoreStore, "put", put), sync=(object_store, "_sync", sync)),
        small_segments(16 * SIZE),
    ):
        asyncio.run(work())

    async def check(committed: int, image: dict[str, bytes]) -> int:
        store = MemoryStore()
        for name, data in image.items():
            await store.put(str(Path(name).relative_to(store_root)), [data])
        database = Database(store)
        database.history = history[:committed]
        for version in range(max(1, committed - 3), committed + 1):
            if await database.read(version) != contents[version - 1]:
                raise Violation(f"version {version} of {committed} is not what was pushed")
        return committed

    for committed, image in images:
        checked += bool(asyncio.run(check(committed, image)))
        lost += any(file.durable is None for file in disk.files)
    if "PRAGMA synchronous = FULL" not in sqlite_repo._PRAGMAS:
        raise Violation("the server's log is not durable when it answers")
    return {"images": len(images), "with versions": checked, "versions": len(contents), "lost": 0}


def fresh_pull(root: Path, count: int, dice: Random) -> Counts:
    """Images while a fresh file is written and installed."""
    outcome = {"absent": 0, "whole": 0}
    real_write, real_fsync, real_link = local_fresh.write_at, os.fsync, os.link
    if "PRAGMA synchronous=FULL" not in APPLY_SETTINGS:
        raise Violation("a version applied in place is not durable when it is reported")
    for number in range(count):
        disk = Disk()
        target, images = root / f"fresh-{number}.db", []
        name = f"{target}-edgereplica-tmp"
        data = _database(dice)

        def write(
            descriptor: int,
            offset: int,
            view: Any,
            disk: Disk = disk,
            name: str = name,
            images: list[Any] = images,
        ) -> None:
            real_write(descriptor, offset, view)
            if name not in disk.names:
                disk.write(name, b"")
            disk.overwrite(name, offset, bytes(view))
            images.append(disk.image(dice))

        def fsync(descriptor: int, disk: Disk = disk, images: list[Any] = images) -> None:
            real_fsync(descriptor)
            disk.sync(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            images.append(disk.image(dice))

        def link(source: Any, to: Any, disk: Disk = disk, images: list[Any] = images) -> None:
            real_link(source, to)
            disk.names[str(to)] = disk.names[str(source)]
            images.append(disk.image(dice))

        with _replaced(
            write=(local_fresh, "write_at", write),
            fsync=(os, "fsync", fsync),
            link=(os, "link", link),
        ):
            fresh = FreshFile(target, 512, len(data) // 512)
            fresh.write(1, data)
            fresh.install()
        final = disk.image(dice)
        if final.get(str(target)) != data:
            raise Violation("an installed file was lost")
        found = dice.choice(images).get(str(target))
        if found is not None and found != data:
            raise Violation("a file under its name is torn")
        outcome["absent" if found is None else "whole"] += 1
        target.unlink()
    return {"images": count, **outcome, "torn": 0}


def _database(dice: Random) -> bytes:
    """A header that passes for SQLite's, and pages of noise."""
    with closing(sqlite3.connect(":memory:")) as memory:
        memory.execute("PRAGMA page_size = 512")
        memory.execute("CREATE TABLE t (x)")
        memory.execute("INSERT INTO t VALUES (?)", (dice.randbytes(dice.choice((100, 5000))),))
        memory.commit()
        return bytes(memory.serialize())
