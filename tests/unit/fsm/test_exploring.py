"""What the checks call a machine's memory is all of it."""

import pytest
from tests.exploring import memory

from edgereplica.fsm.registry import MACHINES, make_machine


@pytest.mark.parametrize("name", MACHINES)
def test_nothing_that_a_machine_keeps_is_left_out_for_its_name(name: str) -> None:
    machine = make_machine(name, 2)
    before = memory(machine)
    machine.__dict__["_seen"] = [1]
    assert memory(machine) == {**before, "_seen": (1,)}
    machine.__dict__["_seen"] = object()
    with pytest.raises(AssertionError, match="say how to freeze it"):
        memory(machine)
