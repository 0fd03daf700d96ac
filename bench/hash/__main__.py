"""`python -m bench.hash`: how fast pages can be hashed, on the host and in WebAssembly.

Runs both sides, checks that they agree on a digest of every algorithm, prints one table, draws one
plot, and writes `bench/hash/README.md` with the figures it just printed.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import textwrap
from dataclasses import dataclass
from pathlib import Path

from bench.sync.results import machine

from . import host

_HERE = Path(__file__).parent
_OUT = _HERE.parent / "out"
_PAGE_BYTES = 4096
_PAGES = 8192
_MB = 1e6


@dataclass(frozen=True)
class Speeds:
    """MB/s by algorithm, medians of the rounds."""

    host: dict[str, float]
    wasm: dict[str, float]
    node: str


def measure(rounds: int) -> Speeds:
    node = shutil.which("node")
    if node is None:
        raise SystemExit("node is not installed: WebAssembly cannot be measured")
    command = [node, str(_HERE / "wasm.js"), str(_PAGE_BYTES), str(_PAGES), str(rounds)]
    wasm = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if wasm["digests"] != host.first_digests(_PAGE_BYTES):
        raise SystemExit("host and WebAssembly do not agree on what the digests are")
    here = host.measure(_PAGE_BYTES, _PAGES, rounds)
    return Speeds(_rates(here), _rates(wasm["seconds"]), wasm["node"])


def _rates(seconds: dict[str, list[float]]) -> dict[str, float]:
    size = _PAGE_BYTES * _PAGES / _MB
    return {name: size / statistics.median(rounds) for name, rounds in seconds.items()}


def table(speeds: Speeds) -> str:
    lines = ["| MB/s | host, from Python | WebAssembly, under Node |", "|---|--:|--:|"]
    lines += [
        f"| {name} | {speeds.host[name]:,.0f} | {speeds.wasm[name]:,.0f} |" for name in speeds.host
    ]
    return "\n".join(lines)


def readme(speeds: Speeds, said: dict[str, object]) -> str:
    """The page with the figures: every number in it is one of this run's."""

    def times(where: dict[str, float], other: str) -> str:
        return f"{where['BLAKE3'] / where[other]:.2f}"

    here, there = speeds.host, speeds.wasm
    why = f"""The hash of a page stands for the page: the server does not ask for a page whose hash
it already holds, pages are shared between versions by their hashes, and a version is known by its
root, the hash of its page hashes. So it must be a cryptographic hash: whoever could make two pages
with one XXH3 could have one of them served in the place of the other. Among the cryptographic ones
BLAKE3 runs here at {here["BLAKE3"]:,.0f} MB/s on the host, {times(here, "SHA-256")} times SHA-256,
{times(here, "BLAKE2b")} times BLAKE2b and {times(here, "BLAKE2s")} times BLAKE2s, with the vector
units every processor has. SHA-256 owes its speed to dedicated instructions, which WebAssembly
cannot reach: there BLAKE3 does {there["BLAKE3"]:,.0f} MB/s, {times(there, "SHA-256")} times
SHA-256, {times(there, "BLAKE2b")} times BLAKE2b and {times(there, "BLAKE2s")} times BLAKE2s. It is
one algorithm for every place and digest length, needs no parameters agreed between the ends, and is
what protocol v1 already sends. XXH3 is used where nobody is to be convinced: the client finds pages
that may have changed with it before it hashes those with BLAKE3."""
    conditions = f"""Pages of 4 KiB, one call a page, one thread, 32-byte digests (XXH3: 16 bytes,
not cryptographic, the bound). {said["date"]}, {said["processor"]}, {said["cores"]} cores, Python
{said["python"]}, Node {speeds.node} with `hash-wasm`. `make bench-hash` measures again and writes
this page."""
    return f"""# Page hashes

{table(speeds)}

{_wrapped(conditions)}

![throughput](hash.svg)

## Why BLAKE3 is the page hash

{_wrapped(why)}
"""


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(" ".join(paragraph.split()), 100, break_on_hyphens=False)


def draw(speeds: Speeds, folder: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "edgereplica"
    from matplotlib import pyplot

    names = list(speeds.host)
    figure, axis = pyplot.subplots(figsize=(8, 3.6))
    for shift, label, color, rates in (
        (-0.2, "host, from Python", "#4e79a7", speeds.host),
        (0.2, "WebAssembly, under Node", "#f28e2b", speeds.wasm),
    ):
        places = [at + shift for at in range(len(names))]
        bars = axis.barh(places, [rates[name] for name in names], 0.4, label=label, color=color)
        axis.bar_label(bars, [f"{rates[name]:,.0f}" for name in names], fontsize=8, padding=2)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlim(100)
    axis.margins(x=0.12)
    axis.set_xlabel("MB/s on 4 KiB pages (more is better)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, loc="upper right")
    figure.tight_layout()
    figure.savefig(folder / "hash.png", dpi=130)
    figure.savefig(folder / "hash.svg", metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.hash", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    speeds, said = measure(options.rounds), machine()
    print(table(speeds))
    _OUT.mkdir(parents=True, exist_ok=True)
    found = {"machine": said, "host": speeds.host, "wasm": speeds.wasm, "node": speeds.node}
    (_OUT / "hash.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(speeds, _OUT)
    shutil.copyfile(_OUT / "hash.svg", _HERE / "hash.svg")
    (_HERE / "README.md").write_text(readme(speeds, said))


if __name__ == "__main__":
    main()
