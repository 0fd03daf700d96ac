"""What a benchmark run found, and how it is kept as JSON."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Key = tuple[str, str]
"""(row, peer)"""


@dataclass(frozen=True)
class Cell:
    """One row of one peer: medians of the timed runs, memory and wire of the watched one."""

    wall_seconds: float
    wall_seconds_all: list[float]
    cpu_seconds: float
    wire_bytes: int
    client_bytes: list[int]
    server_bytes: int


@dataclass
class Results:
    machine: dict[str, Any]
    repeats: int
    sizes: dict[int, dict[Key, Cell]]
    """By size in MiB."""

    def to_json(self) -> str:
        sizes = {
            f"{size} MiB": [
                {"row": row, "peer": peer, **asdict(cell)} for (row, peer), cell in cells.items()
            ]
            for size, cells in self.sizes.items()
        }
        document = {"machine": self.machine, "repeats": self.repeats, "sizes": sizes}
        return json.dumps(document, indent=1) + "\n"


def machine() -> dict[str, Any]:
    """What the figures depend on; nothing that names the host."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
