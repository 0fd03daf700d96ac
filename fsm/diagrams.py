"""The machines drawn: Mermaid, Graphviz's dot language, SVG, and complete tables.

Everything is read from the declared states and transitions, so a drawing cannot disagree with the
code; `specs/machines/` holds the output (`app.machines` writes and checks it). The SVG is a chart
of our own: a column for each state, a row for each transition. It needs no layout program, and no
label ever hides another.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, get_args

from statemachine import StateChart

from ..events.errors import InvalidArgument
from ..events.session import Event, MessageReceived
from .machine import MESSAGE_TRIGGERS, Machine, trigger_name
from .registry import DRAWN, drawn_class


@dataclass(frozen=True, slots=True)
class Step:
    """One declared transition. `guards` and `actions` are names of methods of the machine."""

    source: str
    event: str
    target: str
    internal: bool
    guards: tuple[str, ...]
    actions: tuple[str, ...]

    @property
    def label(self) -> str:
        guard = f" [{', '.join(self.guards)}]" if self.guards else ""
        action = f" / {', '.join(self.actions)}" if self.actions else ""
        return f"{self.event}{guard}{action}"


def steps(machine: type[StateChart[Any]]) -> list[Step]:
    """All transitions in the order in which they are tried, state by state."""
    return [
        Step(
            source=state.id,
            event=transition.event,
            target=transition.target.id if transition.target else state.id,
            internal=bool(transition.internal),
            guards=tuple(
                f"{'' if guard.expected_value else 'not '}{guard.func}" for guard in transition.cond
            ),
            actions=tuple(str(a.func) for a in transition.on if not a.is_convention),
        )
        for state in machine.states
        for transition in state.transitions
    ]


def events_of(machine: type[StateChart[Any]]) -> list[str]:
    """The events that some state of the machine takes, in the order of their declaration."""
    return list(dict.fromkeys(step.event for step in steps(machine)))


def session_triggers() -> list[str]:
    """Every event that a driver can give to a sync machine."""
    results = (kind for kind in get_args(Event) if kind is not MessageReceived)
    return [*MESSAGE_TRIGGERS.values(), *map(trigger_name, results)]


def mermaid(name: str, machine: type[StateChart[Any]]) -> str:
    lines = ["---", f"title: {name}", "---", "stateDiagram-v2"]
    for state in machine.states:
        lines += [f"    [*] --> {state.id}"] if state.initial else []
        lines += [f"    {state.id} --> [*]"] if state.final else []
    for step in steps(machine):
        if step.internal:
            lines.append(f"    {step.source} : {step.label}")
        else:
            lines.append(f"    {step.source} --> {step.target} : {step.label}")
    return "\n".join(lines) + "\n"


def dot(name: str, machine: type[StateChart[Any]]) -> str:
    lines = [
        f"digraph {name} {{",
        '    rankdir="LR";',
        '    node [shape=box, style=rounded, fontname="Helvetica"];',
        '    edge [fontname="Helvetica", fontsize=10];',
        "    _start [shape=point];",
    ]
    for state in machine.states:
        inside = [s.label for s in steps(machine) if s.source == state.id and s.internal]
        label = "\\n".join([state.id, *inside])
        peripheries = ", peripheries=2" if state.final else ""
        lines.append(f'    {state.id} [label="{label}"{peripheries}];')
        lines += [f"    _start -> {state.id};"] if state.initial else []
    lines += [
        f'    {step.source} -> {step.target} [label="{step.label}"];'
        for step in steps(machine)
        if not step.internal
    ]
    return "\n".join([*lines, "}"]) + "\n"


_COLUMN, _ROW, _TOP, _LEFT = 150, 34, 70, 80


def svg(name: str, machine: type[StateChart[Any]]) -> str:
    columns = {state.id: _LEFT + i * _COLUMN for i, state in enumerate(machine.states)}
    rows = steps(machine)
    width = _LEFT + len(columns) * _COLUMN + 2 * _COLUMN
    height = _TOP + (len(rows) + 1) * _ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="Helvetica, sans-serif" font-size="12">',
        f"<title>{escape(name)}</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for state in machine.states:
        x = columns[state.id]
        border = 3 if state.final or state.initial else 1
        parts += [
            f'<line x1="{x}" y1="40" x2="{x}" y2="{height - 10}" stroke="#ccc"/>',
            f'<rect x="{x - 65}" y="14" width="130" height="26" rx="{4 if state.initial else 13}" '
            f'fill="#fff" stroke="#000" stroke-width="{border}"/>',
            f'<text x="{x}" y="31" text-anchor="middle">{escape(state.id)}</text>',
        ]
    for row, step in enumerate(rows):
        parts += _svg_step(step, columns, _TOP + row * _ROW)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _svg_step(step: Step, columns: Mapping[str, int], y: int) -> Iterator[str]:
    source, target = columns[step.source], columns[step.target]
    if source == target:
        yield (
            f'<path d="M{source} {y} h24 v10 h-24" fill="none" stroke="#000" '
            'marker-end="url(#head)"/>'
        )
        yield f'<text x="{source + 30}" y="{y + 9}">{escape(step.label)}</text>'
        return
    yield (
        f'<line x1="{source}" y1="{y + 8}" x2="{target}" y2="{y + 8}" stroke="#000" '
        'marker-end="url(#head)"/>'
    )
    yield f'<circle cx="{source}" cy="{y + 8}" r="3"/>'
    yield f'<text x="{min(source, target) + 6}" y="{y + 3}">{escape(step.label)}</text>'


def table(name: str, machine: type[StateChart[Any]]) -> str:
    """Every (event, state) pair: where it leads, "stays" for an internal transition, or refused."""
    states = [state.id for state in machine.states if not state.final]
    finals = [state.id for state in machine.states if state.final]
    declared, events = steps(machine), events_of(machine)
    lines = [
        f"# {name}",
        "",
        "Transitions of a cell are tried from top to bottom; `[guard]` must hold, `/ action` is",
        "what is done. *refused*: a protocol error that closes the session and changes nothing.",
        "",
        f"| event | {' | '.join(states)} |",
        f"|---|{'---|' * len(states)}",
    ]
    for event in events:
        cells = [
            _cell([s for s in declared if s.source == state and s.event == event])
            for state in states
        ]
        lines.append(f"| **{event}** | {' | '.join(cells)} |")
    lines += ["", f"Final states, in which everything is refused: {', '.join(finals)}."]
    if issubclass(machine, Machine):
        others = [event for event in session_triggers() if event not in events]
        lines += ["", f"Refused in every state: {', '.join(others)}."]
    return "\n".join(lines) + "\n"


def _cell(found: list[Step]) -> str:
    """The transitions of one pair; where all are guarded, what none lets through is refused."""
    if not found:
        return "*refused*"
    texts = []
    for step in found:
        guard = f"[{', '.join(step.guards)}] " if step.guards else ""
        action = f" / {', '.join(step.actions)}" if step.actions else ""
        texts.append(f"{guard}{'stays' if step.internal else '→ ' + step.target}{action}")
    if all(step.guards for step in found):
        texts.append("else *refused*")
    return "<br>".join(texts)


FORMATS: Mapping[str, Callable[[str, type[StateChart[Any]]], str]] = {
    "mermaid": mermaid,
    "dot": dot,
    "svg": svg,
    "table": table,
}


def export(style: str, machine: str | None = None) -> dict[str, str]:
    """The drawing of each machine (or of one) in `style`: mermaid, dot, svg or table, by name."""
    if style not in FORMATS:
        raise InvalidArgument(f"unknown format {style!r}", hint=f"one of {', '.join(FORMATS)}")
    chosen = DRAWN if machine is None else {machine: drawn_class(machine)}
    return {name: FORMATS[style](name, kind) for name, kind in chosen.items()}
