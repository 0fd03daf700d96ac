"""Mutants of the codecs, the machines and the token code, which tests must kill (mutmut).

mutmut makes the mutants (an operator, a constant, a string, an argument, an assignment changed, one
at a time), finds the tests that reach each, and runs those in a fork of a process that has
everything imported. It wants the package where it is imported from, so it works in a copy laid out
for it; the tree is never changed. What it leaves alone: class bodies, module constants, decorated
functions. The machines' tables of transitions are held by `specs/machines` instead.

cosmic-ray would change those as well, but starts pytest anew for every mutant, and deletes neither
calls nor arguments, which is how an effect gets lost.

Mutants that live are listed in `survivors.md`, with the reasons of `survivors.toml`.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from proof.evidence import PAGE, ROOT, measured

from .survivors import Reason, Survivor, explained, from_diff, reasons

LAYERS = ("adapters", "app", "events", "fsm", "proto")
FILES = (
    "events/messages.py",
    "events/pages.py",
    "events/recording.py",
    "events/wire.py",
    "events/wire_v1.py",
    "events/wire_v2.py",
    "fsm/client_pull.py",
    "fsm/client_push.py",
    "fsm/database_lifecycle.py",
    "fsm/diagrams.py",
    "fsm/machine.py",
    "fsm/oauth_login.py",
    "fsm/registry.py",
    "fsm/server_pull.py",
    "fsm/server_push.py",
    "app/macaroon.py",
    "app/token_view.py",
    "app/tokens.py",
)
TESTS = (
    "tests/unit/events",
    "tests/unit/fsm",
    "tests/unit/app/test_macaroon.py",
    "tests/unit/app/test_replay.py",
    "tests/unit/app/test_token_view.py",
    "tests/unit/app/test_tokens.py",
    "tests/unit/app/test_tokens_issued.py",
)
KILLED_PERCENT_MIN = 90
TIMEOUT_FACTOR = 5
"""How much longer than without a mutant all tests of one may take, if no test's own bound ends it
(`quick_tests`)."""
MEMORY_BYTES_MAX = 6 << 30
"""Address space of one process: a mutant that loops without end may also collect without end."""
SURVIVORS = Path(__file__).with_name("survivors.md")
# mutmut's own words for these are more generous: tests that could not be run are a kill to it.
_TESTS_FAILED = 1
_SURVIVED = (0, 33)
"""All tests passed; no test reaches the function."""
_ENDLESS = (36, -24)
"""Stopped by mutmut for its time or its processor's."""
_EXAMPLES = """\
examples:
  python -m proof.controls.mutants                    all files
  python -m proof.controls.mutants events/wire.py     one of them; writes neither list nor row
"""


@dataclass(frozen=True)
class Outcome:
    """What became of the mutants of one file.

    `undecided` ended neither way (a signal, no run): name and exit code of each.
    """

    file: str
    killed: int
    timeouts: int
    undecided: tuple[tuple[str, int | None], ...]
    survivors: tuple[Survivor, ...]

    @property
    def total(self) -> int:
        return self.killed + len(self.undecided) + len(self.survivors)

    @property
    def percent(self) -> float:
        return 100 * self.killed / max(1, self.total)


def lay_out(root: Path, files: Sequence[str], tests: Sequence[str]) -> None:
    """A copy of what the tests need, with the package's folders inside the package."""
    package = root / "src/edgereplica"
    shutil.copytree(ROOT / "src/edgereplica", package, symlinks=True, ignore=_ignored)
    for layer in LAYERS:
        (package / layer).unlink()
        shutil.copytree(ROOT / layer, package / layer, ignore=_ignored)
    for link in package.iterdir():
        if link.is_symlink():
            link.unlink()
    for name in ("tests", "proof", "specs"):
        shutil.copytree(ROOT / name, root / name, ignore=_ignored)
    settings = {
        "source_paths": ["src"],
        "only_mutate": [f"src/edgereplica/{file}" for file in files],
        "also_copy": ["proof", "specs"],
        "pytest_add_cli_args": [
            "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "proof.controls.quick_tests",
            # That two frames of megabytes differ is enough: to say how takes pytest past its bound.
            "--assert=plain",
        ],
        "pytest_add_cli_args_test_selection": list(tests),
        "timeout_multiplier": TIMEOUT_FACTOR,
        # What one test leaves behind in the process (a cache of what was found for a class) must
        # not hide a mutant from another: every mutant is forked from a process that ran none.
        "process_isolation": "forkserver",
        "use_git_change_detection": False,
        "track_dependencies": False,
    }  # fmt: skip
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items()]
    ours = (ROOT / "pyproject.toml").read_text()
    (root / "pyproject.toml").write_text(f"{ours}\n[tool.mutmut]\n{''.join(lines)}")


