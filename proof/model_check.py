"""Check the Promela model of the protocol exhaustively, and that each planted flaw breaks it.

examples:
  python -m proof.model_check                       all of it: minutes, and 4 GiB of memory
  python -m proof.model_check --quick               one session of each client: seconds
  python -m proof.model_check --page /tmp/x.md      leave specs/evidence.md as it is

Needs spin and a C compiler. The honest model must hold its promises in every state, every one of
its moves must have been made, and each flaw of `FLAWS` must break each promise that is named with
it, with all others left out. What was built, and the trail of what went wrong, stay in
build/model-check.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .evidence import PAGE, ROOT, measured, require_whole
from .promela import DEADLOCK, MAIN, Model, Place, model_texts, read_model

FOLDER = ROOT / "build" / "model-check"
SESSIONS = 2
SESSIONS_QUICK = 1
DEPTH_MAX = 10_000
MEMORY_MIB_MAX = 8_000
CHECK_SECONDS_MAX = 3_600
# Both claims (one reader, one writer) of a channel also hold of `empty(out)`, which only the writer
# asks; spin's own check of them at run time takes it for the reader's. `TWO_FRAMES` does without.
CLAIMS_UNCHECKED = "-DXUSAFE"


@dataclass(frozen=True, slots=True)
class Flaw:
    """What `-DNAME` plants, each promise that it breaks by itself, and in how many sessions."""

    name: str
    words: str
    promises: tuple[str, ...]
    sessions: int = SESSIONS_QUICK


FLAWS = (
    Flaw("COMMIT_EARLY", "a push is committed before its last page", ("no_torn_version",)),
    Flaw("MIXED", "a push keeps the head's pages in place of its base's", ("no_torn_version",)),
    Flaw(
        "NO_CAS",
        "a version is appended without a look at the head",
        (
            "what_is_acknowledged_is_there",
            "no_acknowledged_push_lost",
            "no_version_replaced_unseen",
        ),
    ),
    Flaw(
        "ACK_EARLY",
        "a push is acknowledged before its commit",
        ("what_is_acknowledged_is_there", "no_acknowledged_push_lost"),
    ),
    Flaw("LAST_WINS", "the base is not compared with the head", ("no_version_replaced_unseen",)),
    Flaw(
        "REMEMBER_EARLY",
        "a sidecar is written before the acknowledgement",
        ("no_torn_version",),
        sessions=2,
    ),
    Flaw("APPLY_EARLY", "a page is put into the file when it comes", ("no_torn_file",)),
    Flaw("APPLY_TORN", "a kill in the middle of a pull leaves half of it", ("no_torn_file",)),
    Flaw("READ_HEAD", "a pull reads the head of the moment", ("a_pull_is_one_version",)),
    Flaw("END_AT_HEAD", "and names it at its end", ("a_pull_is_the_version_promised",)),
    Flaw(
        "OVERWRITE",
        "a pull does not look for changes of its file's own",
        ("no_change_overwritten_unseen",),
    ),
    Flaw("BLIND_APPLY", "nor for those made while it ran", ("no_change_overwritten_unseen",)),
    Flaw("ASK_UNASKED", "pages are asked for out of turn", ("nothing_is_said_out_of_turn",)),
    Flaw("SILENT", "hashes that need nothing are not answered", (DEADLOCK,)),
)


class ModelCheckFailed(Exception):
    """The model, a flaw, or a run of spin is not what it must be; the message says what."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one exhaustive search found. `violated` is a promise, or None."""

    states: int
    transitions: int
    depth: int
    memory_mib: float
    violated: str | None
    unreached: frozenset[Place]
    trail: str = ""


def missing_tools() -> str | None:
    """What to install, if spin or a C compiler is not there."""
    missing = [] if shutil.which("spin") else ["spin"]
    missing += [] if _compiler() else ["gcc"]
    if not missing:
        return None
    what = " and ".join({"spin": "spin", "gcc": "a C compiler"}[name] for name in missing)
    return f"model-check needs {what}: apt-get install {' '.join(missing)}"


def _compiler() -> str | None:
    names = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    return next((name for name in names if name and shutil.which(name)), None)


def search(
    folder: Path,
    *,
    sessions: int,
    defines: Sequence[str] = (),
    claims: bool = False,
    only: str | None = None,
) -> Run:
    """Search every state of the model with `defines`, in a fresh `folder`.

    Stops at the first promise that is broken. With `claims`, spin also checks that each channel has
    one reader and one writer, on which the reduction of the search rests. `only` names a promise
    beside which no other is looked at. Raises `ModelCheckFailed` if the search did not end, or did
    not see every state.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    texts = model_texts()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    flags = [f"-DSESSIONS={sessions}", *(f"-D{name}" for name in defines)]
    flags += [] if only is None else [f"-DONLY={only}"]
    # -o3: without merged statements, so that each has its own place in the list of the unreached.
    _run(folder, "spin", "-o3", *flags, "-a", MAIN)
    options = ["-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={MEMORY_MIB_MAX}"]
    options += [] if claims else [CLAIMS_UNCHECKED]
    # What takes less time than to be optimized is not.
    options += ["-O0" if sessions == SESSIONS_QUICK else "-O2"]
    _run(folder, _compiler() or "cc", "-w", *options, "-o", "pan", "pan.c")
    # -E: an end that waits for ever is passed over, as any other broken promise.
    passed_over = [] if only in (None, DEADLOCK) else ["-E"]
    said = _run(folder, "./pan", f"-m{DEPTH_MAX}", *passed_over)
    (folder / "pan.txt").write_text(said, encoding="utf-8")
    return _judge(folder, said, read_model(texts), flags)


def _run(folder: Path, *command: str) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=CHECK_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelCheckFailed(f"{command[0]} took over {CHECK_SECONDS_MAX} s") from error
    if done.returncode:
        raise ModelCheckFailed(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def _judge(folder: Path, said: str, model: Model, flags: Sequence[str]) -> Run:
    violated, trail = None, ""
    if " errors: 0\n" not in said:
        violated, trail = _violation(folder, said, model, flags)
    elif why := not_exhaustive(said):
        raise ModelCheckFailed(f"the search was not exhaustive: {why}; see {folder}/pan.txt")
    return Run(
        states=round(_figure(r"([\d.e+]+) states, stored", said)),
        transitions=round(_figure(r"([\d.e+]+) transitions", said)),
        depth=round(_figure(r"depth reached (\d+)", said)),
        memory_mib=_figure(r"([\d.]+)\s+total actual memory usage", said),
        violated=violated,
        unreached=frozenset(
            Place(file, int(line)) for file, line in re.findall(r"\t(\w+\.pml):(\d+), state", said)
        ),
        trail=trail,
    )


def not_exhaustive(said: str) -> str | None:
    """What in pan's words says that states were left out; None if it saw all of them."""
    for sign in ("Search not completed", "max search depth too small", "truncated", "MEMLIM"):
        if sign in said:
            return sign
    if "Full statespace search" not in said or "unreached in proctype" not in said:
        return "it does not say that it was"
    return None


