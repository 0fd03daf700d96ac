"""Plant known flaws, one at a time, in copies of the tree: each must turn its check red.

The first failure must be the one that the flaw is to cause, not another that it brings about by the
way. Every check is also run without a flaw, and must then be green.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from proof.evidence import PAGE, measured, require_whole

from .copies import Copy, NotPlanted, copied
from .flaw import Flaw
from .flaws import FLAWS

_TESTS_PASSED, _TESTS_FAILED = 0, 1
_INTERRUPTED = 130
_NOT_GREEN = "its check is not green without a flaw"
_EXAMPLES = """\
examples:
  python -m proof.controls                      all of them
  python -m proof.controls no-pkce-verifier     one
  python -m proof.controls PKCE metrics         every flaw of these items of design §9
  python -m proof.controls --list               their names, items and what they do
"""
Check = tuple[str, ...]


def chosen(names: Sequence[str]) -> list[Flaw]:
    """The flaws with these names or of these items of design §9; all of them for no names.

    `ValueError` says which names are none.
    """
    known = {word for flaw in FLAWS for word in (flaw.name, flaw.item) if word}
    unknown = [repr(name) for name in names if name not in known]
    if unknown:
        raise ValueError(f"no flaw or item is called {', '.join(unknown)} (--list names them)")
    return [f for f in FLAWS if not names or f.name in names or f.item in names]


def by_check(flaws: Sequence[Flaw]) -> list[list[Flaw]]:
    """Flaws in groups that share a check, which so has to be seen green only once."""
    groups: dict[Check, list[Flaw]] = {}
    for flaw in flaws:
        groups.setdefault(flaw.check, []).append(flaw)
    return list(groups.values())


def seen(copy: Copy, flaw: Flaw) -> str:
    """What happened to the flaw: "seen", or what is wrong with the control."""
    try:
        with copy.planted(flaw.file, flaw.old, flaw.new):
            outcome = copy.test(flaw.check)
    except NotPlanted as error:
        return f"not planted: {error}"
    if outcome.code == _TESTS_PASSED:
        return "NOT SEEN"
    if outcome.code not in (_TESTS_FAILED, None):
        return f"the check did not run: {outcome.said[-500:]}"
    if any(re.search(flaw.red, failure) for failure in outcome.failures):
        return "seen"
    if outcome.code is None:
        return "NEVER ENDED"
    what = "\n".join(outcome.failures) or outcome.said[-500:]
    return f"RED FOR ANOTHER CAUSE: {what}; and not {flaw.red!r}"


def tried(copy: Copy, group: Sequence[Flaw]) -> dict[str, str]:
    """What happened to each flaw of a group; nothing is planted if its check is red as it is."""
    outcome = copy.test(group[0].check)
    if outcome.code != _TESTS_PASSED:
        wrong = f"{_NOT_GREEN}: {outcome.said[-500:]}"
        return {flaw.name: wrong for flaw in group}
    return {flaw.name: seen(copy, flaw) for flaw in group}


def _work(copy: Copy, groups: list[list[Flaw]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for group in groups:
        results = tried(copy, group)
        found |= results
        # What is wrong with a control is said in full at the end.
        lines = [f"{what.partition(':')[0]:8}  {name}\n" for name, what in results.items()]
        sys.stdout.write("".join(lines))
        sys.stdout.flush()
    return found


def run(flaws: Sequence[Flaw], jobs: int, page: Path | None) -> dict[str, str]:
    """Those flaws with which something is wrong, and what; the figures go to `page`, if given."""
    groups = by_check(flaws)
    if page is None:
        return _wrong(_plant(groups, jobs))
    with measured("controls", page=page) as evidence:
        found = _plant(groups, jobs)
        wrong = _wrong(found)
        evidence.counts |= {
            "flaws planted": len(found),
            "seen": len(found) - len(wrong),
            "items of design §9": len({f.item for f in flaws if f.item and f.name not in wrong}),
            "checks green without a flaw": sum(
                not found[group[0].name].startswith(_NOT_GREEN) for group in groups
            ),
        }
        evidence.passed = not wrong
    return wrong


def _plant(groups: list[list[Flaw]], jobs: int) -> dict[str, str]:
    found: dict[str, str] = {}
    with ExitStack() as stack:
        copies = [stack.enter_context(copied()) for _ in range(jobs)]
        pool = stack.enter_context(ThreadPoolExecutor(jobs))
        try:
            for part in pool.map(_work, copies, [groups[n::jobs] for n in range(jobs)]):
                found |= part
        except KeyboardInterrupt:
            for copy in copies:
                copy.stop()
            raise
    return found


def _wrong(found: dict[str, str]) -> dict[str, str]:
    return {name: what for name, what in found.items() if what != "seen"}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m proof.controls",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a flaw, or an item of design §9")
    parser.add_argument("--list", action="store_true", help="list the flaws and plant nothing")
    parser.add_argument("--jobs", type=int, choices=range(1, 9), default=2, help="copies at a time")
    parser.add_argument(
        "--page", type=Path, help="where the figures go; specs/evidence.md if all flaws are planted"
    )
    arguments = parser.parse_args(words)
    try:
        flaws = chosen(arguments.names)
    except ValueError as error:
        parser.error(str(error))
    if arguments.list:
        for flaw in flaws:
            sys.stdout.write(f"{flaw.name:28}{flaw.item or '-':24}{flaw.says}\n")
        return 0
    all_of_them = len(flaws) == len(FLAWS)
    page = arguments.page or (PAGE if all_of_them else None)
    if page is not None:
        require_whole(parser, page, "" if all_of_them else "a part of the flaws")
    try:
        wrong = run(flaws, arguments.jobs, page)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return _INTERRUPTED
    sys.stdout.write(f"{len(flaws) - len(wrong)} of {len(flaws)} flaws were seen\n")
    for name, what in wrong.items():
        sys.stderr.write(f"{name}: {what}\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
