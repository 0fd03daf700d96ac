"""Room is made for the pages that come, in whatever order, and not for those that are promised."""

from random import Random

import pytest

from edgereplica.app import page_entries
from edgereplica.app.page_entries import PageEntries
from edgereplica.events.errors import ProtocolViolation, RootMismatch

WIDTH = 4
AHEAD = 10


@pytest.fixture(autouse=True)
def _little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_entries, "PAGES_AHEAD_MAX", AHEAD)


def entry(page: int) -> bytes:
    return page.to_bytes(WIDTH, "big")


def entries(first: int, last: int) -> bytes:
    return b"".join(map(entry, range(first, last + 1)))


@pytest.mark.parametrize("held", [0, 1, 37, 100])
@pytest.mark.parametrize("order", ["ascending", "descending", *range(8)])
def test_any_order_leads_to_the_same(held: int, order: str | int) -> None:
    pieces = [(first, min(first + first % 5, 100)) for first in range(1, 101, 6)]
    covered = {page for first, last in pieces for page in range(first, last + 1)}
    pieces += [(page, page) for page in sorted(set(range(1, 101)) - covered)]
    pieces.sort(reverse=order == "descending")
    if isinstance(order, int):
        Random(order).shuffle(pieces)
    found = PageEntries(WIDTH, bytearray(b"\xff" * WIDTH * held))
    for first, last in pieces:
        found.put(first, entries(first, last))
    assert found.settle(100) == entries(1, 100)
    assert found.settle(100) == found.joined, "a second time"


def test_a_page_far_ahead_takes_no_room() -> None:
    found = PageEntries(WIDTH, bytearray(entries(1, 3)))
    found.put(1 << 26, entry(7))
    assert len(found.joined) == 3 * WIDTH
    with pytest.raises(RootMismatch, match="page 4 never came"):
        found.settle(1 << 26)
    assert len(found.joined) == 3 * WIDTH


def test_pages_that_jump_ahead_again_and_again_take_no_more_room_than_one() -> None:
    found = PageEntries(WIDTH)
    for page in range(AHEAD, 1000 * AHEAD, AHEAD):
        found.put(page, entry(page))
    assert len(found.joined) <= 2 * AHEAD * WIDTH


def test_what_never_came_takes_no_room() -> None:
    found = PageEntries(WIDTH)
    found.put(1, entries(1, 5))
    with pytest.raises(RootMismatch, match="page 6 never came"):
        found.settle(1 << 26)
    assert len(found.joined) == 5 * WIDTH


@pytest.mark.parametrize("without", [1, 3, 40, 100])
def test_one_page_may_have_no_content(without: int) -> None:
    """The lock-byte page: whether it lies within reach, far ahead or at the end."""
    found = PageEntries(WIDTH)
    for page in range(100, 0, -1):
        if page != without:
            found.put(page, entry(page))
    expected = bytearray(entries(1, 100))
    expected[(without - 1) * WIDTH : without * WIDTH] = bytes(WIDTH)
    assert found.settle(100) == expected


def test_a_page_that_comes_twice_is_the_last_that_came_or_refused() -> None:
    found = PageEntries(WIDTH)
    found.put(1, entries(1, 5))
    found.put(3, entry(9))
    assert found.settle(5)[2 * WIDTH : 3 * WIDTH] == entry(9)
    found.put(90, entry(90))
    found.put(90, entry(91))
    found.put(6, entries(6, 89))
    with pytest.raises(ProtocolViolation, match="twice"):
        found.settle(90)


def test_what_is_cut_off_is_forgotten() -> None:
    found = PageEntries(WIDTH, bytearray(entries(1, 50)))
    found.cut(20)
    assert found.settle(20) == entries(1, 20)
