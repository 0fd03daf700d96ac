"""The scale benchmark at a small size: what it counts does not depend on the machine."""

import asyncio
import os
from pathlib import Path

import pytest
from bench.scale import histories
from bench.scale.places import scaled_out
from bench.scale.report import goals, markdown
from bench.scale.wire_client import WireClient
from bench.scale.world import Image
from tests.helpers_server import Account

from edgereplica.app.serve import running_server
from edgereplica.app.settings import load_settings


@pytest.fixture(autouse=True)
def _embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "PAGE_STORE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_a_small_push_costs_two_puts_and_compaction_makes_a_pull_cost_two_reads(
    tmp_path: Path,
) -> None:
    found = histories.measure(tmp_path / "data", 4, [1, 80])
    push, pulls = found["small_push"], {pull["what"]: pull for pull in found["pulls"]}
    assert (push["puts_max"], push["lists_max"]) == (2, 0)
    assert pulls["as pushed"]["gets"] > 20
    assert pulls["compacted"]["gets"] == found["pulls"][0]["gets"] == 2
    assert pulls["compacted"]["get_bytes"] <= 1.01 * found["pulls"][0]["get_bytes"]
    assert found["compaction"]["segments_merged"] == 79
    # The small segments and the maps that named them; the head's map was written twice.
    assert found["collection"]["deleted"] == 79 + 79 + 1


def test_a_client_that_is_only_its_protocol_pushes_version_after_version(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_server(load_settings(tmp_path / "data", dev=True)) as base:
            account = await asyncio.to_thread(Account.signup, base, "ann@example.org")
            database = await asyncio.to_thread(account.create_database, "main")
            token = await asyncio.to_thread(account.token, database, "push")
            image = Image(40, seed=1)
            client = WireClient(base.replace("http", "ws", 1) + "/sync", token, image)
            for version in (1, 2, 3):
                await client.push()
                assert (image.version, image.root) == (version, image.complete().root)
                image.change(2)
                assert image.root != image.complete().root

    asyncio.run(main())


def test_the_scaled_places_are_fresh_and_in_the_environment(tmp_path: Path) -> None:
    with scaled_out() as fresh:
        seen = []
        for number, on_s3 in enumerate((True, True, False)):
            with fresh(tmp_path / str(number), on_s3):
                seen.append((os.environ["DATABASE_URL"], os.environ["PAGE_STORE_URL"]))
                found = histories.measure(tmp_path / str(number), 1, [1, 2])
                assert found["small_push"]["puts_max"] == 2
        assert len(set(seen)) == 3
        assert [store.partition(":")[0] for _, store in seen] == ["s3", "s3", "file"]
    assert "DATABASE_URL" not in os.environ


def test_the_report_says_which_goals_are_missed() -> None:
    pull = {
        "what": "as pushed",
        "versions": 1,
        "open_seconds": 0.01,
        "pull_seconds": 0.1,
        "pull_seconds_median": 0.1,
        "gets": 2,
        "get_bytes": 1,
    }
    found = {
        "machine": {"cores": 2},
        "repository": "SQLite",
        "page_store": "file",
        "scaled": False,
        "load_before": 1.0,
        "load_after": 2.0,
        "seconds": 60.0,
        "histories": {
            "mib": 1,
            "pulls": [pull, pull | {"what": "compacted", "versions": 10, "pull_seconds": 0.14}],
            "first_push": {"puts": 2, "lists": 0, "put_bytes": 1},
            "small_push": {
                "puts_max": 3,
                "lists_max": 0,
                "gets": 0,
                "put_bytes": 1,
                "put_bytes_mean": 1,
                "seconds": 0.1,
            },
            "compaction": {
                "seconds": 1,
                "segments_merged": 1,
                "maps_rewritten": 1,
                "puts": 1,
                "gets": 1,
                "put_bytes": 1,
            },
            "collection": {
                "seconds": 1,
                "lists": 1,
                "gets": 1,
                "deleted": 1,
                "objects_before": 2,
            },
            "compared": {"one": 0.1, "compacted": 0.14, "rounds": 3},
            "old_version_pull_seconds": 0.1,
        },
        "many": {
            "databases": 10,
            "versions": 1,
            "start_seconds": 2.1,
            "server_bytes": 251e6,
            "open_seconds": 0.01,
            "open_seconds_p99": 0.051,
            "opened": 1,
            "opened_bytes": 1,
            "log_bytes": 10,
        },
        "crowd": [
            {
                "kind": "wire",
                "workers": 2,
                "clients": 50,
                "pushes_per_second": 100.0,
                "latency_seconds": 0.5,
                "latency_seconds_p99": 0.9,
                "server_cpu_seconds": 0.004,
                "client_cpu_seconds": 0.001,
                "server_bytes": 1e8,
            }
        ],
    }
    met = [met for *_, met in goals(found)]
    assert met == [False, True, False, False, False, False]
    text = markdown(found)
    assert text.count("**not met**") == 5
    assert "| 2 | 50 | wire | 100 | 500.0 ms | 900.0 ms | 4.0 ms | 1.0 ms | 100 MB |" in text
    assert "emulator" not in text
    assert "emulator" in markdown(found | {"scaled": True})
