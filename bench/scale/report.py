"""The results as Markdown, with the goals of the issue beside them."""

from collections.abc import Sequence
from typing import Any


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows), ""]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms"


def _mib(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"


def goals(found: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """What is asked for: (what, goal, measured, whether it is met)."""
    histories, many = found["histories"], found["many"]
    push, pulls = histories["small_push"], histories["pulls"]
    one = pulls[0]["pull_seconds"]
    compacted = next(p for p in pulls if p["what"] == "compacted")["pull_seconds"]
    return [
        ("PUTs of a small push", "≤ 2", str(push["puts_max"]), push["puts_max"] <= 2),
        ("LISTs of a small push", "0", str(push["lists_max"]), push["lists_max"] == 0),
        (
            f"fresh pull after {pulls[-1]['versions']:,} versions and compaction, "
            "against that of one version",
            "≤ 1.3 ×",
            f"{compacted / one:.2f} ×",
            compacted <= 1.3 * one,
        ),
        (
            f"server start at {many['databases']:,} databases × {many['versions']} versions",
            "≤ 2 s",
            f"{many['start_seconds']:.2f} s",
            many["start_seconds"] <= 2,
        ),
        (
            "its memory",
            "≤ 250 MB",
            f"{many['server_bytes'] / 1e6:.0f} MB",
            many["server_bytes"] <= 250e6,
        ),
        (
            "opening one of them (the log's part)",
            "≤ 50 ms",
            _ms(many["open_seconds_p99"]) + " at the 99th percentile",
            many["open_seconds_p99"] <= 0.05,
        ),
    ]


def markdown(found: dict[str, Any]) -> str:
    machine, histories, many = found["machine"], found["histories"], found["many"]
    lines = [
        "# Scale",
        "",
        f"{found['repository']} and {found['page_store']}; "
        + ", ".join(f"{name}: {value}" for name, value in machine.items())
        + f"; load average {found['load_before']:.1f} before, {found['load_after']:.1f} after; "
        f"{found['seconds'] / 60:.1f} minutes. `make bench-scale` makes this page.",
        "",
        *_table(
            ("goal", "", "measured", ""),
            [
                (what, goal, said, "met" if met else "**not met**")
                for what, goal, said, met in goals(found)
            ],
        ),
        f"## A database of {histories['mib']} MiB, pushed in small changes (3 pages)",
        "",
        *_table(
            ("versions", "state", "open", "fresh pull", "GETs", "bytes read"),
            [
                (
                    f"{pull['versions']:,}",
                    pull["what"],
                    _ms(pull["open_seconds"]),
                    _ms(pull["pull_seconds"]),
                    f"{pull['gets']:,}",
                    _mib(pull["get_bytes"]),
                )
                for pull in histories["pulls"]
            ],
        ),
        *_history_lines(histories),
        f"## {many['databases']:,} databases with {many['versions']} versions each",
        "",
        f"Server start {many['start_seconds']:.2f} s, {many['server_bytes'] / 1e6:.0f} MB. "
        f"Opening one: {_ms(many['open_seconds'])}, 99th percentile "
        f"{_ms(many['open_seconds_p99'])}; after {many['opened']:,} of them the process has grown "
        f"by {many['opened_bytes'] / 1e6:.0f} MB. "
        + (
            f"The database file has {many['log_bytes'] / 1e6:,.0f} MB, "
            f"{many['log_bytes'] / many['databases'] / many['versions']:,.0f} bytes a version."
            if "log_bytes" in many
            else ""
        ),
        "",
        "## Clients that push small changes, on the same machine",
        "",
        *_table(
            ("workers", "clients", "pushes/s", "median", "99 %", "server memory", "client CPU"),
            [
                (
                    one["workers"],
                    one["clients"],
                    f"{one['pushes_per_second']:,.0f}",
                    _ms(one["latency_seconds"]),
                    _ms(one["latency_seconds_p99"]),
                    f"{one['server_bytes'] / 1e6:,.0f} MB",
                    f"{one['client_cpu_seconds']:.0f} s in {one['wall_seconds']:.0f} s",
                )
                for one in found["crowd"]
            ],
        ),
    ]
    return "\n".join(lines)


def _history_lines(histories: dict[str, Any]) -> list[str]:
    first, push = histories["first_push"], histories["small_push"]
    compaction, collection = histories["compaction"], histories["collection"]
    return [
        f"First push: {first['puts']} PUT, {first['lists']} LIST, {_mib(first['put_bytes'])}. "
        f"A small push: at most {push['puts_max']} PUT and {push['lists_max']} LIST, "
        f"{push['gets']:.2f} GET, {push['put_bytes'] / 1024:,.1f} KiB at the median "
        f"({push['put_bytes_mean'] / 1024:,.1f} on average, with the snapshots of its map), "
        f"{_ms(push['seconds'])} without a network.",
        "",
        f"Compaction: {compaction['seconds']:.1f} s, {compaction['segments_merged']:,} segments "
        f"merged, {compaction['maps_rewritten']:,} maps rewritten, {compaction['puts']:,} PUT, "
        f"{compaction['gets']:,} GET, {_mib(compaction['put_bytes'])} written. "
        f"Two runs of garbage collection then: {collection['seconds']:.1f} s, "
        f"{collection['lists']} LIST, {collection['gets']:,} GET, "
        f"{collection['deleted']:,} of {collection['objects_before']:,} objects deleted. "
        f"A pull of the version in the middle: {_ms(histories['old_version_pull_seconds'])}.",
        "",
    ]
