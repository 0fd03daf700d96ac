"""A v1 peer that misbehaves is told why, cut off, and has changed nothing.

Each test first stores a version, then attacks, then compares what is stored, byte for byte.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack
import pytest
from tests.interop.conftest import Target
from tests.interop.test_v1 import edited, make, run, stored
from tests.interop.v1_peer import (
    PAGE_SIZE,
    Ending,
    Session,
    decode,
    encode,
    page_hash,
    pull,
    push,
    session,
)
from websockets.exceptions import InvalidStatus

PAGES = make(8)
EVIL = make(8, seed=666)
U32_MAX = 0xFFFF_FFFF
REFUSED = {1002, 1008}
"""Protocol errors close with 1002; a token that does not allow the frame may close with 1008."""

Attack = Callable[[Session], Awaitable[Any]]


@pytest.fixture
def held(target: Target) -> Target:
    """A target whose head is PAGES."""
    run(push(target.url, target.push, PAGES))
    return target


def attacked(target: Target, token: str, attack: Attack, *, hello: bool = True) -> Ending:
    async def scenario() -> Ending:
        async with session(target.url, token) as peer:
            if hello:
                await peer.hello(max_page=8)
            await attack(peer)
            return await peer.ending()

    return run(scenario())


def check_refused(ending: Ending, codes: set[int] | None = None) -> None:
    assert ending.error, ending
    assert ending.close_code in (codes or REFUSED), ending


def raw(*frames: bytes | str) -> Attack:
    async def attack(peer: Session) -> None:
        for frame in frames:
            await peer.send_frame(frame)

    return attack


def frame(kind: str, **data: Any) -> bytes:
    return encode(kind, data)


def nested(depth: int) -> bytes:
    """A hello whose data is arrays within arrays."""
    head: bytes = msgpack.packb("kind") + msgpack.packb("hello") + msgpack.packb("data")
    return b"\x01\x82" + head + b"\x91" * depth + b"\x00"


UNDECODABLE = {
    "empty frame": b"",
    "version byte alone": b"\x01",
    "version 0": b"\x00" + frame("hello", protocol_version=1, page_size=4096, max_page=0)[1:],
    "version 255": b"\xff" + frame("hello", protocol_version=1, page_size=4096, max_page=0)[1:],
    "garbage": b"\x01\xc1\xff\x00garbage",
    "invalid utf-8": b"\x01\x81\xa4kind\xa2\xff\xfe",
    "truncated": frame("hello", protocol_version=1, page_size=4096, max_page=0)[:-3],
    "trailing bytes": frame("hello", protocol_version=1, page_size=4096, max_page=0) + b"\x00",
    "a claim of four billion elements": b"\x01\xdd\xff\xff\xff\xff",
    "a number": b"\x01" + msgpack.packb(7),
    "a list": b"\x01" + msgpack.packb(["hello"]),
    "no kind": b"\x01" + msgpack.packb({"data": {}}),
    "unknown kind": frame("drop_table"),
    "a kind only servers send": frame("sync_complete", pages_transferred=0, bytes_transferred=0),
    "shallow nesting": nested(40),
    "deep nesting": nested(100_000),
    "missing field": frame("hello", protocol_version=1, page_size=4096),
    "text for a number": frame("hello", protocol_version=1, page_size="4096", max_page=0),
    "negative": frame("hello", protocol_version=1, page_size=4096, max_page=-1),
    "beyond u32": frame("hello", protocol_version=1, page_size=4096, max_page=2**32),
    "a float": frame("hello", protocol_version=1, page_size=4096.0, max_page=0),
    "a bool": frame("hello", protocol_version=True, page_size=4096, max_page=0),
    "another protocol version": frame("hello", protocol_version=9, page_size=4096, max_page=0),
    "page size 0": frame("hello", protocol_version=1, page_size=0, max_page=0),
    "page size 1000": frame("hello", protocol_version=1, page_size=1000, max_page=0),
    "page size 131072": frame("hello", protocol_version=1, page_size=131_072, max_page=0),
}


@pytest.mark.parametrize("name", UNDECODABLE)
def test_a_first_frame_that_is_no_hello_is_refused(held: Target, name: str) -> None:
    ending = attacked(held, held.push, raw(UNDECODABLE[name]), hello=False)
    check_refused(ending, {1002})
    assert stored(held) == PAGES


AFTER_HELLO = {
    **UNDECODABLE,
    "another version byte": encode("complete", version=2),
    "hello again": frame("hello", protocol_version=1, page_size=4096, max_page=8),
    "a short hash": frame("page_hash", page_no=1, hash=b"\x00" * 31),
    "a hash as text": frame("page_hash", page_no=1, hash="0" * 32),
    "page 0": frame("page_hash", page_no=0, hash=b"\x00" * 32),
    "page 2**32-1": frame("page_hash", page_no=U32_MAX, hash=b"\x00" * 32),
    "range 0 to 2**32-1": frame(
        "page_hash_batch", start_page=0, end_page=U32_MAX, combined_hash=b"\x00" * 32
    ),
    "range 1 to 2**32-1": frame(
        "page_hash_batch", start_page=1, end_page=U32_MAX, combined_hash=b"\x00" * 32
    ),
    "range backwards": frame(
        "page_hash_batch", start_page=5, end_page=2, combined_hash=b"\x00" * 32
    ),
    "data never announced": frame("page_data", page_no=1, data=EVIL[0]),
    "data beyond the end": frame("page_data", page_no=1_000_000, data=EVIL[0]),
    "a batch never announced": frame(
        "page_data_batch", pages=[{"page_no": n, "data": EVIL[n - 1]} for n in (1, 2)]
    ),
    "a batch of nonsense": frame("page_data_batch", pages=[1, 2]),
    "a request from a client": frame("request_page", page_no=1),
}


@pytest.mark.parametrize("direction", ["push", "pull"])
@pytest.mark.parametrize("name", AFTER_HELLO)
def test_a_bad_frame_after_hello_is_refused(held: Target, name: str, direction: str) -> None:
    token = held.push if direction == "push" else held.pull
    check_refused(attacked(held, token, raw(AFTER_HELLO[name])))
    assert stored(held) == PAGES


@pytest.mark.parametrize("hello", [False, True])
@pytest.mark.parametrize("text", ["", "hello", '{"kind": "complete"}'])
def test_text_frames_close_with_1003(held: Target, text: str, hello: bool) -> None:
    check_refused(attacked(held, held.push, raw(text), hello=hello), {1003})
    assert stored(held) == PAGES


@pytest.mark.parametrize(
    "sent",
    [
        frame("page_data", page_no=1, data=EVIL[0]),
        frame("page_data_batch", pages=[{"page_no": 1, "data": EVIL[0]}]),
    ],
    ids=["page_data", "page_data_batch"],
)
def test_a_pull_token_cannot_write(held: Target, sent: bytes) -> None:
    async def attack(peer: Session) -> None:
        await peer.announce(1, EVIL[0])
        kind, data = await peer.receive()
        assert (kind, data) == ("page_data", {"page_no": 1, "data": PAGES[0]})
        await peer.send_frame(sent)
        await peer.send("complete")

    check_refused(attacked(held, held.pull, attack))
    assert stored(held) == PAGES


async def _announce_one(peer: Session, number: int = 3) -> None:
    """Announce the head with one page exchanged, and wait until it is asked for."""
    for at, page in enumerate(edited(PAGES, [number], seed=666), 1):
        await peer.announce(at, page)
    kind, data = await peer.receive()
    assert kind in ("request_page", "request_pages", "hash_mismatch", "hash_mismatch_batch")
    assert number in (data.get("page_numbers") or [data.get("page_no")])


@pytest.mark.parametrize("number", [1, 4, 8, 9])
def test_only_requested_pages_are_accepted(held: Target, number: int) -> None:
    async def attack(peer: Session) -> None:
        await _announce_one(peer, 3)
        await peer.send("page_data", page_no=number, data=make(1, seed=666)[0])
        await peer.send("page_data", page_no=3, data=make(1, seed=666)[0])
        await peer.send("complete")

    check_refused(attacked(held, held.push, attack))
    assert stored(held) == PAGES


def test_an_unrequested_page_hidden_in_a_batch_is_refused(held: Target) -> None:
    async def attack(peer: Session) -> None:
        await _announce_one(peer, 3)
        good = {"page_no": 3, "data": make(1, seed=666)[0]}
        await peer.send("page_data_batch", pages=[good, {"page_no": 5, "data": EVIL[4]}])
        await peer.send("complete")

    check_refused(attacked(held, held.push, attack))
    assert stored(held) == PAGES


def test_a_page_sent_twice_is_refused(held: Target) -> None:
    async def attack(peer: Session) -> None:
        await _announce_one(peer, 3)
        for page in (make(1, seed=666)[0], EVIL[7]):
            await peer.send("page_data", page_no=3, data=page)
        await peer.send("complete")

    check_refused(attacked(held, held.push, attack))
    assert stored(held) == PAGES


@pytest.mark.parametrize(
    "data",
    [EVIL[5], b"", b"short", EVIL[0] + b"\x00", EVIL[0] * 2],
    ids=["other content", "empty", "short", "one too long", "two pages"],
)
def test_data_that_is_not_what_was_announced_is_refused(held: Target, data: bytes) -> None:
    async def attack(peer: Session) -> None:
        await _announce_one(peer, 3)
        await peer.send("page_data", page_no=3, data=data)
        await peer.send("complete")

    check_refused(attacked(held, held.push, attack))
    assert stored(held) == PAGES


def test_a_gap_in_what_was_announced_is_never_a_version(target: Target) -> None:
    async def attack(peer: Session) -> None:
        for number in (1, 2, 4):
            await peer.announce(number, EVIL[number - 1])
        asked: set[int] = set()
        while asked != {1, 2, 4}:
            _, data = await peer.receive()
            asked |= set(data.get("page_numbers") or [data.get("page_no")])
        for number in (1, 2, 4):
            await peer.send("page_data", page_no=number, data=EVIL[number - 1])
        await peer.send("complete")

    check_refused(attacked(target, target.push, attack))
    assert stored(target) == []


@pytest.mark.parametrize(
    "late",
    [
        encode("complete"),
        frame("hello", protocol_version=1, page_size=4096, max_page=8),
        frame("page_hash", page_no=9, hash=page_hash(EVIL[0])),
        frame("page_hash_batch", start_page=9, end_page=10, combined_hash=b"\x00" * 32),
    ],
    ids=["complete", "hello", "page_hash", "page_hash_batch"],
)
def test_frames_after_complete_other_than_data_are_refused(held: Target, late: bytes) -> None:
    async def attack(peer: Session) -> None:
        await _announce_one(peer, 3)
        await peer.send("complete")
        await peer.send_frame(late)
        await peer.send("page_data", page_no=3, data=make(1, seed=666)[0])

    check_refused(attacked(held, held.push, attack))
    assert stored(held) == PAGES


@pytest.mark.parametrize("cut_after", [1, 4, 7])
def test_a_push_cut_in_the_middle_is_never_seen(held: Target, cut_after: int) -> None:
    run(push(held.url, held.push, EVIL, cut_after=cut_after))
    assert stored(held) == PAGES
    run(push(held.url, held.push, EVIL))
    assert stored(held) == EVIL


def test_a_push_cut_before_complete_is_never_seen(held: Target) -> None:
    async def scenario() -> None:
        async with session(held.url, held.push) as peer:
            await peer.hello()
            for number, page in enumerate(EVIL, 1):
                await peer.announce(number, page)
            asked: set[int] = set()
            while len(asked) < 8:
                _, data = await peer.receive()
                asked |= set(data.get("page_numbers") or [data.get("page_no")])
            for number, page in enumerate(EVIL, 1):
                await peer.send("page_data", page_no=number, data=page)
            peer.cut()

    run(scenario())
    assert stored(held) == PAGES


def test_the_server_waits_for_the_last_page(held: Target) -> None:
    """With a requested page outstanding, `complete` must not commit."""

    async def scenario() -> None:
        async with session(held.url, held.push) as peer:
            await peer.hello()
            await _announce_one(peer, 3)
            await peer.send("complete")
            # A round trip on the same connection: whatever the server had to say has arrived.
            pong = await peer._connection.ping()
            await asyncio.wait_for(pong, 20)
            assert (await pull(held.url, held.pull)).pages == PAGES
            await peer.send("page_data", page_no=3, data=make(1, seed=666)[0])
            ending = await peer.ending()
            assert [kind for kind, _ in ending.messages] == ["sync_complete"]
            assert ending.close_code == 1000

    run(scenario())
    assert stored(held) == edited(PAGES, [3], seed=666)


def test_a_frame_over_the_limit_is_cut_off(held: Target) -> None:
    ending = attacked(held, held.push, raw(b"\x01" + b"\x00" * (17 * 1024 * 1024)))
    # The server hangs up while the frame is still on its way; its last words may be lost with it.
    assert ending.close_code in (1009, None), ending
    assert not [kind for kind, _ in ending.messages if kind == "sync_complete"]
    assert stored(held) == PAGES


@pytest.mark.parametrize("token", [None, "", "garbage", "AAAA" * 100])
def test_without_a_valid_token_nothing_is_said(held: Target, token: str | None) -> None:
    async def scenario() -> Ending:
        async with session(held.url, token) as peer:
            await peer.send("hello", protocol_version=1, page_size=PAGE_SIZE, max_page=0)
            return await peer.ending()

    try:
        ending = run(scenario())
    except InvalidStatus as refused:
        assert refused.response.status_code in (401, 403)
    else:
        check_refused(ending, {1008})
    assert stored(held) == PAGES


def test_complete_is_the_bare_kind() -> None:
    assert encode("complete") == b"\x01\x81\xa4kind\xa8complete"
    assert decode(encode("complete")) == ("complete", None)
