"""The goals of the sync engine, as ratios and bounds, checked against a run's own figures.

A goal is a ratio of medians of one run, so a slow machine is slow for everybody. Ratios of wall
time are goals from 1 GiB up: with smaller databases they compare start-up times.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from .results import Cell, Key, Results

_US, _ZSTD, _THEM = "edgereplica", "edgereplica-zstd", "sqlite3_rsync"
_MB = 1e6
_PAGE_BYTES = 4096
_LARGE_MIB = 1024

_WALL = {
    "push first": ("push first", 0.6),
    "push, nothing changed": ("push, nothing changed", 0.1),
    "push 0.1 %": ("push 0.1 %", 0.12),
    "push 1 %": ("push 1 %", 0.12),
    "push 10 %": ("push 10 %", 0.25),
    "push 0.1 %, WAL emptied": ("push 0.1 %, WAL emptied", 0.15),
    "push 1 %, WAL emptied": ("push 1 %, WAL emptied", 0.15),
    "pull fresh": ("push first", 0.6),
    "pull 0.1 %": ("push 0.1 %", 0.12),
    "pull 1 %": ("push 1 %", 0.12),
    "pull 10 %": ("push 10 %", 0.25),
}
"""Our row: the row of sqlite3_rsync it is held against, and the ratio."""


@dataclass(frozen=True)
class Goal:
    what: str
    value: float
    limit: float
    unit: str

    @property
    def met(self) -> bool:
        return self.value <= self.limit


def goals(results: Results) -> dict[int, list[Goal]]:
    """By size in MiB; what a run did not measure has no goal."""
    found = {size: list(_of_size(size, cells)) for size, cells in results.sizes.items()}
    small, large = results.sizes.get(1024), results.sizes.get(4096)
    if small and large:
        found[4096] += _growth(small, large)
    return found


def _of_size(size_mib: int, cells: dict[Key, Cell]) -> Iterator[Goal]:
    for row, (reference, limit) in _WALL.items():
        ours, theirs = cells.get((row, _US)), cells.get((reference, _THEM))
        if ours and theirs and size_mib >= _LARGE_MIB:
            ratio = ours.wall_seconds / theirs.wall_seconds
            yield Goal(f"{row}: wall, of {_THEM}", ratio, limit, "x")
        for peer, most in ((_US, 1.0), (_ZSTD, 0.6 if reference == "push first" else 0.7)):
            mine = cells.get((row, peer))
            if mine and theirs and "nothing" not in row:
                ratio = mine.wire_bytes / theirs.wire_bytes
                yield Goal(f"{row}: wire of {peer}, of {_THEM}", ratio, most, "x")
    fresh, restore = cells.get(("pull fresh", _US)), cells.get(("pull fresh", "litestream"))
    if fresh and restore and size_mib >= _LARGE_MIB:
        ratio = fresh.wall_seconds / restore.wall_seconds
        yield Goal("pull fresh: wall, of litestream restore", ratio, 0.2, "x")
    nothing = cells.get(("push, nothing changed", _US))
    if nothing:
        yield Goal("push, nothing changed: wall", nothing.wall_seconds, 0.25, "s")
    forgetful = cells.get(("push 0.1 %, no sidecar", _US))
    if forgetful:
        yield Goal("push 0.1 %, no sidecar: wire", forgetful.wire_bytes / _MB, 1.5, "MB")
    if size_mib == 1 and (small := cells.get(("push 1 %", _US))):
        yield Goal("push 1 % of 1 MiB: wall", small.wall_seconds, 0.5, "s")
    ours_all = [cell for (_, peer), cell in cells.items() if peer in (_US, _ZSTD)]
    if ours_all and size_mib <= 1024:
        client = max(max(cell.client_bytes, default=0) for cell in ours_all)
        server = max(cell.server_bytes for cell in ours_all)
        yield Goal("client: peak memory of its largest process", client / _MB, 120, "MB")
        yield Goal("server: peak memory", server / _MB, 200, "MB")


def _growth(small: dict[Key, Cell], large: dict[Key, Cell]) -> Iterator[Goal]:
    pages = (4096 - 1024) * 1024 * 1024 / _PAGE_BYTES
    for end in ("client", "server"):
        growth = 0.0
        for key in small.keys() & large.keys():
            if key[1] == _US:
                growth = max(growth, (_peak(large[key], end) - _peak(small[key], end)) / pages)
        yield Goal(f"{end}: memory growth from 1 to 4 GiB", growth, 60, "bytes a page")


def _peak(cell: Cell, end: str) -> int:
    return max(cell.client_bytes, default=0) if end == "client" else cell.server_bytes
