"""The scale benchmark at a small size: what it counts does not depend on the machine."""

from pathlib import Path

import pytest
from bench.scale import histories
from bench.scale.report import goals, markdown


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


def test_the_report_says_which_goals_are_missed() -> None:
    pull = {
        "what": "as pushed",
        "versions": 1,
        "open_seconds": 0.01,
        "pull_seconds": 0.1,
        "gets": 2,
        "get_bytes": 1,
    }
    found = {
        "machine": {"cores": 2},
        "repository": "SQLite",
        "page_store": "file",
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
        },
        "crowd": [],
    }
    met = [met for *_, met in goals(found)]
    assert met == [False, True, False, False, False, False]
    assert markdown(found).count("**not met**") == 5
