"""The machines drawn: complete, and as fresh as what stands in specs/machines."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from statemachine import State, StateChart

from edgereplica.app import machines
from edgereplica.events.errors import InvalidArgument
from edgereplica.fsm import diagrams
from edgereplica.fsm.diagrams import FORMATS, export, session_triggers, steps, table
from edgereplica.fsm.machine import Machine
from edgereplica.fsm.registry import DRAWN, MACHINES

SPECS = Path(__file__).parents[3] / "specs" / "machines"


def test_the_specs_are_what_is_generated() -> None:
    """Stale? `make generate`."""
    assert machines.stale(SPECS) == []


def test_a_missing_an_outdated_and_a_left_over_file_are_stale(tmp_path: Path) -> None:
    machines.write(tmp_path)
    assert machines.stale(tmp_path) == []
    (tmp_path / "client_push.mmd").unlink()
    (tmp_path / "client_pull.md").write_text("old")
    (tmp_path / "forgotten.dot").write_text("digraph {}")
    assert machines.stale(tmp_path) == ["client_pull.md", "client_push.mmd", "forgotten.dot"]
    assert machines.main(["--check", str(tmp_path)]) == 1
    assert machines.main([str(tmp_path)]) == 0
    assert machines.stale(tmp_path) == []
    assert machines.main(["--check", str(tmp_path)]) == 0


class Drifting(Machine):
    """A machine with one of everything, for what the drawings must say."""

    title = "drifting"
    start = State(initial=True)
    end = State(final=True)
    hello = start.to(start, internal=True, cond="wants", on="act") | start.to(end, unless="wants")
    failed = start.to(end, on="act")

    def wants(self) -> bool:
        return True

    def act(self) -> None:
        return


def test_every_transition_is_in_every_drawing() -> None:
    assert [(s.label, s.target, s.internal) for s in steps(Drifting)] == [
        ("hello [wants] / act", "start", True),
        ("hello [not wants]", "end", False),
        ("failed / act", "end", False),
    ]
    for style, draw in FORMATS.items():
        if style == "table":
            continue
        text = draw("drifting", Drifting)
        for step in steps(Drifting):
            assert step.label in text, style


def test_a_picture_is_the_one_that_was_looked_at() -> None:
    """Every coordinate. Drawn otherwise on purpose? Look at the new one, then store it."""
    stored = Path(__file__).with_name("drifting.svg")
    assert FORMATS["svg"]("drifting", Drifting) == stored.read_text()


def test_the_table_says_for_every_pair_what_happens() -> None:
    lines = table("drifting", Drifting).splitlines()
    assert "| event | start |" in lines
    assert "| **hello** | [wants] stays / act<br>[not wants] → end<br>else *refused* |" in lines
    assert "| **failed** | → end / act |" in lines
    assert lines[-3] == "Final states, in which everything is refused: end."
    others = lines[-1].removeprefix("Refused in every state: ").removesuffix(".").split(", ")
    assert sorted([*others, "hello", "failed"]) == sorted(session_triggers())


@pytest.mark.parametrize("name", MACHINES)
def test_the_table_of_each_machine_is_complete(name: str) -> None:
    text = export("table", name)[name]
    rows = re.findall(r"^\| \*\*(\w+)\*\* \| (.*) \|$", text, re.MULTILINE)
    states = [state.id for state in MACHINES[name].states if not state.final]
    assert all(len(cells.split(" | ")) == len(states) for _, cells in rows)
    elsewhere = text.rsplit("every state: ", 1)[1].rstrip(".\n").split(", ")
    assert sorted([event for event, _ in rows] + elsewhere) == sorted(session_triggers())


@pytest.mark.parametrize("name", DRAWN)
def test_an_svg_is_xml_with_every_state_and_transition(name: str) -> None:
    drawing = ET.fromstring(export("svg", name)[name])
    texts = [element.text for element in drawing.iter() if element.tag.endswith("text")]
    wanted = [state.id for state in DRAWN[name].states] + [
        step.label for step in steps(DRAWN[name])
    ]
    assert sorted(filter(None, texts)) == sorted(wanted)


def test_all_machines_or_one() -> None:
    assert list(export("mermaid")) == list(DRAWN)
    assert list(export("dot", "server_pull")) == ["server_pull"]
    with pytest.raises(InvalidArgument, match="no machine"):
        export("dot", "coffee")
    with pytest.raises(InvalidArgument, match="format") as refused:
        export("png")
    assert refused.value.details == {"hint": "one of mermaid, dot, svg, table"}


def test_a_machine_of_another_kind_can_be_drawn() -> None:
    """Not every machine is a sync machine."""

    class Lamp(StateChart):
        off = State(initial=True)
        on = State()
        ash = State(final=True)
        press = off.to(on, on=["glow", "warm"]) | on.to(off)
        burn = on.to(ash)

        def glow(self) -> None:
            return

        def warm(self) -> None:
            return

    assert "| **press** | → on / glow, warm | → off |" in diagrams.table("lamp", Lamp)
    # Where it begins and where it ends has a thick border.
    widths = re.findall(r'stroke-width="(.*?)".*\n.*>(\w+)</text>', diagrams.svg("lamp", Lamp))
    assert widths == [("3", "off"), ("1", "on"), ("3", "ash")]
    assert "Refused in every state" not in diagrams.table("lamp", Lamp)
