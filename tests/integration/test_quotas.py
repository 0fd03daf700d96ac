"""What a database and an organization may hold: each bound refused by name, nothing seen of it."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.helpers_server import Account, AdminError, ServerProcess

from edgereplica import Replica
from edgereplica.events.errors import EdgeReplicaError, LimitExceeded

MIB = 1024 * 1024


def make(path: Path, rows: int, seed: int = 1) -> Path:
    """A database of incompressible rows of about 4,000 bytes."""
    source = random.Random(seed)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS t (x)")
        db.execute("DELETE FROM t")
        db.executemany("INSERT INTO t VALUES (?)", [(source.randbytes(4000),) for _ in range(rows)])
    return path


class Server:
    def __init__(self, running: ServerProcess) -> None:
        self.base = running.base
        self.account = Account.signup(running.base, "ann@example.org")

    def push(self, database: str, path: Path, **more: Any) -> Any:
        token = self.account.token(database, "push")
        return Replica(path, server=self.base, token=token, **more).push()


def serve(tmp_path: Path, **settings: int) -> ServerProcess:
    environment = {name.upper(): str(value) for name, value in settings.items()}
    return ServerProcess(tmp_path / "data", environment=environment)


def refused(error: EdgeReplicaError, limit: str, value: int) -> bool:
    said = (error.details.get("limit"), error.details.get("value"))
    return isinstance(error, LimitExceeded) and said == (limit, value)


def test_pages_of_a_database(tmp_path: Path) -> None:
    with serve(tmp_path, pages_per_database_max=50) as running:
        server = Server(running)
        database = server.account.create_database("main")
        small, large = make(tmp_path / "small.db", 20), make(tmp_path / "large.db", 80)
        assert server.push(database, small).version == 1
        for protocol in (2, 1):
            with pytest.raises(EdgeReplicaError, match="at most 50 pages") as caught:
                server.push(database, large, protocol=protocol)
            # Wire v1 has words only.
            assert protocol == 1 or refused(caught.value, "pages_per_database_max", 50)
        assert server.push(database, make(small, 20, seed=2)).version == 2


def test_bytes_of_an_organization(tmp_path: Path) -> None:
    bound = 12 * MIB
    with serve(tmp_path, org_stored_bytes_max=bound) as running:
        server = Server(running)
        first, second = (server.account.create_database(name) for name in ("one", "two"))
        # Refused while it is staged: the bound is passed by a segment or so, not by the push.
        with pytest.raises(EdgeReplicaError) as caught:
            server.push(first, make(tmp_path / "large.db", 12_000))
        assert refused(caught.value, "org_stored_bytes_max", bound)
        assert caught.value.details["used"] > bound
        stored = sum(
            p.stat().st_size for p in (tmp_path / "data/objects").rglob("*") if p.is_file()
        )
        assert stored < bound + 4 * 8 * MIB
        # And full for every other database of the organization, though not for others.
        with pytest.raises(EdgeReplicaError) as caught:
            server.push(second, make(tmp_path / "small.db", 10))
        assert refused(caught.value, "org_stored_bytes_max", bound)
        other = Account.signup(running.base, "bob@example.org")
        token = other.token(other.create_database("main"), "push")
        pushed = Replica(tmp_path / "small.db", server=running.base, token=token).push()
        assert pushed.version == 1


def test_bytes_of_an_organization_at_the_commit(tmp_path: Path) -> None:
    """Less than a segment is first stored by the commit: it must count there."""
    with serve(tmp_path, org_stored_bytes_max=MIB) as running:
        server = Server(running)
        database = server.account.create_database("main")
        assert server.push(database, make(tmp_path / "a.db", 150)).version == 1
        with pytest.raises(EdgeReplicaError) as caught:
            server.push(database, make(tmp_path / "a.db", 150, seed=2))
        assert refused(caught.value, "org_stored_bytes_max", MIB)
        assert 600_000 < caught.value.details["used"] < MIB
        copy = tmp_path / "copy.db"
        token = server.account.token(database, "pull")
        assert Replica(copy, server=running.base, token=token).pull().version == 1


def test_databases_of_an_organization(tmp_path: Path) -> None:
    with serve(tmp_path, databases_per_org_max=2) as running:
        account = Account.signup(running.base, "ann@example.org")
        for name in ("one", "two"):
            account.create_database(name)
        with pytest.raises(AdminError, match="at most 2 databases") as caught:
            account.create_database("three")
        assert caught.value.code == "resource_exhausted"
        Account.signup(running.base, "bob@example.org").create_database("main")


def test_decoded_bytes_of_a_batch_are_told_to_the_client_and_enforced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = 65_536
    with serve(tmp_path, batch_decoded_bytes_max=bound) as running:
        server = Server(running)
        database = server.account.create_database("main")
        path = make(tmp_path / "a.db", 300)
        for protocol, seed in ((2, 2), (1, 3)):
            pushed = server.push(database, make(path, 300, seed), protocol=protocol)
            assert pushed.outcome == "pushed"

        def deaf(self: object, reply: object) -> None:
            original(self, reply)  # type: ignore[arg-type]
            self.batch_bytes_max = MIB  # type: ignore[attr-defined]

        from edgereplica.fsm.client_push import ClientPush

        original = ClientPush.note_reply
        monkeypatch.setattr(ClientPush, "note_reply", deaf)
        with pytest.raises(EdgeReplicaError) as caught:
            server.push(server.account.create_database("other"), make(tmp_path / "b.db", 300))
        assert refused(caught.value, "batch_decoded_bytes_max", bound)


def test_bytes_of_a_frame(tmp_path: Path) -> None:
    bound = 2 * MIB
    with serve(tmp_path, frame_bytes_max=bound) as running:
        server = Server(running)
        database = server.account.create_database("main")
        assert server.push(database, make(tmp_path / "a.db", 1000)).version == 1
        from websockets.exceptions import ConnectionClosed
        from websockets.sync.client import connect

        token = server.account.token(database, "push")
        headers = {"Authorization": f"Bearer {token}"}
        with connect(running.sync_url, additional_headers=headers) as socket:
            # The server closes as soon as it has read the frame's length. No more than that is
            # sent: what it has not read when it closes would make its system drop its last words.
            header = b"\x82\xff" + (bound + 1).to_bytes(8, "big") + b"mask"
            socket.socket.sendall(header)
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009
