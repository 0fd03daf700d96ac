"""Mutated SQLite files, pushed and pulled into: the client says what is wrong and never crashes."""

import asyncio
import sqlite3
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import sqlean
from tests.helpers_local import masked

from edgereplica.events.errors import EdgeReplicaError, LocalFileError
from proof.running import Counts, Job
from proof.torture.world import Server, World, snapshot

from .victims import Violation

WORDS_CHARS_MIN = 12
"""A message says more than which file it is about."""


def images(job: Job) -> Counts:
    """Each is pushed, and what was pushed is pulled; and each is a replica that a pull overwrites.

    An image that the mutation happens to leave as it was does not count.
    """
    names = ("images", "refused in a push", "pushed", "pulled back", "pulled back, beyond SQLite",
             "refused in a pull", "refused in a pull, beyond SQLite", "overwritten", "crashes",
             "torn")  # fmt: skip
    found = Counts(dict.fromkeys(names, 0))
    good = _good_images(job.root)
    with Server(job.root / "data") as server:
        world = World(job.root, server, job.dice, rows=30)
        place = job.root / "place"
        place.mkdir()
        target = world.beside(place, "images", rows=1)
        for left in place.iterdir():
            left.unlink()
        for _ in job.rounds():
            image = _mutated(*job.dice.choice(good), job.dice)
            found["images"] += 1
            _push(target, image, place, found)
            _pull(world, image, place, found)
    return found


Image = tuple[bytes, bytes]
"""The database file, and its log (empty for none)."""


def _good_images(root: Path) -> list[Image]:
    """Small databases of several sizes of page, journal modes, with a log not yet applied."""
    found = []
    for number, (page_size, mode, vacuum) in enumerate(
        ((512, "delete", 0), (4096, "wal", 0), (65536, "delete", 1), (1024, "wal", 2))
    ):
        path = root / f"good-{number}.db"
        app = sqlite3.connect(path, isolation_level=None)
        app.execute(f"PRAGMA page_size = {page_size}")
        app.execute(f"PRAGMA auto_vacuum = {vacuum}")
        app.execute(f"PRAGMA journal_mode = {mode}")
        app.execute("PRAGMA wal_autocheckpoint = 0")
        app.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT)")
        app.executemany("INSERT INTO t (x) VALUES (?)", [("x" * (n % 90),) for n in range(200)])
        log = path.with_name(path.name + "-wal")
        found.append((path.read_bytes(), log.read_bytes() if log.exists() else b""))
        app.close()
        found.append((path.read_bytes(), b""))
    return found


def _mutated(main: bytes, log: bytes, dice: Random) -> Image:
    while True:
        image = _mutate(main, dice), _mutate(log, dice)
        if image != (main, log):
            return image


def _mutate(data: bytes, dice: Random) -> bytes:
    image = bytearray(data)
    kind = dice.randrange(7)
    if not image or kind == 0:
        return bytes(image)
    if kind == 1:
        del image[dice.randrange(len(image)) :]
    elif kind == 2:
        image += dice.randbytes(dice.choice((1, 100, 4096)))
    elif kind == 3:
        at = dice.choice((16, 18, 20, 24, 28, 32, 36, 44, 52, 56, 92, 96))
        image[at : at + 4] = dice.choice((b"\0" * 4, b"\xff" * 4, dice.randbytes(4)))
    elif kind == 4:
        at = dice.randrange(len(image))
        image[at : at + 64] = dice.randbytes(64)
    else:
        for _ in range(dice.choice((1, 10, 100))):
            image[dice.randrange(min(len(image), dice.choice((100, 10**9))))] ^= (
                1 << dice.randrange(8)
            )
    return bytes(image)


def _lay(image: Image, place: Path) -> Path:
    """The image as the only file of `place`."""
    for left in place.iterdir():
        left.unlink()
    path = place / "image.db"
    path.write_bytes(image[0])
    if image[1]:
        _log_of(path).write_bytes(image[1])
    return path


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _bytes_of(path: Path) -> Image:
    log = _log_of(path)
    return path.read_bytes(), log.read_bytes() if log.exists() else b""


