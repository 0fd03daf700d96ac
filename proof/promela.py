"""What `specs/model/*.pml` says of the machines: its moves, its promises, what it leaves out.

A move is one transition of one machine, written `MOVE(machine, state, event, state)`, with the
machine's own words for it in the comment behind: its turn among those tried for the event, its
guard and its action, `/* 2 [guard] / action */`. A line of a comment, `UNMODELLED machine state
event state 2 [guard] / action: reason`, names transitions that the model leaves out; names may be
joined by `|`, and the target `same` is the state itself. `GUARD machine name: expression` is what
a guard asks. A line goes on in the next if that is a comment of such words alone, or indented.

That all this is so in the machines is checked here (`disagreements`); what the moves do, by spin
(`proof.model_check`); what an action does in its machine, by the machines' own tests.
"""

import ast
import inspect
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

from edgereplica.fsm.diagrams import Step, steps
from edgereplica.fsm.machine import Machine

from .evidence import ROOT

FOLDER = ROOT / "specs" / "model"
MAIN = "sync.pml"  # which includes the others

DEADLOCK = "no_deadlock"  # the promise that has no place in the model: spin looks for it

_WORDS = r"(?:\d )?(?:\[[\w, ]+\] ?)?(?:/ [\w, ]+)?"
_MOVE = re.compile(rf"\bMOVE\((\w+), (\w+), (\w+), (\w+)\);?(?: */\* ({_WORDS}) \*/)?")
_UNMODELLED = re.compile(rf"UNMODELLED ([\w|]+) ([\w|]+) ([\w|]+) (\w+)(?: ({_WORDS}))?: \S")
_GUARD = re.compile(r"\bGUARD (\w+ \w+): (\S.*)")
_PROMISE = re.compile(r"\bPROMISE\((\w+),")
_GOES_ON = re.compile(rf"( \*     +\S|\s*/\* {_WORDS} \*/$)")


class Move(NamedTuple):
    machine: str
    source: str
    event: str
    target: str
    words: str = ""
    """Its turn, [its guards] / its actions."""

    def __str__(self) -> str:
        return " ".join(self).rstrip()


class Place(NamedTuple):
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Model:
    """The moves and promises of a model where they stand, and the moves that it leaves out.

    `guards` has, by "machine name", what the model takes a guard to ask.
    """

    moves: Mapping[Place, Move]
    promises: Mapping[Place, str]
    unmodelled: Counter[Move]
    guards: Mapping[str, str]

    @property
    def promised(self) -> set[str]:
        return {*self.promises.values(), DEADLOCK}


def model_texts(folder: Path = FOLDER) -> dict[str, str]:
    """The model's files by name."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.pml"))}


def read_model(texts: Mapping[str, str]) -> Model:
    """Raises `ValueError` for a line that mentions a move and cannot be read as one."""
    moves, promises, unmodelled, guards = {}, {}, Counter[Move](), dict[str, str]()
    for place, line in _whole_lines(texts):
        if "UNMODELLED" in line:
            unmodelled.update(_left_out(place, line))
        elif asks := _GUARD.search(line):
            guards[asks[1]] = asks[2]
        elif line.startswith((" *", "#define", "/*")):
            continue
        elif "MOVE(" in line:
            found = _MOVE.findall(line)
            if len(found) != 1 or line.count("MOVE(") != 1:
                raise ValueError(f"{place}: a move stands alone on its line: {line.strip()}")
            moves[place] = Move(*found[0])
        elif promised := _PROMISE.search(line):
            promises[place] = promised[1]
    return Model(moves, promises, unmodelled, guards)


def _whole_lines(texts: Mapping[str, str]) -> Iterator[tuple[Place, str]]:
    """The honest lines, each with those in which it goes on."""
    whole: list[tuple[Place, str]] = []
    for place, line in _honest_lines(texts):
        if whole and _GOES_ON.match(line):
            start, before = whole.pop()
            whole.append((start, f"{before} {line.removeprefix(' *').strip()}"))
        else:
            whole.append((place, line))
    yield from whole


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
    machines, sources, events, target, words = found.groups(default="")
    named = (names.split("|") for names in (machines, sources, events))
    for machine, source, event in product(*named):
        yield Move(machine, source, event, source if target == "same" else target, words)


def declared_moves(machines: Mapping[str, type[Machine]]) -> Counter[Move]:
    """Every transition of the machines' tables, in the words that the model has to have for it."""
    return Counter(
        Move(name, step.source, step.event, step.target, words)
        for name, machine in machines.items()
        for step, words in _in_words(steps(machine))
    )


def _in_words(declared: list[Step]) -> Iterator[tuple[Step, str]]:
    tried = defaultdict[tuple[str, str], list[Step]](list)
    for step in declared:
        tried[step.source, step.event].append(step)
    for rivals in tried.values():
        for turn, step in enumerate(rivals, 1):
            words = [str(turn)] if len(rivals) > 1 else []
            words += [f"[{', '.join(step.guards)}]"] if step.guards else []
            words += [f"/ {', '.join(step.actions)}"] if step.actions else []
            yield step, " ".join(words)


def declared_guards(machines: Mapping[str, type[Machine]]) -> dict[str, str]:
    """What each guard of the machines asks, as its method has it, by "machine name"."""
    return {
        f"{name} {guard}": _asked(machine, guard)
        for name, machine in machines.items()
        for step in steps(machine)
        for guard in (guard.removeprefix("not ") for guard in step.guards)
    }


def _asked(machine: type[Machine], guard: str) -> str:
    """The method's expression; all of its statements if it is more than that."""
    source = textwrap.dedent(inspect.getsource(getattr(machine, guard)))
    (method,) = ast.parse(source).body
    assert isinstance(method, ast.FunctionDef)
    parts = [part for part in method.body if not _says_nothing(part)]
    asked = [part.value if isinstance(part, ast.Return) else part for part in parts]
    texts = (ast.get_source_segment(source, part) or "" for part in asked if part is not None)
    return " ".join(" ; ".join(texts).split())


def _says_nothing(part: ast.stmt) -> bool:
    """A docstring, or an assertion that is there for the types."""
    return isinstance(part, ast.Assert) or (
        isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)
    )


def disagreements(
    model: Model, declared: Counter[Move], guards: Mapping[str, str] | None = None
) -> list[str]:
    """Where the model and the machines differ, in words; none if they agree.

    What guards ask is compared if `guards` says it.
    """
    modelled = set(model.moves.values())
    found = [
        f"{place}: the machine has no transition {move}; if its guard or action has changed,"
        " look at what the model does there"
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
    if guards is not None:
        found += [
            f"GUARD {name} asks {guards.get(name)!r}, in the model {model.guards.get(name)!r}:"
            " look at what the model does there"
            for name in sorted({*guards, *model.guards})
            if guards.get(name) != model.guards.get(name)
        ]
    return found
