"""specs/protocol.md names the kinds, keys and figures that the code has."""

import re
from pathlib import Path

import pytest
from tests.wire_vectors import VALID

from edgereplica.events import limits
from edgereplica.fsm.machine import server_limits

TEXT = (Path(__file__).parents[2] / "specs" / "protocol.md").read_text(encoding="utf-8")
PARTS = dict(zip((1, 2), re.split(r"^## Version \d$", TEXT, flags=re.MULTILINE)[1:], strict=True))


@pytest.mark.parametrize("version", [1, 2])
def test_every_kind_and_key_has_its_row_in_order(version: int) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \| ", PARTS[version], re.MULTILINE))
    vectors = {vector.kind: vector.data or {} for vector in VALID[version]}
    assert set(rows) == set(vectors)
    for kind, data in vectors.items():
        if not data:
            continue
        described = re.findall(r"(?:^|, )(\w+) (?=u32|u64|bin|text|bool|float64|\[|\{|map|\")",
                               rows[kind])  # fmt: skip
        assert [key for key in described if key in data] == list(data), kind


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("16 MiB (`FRAME_BYTES_MAX`)", limits.FRAME_BYTES_MAX == 16 << 20),
        ("8 deep (`MSGPACK_DEPTH_MAX`", limits.MSGPACK_DEPTH_MAX == 8),
        (f"{limits.MSGPACK_ITEMS_MAX:,} values (`MSGPACK_ITEMS_MAX`)", True),
        ("1 MiB of text (`MSGPACK_TEXT_BYTES_MAX`)", limits.MSGPACK_TEXT_BYTES_MAX == 1 << 20),
        (f"{limits.RANGE_PAGES_MAX:,} pages (`RANGE_PAGES_MAX`)", True),
        (f"{limits.V1_ANNOUNCED_PAGES_MAX:,} pages safely (`V1_ANNOUNCED_PAGES_MAX`)", True),
        ("1 MiB decoded (`BATCH_DECODED_BYTES_MAX`)", limits.BATCH_DECODED_BYTES_MAX == 1 << 20),
        (f"(here {limits.ANNOUNCED_WINDOWS_MAX}, `ANNOUNCED_WINDOWS_MAX`", True),
        (f"each of at most {limits.HASH_WINDOW_PAGES:,} pages and 4 MiB", True),
        (", ".join(map(str, limits.DRILL_DOWN_PAGES)) + " pages a range", True),
        (f"| pages in a database | {limits.PAGES_PER_DATABASE_MAX:,} |", True),
        (f"| runs, ranges in one frame | {limits.RUNS_PER_FRAME_MAX:,} |", True),
        (f"| runs, ranges in one frame | {limits.RANGES_PER_FRAME_MAX:,} |", True),
        (f"page numbers) | {limits.PAGES_PER_FRAME_MAX:,} |", True),
        (f"of an error's message | {limits.ERROR_MESSAGE_CHARS_MAX:,} |", True),
        (f"at most {limits.VERSION_MESSAGE_CHARS_MAX:,} characters", True),
        (f"an error's code | {limits.ERROR_CODE_CHARS_MAX} |", True),
        (f"at most {limits.CONFLICT_RUNS_MAX:,}) between base and head", True),
        (f"{limits.SESSION_HELLO_SECONDS} seconds for `hello` (`SESSION_HELLO_SECONDS`)", True),
        (f"{limits.SESSION_IDLE_SECONDS} seconds for each further step", True),
        ("a day for the whole session", limits.SESSION_SECONDS_MAX == 86_400),
        ("4 MiB of frames wait to be handled (`INBOUND", limits.INBOUND_BYTES_MAX == 4 << 20),
        ("4 MiB from a server, more", limits.CLIENT_FRAME_BYTES_MAX == 4 << 20),
        ("4 MiB wait to be sent (`OUTBOUND", limits.OUTBOUND_BYTES_MAX == 4 << 20),
    ],
)
def test_a_figure_is_that_of_the_code(figure: str, value: bool) -> None:
    assert figure in TEXT
    assert value


def test_the_limits_told_in_hello_reply_are_named() -> None:
    for name in server_limits():
        assert f"`{name}`" in TEXT
