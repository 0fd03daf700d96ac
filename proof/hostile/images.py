"""Mutated SQLite files, pushed and pulled into: the client says what is wrong and never crashes."""

import asyncio
import sqlite3
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from edgereplica.events.errors import EdgeReplicaError, LocalFileError
from proof.torture.world import Server, World

from .frames import Violation

Counts = Counter[str]


def _good_images(root: Path) -> list[tuple[bytes, bytes]]:
    """(main file, -wal) of small databases: sizes of page, journal modes, a log not yet applied."""
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


def _attempt(work: Any) -> Any:
    """The result or the error; a raw exception is a crash."""
    try:
        return asyncio.run(work)
    except EdgeReplicaError as error:
        return error
    except Exception as error:
        raise Violation(f"the client crashed: {error!r}") from error


def images(count: int, dice: Random) -> Counts:
    """Each is pushed; what was pushed is pulled; and each is a replica that a pull overwrites."""
    found: Counts = Counter()
    with tempfile.TemporaryDirectory(prefix="edgereplica-hostile-") as directory:
        root = Path(directory)
        good = _good_images(root)
        with Server(root / "data") as server:
            world = World(root, server, dice, rows=30)
            sample = world.account.create_database("images")
            tokens = {way: world.account.token(sample, way) for way in ("push", "pull")}
            origin = b"".join(world.content[1])
            for _ in range(count):
                main, log = dice.choice(good)
                image, tail = _mutate(main, dice), _mutate(log, dice)
                found["images"] += 1
                for use in ("push", "pull"):
                    path = root / "image.db"
                    path.write_bytes(image)
                    if tail:
                        path.with_name("image.db-wal").write_bytes(tail)
                    if use == "push":
                        _push(world, path, root / "copy.db", tokens, found)
                    else:
                        _pull(world, path, origin, found)
                    for leftover in (*root.glob("image.db*"), *root.glob("copy.db*")):
                        leftover.unlink()
    return found


def _push(world: World, path: Path, copy: Path, tokens: dict[str, str], found: Counts) -> None:
    ours, world.tokens = world.tokens, tokens
    told = _attempt(world.replica(path, "push").push(force=True))
    if isinstance(told, EdgeReplicaError):
        found["refused in a push"] += 1
        if not isinstance(told, LocalFileError):
            raise Violation(f"a damaged file was called {told!r}")
    else:
        found["pushed"] += 1
        pulled = _attempt(world.replica(copy, "pull").pull())
        if isinstance(pulled, EdgeReplicaError) or pulled.root != told.root:
            raise Violation(f"what was pushed did not come back: {pulled!r}")
    world.tokens = ours


def _pull(world: World, path: Path, origin: bytes, found: Counts) -> None:
    told = _attempt(world.replica(path, "pull").pull(force=True, backup=False))
    if isinstance(told, EdgeReplicaError):
        found["refused in a pull"] += 1
        if not isinstance(told, LocalFileError):
            raise Violation(f"a damaged file was called {told!r}")
        return
    found["overwritten"] += 1
    with closing(sqlite3.connect(path)) as app:
        if app.execute("SELECT count(*) FROM t").fetchone() != (30,):
            raise Violation("a pulled file is not the version")
    if len(path.read_bytes()) != len(origin):
        # In WAL mode the content may still lie in the log: compared through SQLite above.
        found["with a log"] += 1
