"""Mutants of the codecs, the machines and the token code, and the tests that must kill them.

    python -m proof.controls.mutants [--scale F] [--seed N] [FILE…]

A mutant has one comparison, constant, operator, condition or statement changed. `--scale` takes a
random part of them. A mutant that no test kills is listed with its line; those that cannot be told
from the original have their reason in `EQUIVALENT`.
"""

import argparse
import ast
import copy as copying
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random

from proof.evidence import ROOT, measured

from .copies import Copy, copied

COPIES = 2
_WIRE = ("tests/unit/events",)
_MACHINES = ("tests/unit/fsm/test_rules.py", "tests/unit/fsm/test_convergence.py")
_TOKENS = (
    "tests/unit/app/test_tokens.py",
    "tests/unit/app/test_token_view.py",
    "tests/unit/app/test_macaroon.py",
)
TARGETS: dict[str, tuple[str, ...]] = {
    "events/wire.py": _WIRE,
    "events/wire_v1.py": _WIRE,
    "events/wire_v2.py": _WIRE,
    "events/pages.py": _WIRE,
    "fsm/machine.py": (*_MACHINES, "tests/unit/fsm/test_every_pair.py"),
    "fsm/client_push.py": _MACHINES,
    "fsm/client_pull.py": _MACHINES,
    "fsm/server_push.py": _MACHINES,
    "fsm/server_pull.py": _MACHINES,
    "app/macaroon.py": _TOKENS,
    "app/tokens.py": _TOKENS,
}
_SLOTS = "a dataclass without slots behaves the same"
EQUIVALENT: dict[str, str] = {
    'app/macaroon.py flag: raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", '
    "validate=True)": "whatever validation lets through is refused by the comparison that follows",
    "app/macaroon.py flag: @dataclass(frozen=True, slots=True, repr=False)": _SLOTS,
    "app/tokens.py flag: @dataclass(frozen=True, slots=True)": _SLOTS,
}
"""`FILE CHANGE: LINE` of survivors that behave as the original does, with the reason."""

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    change: str
    text: str


def _changes(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """What may stand in `node`'s place."""
    new = copying.deepcopy(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        assert isinstance(new, ast.Compare)
        new.ops[0] = _COMPARISONS[type(node.ops[0])]()
        yield new, "comparison"
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        assert isinstance(new, ast.BinOp)
        new.op = _OPERATORS[type(node.op)]()
        yield new, "operator"
    elif isinstance(node, ast.BoolOp):
        assert isinstance(new, ast.BoolOp)
        new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield new, "and/or"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand, "not left out"
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value), "flag"
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield ast.Constant(node.value + 1), "number"
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Pass(), "call left out"
    elif isinstance(node, ast.If):
        assert isinstance(new, ast.If)
        new.test = ast.Constant(False)
        yield new, "branch never taken"


def _skipped(node: ast.AST) -> bool:
    """Annotations, docstrings and assertions say something, they do nothing."""
    return isinstance(node, ast.Assert | ast.AnnAssign) and not getattr(node, "value", None)


def _places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """(parent, field, index, node) of every node that a change may replace."""
    for parent in ast.walk(tree):
        if _skipped(parent) or isinstance(parent, ast.Assert | ast.Raise):
            continue
        for name, value in ast.iter_fields(parent):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for index, node in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(node, ast.AST) and not _skipped(node):
                    yield parent, name, index if isinstance(value, list) else None, node


def mutants(file: str) -> Iterator[Mutant]:
    tree = ast.parse((ROOT / file).read_text())
    for parent, name, index, node in list(_places(tree)):
        for new, change in _changes(node):
            _put(parent, name, index, new)
            text = ast.unparse(ast.fix_missing_locations(tree))
            _put(parent, name, index, node)
            yield Mutant(file, getattr(node, "lineno", 0), change, text)


def _put(parent: ast.AST, name: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[index] = node


def _work(chosen: list[Mutant]) -> list[Mutant]:
    """Those that survived."""
    survivors = []
    with copied() as copy:
        for mutant in chosen:
            with copy.holding(mutant.file, mutant.text):
                if _survives(copy, mutant):
                    survivors.append(mutant)
                    sys.stdout.write(f"survived: line {mutant.line} of {_name(mutant)}\n")
                    sys.stdout.flush()
    return survivors


def _survives(copy: Copy, mutant: Mutant) -> bool:
    code, _ = copy.test(TARGETS[mutant.file], "--hypothesis-seed=0")
    return code == 0


def _name(mutant: Mutant) -> str:
    line = (ROOT / mutant.file).read_text().splitlines()[mutant.line - 1].strip()
    return f"{mutant.file} {mutant.change}: {line}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("files", nargs="*", metavar="FILE")
    arguments = parser.parse_args()
    dice = Random(arguments.seed)
    every = [m for file in arguments.files or TARGETS for m in mutants(file)]
    chosen = dice.sample(every, max(1, round(len(every) * arguments.scale)))
    with measured("mutants", seed=arguments.seed) as evidence, ThreadPoolExecutor(COPIES) as pool:
        parts = pool.map(_work, [chosen[n::COPIES] for n in range(COPIES)])
        survivors = [mutant for part in parts for mutant in part]
        known = [mutant for mutant in survivors if _name(mutant) in EQUIVALENT]
        killed = len(chosen) - len(survivors)
        evidence.counts |= {
            "mutants": len(every),
            "tried": len(chosen),
            "killed": killed,
            "survived with a reason": len(known),
            "killed %": round(100 * killed / max(1, len(chosen) - len(known)), 1),
        }
        evidence.passed = killed >= 0.9 * (len(chosen) - len(known))
    sys.exit(not evidence.passed)


if __name__ == "__main__":
    main()
