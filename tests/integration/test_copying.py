"""`edgereplica admin copy`: everything moves, both ways, verified, and goes on after a cut."""

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.helpers_postgres import Postgres
from tests.helpers_s3 import S3
from tests.helpers_scaled import User, admin_call, change, login, make_database, scaled_out, server
from tests.helpers_server import Account, clean_environment
from tests.unit.app.gc_world import World as GcWorld

from edgereplica.adapters import migrations
from edgereplica.adapters.map_format import map_key, map_prefix
from edgereplica.adapters.memory_repo import MemoryRepo
from edgereplica.adapters.projections import EMPTY_ALL
from edgereplica.adapters.segments import segment_key, segment_prefix
from edgereplica.app.copying import PASSING, CopyReport, _prefixes, copy, other_tables
from edgereplica.app.places import Place
from edgereplica.app.quotas import stored_bytes
from edgereplica.app.settings import Settings, load_settings
from edgereplica.events.errors import AlreadyExists, FileBusy, InvalidArgument, StorageError

EDGEREPLICA = str(Path(sys.executable).with_name("edgereplica"))
VERSIONS = 4
ROOT = Path(__file__).parents[2]


class World:
    """A data directory with a database of four versions, and an empty PostgreSQL with a bucket."""

    def __init__(self, postgres: Postgres, s3: S3, directory: Path) -> None:
        self.directory = directory
        self.embedded = load_settings(directory / "data", session_key="")
        self.scaled = scaled_out(postgres.database(), s3.bucket())
        self.images: list[bytes] = []
        self.user: User
        asyncio.run(self._fill())

    async def _fill(self) -> None:
        async with server(self.embedded) as running:
            self.user = await User.signup(running.base)
            file = self.directory / "source.db"
            make_database(file, kib=300)
            for version in range(1, VERSIONS + 1):
                change(file, version)
                if version == 3:
                    with closing(sqlite3.connect(file, isolation_level=None)) as db:
                        db.execute("DELETE FROM t WHERE id > 100")
                        db.execute("VACUUM")
                await self.user.replica(running.base, file).push(message=f"no. {version}")
                self.images.append(file.read_bytes())
            account = Account(running.base, self.user.session_token)
            gone = await asyncio.to_thread(account.create_database, "gone")
            delete = {"databaseId": gone}
            await admin_call(running.base, "DeleteDatabase", delete, self.user.session_token)

    def place(self, settings: Settings) -> Place:
        return Place.of(settings)

    async def holds_everything(self, settings: Settings) -> None:
        """A server on `settings` knows the user, and gives every version back byte for byte."""
        async with server(settings) as running:
            said = await login(running.base)
            account = Account(running.base, said["sessionToken"])
            token = await asyncio.to_thread(account.token, self.user.database, "pull")
            pulling = User(said["sessionToken"], self.user.database, {"pull": token})
            for version, image in enumerate(self.images, 1):
                back = self.directory / f"back{version}.db"
                back.unlink(missing_ok=True)
                back.with_name(back.name + "-edgereplica").unlink(missing_ok=True)
                await pulling.replica(running.base, back, "pull").pull(at=version)
                assert back.read_bytes() == image, version


