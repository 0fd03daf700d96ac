"""Which adapters a setting picks, and what is imported for it."""

import subprocess
import sys
from pathlib import Path

import pytest

from edgereplica.app.places import Place
from edgereplica.app.settings import load_settings
from edgereplica.events.errors import InvalidArgument

URL = "postgresql://user:hunter2@db.example.org/edge"


def test_an_embedded_place(tmp_path: Path) -> None:
    place = Place.of(load_settings(tmp_path / "data"))
    assert place.embedded
    assert not place.exists()
    place.prepare()
    assert place.exists()
    assert place == Place.at(str(tmp_path / "data"))


def test_a_scaled_out_place_hides_its_password() -> None:
    place = Place.of(load_settings(database_url=URL, page_store_url="s3://b/p"))
    assert not place.embedded
    assert "hunter2" not in repr(place)
    assert place.database_url == Place.at(URL, "s3://b/p").database_url


def test_half_a_place_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="PAGE_STORE_URL"):
        Place.of(load_settings(database_url=URL))
    with pytest.raises(InvalidArgument, match="page store"):
        Place.at(URL)


_WITHOUT = """
import asyncio, sys
sys.modules["psycopg"] = None  # as if the extra were not installed
from edgereplica.app.bootstrap import migrate
from edgereplica.app.settings import load_settings
from edgereplica.events.errors import StorageError
try:
    migrate(load_settings(database_url=sys.argv[1], page_store_url="memory://"))
except StorageError as error:
    print(error.message)
"""


def test_a_missing_extra_is_named() -> None:
    said = subprocess.run(
        [sys.executable, "-c", _WITHOUT, URL], capture_output=True, text=True, check=True
    )
    assert said.stdout == (
        "PostgreSQL needs another package (psycopg): pip install 'edgereplica[postgres]'\n"
    )


@pytest.mark.parametrize("module", ["edgereplica.cli.tree", "edgereplica.app.bootstrap"])
def test_nothing_imports_psycopg_before_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; print('psycopg' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
