"""The sidecar round trip, and that a torn or foreign one is the same as none."""

import os
import random
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereplica.adapters.local_state import FileState
from edgereplica.adapters.sidecar import Sidecar, SidecarHeader
from edgereplica.events.errors import InvalidArgument, LocalFileError
from edgereplica.events.value import replace

STATE = FileState(1, 2, 8192, 99, True, 5, 4096, 2, b"saltsalt", b"checksum", 7, 3)
HEADER = SidecarHeader("https://s.example", "db1", 4, b"r" * 32, 4096, 2, STATE, 2**64 - 1)
HASHES, PRINTS = bytes(range(64)), bytes(range(16))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.db").touch()
    return tmp_path / "a.db"


def stored(path: Path) -> Path:
    return path.with_name("a.db-edgereplica")


def save(path: Path) -> bytes:
    Sidecar.save(path, HEADER, HASHES, PRINTS)
    return stored(path).read_bytes()


def test_round_trip(path: Path) -> None:
    save(path)
    assert Sidecar.load_header(path) == HEADER
    assert Sidecar.load(path) == Sidecar(HEADER, bytearray(HASHES), bytearray(PRINTS))
    assert stored(path).stat().st_mode & 0o777 == 0o600
    assert sorted(f.name for f in path.parent.iterdir()) == ["a.db", "a.db-edgereplica"]


def test_an_empty_database_and_an_unnamed_version(path: Path) -> None:
    header = replace(
        HEADER, page_count=0, version=None, state=replace(STATE, wal_salts=None, wal_checksum=None)
    )
    Sidecar.save(path, header, b"", b"")
    assert Sidecar.load(path) == Sidecar(header, bytearray(), bytearray())


def test_none(path: Path) -> None:
    assert Sidecar.load(path) is Sidecar.load_header(path) is None
    save(path)
    Sidecar.remove(path)
    Sidecar.remove(path)
    assert Sidecar.load(path) is None


def test_arrays_must_fit(path: Path) -> None:
    with pytest.raises(InvalidArgument):
        Sidecar.save(path, HEADER, HASHES[:-32], PRINTS)
    assert not stored(path).exists()


def test_a_link_to_the_database_finds_it(path: Path) -> None:
    save(path)
    link = path.with_name("link.db")
    link.symlink_to(path)
    assert Sidecar.load_header(link) == HEADER


def test_every_flipped_bit_is_noticed(path: Path) -> None:
    good = save(path)
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        stored(path).write_bytes(bad)
        assert Sidecar.load(path) is None, f"byte {at}"


def test_every_cut_is_noticed(path: Path) -> None:
    good = save(path)
    for length in range(len(good)):
        stored(path).write_bytes(good[:length])
        assert Sidecar.load(path) is Sidecar.load_header(path) is None
    stored(path).write_bytes(good + b"x")
    assert Sidecar.load(path) is None


def test_a_header_that_promises_too_much(path: Path) -> None:
    """Its own checksum is right: somebody made it so. Nothing of the claimed size is allocated."""
    for change in (
        {"page_count": 2**40},
        {"page_count": -1},
        {"page_size": 1000},
        {"root": b"short"},
        {"root": 2**40},
        {"version": -3},
        {"version": "4"},
        {"seed": None},
        {"state": {}},
        {"state": {**STATE.to_dict(), "inode": "2"}},
        {"state": {**STATE.to_dict(), "wal_salts": 4}},
        {"database": None, "server": 5, "root": 7},
    ):
        write_crafted(path, msgpack.packb({**HEADER.to_map(), "arrays": 0, **change}))
        assert Sidecar.load_header(path) is Sidecar.load(path) is None, change


def write_crafted(path: Path, packed: bytes) -> None:
    from xxhash import xxh3_64_intdigest

    prefix = b"ERside1\n" + len(packed).to_bytes(4, "little")
    check = xxh3_64_intdigest(packed).to_bytes(8, "little")
    stored(path).write_bytes(prefix + check + packed + HASHES + PRINTS)


@settings(max_examples=200, deadline=None)
@given(packed=st.binary(max_size=200))
def test_any_header_is_a_sidecar_or_none(
    packed: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("s") / "a.db"
    write_crafted(path, packed)
    assert Sidecar.load_header(path) is Sidecar.load(path) is None


def test_symbolic_links_are_not_followed(path: Path) -> None:
    save(path)
    victim = path.with_name("victim")
    stored(path).rename(victim)
    stored(path).symlink_to(victim)
    before = victim.read_bytes()
    assert Sidecar.load(path) is Sidecar.load_header(path) is None
    other = path.with_name("other")
    other.write_bytes(b"precious")
    path.with_name("a.db-edgereplica-new").symlink_to(other)
    Sidecar.save(path, replace(HEADER, version=9), HASHES, PRINTS)
    assert (victim.read_bytes(), other.read_bytes()) == (before, b"precious")
    assert not stored(path).is_symlink()
    header = Sidecar.load_header(path)
    assert header is not None
    assert header.version == 9


def test_a_folder_or_pipe_in_its_place(path: Path) -> None:
    os.mkfifo(stored(path))
    assert Sidecar.load_header(path) is None
    stored(path).unlink()
    stored(path).mkdir()
    assert Sidecar.load(path) is None
    with pytest.raises(LocalFileError):
        save(path)


def test_a_strangers_sidecar_is_ignored(path: Path) -> None:
    if os.geteuid() != 0:
        return  # only root can make one
    save(path)
    os.chown(stored(path), 65534, 65534)
    assert Sidecar.load(path) is None
    os.chown(path, 65534, 65534)
    assert Sidecar.load(path) is not None


def test_a_large_one(path: Path) -> None:
    count = 5000
    hashes, prints = random.Random(1).randbytes(32 * count), random.Random(2).randbytes(8 * count)
    Sidecar.save(path, replace(HEADER, page_count=count), hashes, prints)
    loaded = Sidecar.load(path)
    assert loaded is not None
    assert (loaded.hashes, loaded.fingerprints) == (hashes, prints)
