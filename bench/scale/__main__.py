"""`python -m bench.scale`: all of it, as a table and as JSON in bench/out.

    --quick       small sizes: to see that it works
    --publish     copy the results to docs/bench

`DATABASE_URL` and `PAGE_STORE_URL` (with `SESSION_KEY`) choose what is measured; both should be
empty places of their own. Without them, data directories that are deleted afterwards.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from ..sync.results import machine
from . import crowd, histories, many
from .report import markdown

_OUT = Path(__file__).parent.parent / "out"
_DOCS = Path(__file__).parents[2] / "docs" / "bench"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--publish", action="store_true")
    options = parser.parse_args()
    quick = options.quick
    started = time.time()
    found: dict[str, Any] = {
        "machine": machine(),
        "repository": "PostgreSQL" if os.environ.get("DATABASE_URL") else "SQLite",
        "page_store": os.environ.get("PAGE_STORE_URL", "file").partition(":")[0],
        "load_before": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory(prefix="edgereplica-scale-") as directory:
        work = Path(directory)
        print("histories", flush=True)
        counts = [1, 20, 200] if quick else [1, 100, 10_000]
        found["histories"] = histories.measure(work / "histories", 2 if quick else 16, counts)
        print("many databases", flush=True)
        found["many"] = many.measure(work / "many", 200 if quick else 10_000, 100)
        shutil.rmtree(work / "many", ignore_errors=True)
        print("a crowd", flush=True)
        seconds = 3.0 if quick else 20.0
        found["crowd"] = crowd.measure(work, [1, 2, 4], 10 if quick else 50, seconds)
    found["load_after"] = os.getloadavg()[0]
    found["seconds"] = time.time() - started
    _OUT.mkdir(exist_ok=True)
    written = [(_OUT / "scale.json", json.dumps(found, indent=1) + "\n")]
    written.append((_OUT / "scale.md", markdown(found)))
    for path, text in written:
        path.write_text(text, encoding="utf-8")
        if options.publish:
            _DOCS.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, _DOCS / path.name)
    print(markdown(found))


if __name__ == "__main__":
    main()
