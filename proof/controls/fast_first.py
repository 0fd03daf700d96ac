"""A pytest plugin for mutmut: the quickest tests first, as the run without mutants measured them.

A mutant dies with its first failing test, and most die at once; mutmut itself hands tests over in
no order.
"""

import pytest
from mutmut.state import state


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    durations = state().duration_by_test
    items.sort(key=lambda item: (durations.get(item.nodeid, 0.0), item.nodeid))
