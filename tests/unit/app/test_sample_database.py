"""The sample database is the same for the same seed, near its promised size, ratio and scatter."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import zstandard

from edgereplica.app import sample_database

MIB = 1024 * 1024


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def pages(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [data[at : at + 4096] for at in range(0, len(data), 4096)]


def made(path: Path, size_bytes: int = 2 * MIB, seed: int = 1) -> Path:
    sample_database.create(path, size_bytes, seed=seed)
    return path


def test_the_same_seed_gives_the_same_content_before_and_after_edits(tmp_path: Path) -> None:
    one, two = made(tmp_path / "one.db"), made(tmp_path / "two.db")
    assert dump(one) == dump(two)
    before = dump(one)
    for path in (one, two):
        sample_database.scatter_edits(path, 0.05, seed=3)
    assert dump(one) == dump(two) != before


def test_another_seed_gives_other_content(tmp_path: Path) -> None:
    one, two = made(tmp_path / "one.db", seed=1), made(tmp_path / "two.db", seed=2)
    assert dump(one) != dump(two)


@pytest.mark.parametrize("size_bytes", [MIB, 8 * MIB])
def test_it_has_the_size_asked_for_and_compresses_two_to_one(
    tmp_path: Path, size_bytes: int
) -> None:
    path = made(tmp_path / "shop.db", size_bytes)
    data = path.read_bytes()
    assert size_bytes <= len(data) <= size_bytes + 128 * 1024
    compressor = zstandard.ZstdCompressor(level=1)
    batches = [data[at : at + MIB] for at in range(0, len(data), MIB)]
    ratio = len(data) / sum(len(compressor.compress(batch)) for batch in batches)
    assert 1.8 <= ratio <= 2.3


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.1])
def test_edits_touch_about_the_fraction_and_are_scattered(tmp_path: Path, fraction: float) -> None:
    path = made(tmp_path / "shop.db", 16 * MIB)
    before = pages(path)
    sample_database.scatter_edits(path, fraction, seed=5)
    after = pages(path)
    changed = [n for n, page in enumerate(after) if n >= len(before) or page != before[n]]
    assert 0.5 * fraction <= len(changed) / len(after) <= 1.5 * fraction
    if len(changed) > 20:
        quarter = len(after) // 4
        assert {page // quarter for page in changed} >= {0, 1, 2, 3}


def test_edits_stay_in_the_wal_while_another_connection_is_open(tmp_path: Path) -> None:
    path = made(tmp_path / "shop.db")
    main_file = path.read_bytes()
    with closing(sqlite3.connect(path)) as application:
        application.execute("SELECT count(*) FROM orders").fetchone()
        sample_database.scatter_edits(path, 0.1, seed=5)
        assert path.read_bytes() == main_file
        assert path.with_name("shop.db-wal").stat().st_size > 4096
    assert path.read_bytes() != main_file


@pytest.mark.parametrize(("wal", "mode"), [(True, "wal"), (False, "delete")])
def test_journal_mode_and_page_size_are_what_was_asked(
    tmp_path: Path, wal: bool, mode: str
) -> None:
    path = tmp_path / "shop.db"
    sample_database.create(path, MIB, page_size_bytes=1024, wal=wal)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == (mode,)
        assert connection.execute("PRAGMA page_size").fetchone() == (1024,)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        sample_database.create(path, MIB)
    assert path.read_bytes() == b"mine"
