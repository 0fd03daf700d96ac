"""Print a run as tables, write it as JSON, and draw it so that one glance compares the peers."""

import shutil
from collections.abc import Callable
from pathlib import Path

from .goals import goals
from .peers import PEERS
from .results import Cell, Results

_MB = 1e6
_COLORS = {kind.name: kind.color for kind in PEERS}
_FILES = ("sync.json", "sync.md", "sync.png", "sync.svg")
_SHORTEST_BAR = 1e-3


def write(results: Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = as_markdown(results)
    print(text)
    (folder / "sync.json").write_text(results.to_json())
    (folder / "sync.md").write_text(text)
    draw(results, folder)


def publish(folder: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        shutil.copyfile(folder / name, target / name)


def as_markdown(results: Results) -> str:
    said = results.machine
    lines = [
        f"Measured on {said['date']}: {said['processor']}, {said['cores']} cores, "
        f"{said['memory_gib']} GiB, {said['system']}, Python {said['python']}. Whole processes "
        f"with their start-up; medians of {results.repeats}; memory and wire from one more run.",
        "",
    ]
    checked = goals(results)
    for size, cells in results.sizes.items():
        lines += [f"## {size} MiB", "", "Wall time in s; MB on the wire", ""]
        lines += _table(cells, lambda c: f"{c.wall_seconds:.2f}; {c.wire_bytes / _MB:.3g}")
        lines += ["", "CPU of all processes in s; peak MB of each client process | of the server"]
        lines += [
            "",
            *_table(cells, _cost),
            "",
            "| goal | measured | at most | |",
            "|---|--:|--:|---|",
        ]
        for goal in checked[size]:
            mark = "met" if goal.met else "**missed**"
            value = f"{goal.value:.3g} {goal.unit}"
            lines.append(f"| {goal.what} | {value} | {goal.limit:g} {goal.unit} | {mark} |")
        lines.append("")
    return "\n".join(lines)


def _cost(cell: Cell) -> str:
    clients = " + ".join(f"{peak / _MB:.0f}" for peak in cell.client_bytes[:4])
    server = f" \\| {cell.server_bytes / _MB:.0f}" if cell.server_bytes else ""
    return f"{cell.cpu_seconds:.2f}; {clients}{server}"


def _table(cells: dict[tuple[str, str], Cell], show: Callable[[Cell], str]) -> list[str]:
    rows = list(dict.fromkeys(row for row, _ in cells))
    peers = [name for name in _COLORS if any(peer == name for _, peer in cells)]
    lines = ["| | " + " | ".join(peers) + " |", "|---|" + "--:|" * len(peers)]
    for row in rows:
        shown = [show(cells[row, peer]) if (row, peer) in cells else "" for peer in peers]
        lines.append(f"| {row} | " + " | ".join(shown) + " |")
    return lines


def draw(results: Results, folder: Path) -> None:
    """Bars of the largest database: wall time on the left, wire on the right, log scales."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "edgereplica"
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter

    size = max(results.sizes)
    cells = results.sizes[size]
    rows = list(dict.fromkeys(row for row, _ in cells))
    peers = [name for name in _COLORS if any(peer == name for _, peer in cells)]
    figure, axes = pyplot.subplots(1, 2, figsize=(13, 0.62 * len(rows) + 1.6), sharey=True)
    measures: list[tuple[str, Callable[[Cell], float]]] = [
        ("wall time, s", lambda cell: cell.wall_seconds),
        ("on the wire, MB", lambda cell: cell.wire_bytes / _MB),
    ]
    height = 0.8 / len(peers)
    for axis, (title, value) in zip(axes, measures, strict=True):
        for at, peer in enumerate(peers):
            held = [
                (n, value(cells[row, peer])) for n, row in enumerate(rows) if (row, peer) in cells
            ]
            places = [n + (at - (len(peers) - 1) / 2) * height for n, _ in held]
            lengths = [max(v, _SHORTEST_BAR) for _, v in held]  # a log scale has no zero
            bars = axis.barh(places, lengths, height, color=_COLORS[peer], label=peer)
            axis.bar_label(bars, [f"{v:.3g}" for _, v in held], fontsize=6, padding=2)
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.margins(x=0.12)
        axis.set_title(f"{title} (less is better)", fontsize=10)
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(rows)), rows)
    axes[0].invert_yaxis()
    said = results.machine
    figure.suptitle(f"A database of {size} MiB, {said['cores']} cores, {said['date']}", fontsize=11)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=len(peers), fontsize=9, loc="lower center", frameon=False)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(folder / "sync.png", dpi=130)
    figure.savefig(folder / "sync.svg", metadata={"Date": None})
    pyplot.close(figure)