def _attempt(work: Any, path: Path) -> Any:
    """The result, or the error, which must be about the file and say more than its name."""
    try:
        return asyncio.run(work)
    except LocalFileError as error:
        words = error.message.replace(str(path), "")
        if words == error.message or len(words) < WORDS_CHARS_MIN:
            raise Violation(f"a damaged file is all that is said: {error.message}") from error
        return error
    except EdgeReplicaError as error:
        raise Violation(f"a damaged file was called {error!r}") from error
    except Exception as error:
        raise Violation(f"the client crashed: {error!r}") from error


def _push(world: World, image: Image, place: Path, found: Counts) -> None:
    path = _lay(image, place)
    expected = _pages(image, place)
    told = _attempt(world.replica(path, "push").push(force=True), path)
    # The log may be gone: whoever closes a database last removes a log that holds nothing valid.
    now = _bytes_of(path)
    if now[0] != image[0] or (expected is not None and _pages(now, place) != expected):
        raise Violation("a push changed the file")
    if isinstance(told, EdgeReplicaError):
        found["refused in a push"] += 1
        return
    found["pushed"] += 1
    copy = place / "copy.db"
    pulled = _attempt(world.replica(copy, "pull").pull(), copy)
    if isinstance(pulled, EdgeReplicaError) or pulled.root != told.root:
        raise Violation(f"what was pushed did not come back: {pulled!r}")
    size, data = pulled.page_size, copy.read_bytes() if copy.exists() else b""
    pages = masked([data[at : at + size] for at in range(0, len(data), size)])
    if expected is None:
        found["pulled back, beyond SQLite"] += 1
        strange = _not_in(image, pages, size)
        if strange:
            raise Violation(f"what came back has a page {strange} that is not in the image")
        return
    if pages != expected:
        raise Violation("what came back is not what SQLite reads in the image")
    found["pulled back"] += 1


def _not_in(image: Image, pages: list[bytes], size: int) -> int | None:
    """The first of `pages` that is neither the image's page of that number nor a frame for it in
    the log (fileformat2 §4.1), of which SQLite cannot say which count."""
    main, log = image
    held: dict[int, list[bytes]] = {}
    for at in range(0, len(main), size):
        held.setdefault(at // size + 1, []).append(main[at : at + size].ljust(size, b"\0"))
    for at in range(32, len(log) - size - 23, size + 24):
        page = int.from_bytes(log[at : at + 4], "big")
        held.setdefault(page, []).append(log[at + 24 : at + 24 + size])
    for number, page in enumerate(pages, 1):
        candidates = held.get(number, [])
        if number == 1:
            candidates = [masked([candidate])[0] for candidate in candidates]
        if page not in candidates:
            return number
    return None


def _pages(image: Image, place: Path) -> list[bytes] | None:
    """What SQLite itself reads in the image, page by page; None if it cannot."""
    copy = place / "oracle.db"
    copy.write_bytes(image[0])
    if image[1]:
        _log_of(copy).write_bytes(image[1])
    pages = None
    app = sqlean.connect(str(copy), isolation_level=None)
    with suppress(sqlean.Error):
        app.execute("PRAGMA writable_schema = ON")
        found = app.execute("SELECT data FROM sqlite_dbpage").fetchall()
        pages = masked([bytes(row[0]) for row in found])
    app.close()
    for left in place.glob("oracle.db*"):
        left.unlink()
    return pages


def _as_sqlite_leaves(image: Image, place: Path) -> Image:
    """The image after somebody else tried to open it."""
    path = _lay(image, place)
    app = sqlean.connect(str(path), isolation_level=None)
    with suppress(sqlean.Error):
        app.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    app.close()
    return _bytes_of(path)


def _pull(world: World, image: Image, place: Path, found: Counts) -> None:
    path = _lay(image, place)
    before = _pages(image, place)
    told = _attempt(world.replica(path, "pull").pull(force=True, backup=False), path)
    if not isinstance(told, EdgeReplicaError):
        found["overwritten"] += 1
        if snapshot(path) != world.content[world.known]:
            raise Violation("a file that was pulled into is not the version")
        return
    found["refused in a pull"] += 1
    now = _bytes_of(path)
    if before is None:
        # What SQLite cannot open stays as it is, to the last byte, and so does its log, unless
        # SQLite removes it when the file is closed: no frame of it counts.
        found["refused in a pull, beyond SQLite"] += 1
        if now not in (image, _as_sqlite_leaves(image, place)):
            raise Violation("a pull that was refused changed a file that SQLite cannot read")
    elif _pages(now, place) != before:
        raise Violation("a pull that was refused changed the file")
