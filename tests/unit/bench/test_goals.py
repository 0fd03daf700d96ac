"""Goals are judged by the ratios of the run itself."""

from bench.sync.goals import Goal, goals
from bench.sync.report import as_markdown
from bench.sync.results import Cell, Results, machine


def cell(wall: float, wire: int = 1000, client: int = 50_000_000, server: int = 90_000_000) -> Cell:
    return Cell(wall, [wall], wall, wire, [client], server)


def judged(cells: dict[tuple[str, str], Cell], size: int = 1024) -> dict[str, Goal]:
    return {goal.what: goal for goal in goals(Results({}, 1, {size: cells}))[size]}


def test_a_ratio_is_met_or_missed() -> None:
    slow, fast = ("push 1 %", "sqlite3_rsync"), ("push 1 %", "edgereplica")
    what = "push 1 %: wall, of sqlite3_rsync"
    assert judged({slow: cell(1.0), fast: cell(0.12)})[what].met
    assert not judged({slow: cell(1.0), fast: cell(0.13)})[what].met


def test_pulls_are_held_against_the_one_direction_of_sqlite3_rsync() -> None:
    cells = {("push first", "sqlite3_rsync"): cell(2.0), ("pull fresh", "edgereplica"): cell(1.0)}
    assert judged(cells)["pull fresh: wall, of sqlite3_rsync"].value == 0.5


def test_compression_has_goals_of_its_own() -> None:
    cells = {
        ("push first", "sqlite3_rsync"): cell(1, wire=1000),
        ("push first", "edgereplica"): cell(1, wire=900),
        ("push first", "edgereplica-zstd"): cell(1, wire=610),
    }
    found = judged(cells)
    assert found["push first: wire of edgereplica, of sqlite3_rsync"].met
    assert not found["push first: wire of edgereplica-zstd, of sqlite3_rsync"].met


def test_memory_growth_is_per_page() -> None:
    pages = 3 * 1024 * 1024 * 1024 // 4096
    key = ("push first", "edgereplica")
    sizes = {1024: {key: cell(1)}, 4096: {key: cell(4, server=90_000_000 + 61 * pages)}}
    found = {goal.what: goal for goal in goals(Results({}, 1, sizes))[4096]}
    assert found["client: memory growth from 1 to 4 GiB"].value == 0
    assert not found["server: memory growth from 1 to 4 GiB"].met


def test_the_table_has_every_row_and_peer() -> None:
    cells = {("push first", "rsync"): cell(1.5), ("push 1 %", "edgereplica"): cell(0.25)}
    text = as_markdown(Results(machine(), 3, {64: cells}))
    assert "| push first |  | 1.50; 0.001 |" in text
    assert "| push 1 % | 0.25; 0.001 |  |" in text
