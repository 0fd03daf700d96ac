"""What `specs/model/*.pml` says of the machines: its moves, its promises, what it leaves out.

A move is one transition of one machine, written `MOVE(machine, state, event, state)`. A line of a
comment, `UNMODELLED machine state event state: reason`, names transitions that the model leaves
out; names may be joined by `|`, and the target `same` is the state itself. Nothing else is read:
what the moves do is checked by spin (`proof.model_check`), and that they are the machines' own
transitions by `disagreements`, here.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

from edgereplica.fsm.diagrams import steps
from edgereplica.fsm.machine import Machine

from .evidence import ROOT

FOLDER = ROOT / "specs" / "model"
MAIN = "sync.pml"  # which includes the others

_MOVE = re.compile(r"\bMOVE\((\w+), (\w+), (\w+), (\w+)\)")
_UNMODELLED = re.compile(r"UNMODELLED (\w+) ([\w|]+) ([\w|]+) (\w+): \S")
_PROMISE = re.compile(r"\bPROMISE\((\w+),")


class Move(NamedTuple):
    machine: str
    source: str
    event: str
    target: str

    def __str__(self) -> str:
        return f"{self.machine} {self.source} {self.event} {self.target}"


class Place(NamedTuple):
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Model:
    """The moves and promises of a model where they stand, and the moves that it leaves out."""

    moves: Mapping[Place, Move]
    promises: Mapping[Place, str]
    unmodelled: Counter[Move]


def model_texts(folder: Path = FOLDER) -> dict[str, str]:
    """The model's files by name."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.pml"))}


def read_model(texts: Mapping[str, str]) -> Model:
    """Raises `ValueError` for a line that mentions a move and cannot be read as one."""
    moves, promises, unmodelled = {}, {}, Counter[Move]()
    for place, line in _honest_lines(texts):
        if "UNMODELLED" in line:
            unmodelled.update(_left_out(place, line))
        elif "MOVE(" in line and not line.startswith((" *", "#define", "/*")):
            found = _MOVE.findall(line)
            if len(found) != 1 or line.count("MOVE(") != 1:
                raise ValueError(f"{place}: a move stands alone on its line: {line.strip()}")
            moves[place] = Move(*found[0])
        elif promised := _PROMISE.search(line):
            promises[place] = promised[1]
    return Model(moves, promises, unmodelled)


def _honest_lines(texts: Mapping[str, str]) -> Iterator[tuple[Place, str]]:
    """The lines that count when no flaw is planted (`-DFLAW`)."""
    for file, text in texts.items():
        inside: list[bool] = []
        for number, line in enumerate(text.splitlines(), 1):
            word = line.split()[0] if line.split() else ""
            if word in ("#ifdef", "#ifndef"):
                inside.append(word == "#ifndef")
            elif word == "#else":
                inside[-1] = not inside[-1]
            elif word == "#endif":
                inside.pop()
            elif all(inside):
                yield Place(file, number), line


def _left_out(place: Place, line: str) -> Iterator[Move]:
    found = _UNMODELLED.search(line)
    if found is None:
        raise ValueError(f"{place}: cannot be read: {line.strip()}")
    machine, sources, events, target = found.groups()
    for source, event in product(sources.split("|"), events.split("|")):
        yield Move(machine, source, event, source if target == "same" else target)


def declared_moves(machines: Mapping[str, type[Machine]]) -> Counter[Move]:
    """Every transition of the machines' tables; two that differ in their guards count twice."""
    return Counter(
        Move(name, step.source, step.event, step.target)
        for name, machine in machines.items()
        for step in steps(machine)
    )


def disagreements(model: Model, declared: Counter[Move]) -> list[str]:
    """Where the model and the machines' tables differ, in words; none if they agree."""
    modelled = set(model.moves.values())
    found = [
        f"{place}: the machine has no transition {move}"
        for place, move in model.moves.items()
        if move not in declared
    ]
    found += [
        f"neither a move nor UNMODELLED: {move}"
        for move in declared
        if move not in modelled and move not in model.unmodelled
    ]
    found += [
        f"UNMODELLED, and the machine has no such transition: {move}"
        for move in model.unmodelled
        if move not in declared
    ]
    found += [f"UNMODELLED, but a move: {move}" for move in model.unmodelled if move in modelled]
    found += [
        f"declared {count} times, named {named} times: {move}"
        for move, count in declared.items()
        if count != (named := model.unmodelled[move] or 1)
    ]
    return found