@pytest.fixture
def world(postgres: Postgres, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return World(postgres, s3, tmp_path)


def log_of(settings: Settings) -> list[dict[str, Any]]:
    async def read() -> list[dict[str, Any]]:
        async with Place.of(settings).repo() as repo:
            return [
                dict(row)
                for row in await repo.all(
                    "SELECT stream, seq, kind, data, recorded_at FROM events ORDER BY position"
                )
            ]

    return asyncio.run(read())


def test_everything_goes_there_and_back(world: World, tmp_path: Path) -> None:
    there = copy(world.place(world.embedded), world.place(world.scaled))
    assert (there.databases, there.versions) == (1, VERSIONS)
    assert there.pages > 75
    assert there.events == there.events_copied == len(log_of(world.embedded))
    assert there.objects == there.objects_copied >= 2 * VERSIONS
    assert log_of(world.scaled) == log_of(world.embedded)
    asyncio.run(world.holds_everything(world.scaled))

    back = load_settings(tmp_path / "back", session_key="")
    again = copy(world.place(world.scaled), world.place(back))
    assert (again.versions, again.pages) == (there.versions, there.pages)
    assert log_of(back) == log_of(world.scaled)
    asyncio.run(world.holds_everything(back))


def test_a_second_copy_has_nothing_to_do_but_verify(world: World) -> None:
    first = copy(world.place(world.embedded), world.place(world.scaled))
    second = copy(world.place(world.embedded), world.place(world.scaled))
    assert (second.events_copied, second.objects_copied, second.bytes_copied) == (0, 0, 0)
    assert (second.events, second.objects, second.pages) == (
        first.events,
        first.objects,
        first.pages,
    )


async def _stored(settings: Settings, freed_bytes: int = 0) -> dict[str, int]:
    """What each organization is taken to store, once collection has found so much gone."""
    async with Place.of(settings).repo() as repo:
        found = {}
        for row in await repo.all("SELECT org_id FROM organizations"):
            if freed_bytes:
                look = "INSERT INTO gc_looks (org_id, looked_at, correction_bytes) VALUES (?, ?, ?)"
                await repo.execute(look, row["org_id"], 1.0, -freed_bytes)
            found[row["org_id"]] = await stored_bytes(repo, row["org_id"])
        return found


def test_what_collection_had_freed_does_not_count_again(world: World) -> None:
    """A thinned history would else count as a whole, and the target refuse pushes, until a look."""
    all_that_was_pushed = asyncio.run(_stored(world.embedded))
    stored = asyncio.run(_stored(world.embedded, freed_bytes=10_000))
    assert sum(stored.values()) == sum(all_that_was_pushed.values()) - 10_000
    copy(world.place(world.embedded), world.place(world.scaled))
    assert asyncio.run(_stored(world.scaled)) == stored


class Cut(Exception):
    """The machine goes down."""


def cut_when(holds: Callable[[CopyReport], bool]) -> Callable[[CopyReport], None]:
    def progress(report: CopyReport) -> None:
        if holds(report):
            raise Cut

    return progress


@pytest.mark.parametrize(
    "moment",
    [
        lambda report: report.objects_copied == 3,
        lambda report: report.phase == "events",
        lambda report: report.phase == "verifying" and report.versions == 2,
    ],
    ids=["objects", "events", "verifying"],
)
def test_an_interrupted_copy_goes_on(
    world: World, moment: Callable[[CopyReport], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgereplica.app.copying.EVENTS_PER_READ_MAX", 3)
    with pytest.raises(Cut):
        copy(world.place(world.embedded), world.place(world.scaled), cut_when(moment))
    rest = copy(world.place(world.embedded), world.place(world.scaled))
    assert rest.objects_copied < rest.objects
    assert log_of(world.scaled) == log_of(world.embedded)
    asyncio.run(world.holds_everything(world.scaled))


def test_a_target_that_holds_something_else_is_refused(world: World, tmp_path: Path) -> None:
    other = load_settings(tmp_path / "other", session_key="")

    async def sign_up(settings: Settings, email: str) -> None:
        async with server(settings) as running:
            await User.signup(running.base, email)

    asyncio.run(sign_up(other, "else@example.org"))
    before = log_of(other)
    with pytest.raises(AlreadyExists, match="something else"):
        copy(world.place(world.embedded), world.place(other))
    assert log_of(other) == before

    copy(world.place(world.embedded), world.place(world.scaled))
    asyncio.run(sign_up(world.scaled, "later@example.org"))
    with pytest.raises(AlreadyExists, match="something else"):
        copy(world.place(world.embedded), world.place(world.scaled))


def test_what_does_not_read_back_is_found(world: World, tmp_path: Path) -> None:
    target = load_settings(tmp_path / "target", session_key="")
    copy(world.place(world.embedded), world.place(target))
    segment = max((tmp_path / "target" / "objects" / "orgs").rglob("segments/*"))
    data = bytearray(segment.read_bytes())
    data[len(data) // 3] ^= 1
    segment.write_bytes(data)
    with pytest.raises(StorageError, match=segment.name):
        copy(world.place(world.embedded), world.place(target))
    segment.write_bytes(data[:-1])
    with pytest.raises(AlreadyExists, match=segment.name):
        copy(world.place(world.embedded), world.place(target))


def test_a_source_that_changes_meanwhile_is_noticed(world: World, tmp_path: Path) -> None:
    copy(world.place(world.embedded), world.place(world.scaled))
    target = load_settings(tmp_path / "target", session_key="")

    def push(report: CopyReport) -> None:
        if report.phase == "verifying" and not pushed:
            pushed.append(True)
            thread.start()
            thread.join()

    async def sign_up() -> None:
        async with server(world.scaled) as running:
            await User.signup(running.base, "meanwhile@example.org")

    from threading import Thread

    pushed: list[bool] = []
    thread = Thread(target=lambda: asyncio.run(sign_up()))
    with pytest.raises(StorageError, match="changed while it was copied"):
        copy(world.place(world.scaled), world.place(target), push)
    copy(world.place(world.scaled), world.place(target))
    assert log_of(target) == log_of(world.scaled)


def test_a_running_server_and_the_same_place_are_refused(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        async with server(world.embedded):
            with pytest.raises(FileBusy):
                await asyncio.to_thread(
                    copy, world.place(world.embedded), world.place(world.scaled)
                )

    asyncio.run(main())
    with pytest.raises(InvalidArgument, match="same place"):
        copy(world.place(world.embedded), world.place(world.embedded))
    with pytest.raises(StorageError, match="no database"):
        copy(Place.at(str(tmp_path / "nothing")), world.place(world.scaled))
    for where, store in (("mysql://x/y", ""), ("postgresql://x/y", "")):
        with pytest.raises(InvalidArgument):
            Place.at(where, store)


def test_the_command(world: World, s3: S3, tmp_path: Path) -> None:
    url = world.scaled.database_url.get_secret_value()
    command = [EDGEREPLICA, "admin", "copy", "--from", str(world.embedded.data_dir)]
    command += ["--to", url, "--to-store", world.scaled.page_store_url]

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*command, *words],
            capture_output=True,
            text=True,
            check=True,
            env=clean_environment(tmp_path, **s3.environment),
        )

    said = json.loads(run("--json").stdout)
    assert (said["versions"], said["databases"]) == (VERSIONS, 1)
    assert said["events"] == said["events_copied"]
    words = run()
    assert "verified: 4 versions of 1 databases" in words.stdout
    assert words.stderr.splitlines() == ["verifying …"]


def test_every_table_is_the_log_or_made_of_it_or_copied_or_passing() -> None:
    """A new table makes this fail until somebody has said what becomes of it."""
    made = set(re.findall(r"DELETE FROM (\w+)", " ".join(s.sql for s in EMPTY_ALL)))
    assert set(other_tables()) == {"credentials", "sessions", "oauth_logins", "gc_looks"}
    with closing(sqlite3.connect(":memory:")) as db:
        for sql in migrations.known().values():
            db.executescript(sql)
        there = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    assert there - {"sqlite_sequence"} == {"events", *made, *PASSING, *other_tables()}


def test_every_object_goes_along(world: World, tmp_path: Path) -> None:
    target = load_settings(tmp_path / "other", session_key="")
    copy(world.place(world.embedded), world.place(target))

    def objects(directory: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(directory)): path.read_bytes()
            for path in (directory / "objects").rglob("*")
            if path.is_file()
        }

    there = objects(tmp_path / "other")
    assert len(there) >= 2 * VERSIONS
    assert there == objects(world.directory / "data")


def test_every_kind_of_key_lies_under_a_prefix_that_is_copied() -> None:
    """A new kind of object makes this fail until somebody has said what becomes of it."""

    async def prefixes() -> list[str]:
        repo = MemoryRepo()
        await migrations.migrate(repo)
        world = GcWorld(repo)
        await world.start()
        return await _prefixes(repo)

    copied = asyncio.run(prefixes())
    assert {prefix.replace("d2", "d1") for prefix in copied} == {
        segment_prefix("o"),
        map_prefix("d1"),
    }
    assert segment_key("o", "s").startswith(segment_prefix("o") + "/")
    assert map_key("d1", 1, "u").startswith(map_prefix("d1") + "/")
    kinds: dict[str, set[str]] = {}
    for layer in ("adapters", "app", "cli"):
        for path in (ROOT / layer).rglob("*.py"):
            # A key of objects begins with a fixed word and goes on with whose object it is.
            for kind in re.findall(r"""f["']([a-z]+)/\{""", path.read_text(encoding="utf-8")):
                kinds.setdefault(kind, set()).add(path.name)
    assert kinds.pop("token") == {"tokens.py"}  # what a secret is used for
    assert kinds == {"orgs": {"segments.py"}, "databases": {"map_format.py"}}
