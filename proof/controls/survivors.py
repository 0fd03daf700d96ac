"""Mutants that no test kills, and why: the reasons kept by hand in `survivors.toml`.

A reason names the file and the function it is about, and a piece of the line that the mutant has
in place of the original (`new`); all of a function's survivors, if it has none. So it still applies
when mutants are numbered otherwise. One that explains nothing any more is stale, and says so.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REASONS = Path(__file__).with_name("survivors.toml")


@dataclass(frozen=True, slots=True)
class Survivor:
    """A mutant of a function (`Class.method`, or its name) that all tests let live.

    `old` and `new` are what the diff takes away and adds, in one line each.
    """

    file: str
    function: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Reason:
    file: str
    function: str
    why: str
    new: str = ""

    def explains(self, survivor: Survivor) -> bool:
        named = (self.file, self.function) == (survivor.file, survivor.function)
        return named and self.new in survivor.new


def reasons(path: Path = REASONS) -> list[Reason]:
    """`TypeError` for a table with other keys than a reason has."""
    return [Reason(**table) for table in tomllib.loads(path.read_text()).get("reason", [])]


def explained(
    survivors: Sequence[Survivor], known: Sequence[Reason]
) -> tuple[dict[Survivor, str], list[Reason]]:
    """Why each survivor lives (empty: nobody knows), and the reasons that explain none of them."""
    whys: dict[Survivor, str] = {}
    used: set[Reason] = set()
    for survivor in survivors:
        found = [reason for reason in known if reason.explains(survivor)]
        whys[survivor] = found[0].why if found else ""
        used.update(found)
    return whys, [reason for reason in known if reason not in used]


def from_diff(file: str, function: str, diff: str) -> Survivor:
    """The survivor that a unified diff of its function shows."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    old = " ".join(line[1:].strip() for line in lines if line.startswith("-"))
    new = " ".join(line[1:].strip() for line in lines if line.startswith("+"))
    return Survivor(file, function, old, new)
