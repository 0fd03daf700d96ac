"""`python -m bench.sync`: every row of the comparison, for every peer and size.

One pass runs all rows; in each row the peers take turns, so that they share whatever the machine
does at that moment. Timed passes are repeated and their medians taken; one more pass is watched,
for memory and bytes on the wire. Every copy is compared with its origin. `report` prints and draws.
"""

import argparse
import compileall
import shutil
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import edgereplica

from .databases import master
from .measure import Measured
from .peers import PEERS, Peer
from .report import publish, write
from .results import Cell, Results, machine

_OUT = Path(__file__).parent.parent / "out"
SMALL_MIB = 1


@dataclass(frozen=True)
class Row:
    """What happens before a measured push or pull. `label` None: not reported."""

    label: str | None
    direction: Literal["push", "pull"]
    fraction: float = 0
    checkpoint: bool = False
    forget: bool = False
    small: bool = False
    """Also run for the small database, where the other rows say nothing."""


ROWS = (
    Row("push first", "push", small=True),
    Row("push, nothing changed", "push", small=True),
    Row("pull fresh", "pull", small=True),
    Row("pull, nothing changed", "pull", small=True),
    Row("push 0.1 %", "push", fraction=0.001),
    Row("pull 0.1 %", "pull"),
    Row("push 1 %", "push", fraction=0.01, small=True),
    Row("pull 1 %", "pull", small=True),
    Row("push 10 %", "push", fraction=0.1),
    Row("pull 10 %", "pull"),
    Row("push 0.1 %, WAL emptied", "push", fraction=0.001, checkpoint=True),
    Row(None, "pull"),
    Row("push 1 %, WAL emptied", "push", fraction=0.01, checkpoint=True),
    Row(None, "pull"),
    Row("push 0.1 %, no sidecar", "push", fraction=0.001, checkpoint=True, forget=True),
    Row(None, "pull"),
)


def one_pass(
    size_mib: int, kinds: list[type[Peer]], work: Path, *, watched: bool
) -> dict[tuple[str, str], Measured]:
    """All rows once, the peers alternating; keyed by (row, peer)."""
    origin = master(work, size_mib)
    peers: list[Peer] = []
    measured: dict[tuple[str, str], Measured] = {}
    try:
        for kind in kinds:
            peers.append(kind(work / f"peer-{len(peers)}", origin, watched=watched))
        for seed, row in enumerate(ROWS):
            if size_mib == SMALL_MIB and not row.small:
                continue
            for peer in peers:
                result = _one_row(peer, row, seed)
                if result is not None and row.label is not None:
                    measured[row.label, peer.name] = result
                    print(f"  {row.label}: {peer.name}: {result.wall_seconds:.3f} s", flush=True)
        for peer in peers:
            peer.verify()
    finally:
        for peer in peers:
            peer.close()
    return measured


def _one_row(peer: Peer, row: Row, seed: int) -> Measured | None:
    if row.forget and not peer.has_sidecar:
        return None
    if row.fraction:
        peer.origin.edit(row.fraction, seed)
    if row.checkpoint:
        peer.origin.checkpoint()
    if row.forget:
        peer.forget()
    result = peer.push() if row.direction == "push" else peer.pull()
    if result is not None and (row.direction == "pull" or peer.push_is_visible):
        peer.verify()
    return result


def collect(sizes: list[int], repeats: int, kinds: list[type[Peer]], work: Path) -> Results:
    results = Results(machine(), repeats, {})
    for size_mib in sizes:
        runs: defaultdict[tuple[str, str], list[Measured]] = defaultdict(list)
        for number in range(1, repeats + 1):
            print(f"{size_mib} MiB, timed pass {number} of {repeats}", flush=True)
            for key, one in one_pass(size_mib, kinds, work, watched=False).items():
                runs[key].append(one)
        print(f"{size_mib} MiB, watched pass", flush=True)
        watched = one_pass(size_mib, kinds, work, watched=True)
        results.sizes[size_mib] = {
            key: Cell(
                wall_seconds=statistics.median(one.wall_seconds for one in timed),
                wall_seconds_all=[one.wall_seconds for one in timed],
                cpu_seconds=statistics.median(one.cpu_seconds for one in timed),
                wire_bytes=watched[key].wire_bytes,
                client_bytes=watched[key].client_bytes,
                server_bytes=watched[key].server_bytes,
            )
            for key, timed in runs.items()
        }
    return results


def _compile_program() -> None:
    """Leave byte code beside the sources, as an installer does.

    A checkout does it by itself at first use, except where PYTHONDONTWRITEBYTECODE forbids it;
    every start would compile the program anew, for 35 ms that no user pays.
    """
    for folder in Path(edgereplica.__path__[0]).iterdir():
        if folder.is_dir():
            compileall.compile_dir(folder.resolve(), quiet=1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.sync", description=__doc__)
    parser.add_argument("--sizes", default="1,64,1024", help="MiB, by commas")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", default=",".join(kind.name for kind in PEERS))
    parser.add_argument("--work", type=Path, default=_OUT / "work", help="room for the copies")
    parser.add_argument("--publish", action="store_true", help="copy the results to docs/bench")
    options = parser.parse_args()
    kinds = [kind for kind in PEERS if kind.name in options.peers.split(",")]
    for kind in kinds:
        if why := kind.missing():
            print(f"without {kind.name}: {why}", file=sys.stderr)
    kinds = [kind for kind in kinds if kind.missing() is None]
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    sizes = [int(size) for size in options.sizes.split(",")]
    _compile_program()
    results = collect(sizes, options.repeats, kinds, options.work)
    shutil.rmtree(options.work)
    write(results, _OUT)
    if options.publish:
        publish(_OUT, _OUT.parent.parent / "docs" / "bench")


if __name__ == "__main__":
    main()
