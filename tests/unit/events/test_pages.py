"""Runs and page sets against plain sets of numbers."""

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.strategies import runs

from edgereplica.events.errors import InvalidArgument
from edgereplica.events.limits import PAGE_NUMBER_MAX, PAGES_PER_DATABASE_MAX
from edgereplica.events.pages import (
    PageSet,
    Run,
    Runs,
    check_runs,
    count_pages,
    digest,
    lock_byte_page,
    merge_runs,
    page_size,
    pages_of,
    runs_of,
    split_runs,
    without_page,
)

# Around the borders of a page set's chunks (1,024 pages).
NEAR = st.integers(1, 40) | st.integers(1000, 1060) | st.integers(2040, 2060)
PAGES = st.sets(NEAR, max_size=60)


def test_page_sizes_are_powers_of_two_from_512_to_65536() -> None:
    allowed = []
    for value in range(-1, 70_000):
        try:
            allowed.append(page_size(value))
        except InvalidArgument:
            continue
    assert allowed == [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_digest_has_32_bytes(length: int) -> None:
    assert digest(bytes(32)) == bytes(32)
    with pytest.raises(InvalidArgument):
        digest(bytes(length))


def test_the_lock_byte_page_holds_byte_2_to_the_30() -> None:
    for shift in range(9, 17):
        size = 1 << shift
        page = lock_byte_page(size)
        assert (page - 1) * size <= 1 << 30 < page * size


@given(PAGES)
def test_runs_hold_exactly_the_pages(pages: set[int]) -> None:
    found = runs_of(sorted(pages))
    assert list(pages_of(found)) == sorted(pages)
    assert count_pages(found) == len(pages)
    assert check_runs(found) == found
    assert all(b[0] > a[1] + 1 for a, b in pairwise(found))


def test_page_0_is_not_lost_where_runs_are_made() -> None:
    """It is no page: whoever checks runs must still see it."""
    assert runs_of([0, 1, 5]) == ((0, 1), (5, 5))
    with pytest.raises(InvalidArgument):
        check_runs(runs_of([0]))


@given(runs(), st.integers(1, 50))
def test_split_runs_keep_order_and_bound(whole: Runs, most: int) -> None:
    groups = list(split_runs(whole, most))
    assert [p for group in groups for p in pages_of(group)] == list(pages_of(whole))
    assert all(count_pages(group) == most for group in groups[:-1])
    assert all(0 < count_pages(group) <= most for group in groups)


@given(st.lists(st.tuples(NEAR, NEAR).map(sorted).map(tuple), max_size=9), NEAR)
def test_merged_runs_hold_the_pages_of_all(pieces: list[Run], last: int) -> None:
    pages = {page for piece in pieces for page in pages_of([piece])}
    assert merge_runs(pieces, last) == runs_of(sorted(page for page in pages if page <= last))


@pytest.mark.parametrize(
    ("pieces", "last", "merged"),
    [
        ([], 9, ()),
        ([(1, 2), (4, 5)], 9, ((1, 2), (4, 5))),
        ([(3, 5), (1, 2)], 9, ((1, 5),)),
        ([(1, 5), (2, 3), (5, 5)], 9, ((1, 5),)),
        ([(1, 2), (4, 9)], 4, ((1, 2), (4, 4))),
        ([(1, 2), (4, 9)], 3, ((1, 2),)),
        ([(1, 9), (4, 9)], 3, ((1, 3),)),
        ([(2, 3), (4, 9)], 3, ((2, 3),)),
    ],
)
def test_merged_runs_are_the_shortest(pieces: list[Run], last: int, merged: Runs) -> None:
    assert merge_runs(pieces, last) == merged


def test_a_page_set_between_and_at_the_borders_of_its_chunks() -> None:
    pages = PageSet()
    pages.add([(1023, 1025), (2047, 2047), (4096, 6000)])
    assert (len(pages), pages.runs()) == (3 + 1 + 1905, ((1023, 1025), (2047, 2047), (4096, 6000)))
    pages.add([(1020, 1024)])
    assert len(pages) == 1 + 3 + 3 + 1 + 1904
    pages.discard([(1024, 1024), (3000, 3500), (5120, 6143)])
    assert pages.runs() == ((1020, 1023), (1025, 1025), (2047, 2047), (4096, 5119))
    assert not pages.take([(1020, 1023), (1026, 1026)])
    assert pages.take([(1020, 1023), (4096, 5119)])
    assert (len(pages), pages.runs()) == (2, ((1025, 1025), (2047, 2047)))
    assert [page for page in (1024, 1025, 1026, 2047, 99_999) if page in pages] == [1025, 2047]


@given(runs(), st.integers(1, 60))
def test_a_page_cut_out(whole: Runs, page: int) -> None:
    assert list(pages_of(without_page(whole, page))) == [p for p in pages_of(whole) if p != page]


@pytest.mark.parametrize("bad", [((0, 1),), ((2, 1),), ((1, 2), (2, 3)), ((5, 6), (1, 2))])
def test_runs_out_of_order_are_refused(bad: Runs) -> None:
    with pytest.raises(InvalidArgument):
        check_runs(bad)


def test_runs_beyond_the_last_page_are_refused() -> None:
    assert check_runs([(1, 9)], 9) == ((1, 9),)
    with pytest.raises(InvalidArgument):
        check_runs([(1, 9)], 8)


def test_what_is_no_page_size_digest_or_run_is_said() -> None:
    for call, say in (
        (lambda: page_size(1000), "page size 1000 is not a power of two from 512 to 65536"),
        (lambda: page_size(256), "page size 256 is not a power of two from 512 to 65536"),
        (lambda: digest(b"x"), "a digest has 32 bytes, not 1"),
        (
            lambda: check_runs([(3, 2)], 9),
            "run 3..2 is empty, out of order or outside 1..9",
        ),
    ):
        with pytest.raises(InvalidArgument) as caught:
            call()
        assert caught.value.message == say


def test_a_run_may_go_up_to_the_last_page_there_is() -> None:
    assert check_runs([(1, PAGE_NUMBER_MAX)]) == ((1, PAGE_NUMBER_MAX),)
    with pytest.raises(InvalidArgument):
        check_runs([(1, PAGE_NUMBER_MAX + 1)])


@pytest.mark.parametrize(("size", "page"), [(512, 2_097_153), (4096, 262_145), (65_536, 16_385)])
def test_the_lock_byte_page_is_a_whole_number(size: int, page: int) -> None:
    assert lock_byte_page(size) == page
    assert type(lock_byte_page(size)) is int


def test_a_page_cut_out_leaves_the_shortest_runs() -> None:
    runs = ((1, 1), (3, 5), (7, 9))
    assert without_page(runs, 1) == ((3, 5), (7, 9))
    assert without_page(runs, 2) == runs
    assert without_page(runs, 3) == ((1, 1), (4, 5), (7, 9))
    assert without_page(runs, 4) == ((1, 1), (3, 3), (5, 5), (7, 9))
    assert without_page(runs, 9) == ((1, 1), (3, 5), (7, 8))


class PageSetAgainstASet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pages = PageSet()
        self.model: set[int] = set()

    @rule(pages=PAGES)
    def add(self, pages: set[int]) -> None:
        self.pages.add(runs_of(sorted(pages)))
        self.model |= pages

    @rule(pages=PAGES)
    def discard(self, pages: set[int]) -> None:
        self.pages.discard(runs_of(sorted(pages)))
        self.model -= pages

    @rule(pages=PAGES)
    def take(self, pages: set[int]) -> None:
        wanted = runs_of(sorted(pages))
        assert self.pages.covers(wanted) == (pages <= self.model)
        assert self.pages.take(wanted) == (pages <= self.model)
        if pages <= self.model:
            self.model -= pages

    @invariant()
    def the_same(self) -> None:
        assert len(self.pages) == len(self.model)
        assert self.pages.runs() == runs_of(sorted(self.model))
        assert all((page in self.pages) == (page in self.model) for page in (1, 1024, 1025, 2048))

    @invariant()
    def no_memory_for_absent_pages(self) -> None:
        assert len(self.pages._chunks) == len({page >> 10 for page in self.model})


TestPageSet = PageSetAgainstASet.TestCase


@pytest.mark.parametrize("step", [1, 1025], ids=["every page", "one page in each chunk"])
def test_a_page_set_of_a_whole_database_stays_small(step: int) -> None:
    """Ranges that differ, 121 KB of them, took 65 MiB."""
    pages = PageSet()
    tracemalloc.start()
    try:
        if step == 1:
            pages.add([(1, PAGES_PER_DATABASE_MAX)])
        else:
            pages.add((n, n) for n in range(1, PAGES_PER_DATABASE_MAX, step))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 20 * 1024 * 1024
