"""What a pull keeps until it has all of a version, and what it believes of a server's word."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from edgereplica.adapters.hashing import hash_pages
from edgereplica.adapters.local_fresh import FreshFile
from edgereplica.app import pull_client
from edgereplica.app.local_content import LocalContent
from edgereplica.app.pull_client import PullClientEnd, Spool
from edgereplica.events.errors import LocalFileError, ProtocolViolation, RootMismatch
from edgereplica.events.limits import PAGES_PER_DATABASE_MAX
from edgereplica.events.messages import HelloReply
from edgereplica.fsm.effects import ApplyVersion, DrillDown, PrepareReplica, StorePages

BATCH = 1000
SIZE = 512


def batch(number: int) -> memoryview:
    return memoryview(number.to_bytes(2, "big") * (BATCH // 2))


@pytest.mark.parametrize("batches", [0, 1, 3, 4, 20])
def test_pieces_come_back_in_the_order_of_arrival(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    monkeypatch.setattr(pull_client, "PULLED_BYTES_IN_MEMORY_MAX", 3 * BATCH)
    spool = Spool(tmp_path)
    for number in range(batches):
        spool.write(1000 - number, batch(number))
    found = [(first, bytes(data)) for first, data in spool.pieces()]
    assert found == [(1000 - number, bytes(batch(number))) for number in range(batches)]
    assert found == [(first, bytes(data)) for first, data in spool.pieces()], "a second time"
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_only_so_much_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_client, "PULLED_BYTES_IN_MEMORY_MAX", 3 * BATCH)
    spool = Spool(tmp_path)
    kept = [batch(number) for number in range(8)]
    for number, data in enumerate(kept):
        spool.write(number, data)
        if number >= 3:
            data.release()  # what is in the file is not asked for again
    assert [bytes(data) for _, data in spool.pieces()] == [bytes(batch(n)) for n in range(8)]
    spool.close()


def test_a_folder_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_client, "PULLED_BYTES_IN_MEMORY_MAX", BATCH)
    spool = Spool(tmp_path / "gone")
    spool.write(1, batch(1))
    with pytest.raises(LocalFileError):
        spool.write(2, batch(2))
    spool.close()


def page(number: int) -> bytes:
    return number.to_bytes(4, "big") * (SIZE // 4)


def held(pages: int) -> LocalContent:
    digests = b"".join(hash_pages(page(n), SIZE) for n in range(1, pages + 1))
    return LocalContent(None, SIZE, pages, digests=bytearray(digests), changed=())


def end_of(path: Path, content: LocalContent | None) -> PullClientEnd:
    options: dict[str, Any] = dict.fromkeys(("before_install", "on_step"), lambda: None)
    return PullClientEnd(
        path,
        content,
        exists=content is not None,
        refusal=lambda reply: None,
        wire_version=2,
        dry_run=False,
        busy_timeout_seconds=0,
        planned_state=None,
        on_pages=lambda first, data: None,
        **options,
    )


def promise(pages: int) -> PrepareReplica:
    return PrepareReplica(HelloReply(SIZE, pages, 1, bytes(32), base_known=True))


@pytest.mark.parametrize("pages", [0, 3], ids=["into no file", "into a file"])
def test_a_promise_of_pages_takes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    """A greeting that spoke of 67,108,864 pages once cost the client two gigabytes for their
    hashes, and `sync_complete` as much again to find that they had not come."""
    monkeypatch.setattr(FreshFile, "_check_space", lambda self: None)
    end = end_of(tmp_path / "a.db", held(pages) if pages else None)
    asyncio.run(end.prepare(promise(PAGES_PER_DATABASE_MAX)))
    assert len(end.digests) == 32 * pages
    asyncio.run(end.store(StorePages(((9_000_000, 9_000_000),), "raw", page(1))))
    with pytest.raises(RootMismatch, match=f"page {pages + 1} never came"):
        asyncio.run(end.apply(ApplyVersion(1, bytes(32))))
    assert len(end.digests) == 32 * pages
    end.close()
    assert list(tmp_path.iterdir()) == []


def test_a_server_cannot_send_more_pages_than_the_version_has(tmp_path: Path) -> None:
    """The same page again and again would else fill the disk."""
    end = end_of(tmp_path / "a.db", held(3))
    asyncio.run(end.prepare(promise(2)))
    for _ in range(2):
        asyncio.run(end.store(StorePages(((2, 2),), "raw", page(2))))
    with pytest.raises(ProtocolViolation, match="more pages"):
        asyncio.run(end.store(StorePages(((2, 2),), "raw", page(2))))
    end.close()


def test_ranges_that_were_never_announced_cannot_differ(tmp_path: Path) -> None:
    """The client once set out to hash pages that its file does not have, and fell over them."""
    end = end_of(tmp_path / "a.db", held(3))
    asyncio.run(end.prepare(PrepareReplica(HelloReply(SIZE, 3, 1, bytes(32)))))
    asyncio.run(end.drill_down(DrillDown(None)))
    with pytest.raises(ProtocolViolation, match="page 4"):
        asyncio.run(end.drill_down(DrillDown(((2, 4),))))
    end.close()
