"""A v1 peer that behaves: what it pushes is what is stored, and what is stored is what it pulls."""

import asyncio
import random
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import pytest
from tests.interop.conftest import Target
from tests.interop.v1_peer import PAGE_SIZE, Pulled, pull, push, session

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def make(count: int, seed: int = 1, size: int = PAGE_SIZE) -> list[bytes]:
    """`count` opaque pages."""
    dice = random.Random(seed)
    return [dice.randbytes(size) for _ in range(count)]


def edited(pages: Sequence[bytes], numbers: Sequence[int], seed: int = 99) -> list[bytes]:
    new = list(pages)
    for number, page in zip(numbers, make(len(numbers), seed, len(pages[0])), strict=True):
        new[number - 1] = page
    return new


def stored(target: Target) -> list[bytes]:
    """What the server holds, as a fresh v1 pull sees it."""
    pulled = run(pull(target.url, target.pull))
    check_ended_well(pulled)
    return pulled.pages


def check_ended_well(pulled: Pulled) -> None:
    kind, data = pulled.ending.messages[-1]
    assert kind == "sync_complete", pulled.ending.messages[-1]
    assert set(data) == {"pages_transferred", "bytes_transferred"}
    assert data["pages_transferred"] == len(pulled.received)
    assert pulled.ending.close_code == 1000
    assert len(pulled.pages) == pulled.reply["max_page"]


@pytest.mark.parametrize("data_pages", [1, 7])
@pytest.mark.parametrize("sent_before_complete", [0, 20])
def test_a_push_in_page_frames_or_batches_is_stored_exactly(
    target: Target, data_pages: int, sent_before_complete: int
) -> None:
    pages = make(20)
    pushed = run(
        push(
            target.url,
            target.push,
            pages,
            data_pages=data_pages,
            sent_before_complete=sent_before_complete,
        )
    )
    assert pushed.reply["max_page"] == 0
    assert sorted(pushed.sent) == list(range(1, 21))
    assert pushed.sync_complete == {
        "pages_transferred": 20,
        "bytes_transferred": 20 * PAGE_SIZE,
    }
    assert pushed.ending is not None
    assert pushed.ending.close_code == 1000
    assert stored(target) == pages


@pytest.mark.parametrize("on_mismatch", ["data", "hash"])
@pytest.mark.parametrize("span", [1, 8, 20])
def test_a_push_announced_in_ranges_is_stored_exactly(
    target: Target, span: int, on_mismatch: Any
) -> None:
    pages = make(20)
    pushed = run(
        push(
            target.url,
            target.push,
            pages,
            span=span,
            on_mismatch=on_mismatch,
            sent_before_complete=20,
        )
    )
    assert pushed.sync_complete["pages_transferred"] == 20
    changed = edited(pages, [3, 17])
    second = run(push(target.url, target.push, changed, span=span, on_mismatch="data"))
    assert {3, 17} <= set(second.sent)
    assert stored(target) == changed


def test_hello_with_max_page_zero_does_not_mean_an_empty_database(target: Target) -> None:
    pages = make(5)
    run(push(target.url, target.push, pages, max_page=0))
    assert stored(target) == pages
    pulled = run(pull(target.url, target.pull, pages, max_page=0))
    check_ended_well(pulled)
    assert pulled.received == []


def test_only_differing_pages_are_asked_for(target: Target) -> None:
    pages = make(30)
    run(push(target.url, target.push, pages))
    changed = edited(pages, [2, 3, 29])
    pushed = run(push(target.url, target.push, changed))
    assert pushed.reply["max_page"] == 30
    assert sorted(pushed.sent) == [2, 3, 29]
    assert stored(target) == changed


def test_a_push_of_fewer_pages_truncates(target: Target) -> None:
    pages = make(12)
    run(push(target.url, target.push, pages))
    pushed = run(push(target.url, target.push, pages[:4]))
    assert pushed.sent == []
    assert stored(target) == pages[:4]
    longer = run(pull(target.url, target.pull, pages))
    check_ended_well(longer)
    assert longer.pages == pages[:4]


def test_a_push_of_more_pages_grows(target: Target) -> None:
    pages = make(12)
    run(push(target.url, target.push, pages[:4]))
    pushed = run(push(target.url, target.push, pages))
    assert sorted(pushed.sent) == list(range(5, 13))
    assert stored(target) == pages


def test_a_changed_page_size_replaces_everything(target: Target) -> None:
    run(push(target.url, target.push, make(6)))
    small = make(9, seed=2, size=1024)
    pushed = run(push(target.url, target.push, small, page_size=1024))
    assert len(pushed.sent) == 9
    pulled = run(pull(target.url, target.pull, page_size=1024))
    check_ended_well(pulled)
    assert (pulled.reply["page_size"], pulled.pages) == (1024, small)
    other = run(pull(target.url, target.pull, page_size=4096))
    assert (other.reply["page_size"], other.pages) == (1024, small)


@pytest.mark.parametrize("push_first", [False, True])
def test_an_empty_session_changes_nothing(target: Target, push_first: bool) -> None:
    pages = make(3) if push_first else []
    if pages:
        run(push(target.url, target.push, pages))
    pushed = run(push(target.url, target.push, []))
    assert pushed.sync_complete == {"pages_transferred": 0, "bytes_transferred": 0}
    assert pushed.reply["max_page"] == len(pages)
    assert stored(target) == pages


def test_the_same_push_again_asks_for_nothing(target: Target) -> None:
    pages = make(10)
    run(push(target.url, target.push, pages))
    pushed = run(push(target.url, target.push, pages))
    assert pushed.sent == []
    assert pushed.sync_complete["pages_transferred"] == 0
    assert stored(target) == pages


def test_a_pull_gets_what_it_lacks_and_what_differs(target: Target) -> None:
    pages = make(10)
    run(push(target.url, target.push, pages))
    pulled = run(pull(target.url, target.pull, edited(pages, [2, 5])[:7]))
    check_ended_well(pulled)
    assert sorted(pulled.received) == [2, 5, 8, 9, 10]
    assert pulled.pages == pages


def test_a_pull_drills_down_from_ranges(target: Target) -> None:
    pages = make(24)
    run(push(target.url, target.push, pages))
    local = edited(pages, [10])
    pulled = run(pull(target.url, target.pull, local, span=8, mismatches_before_complete=8))
    check_ended_well(pulled)
    assert pulled.received == [10]
    assert pulled.pages == pages


def test_a_pull_beside_an_open_push_sees_the_old_version(target: Target) -> None:
    old, new = make(6), make(6, seed=2)
    run(push(target.url, target.push, old))

    async def scenario() -> Pulled:
        async with session(target.url, target.push) as pushing:
            await pushing.hello()
            for number, page in enumerate(new, 1):
                await pushing.announce(number, page)
            kind, data = await pushing.receive()
            assert kind.startswith(("request_page", "hash_mismatch")), (kind, data)
            await pushing.send("page_data", page_no=1, data=new[0])
            return await pull(target.url, target.pull)

    assert run(scenario()).pages == old
    assert stored(target) == old


def test_two_pushes_at_once_leave_one_of_them_whole(target: Target) -> None:
    one, two = make(40, seed=1), make(40, seed=2)

    async def scenario() -> None:
        await asyncio.gather(push(target.url, target.push, one), push(target.url, target.push, two))

    run(scenario())
    assert stored(target) in (one, two)


def test_pages_of_another_database_are_not_seen(service: Any, target: Target) -> None:
    other = service.fresh()
    run(push(target.url, target.push, make(4)))
    assert stored(other) == []
