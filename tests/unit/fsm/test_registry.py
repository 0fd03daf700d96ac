"""Machines by their names."""

import pytest

from edgereplica.events.errors import InvalidArgument
from edgereplica.fsm.client_pull import ClientPull
from edgereplica.fsm.registry import (
    DRAWN,
    MACHINES,
    drawn_class,
    machine_class,
    make_machine,
    name_of,
)


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_is_made_by_its_name_and_knows_it(name: str) -> None:
    machine = make_machine(name, 1)
    assert type(machine) is machine_class(name) is drawn_class(name)
    assert name_of(machine) == name


def test_only_a_client_is_told_the_wire_version() -> None:
    made = make_machine("client_pull", 1)
    assert isinstance(made, ClientPull)
    assert made.wire_version == 1


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    for find, names in ((machine_class, MACHINES), (drawn_class, DRAWN)):
        with pytest.raises(InvalidArgument) as refused:
            find("coffee")
        assert refused.value.message == "there is no machine 'coffee'"
        assert refused.value.details["hint"] == f"one of {', '.join(names)}"
