"""Our client with a v1 server that was written from the specification alone."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.interop.v1_server import Database, V1Server

from edgereplica import Replica
from edgereplica.app import sample_database
from edgereplica.events.errors import EdgeReplicaError, NetworkError, Unauthenticated

MIB = 1024 * 1024


@pytest.fixture(
    params=[{}, {"batch": 16}, {"late": True}, {"late": True, "batch": 16}],
    ids=["page by page", "batches", "requests after complete", "late batches"],
)
def server(request: pytest.FixtureRequest) -> Iterator[V1Server]:
    with V1Server(**request.param) as running:
        running.databases["main"] = Database()
        yield running


@pytest.fixture
def plain() -> Iterator[V1Server]:
    with V1Server() as running:
        running.databases["main"] = Database()
        yield running


def replica(server: V1Server, path: Path, direction: str, retries: int = 0) -> Replica:
    base = server.url.replace("ws://", "http://").removesuffix("/sync")
    return Replica(path, server=base, token=f"{direction}:main", retries=retries)


def stored(server: V1Server) -> bytes:
    return b"".join(server.databases["main"].pages)


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def content(data: bytes) -> bytes:
    """Without what a commit of the same content rewrites in page 1 (design §7)."""
    return data[:18] + data[20:24] + data[28:92] + data[100:]


def test_a_database_goes_there_changes_shrinks_and_comes_back(
    server: V1Server, tmp_path: Path
) -> None:
    origin, copy = tmp_path / "origin.db", tmp_path / "copy.db"
    sample_database.create(origin, MIB)
    replica(server, origin, "push").push()
    assert stored(server) == origin.read_bytes()
    replica(server, copy, "pull").pull()
    assert content(copy.read_bytes()) == content(origin.read_bytes())

    sample_database.scatter_edits(origin, 0.05, seed=1)
    server.requested = 0
    replica(server, origin, "push").push()
    assert stored(server) == origin.read_bytes()
    assert 0 < server.requested < 60
    replica(server, copy, "pull").pull()
    assert dump(copy) == dump(origin)

    with closing(sqlite3.connect(origin, isolation_level=None)) as connection:
        connection.execute("DELETE FROM documents")
        connection.execute("VACUUM")
    replica(server, origin, "push").push()
    assert stored(server) == origin.read_bytes()
    replica(server, copy, "pull").pull()
    assert content(copy.read_bytes()) == content(origin.read_bytes())
    assert copy.stat().st_size < MIB


def test_a_push_of_what_the_server_has_moves_no_page(server: V1Server, tmp_path: Path) -> None:
    origin = tmp_path / "origin.db"
    sample_database.create(origin, MIB)
    replica(server, origin, "push").push()
    server.requested = 0
    replica(server, origin, "push").push()
    assert server.requested == 0
    assert stored(server) == origin.read_bytes()


def test_a_token_the_server_does_not_know_is_refused(plain: V1Server, tmp_path: Path) -> None:
    origin = tmp_path / "origin.db"
    sample_database.create(origin, MIB)
    del plain.databases["main"]
    with pytest.raises(Unauthenticated):
        replica(plain, origin, "push").push()


@pytest.mark.parametrize("cut_after", [1, 2, 100])
def test_a_cut_push_is_an_error_and_the_next_one_succeeds(tmp_path: Path, cut_after: int) -> None:
    origin = tmp_path / "origin.db"
    sample_database.create(origin, MIB)
    before = origin.read_bytes()
    with V1Server(cut_after=cut_after) as server:
        server.databases["main"] = Database()
        with pytest.raises(NetworkError):
            replica(server, origin, "push").push()
        assert stored(server) == b""
        server.cut_after = 0
        replica(server, origin, "push").push()
        assert stored(server) == origin.read_bytes() == before


def test_a_cut_pull_leaves_no_file(plain: V1Server, tmp_path: Path) -> None:
    origin, copy = tmp_path / "origin.db", tmp_path / "copy.db"
    sample_database.create(origin, MIB)
    replica(plain, origin, "push").push()
    plain.cut_after = 2
    with pytest.raises(NetworkError):
        replica(plain, copy, "pull").pull()
    assert not copy.exists()


def test_a_pull_token_writes_nothing_through_our_client(plain: V1Server, tmp_path: Path) -> None:
    origin, other = tmp_path / "origin.db", tmp_path / "other.db"
    sample_database.create(origin, MIB, seed=1)
    sample_database.create(other, MIB, seed=2)
    replica(plain, origin, "push").push()
    with pytest.raises(EdgeReplicaError):
        replica(plain, other, "pull").push()
    assert stored(plain) == origin.read_bytes()
