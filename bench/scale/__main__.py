"""`python -m bench.scale`: all of it, as a table and as JSON in bench/out.

    --scaled      start PostgreSQL and an S3 server, and measure on them
    --quick       small sizes: to see that it works
    --publish     copy the results to docs/bench

Without `--scaled`, `DATABASE_URL` and `PAGE_STORE_URL` (with `SESSION_KEY`) choose what is
measured; both should be empty places of their own. Without them, data directories that are deleted
afterwards.
"""

import argparse
import contextlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from ..sync.results import machine
from . import crowd, histories, many
from .crowd import Kind
from .places import Fresh, as_it_is, scaled_out
from .report import markdown

_OUT = Path(__file__).parent.parent / "out"
_DOCS = Path(__file__).parents[2] / "docs" / "bench"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale")
    parser.add_argument("--scaled", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--publish", action="store_true")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        fresh = stack.enter_context(scaled_out()) if options.scaled else as_it_is
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgereplica-scale-")))
        found = _measure(work, fresh, scaled=options.scaled, quick=options.quick)
    text = markdown(found)
    name = "scale-out" if options.scaled else "scale"
    _OUT.mkdir(exist_ok=True)
    for path, written in (
        (_OUT / f"{name}.json", json.dumps(found, indent=1) + "\n"),
        (_OUT / f"{name}.md", text),
    ):
        path.write_text(written, encoding="utf-8")
        if options.publish:
            _DOCS.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, _DOCS / path.name)
    print(text)


def _measure(work: Path, fresh: Fresh, *, scaled: bool, quick: bool) -> dict[str, Any]:
    started = time.time()
    found: dict[str, Any] = {
        "machine": machine(),
        "repository": "PostgreSQL" if scaled or os.environ.get("DATABASE_URL") else "SQLite",
        "page_store": _store(scaled),
        "scaled": scaled,
        "load_before": os.getloadavg()[0],
    }
    print("histories", flush=True)
    counts = [1, 20, 200] if quick else [1, 100, 3_000 if scaled else 10_000]
    with fresh(work / "histories", True):
        found["histories"] = histories.measure(work / "histories", 2 if quick else 16, counts)
    print("many databases", flush=True)
    with fresh(work / "many", True):
        found["many"] = many.measure(work / "many", 200 if quick else 10_000, 100)
    shutil.rmtree(work / "many", ignore_errors=True)
    print("a crowd", flush=True)
    runs: list[tuple[Kind, int]] = [("wire", 1), ("wire", 2), ("wire", 4), ("program", 1)]
    clients, seconds, rounds = (10, 2.0, 1) if quick else (50, 6.0, 3)
    found["crowd"] = crowd.measure(work, fresh, runs, clients, seconds, rounds)
    found["load_after"] = os.getloadavg()[0]
    found["seconds"] = time.time() - started
    return found


def _store(scaled: bool) -> str:
    if scaled:
        return "S3 (moto's server, an emulator)"
    return os.environ.get("PAGE_STORE_URL", "file").partition(":")[0]


if __name__ == "__main__":
    main()