def _figure(pattern: str, said: str) -> float:
    found = re.search(pattern, said)
    if found is None:
        raise ModelCheckFailed(f"pan does not say {pattern!r}:\n{said}")
    return float(found[1])


def _violation(folder: Path, said: str, model: Model, flags: Sequence[str]) -> tuple[str, str]:
    """Which promise was broken, and the moves that led there, one a line."""
    if not (folder / f"{MAIN}.trail").exists():
        raise ModelCheckFailed(f"no trail:\n{said}")
    replay = ["spin", *flags, "-t", "-T", MAIN]
    shown = _run(folder, *replay)
    moves = [line for line in shown.splitlines() if line.startswith(("session ", "client "))]
    trail = "\n".join([*moves, f"again: cd {folder} && {' '.join(replay)}"])
    (folder / "trail.txt").write_text(trail + "\n", encoding="utf-8")
    if "pan:1: invalid end state" in said:
        return DEADLOCK, trail
    at = re.search(r"spin: (\w+\.pml):(\d+), Error: assertion violated", shown)
    if at is None:
        raise ModelCheckFailed(f"neither a promise nor a deadlock:\n{said}")
    place = Place(at[1], int(at[2]))
    return model.promises.get(place, str(place)), trail


def check_honest(folder: Path, sessions: int) -> Run:
    """The model without a flaw. Raises `ModelCheckFailed` if it breaks a promise."""
    claims = search(folder / "claims", sessions=SESSIONS_QUICK, defines=["TWO_FRAMES"], claims=True)
    for run in (claims, honest := search(folder / "honest", sessions=sessions)):
        if run.violated is not None:
            raise ModelCheckFailed(f"the model breaks {run.violated}:\n{run.trail}")
    return honest


def unmade_moves(model: Model, run: Run) -> list[str]:
    """The moves of the model that no run of it ever makes."""
    return [f"{place}: {move}" for place, move in model.moves.items() if place in run.unreached]


def check_flaw(folder: Path, flaw: Flaw, promise: str) -> Run:
    """The model with `flaw`, which must break `promise` while no other is looked at.

    Raises `ModelCheckFailed` if it does not.
    """
    run = search(
        folder / flaw.name.lower() / promise,
        sessions=flaw.sessions,
        defines=[flaw.name],
        only=promise,
    )
    if run.violated != promise:
        raise ModelCheckFailed(
            f"{flaw.name} ({flaw.words}) should break {promise}, and breaks {run.violated}"
        )
    return run


def check(sessions: int, page: Path, show: Callable[[str], object]) -> None:
    """All of it, with its row on `page`. Raises `ModelCheckFailed`."""
    model = read_model(model_texts())
    with measured("model-check", page=page) as evidence:
        run = check_honest(FOLDER, sessions)
        evidence.counts |= {
            "sessions": 2 * sessions,
            "states": run.states,
            "transitions": run.transitions,
            "depth": run.depth,
            "MiB": round(run.memory_mib),
            "moves": len(set(model.moves.values())),
        }
        show(f"{'honest':15}holds in {run.states:,} states\n")
        if (unmade := unmade_moves(model, run)) and sessions == SESSIONS:
            raise ModelCheckFailed("moves that are never made:\n" + "\n".join(unmade))
        broken: set[str] = set()
        for seen, flaw in enumerate(FLAWS, 1):
            for promise in flaw.promises:
                check_flaw(FOLDER, flaw, promise)
                show(f"{flaw.name:15}{flaw.words}: breaks {promise}\n")
            broken |= set(flaw.promises)
            evidence.counts["flaws seen"] = f"{seen} of {len(FLAWS)}"
            evidence.counts["promises broken"] = f"{len(broken)} of {len(model.promised)}"


def main() -> int:
    summary, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="proof.model_check",
        description=summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one session of each client")
    parser.add_argument(
        "--page", type=Path, default=PAGE, help="where the row goes (specs/evidence.md)"
    )
    arguments = parser.parse_args()
    require_whole(parser, arguments.page, "--quick" if arguments.quick else "")
    if missing := missing_tools():
        sys.stderr.write(f"{missing}\n")
        return 1
    sessions = SESSIONS_QUICK if arguments.quick else SESSIONS
    try:
        check(sessions, arguments.page, sys.stdout.write)
    except ModelCheckFailed as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
