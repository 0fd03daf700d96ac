"""`python -m proof.controls [WORDS…]`: every flaw, or those with one of the words in their name."""

import sys
from concurrent.futures import ThreadPoolExecutor

from proof.evidence import measured

from .copies import Copy, NotPlanted, copied
from .flaws import FLAWS, Flaw

COPIES = 2
_TESTS_FAILED = 1


def _seen(copy: Copy, flaw: Flaw) -> str:
    """What happened to the flaw: "seen", or what is wrong with the control."""
    try:
        with copy.planted(flaw.file, flaw.old, flaw.new):
            code, said = copy.test(flaw.check)
    except NotPlanted as error:
        return f"not planted: {error}"
    if code == _TESTS_FAILED:
        return "seen"
    return "NOT SEEN" if code == 0 else f"the check did not run: {said[-500:]}"


def _work(flaws: list[Flaw]) -> dict[str, str]:
    found = {}
    with copied() as copy:
        for flaw in flaws:
            found[flaw.name] = _seen(copy, flaw)
            sys.stdout.write(f"{found[flaw.name]:8}  {flaw.name}\n")
            sys.stdout.flush()
    return found


def main() -> None:
    words = sys.argv[1:]
    chosen = [f for f in FLAWS if not words or any(word in f.name for word in words)]
    with measured("controls") as evidence, ThreadPoolExecutor(COPIES) as pool:
        found: dict[str, str] = {}
        for part in pool.map(_work, [chosen[n::COPIES] for n in range(COPIES)]):
            found |= part
        unseen = {name: what for name, what in found.items() if what != "seen"}
        evidence.counts |= {"flaws planted": len(found), "seen": len(found) - len(unseen)}
        evidence.passed = not unseen
    for name, what in unseen.items():
        sys.stderr.write(f"{name}: {what}\n")
    sys.exit(bool(unseen))


if __name__ == "__main__":
    main()
