"""`/metrics`: who may see it, that its figures are what happened, and that it is documented."""

import json
import re
import socket
import sqlite3
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.helpers_server import Account, AdminError, ServerProcess, call

from edgereplica import Replica
from edgereplica.app.settings import load_settings
from edgereplica.events.errors import Conflict, EdgeReplicaError, InvalidArgument

ROOT = Path(__file__).parents[2]
TOKEN = "metrics-canary-token"


def get(url: str, token: str | None = None) -> tuple[int, str]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def figures(text: str) -> dict[str, float]:
    """Samples as `name{label values}` → value."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(value for name, value in sample.labels.items() if name != "le")
            if "le" not in sample.labels:
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return int(taken.getsockname()[1])


def make(path: Path, text: str) -> Path:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS t (x)")
        db.executemany("INSERT INTO t VALUES (?)", [(text * 100,) for _ in range(100)])
    return path


def test_the_figures_are_what_happened(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", environment={"METRICS_TOKEN": TOKEN}) as server:
        url = server.base + "/metrics"
        account = Account.signup(server.base, "ann@example.org")
        database = account.create_database("main")
        tokens = {way: account.token(database, way) for way in ("push", "pull")}
        first = make(tmp_path / "a.db", "one")
        pushed = Replica(first, server=server.base, token=tokens["push"]).push()
        pulled = Replica(tmp_path / "b.db", server=server.base, token=tokens["pull"]).pull()
        with pytest.raises(Conflict):
            Replica(make(tmp_path / "c.db", "two"), server=server.base, token=tokens["push"]).push()
        with pytest.raises(EdgeReplicaError):
            Replica(tmp_path / "d.db", server=server.base, token="garbage").pull()
        with pytest.raises(AdminError):
            call(server.base, "Whoami", {}, "garbage")
        status, text = get(url, TOKEN)
        assert status == 200
        seen = figures(text)
        assert seen["edgereplica_pages_total{push}"] == pushed.pages_sent
        assert seen["edgereplica_pages_total{pull}"] == pulled.pages_received
        assert seen["edgereplica_wire_bytes_total{pull,sent}"] == pulled.bytes_received
        assert seen["edgereplica_wire_bytes_total{pull,received}"] == pulled.bytes_sent
        assert seen["edgereplica_wire_bytes_total{push,received}"] >= pushed.bytes_sent
        assert seen["edgereplica_sessions_ended_total{push,committed}"] == 1
        assert seen["edgereplica_sessions_ended_total{pull,delivered}"] == 1
        assert seen["edgereplica_conflicts_total"] == 1
        assert seen["edgereplica_refusals_total{unauthenticated,handshake}"] == 1
        assert seen["edgereplica_refusals_total{unauthenticated,rpc}"] == 1
        assert seen["edgereplica_commit_seconds_count"] == 1
        assert seen["edgereplica_commit_seconds_sum"] > 0
        objects = [path for path in (tmp_path / "data/objects").rglob("*") if path.is_file()]
        written = sum(path.stat().st_size for path in objects)
        assert seen["edgereplica_store_bytes_total{written}"] == written
        assert seen["edgereplica_store_requests_total{put}"] == len(objects)
        assert seen["edgereplica_map_cache_bytes"] > 0
        assert seen["process_resident_memory_bytes"] > 0
        for secret in (TOKEN, *tokens.values(), account.session_token, "ann@example.org", database):
            assert secret not in text
            assert secret not in server.log_path.read_text() or secret == database


def test_a_running_session_is_seen_in_its_state(tmp_path: Path) -> None:
    from websockets.sync.client import connect

    with ServerProcess(tmp_path / "data", environment={"METRICS_TOKEN": TOKEN}) as server:
        account = Account.signup(server.base, "ann@example.org")
        token = account.token(account.create_database("main"), "pull")
        headers = {"Authorization": f"Bearer {token}"}
        with connect(server.sync_url, additional_headers=headers):
            while True:  # the handshake is answered a moment before the session is begun
                seen = figures(get(server.base + "/metrics", TOKEN)[1])
                if seen.get("edgereplica_sessions{pull,awaiting_hello}") == 1:
                    break
        while True:
            seen = figures(get(server.base + "/metrics", TOKEN)[1])
            if seen.get("edgereplica_sessions_ended_total{pull,lost}") == 1:
                break
        assert "edgereplica_sessions{pull,awaiting_hello}" not in seen


def test_it_is_off_unless_asked_for(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        assert get(server.base + "/metrics")[0] == 404
    with ServerProcess(tmp_path / "data", environment={"METRICS_TOKEN": TOKEN}) as server:
        assert get(server.base + "/metrics")[0] == 401
        assert get(server.base + "/metrics", TOKEN + "x")[0] == 401
        assert get(server.base + "/metrics", "")[0] == 401
    port = free_port()
    with ServerProcess(tmp_path / "data", environment={"METRICS_PORT": str(port)}) as server:
        assert get(server.base + "/metrics")[0] == 404, "the port of its own is the only one"
        assert get(f"http://127.0.0.1:{port}/metrics")[0] == 200
        assert get(f"http://127.0.0.1:{port}/healthz")[0] == 404


def test_a_public_address_needs_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_PORT", "9464")
    monkeypatch.setenv("METRICS_HOST", "0.0.0.0")
    with pytest.raises(InvalidArgument, match="METRICS_TOKEN"):
        load_settings()
    monkeypatch.setenv("METRICS_TOKEN", TOKEN)
    assert TOKEN not in repr(load_settings())


def test_every_metric_is_documented_and_drawn(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", environment={"METRICS_TOKEN": TOKEN}) as server:
        text = get(server.base + "/metrics", TOKEN)[1]
    shown = set(re.findall(r"^# TYPE (edgereplica_\w+)", text, re.MULTILINE))
    shown = {name for name in shown if not name.endswith("_created")}
    document = (ROOT / "docs/observability.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(edgereplica_\w+)`", document, re.MULTILINE))
    assert shown == documented
    dashboard = json.loads((ROOT / "deploy/grafana/edgereplica.json").read_text(encoding="utf-8"))
    queries = " ".join(
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])
    )
    drawn = set(re.findall(r"edgereplica_\w+", queries))
    bases = {name.removesuffix("_bucket").removesuffix("_count") for name in drawn}
    assert bases == documented, "every metric has a place on the dashboard, and nothing else has"
