"""The results as Markdown, with the goals of the issue beside them."""

from collections.abc import Sequence
from typing import Any


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows), ""]


_SCALED = [
    "PostgreSQL with every commit synced and the S3 server were started beside it, on the same "
    "processors. What is counted of requests is what S3 would be asked for; what is timed on the "
    "store is timed on an emulator in Python. That is why the longest history has 3,000 versions "
    "here, and why the crowd's pages lie in a directory: the emulator would be what is measured.",
    "",
]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms"


def _mib(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"


def goals(found: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """What is asked for: (what, goal, measured, whether it is met)."""
    histories, many = found["histories"], found["many"]
    push, compared = histories["small_push"], histories["compared"]
    ratio = compared["compacted"] / compared["one"]
    return [
        ("PUTs of a small push", "≤ 2", str(push["puts_max"]), push["puts_max"] <= 2),
        ("LISTs of a small push", "0", str(push["lists_max"]), push["lists_max"] == 0),
        (
            f"fresh pull after {histories['pulls'][-1]['versions']:,} versions and compaction, "
            "against that of the same content pushed once",
            "≤ 1.3 ×",
            f"{ratio:.2f} ×",
            ratio <= 1.3,
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
        f"{found['seconds'] / 60:.1f} minutes. `make bench-scale"
        + (" SCALED=1" if found["scaled"] else "")
        + "` makes this page.",
        "",
        *(_SCALED if found["scaled"] else []),
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
            ("versions", "state", "open", "fresh pull", "its median", "GETs", "bytes read"),
            [
                (
                    f"{pull['versions']:,}",
                    pull["what"],
                    _ms(pull["open_seconds"]),
                    _ms(pull["pull_seconds"]),
                    _ms(pull["pull_seconds_median"]),
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
        f"The database has {many['log_bytes'] / 1e6:,.0f} MB, "
        f"{many['log_bytes'] / many['databases'] / many['versions']:,.0f} bytes a version.",
        "",
        "## Clients that push small changes, on the same machine",
        "",
        "*wire*: clients that do no more than the protocol asks; *program*: the real one, with its "
        "file. Processor time is for each push; the best of several rounds by turns"
        + (", and the page store is a directory here." if found["scaled"] else "."),
        "",
        *_table(
            (
                *("workers", "clients", "", "pushes/s", "median", "99 %"),
                *("server's CPU", "clients' CPU", "server's memory"),
            ),
            [
                (
                    one["workers"],
                    one["clients"],
                    one["kind"],
                    f"{one['pushes_per_second']:,.0f}",
                    _ms(one["latency_seconds"]),
                    _ms(one["latency_seconds_p99"]),
                    _ms(one["server_cpu_seconds"]),
                    _ms(one["client_cpu_seconds"]),
                    f"{one['server_bytes'] / 1e6:,.0f} MB",
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