def _ignored(_folder: str, names: list[str]) -> set[str]:
    return {"__pycache__", "node_modules", "js", ".hypothesis"} & set(names)


def mutate(root: Path, jobs: int, chosen: Sequence[str], names: Sequence[str] = ()) -> None:
    """Run mutmut in `root`: all mutants, or those of the `names`.

    `RuntimeError` if it fails, as it does if a test is red as it is.
    """
    # Hypothesis' profile for CI draws the same examples for every mutant, remembers none of them
    # and has no deadline, so that only a mutant decides.
    temporary = root / "temporary"
    temporary.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTEST_DEBUG_TEMPROOT": str(temporary),
        "CI": "true",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    mutmut = Path(sys.executable).with_name("mutmut")
    if not mutmut.exists():
        raise RuntimeError("mutmut is missing: pip install -e '.[dev]'")
    limited = f'ulimit -v {MEMORY_BYTES_MAX >> 10} && exec "$@"'
    done = subprocess.run(
        ["/bin/sh", "-c", limited, "sh", str(mutmut), "run", "--max-children", str(jobs), *names],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        # mutmut does not say which test it was that failed as it is.
        tests = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *chosen]
        environment |= {"PYTHONPATH": "src", "MUTANT_UNDER_TEST": ""}
        seen = subprocess.run(
            tests,
            cwd=root / "mutants",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        said = _without_spinner(done.stdout + done.stderr)[-2000:]
        raise RuntimeError(f"mutmut failed: {said}\nthe tests without it: {seen.stdout[-4000:]}")


def _without_spinner(said: str) -> str:
    """What mutmut said, without the lines that it paints over each other while it waits."""
    lines = said.replace("\r", "\n").splitlines()
    return "\n".join(line for line in lines if not line[:1] or not "⠀" <= line[0] <= "⣿")


@contextlib.contextmanager
def _mutmut_in(root: Path) -> Iterator[None]:
    """mutmut's functions work in the current folder, and remember its settings."""
    from mutmut.configuration import reset_config  # noqa: PLC0415

    reset_config()
    with contextlib.chdir(root):
        yield
    reset_config()


def outcome(root: Path, file: str) -> Outcome:
    """What mutmut wrote down about one file."""
    from mutmut.mutation.data import SourceFileMutationData  # noqa: PLC0415
    from mutmut.mutation.diff_apply import get_diff_for_mutant  # noqa: PLC0415
    from mutmut.utils.format_utils import (  # noqa: PLC0415
        orig_function_and_class_names_from_key as names_of,
    )

    with _mutmut_in(root):
        data = SourceFileMutationData(path=f"src/edgereplica/{file}")
        data.load()
        codes = data.exit_code_by_key
        survivors = []
        for name in (name for name, code in codes.items() if code in _SURVIVED):
            function, of = names_of(name)
            qualified = f"{of}.{function}" if of else function
            survivors.append(from_diff(file, qualified, get_diff_for_mutant(name)))
    endless = sum(code in _ENDLESS for code in codes.values())
    killed = endless + sum(code == _TESTS_FAILED for code in codes.values())
    decided = (*_ENDLESS, _TESTS_FAILED, *_SURVIVED)
    undecided = tuple((name, code) for name, code in codes.items() if code not in decided)
    return Outcome(file, killed, endless, undecided, tuple(survivors))


def table(outcomes: Sequence[Outcome]) -> str:
    """Figures per file, in Markdown."""
    lines = [
        "| file | mutants | killed | of them endless | survived | undecided | killed % |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for o in [*outcomes, _together(outcomes)]:
        lived = len(o.survivors), len(o.undecided)
        figures = (o.total, o.killed, o.timeouts, *lived, f"{o.percent:.1f}")
        lines.append(f"| {o.file} | {' | '.join(str(figure) for figure in figures)} |")
    return "\n".join(lines) + "\n"


def _together(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(
        "all",
        sum(o.killed for o in outcomes),
        sum(o.timeouts for o in outcomes),
        tuple(each for o in outcomes for each in o.undecided),
        tuple(survivor for o in outcomes for survivor in o.survivors),
    )


def listed(outcomes: Sequence[Outcome], whys: dict[Survivor, str]) -> str:
    """The page of survivors, in Markdown."""
    text = (
        "# Mutants that live\n\n"
        "Written by `make mutants`; the reasons are those of `survivors.toml`.\n\n"
        + table(outcomes)
    )
    for o in outcomes:
        if not o.survivors:
            continue
        text += f"\n## {o.file}\n\n| function | original | mutant | why no test kills it |\n"
        text += "|---|---|---|---|\n"
        for s in o.survivors:
            why = whys[s] or "**unexplained**"
            cells = (f"`{s.function}`", _code(s.old), _code(s.new), why)
            text += "| " + " | ".join(cells) + " |\n"
    return text


def _code(text: str) -> str:
    return f"`` {text} ``".replace("|", "\\|") if text else "(left out)"


def faults(outcomes: Sequence[Outcome], whys: dict[Survivor, str], stale: Sequence[Reason]) -> str:
    """What stands between this run and a pass, one a line."""
    together = _together(outcomes)
    found = []
    if together.percent < KILLED_PERCENT_MIN:
        found.append(f"{together.percent:.1f} % killed, at least {KILLED_PERCENT_MIN} % should be")
    found += [f"ended neither way: {name}, {code}" for name, code in together.undecided]
    found += [
        f"unexplained: {s.file} {s.function}: {s.old}  ->  {s.new}"
        for s, why in whys.items()
        if not why
    ]
    found += [f"stale reason: {r.file} {r.function} {r.new}: {r.why}" for r in stale]
    return "".join(f"{line}\n" for line in found)


def run(
    files: Sequence[str], jobs: int, keep: Path | None, tests: Sequence[str] = TESTS
) -> list[Outcome]:
    with contextlib.ExitStack() as stack:
        root = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mutants-")))
        lay_out(root, files, tests)
        mutate(root, jobs, tests)
        outcomes = [outcome(root, file) for file in files]
        again = [name for name, _ in _together(outcomes).undecided]
        if again:
            # pytest itself may fail, beside others that clear away the same temporary folders.
            mutate(root, jobs, tests, again)
            outcomes = [outcome(root, file) for file in files]
        return outcomes


def judged(outcomes: Sequence[Outcome]) -> tuple[dict[Survivor, str], str]:
    """Why each survivor lives, and what is wrong with the run."""
    files = {o.file for o in outcomes}
    known = [reason for reason in reasons() if reason.file in files]
    whys, stale = explained(_together(outcomes).survivors, known)
    return whys, faults(outcomes, whys, stale)


def record(files: Sequence[str], jobs: int, keep: Path | None, page: Path, list_at: Path) -> str:
    """Run them, write the row and the list; what is wrong, if anything is."""
    with measured("mutants", seed=0, page=page) as evidence:
        outcomes = run(files, jobs, keep)
        whys, wrong = judged(outcomes)
        all_of_them = _together(outcomes)
        evidence.counts |= {
            "mutants": all_of_them.total,
            "killed": all_of_them.killed,
            "of them endless": all_of_them.timeouts,
            "survived with a reason": sum(bool(why) for why in whys.values()),
            "survived without": sum(not why for why in whys.values()),
            "killed %": round(all_of_them.percent, 1),
        }
        evidence.passed = not wrong
    list_at.write_text(listed(outcomes, whys))
    sys.stdout.write(table(outcomes))
    return wrong


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m proof.controls.mutants",
        description=__doc__.splitlines()[0] if __doc__ else "",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of: {', '.join(FILES)}")
    parser.add_argument(
        "--jobs", type=int, choices=range(1, 9), default=2, help="mutants at a time"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave mutmut's copy there")
    parser.add_argument("--page", type=Path, help="where the figures go; else specs/evidence.md")
    parser.add_argument("--list", type=Path, help="where survivors go; else survivors.md")
    arguments = parser.parse_args(words)
    unknown = [file for file in arguments.files if file not in FILES]
    if unknown:
        parser.error(f"not among the files: {', '.join(unknown)}")
    jobs, keep = arguments.jobs, arguments.keep
    if arguments.files:
        outcomes = run(arguments.files, jobs, keep)
        wrong = judged(outcomes)[1]
        sys.stdout.write(table(outcomes))
    else:
        page, list_at = arguments.page or PAGE, arguments.list or SURVIVORS
        wrong = record(FILES, jobs, keep, page, list_at)
    sys.stderr.write(wrong)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
