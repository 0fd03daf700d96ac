"""Page maps, their written form, and the table in which a push gathers its entries."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereplica.adapters import page_table
from edgereplica.adapters.block_table import BlockTable, no_rows
from edgereplica.adapters.map_format import decode_map, encode_delta, encode_snapshot, map_key
from edgereplica.adapters.page_arrays import pages_of_runs
from edgereplica.adapters.page_map import MapDelta, PageMap
from edgereplica.adapters.page_table import Entries, PageTable
from edgereplica.events.errors import InvalidArgument, StorageError
from edgereplica.events.pages import pages_of

SIZE = 4096
ROOT, PARENT = blake3(b"root").digest(), blake3(b"parent").digest()
Model = dict[int, tuple[bytes, str, int, int]]
"""page -> (digest, segment, offset of its block, slot)"""


def digest(seed: int) -> bytes:
    return blake3(seed.to_bytes(4)).digest()


def table(blocks: list[tuple[str, int]]) -> BlockTable:
    rows = np.concatenate([no_rows(), np.zeros(len(blocks), dtype=no_rows().dtype)])
    segments = list(dict.fromkeys(segment for segment, _ in blocks))
    for n, (segment, offset) in enumerate(blocks, start=1):
        rows[n]["segment"], rows[n]["offset"] = segments.index(segment), offset
        rows[n]["pages"], rows[n]["stored"] = 256, 1000 + n
    return BlockTable(rows, tuple(segments))


def columns(entries: list[tuple[bytes, str, int, int]]) -> tuple[Entries, BlockTable]:
    blocks = list(dict.fromkeys((segment, offset) for _, segment, offset, _ in entries))
    return (
        Entries(
            np.frombuffer(b"".join(e[0] for e in entries), np.uint8).reshape(-1, 32).copy(),
            np.array([blocks.index((e[1], e[2])) + 1 for e in entries], dtype=np.uint32),
            np.array([e[3] for e in entries], dtype=np.uint16),
        ),
        table(blocks),
    )


def page_map(model: Model) -> PageMap:
    assert list(model) == list(range(1, len(model) + 1))
    return PageMap(SIZE, *columns(list(model.values()))[0], columns(list(model.values()))[1])


def delta(changed: Model, page_count: int) -> MapDelta:
    pages = np.array(sorted(changed), dtype=np.uint32)
    entries, blocks = columns([changed[n] for n in sorted(changed)])
    return MapDelta(SIZE, page_count, pages, *entries, blocks)


def model_of(page_map: PageMap) -> Model:
    names = page_map.table.segments
    rows = page_map.table.rows[page_map.block]
    return {
        n + 1: (
            page_map.digests[n].tobytes(),
            names[rows["segment"][n]],
            int(rows["offset"][n]),
            int(page_map.slot[n]),
        )
        for n in range(page_map.page_count)
    }


entries = st.tuples(
    st.integers(0, 40).map(digest),
    st.sampled_from(["s1", "s2", "s3"]),
    st.sampled_from([40, 5000, 2**33]),
    st.integers(0, 255),
)
models = st.lists(entries, max_size=30).map(lambda held: dict(enumerate(held, start=1)))


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Model, Model]]:
    """Versions after the first, each with what it changed; a version holds all pages."""
    current, steps = draw(models), []
    steps.append((current, dict(current)))
    for _ in range(draw(st.integers(0, 4))):
        count = draw(st.integers(0, 30))
        changed = draw(st.dictionaries(st.integers(1, max(1, count)), entries, max_size=5))
        changed = {n: e for n, e in changed.items() if n <= count}
        for n in range(len(current) + 1, count + 1):
            changed.setdefault(n, draw(entries))
        current = {n: changed.get(n) or current[n] for n in range(1, count + 1)}
        steps.append((current, changed))
    return steps


@settings(max_examples=150, deadline=None)
@given(histories())
def test_snapshots_and_deltas_tell_the_same(steps: list[tuple[Model, Model]]) -> None:
    maps = [page_map(model) for model, _ in steps]
    deltas = [delta(changed, len(model)) for model, changed in steps[1:]]
    step_by_step = maps[0]
    for (model, _), one in zip(steps[1:], deltas, strict=True):
        step_by_step = step_by_step.overlay(one)
        assert model_of(step_by_step) == model
        assert model_of(step_by_step.pruned()) == model
        assert set(step_by_step.segments()) == {entry[1] for entry in model.values()}
    at_once = maps[0].overlay(*deltas)
    assert model_of(at_once) == steps[-1][0]
    assert at_once.root() == maps[-1].root() == step_by_step.root()
    assert at_once.lineage == step_by_step.lineage
    for held in (*maps, at_once):
        again = decode_map(b"".join(encode_snapshot(held, ROOT)), "k")
        assert isinstance(again.content, PageMap)
        assert model_of(again.content) == model_of(held)
        assert (again.root, again.parent_root) == (ROOT, bytes(32))
    for one, (model, changed) in zip(deltas, steps[1:], strict=True):
        decoded = decode_map(b"".join(encode_delta(one, ROOT, PARENT)), "k")
        assert isinstance(decoded.content, MapDelta)
        assert decoded.content.pages.tolist() == sorted(changed)
        assert decoded.content.page_count == len(model)
        assert (decoded.root, decoded.parent_root) == (ROOT, PARENT)


@settings(max_examples=150, deadline=None)
@given(models, models)
def test_differences_are_those_of_the_models(left: Model, right: Model) -> None:
    one, other = page_map(left), page_map(right)
    differing = {n for n, e in left.items() if n not in right or right[n][0] != e[0]}
    assert set(pages_of(one.diff(other))) == differing
    assert pages_of_runs(one.diff(other)).tolist() == sorted(differing)
    rebuilt = other.resized(one.page_count).overlay(one.delta_from(one.changed_pages(other)))
    assert rebuilt.root() == one.root()


def test_resizing() -> None:
    held = page_map({n: (digest(n), "s1", 40, n) for n in range(1, 11)})
    assert held.resized(4).root() == blake3(b"".join(digest(n) for n in range(1, 5))).digest()
    grown = held.resized(12)
    assert grown.missing() == ((11, 12),)
    assert grown.digests[10:].tobytes() == bytes(64)
    assert held.missing() == ()
    for first, last in ((0, 3), (3, 2), (9, 11)):
        with pytest.raises(InvalidArgument):
            held.range_hash(first, last)


def test_a_map_is_not_written_to() -> None:
    held = page_map({n: (digest(n), "s1", 40, n) for n in range(1, 11)})
    with pytest.raises(ValueError, match="read-only"):
        held.digests[0] = 0
    with pytest.raises(InvalidArgument):
        held.overlay(replace(delta({}, 1), page_size=512))


def test_a_map_costs_38_bytes_a_page() -> None:
    count = 100_000
    held = PageMap(
        SIZE,
        np.ones((count, 32), dtype=np.uint8),
        np.ones(count, dtype=np.uint32),
        np.arange(count, dtype=np.uint16) % np.uint16(256),
        table([("s1", 40)]),
    )
    assert held.nbytes < 39 * count
    assert sum(len(part) for part in encode_snapshot(held, ROOT)) < 33 * count


def test_any_damage_to_a_map_object_is_found() -> None:
    held = page_map({n: (digest(n), f"s{n % 3}", 40 * n, n) for n in range(1, 20)})
    sound = b"".join(encode_snapshot(held, ROOT))
    assert decode_map(sound, "k").root == ROOT
    damaged = [sound[:at] + bytes([sound[at] ^ 4]) + sound[at + 1 :] for at in range(len(sound))]
    damaged += [sound[:length] for length in range(len(sound))] + [sound + b"\0"]
    for data in damaged:
        with pytest.raises(StorageError) as caught:
            decode_map(data, "k")
        assert caught.value.details == {"key": "k", "reason": "corrupt"}


@pytest.mark.parametrize(
    "change",
    [
        {"block": [1, 2, 4]},
        {"slot": [0, 1, 256]},
        {"pages": [1, 3, 3]},
        {"pages": [0, 1, 2]},
        {"pages": [5, 6, 11]},
        {"page_count": 2},
    ],
)
def test_entries_that_cannot_be_are_refused_though_the_checksum_is_right(
    change: dict[str, Any],
) -> None:
    good = {
        "page_size": SIZE,
        "page_count": 10,
        "pages": [2, 4, 9],
        "digests": np.zeros((3, 32), dtype=np.uint8),
        "block": [1, 2, 3],
        "slot": [0, 1, 255],
        "table": table([("s1", 40), ("s1", 5000), ("s2", 40)]),
    }

    def encoded(fields: dict[str, Any]) -> bytes:
        kinds = {"pages": np.uint32, "block": np.uint32, "slot": np.uint16}
        arrays = {name: np.array(fields[name], dtype=kind) for name, kind in kinds.items()}
        return b"".join(encode_delta(MapDelta(**{**fields, **arrays}), ROOT, PARENT))

    assert decode_map(encoded(good), "k").parent_root == PARENT
    with pytest.raises(StorageError):
        decode_map(encoded(good | change), "k")


def test_map_keys_differ_for_the_same_version() -> None:
    assert map_key("d1", 7, "u1") == "databases/d1/maps/7-u1"


# --- the table of a push --------------------------------------------------------------------------


def some_entries(pages: list[int], seed: int) -> Entries:
    return Entries(
        np.frombuffer(b"".join(digest(n + seed) for n in pages), np.uint8).reshape(-1, 32),
        np.array([n + seed for n in pages], dtype=np.uint32),
        np.array([(n + seed) % 9 for n in pages], dtype=np.uint16),
    )


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sets(st.integers(1, 60), min_size=1, max_size=12), st.integers(0, 50)),
        max_size=25,
    ),
    st.sets(st.integers(1, 70), min_size=1),
    st.integers(1, 5),
)
def test_the_table_is_a_dictionary(
    puts: list[tuple[set[int], int]], asked: set[int], side_max: int
) -> None:
    held: dict[int, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_table, "_SIDE_PAGES_MAX", side_max)
        patch.setattr(page_table, "_GROWTH_PAGES_MIN", 1)
        pushed = PageTable()
        for pages, seed in puts:
            pushed.put(np.array(sorted(pages), dtype=np.uint32), some_entries(sorted(pages), seed))
            held |= dict.fromkeys(pages, seed)
            assert len(pushed) == len(held)
        numbers = sorted(asked)
        known, found = pushed.get(np.array(numbers, dtype=np.uint32))
        assert known.tolist() == [n in held for n in numbers]
        for at, number in enumerate(numbers):
            if number in held:
                assert found.digests[at].tobytes() == digest(number + held[number])
                assert found.block[at] == number + held[number]
            else:
                assert not found.digests[at].any()
        assert pushed.pages_within(10, 30).tolist() == sorted(n for n in held if 10 <= n <= 30)
        pages, all_entries = pushed.columns()
        assert pages.tolist() == sorted(held)
        assert all_entries.slot.tolist() == [(n + held[n]) % 9 for n in sorted(held)]
        assert all_entries.digests.tobytes() == b"".join(digest(n + held[n]) for n in sorted(held))
