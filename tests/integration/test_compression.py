"""Pages travel compressed in both directions, and the server keeps them so."""

from pathlib import Path

from tests.helpers_server import Account, ServerProcess

from edgereplica import Replica
from edgereplica.app.sample_database import create


def test_pages_travel_and_lie_compressed(tmp_path: Path) -> None:
    create(tmp_path / "a.db", 2 << 20)  # which zstd halves
    size = (tmp_path / "a.db").stat().st_size
    with ServerProcess(tmp_path / "data") as server:
        account = Account.signup(server.base, "ann@example.org")
        database = account.create_database("main")
        tokens = {way: account.token(database, way) for way in ("push", "pull")}
        pushed = Replica(tmp_path / "a.db", server=server.base, token=tokens["push"]).push()
        pulled = Replica(tmp_path / "b.db", server=server.base, token=tokens["pull"]).pull()
        stored = sum(p.stat().st_size for p in (tmp_path / "data/objects").rglob("*"))
        raw = account.token(account.create_database("raw"), "push")
        plain = Replica(tmp_path / "a.db", server=server.base, token=raw, compress="never")
        assert plain.push(force=True).bytes_sent > size
    assert (tmp_path / "b.db").read_bytes() == (tmp_path / "a.db").read_bytes()
    for figure in (pushed.bytes_sent, pulled.bytes_received, stored):
        assert figure < size * 0.6
