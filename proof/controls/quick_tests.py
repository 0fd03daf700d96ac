"""A pytest plugin for mutmut: the quickest tests first, and none for long.

A mutant dies with its first failing test, and most die at once; mutmut itself hands tests over in
no order. And it waits for a mutant that loops without end as long as for many runs of all its
tests; here every test has a bound of its own, from what it took when nothing was changed.
"""

import json
from pathlib import Path

import pytest

SECONDS = 30
FACTOR = 20
"""A test may take so much longer than it did, and `SECONDS` more: the machine may be busy."""
_STATS = Path("mutmut-stats.json")
"""Where mutmut, whose tests run in this folder, keeps what the run without a mutant took."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not _STATS.exists():
        return  # this is the run that is measured
    durations: dict[str, float] = json.loads(_STATS.read_text())["duration_by_test"]
    items.sort(key=lambda item: (durations.get(item.nodeid, 0.0), item.nodeid))
    for item in items:
        bound = SECONDS + FACTOR * durations.get(item.nodeid, 0.0)
        item.add_marker(pytest.mark.timeout(bound))
