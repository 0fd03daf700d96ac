"""What a v1 pull sends at once, and what it leaves for the end."""

import asyncio

import numpy as np
import pytest

from edgereplica.adapters.block_table import BlockTable
from edgereplica.adapters.page_map import PageMap
from edgereplica.adapters.pull_selection import PullSelection
from edgereplica.app.pull_server import PullServerEnd
from edgereplica.app.tokens import VerifiedClaims
from edgereplica.fsm.effects import CompareHashes

PAGES, SIZE = 8, 512
CLAIMS = VerifiedClaims("sync", "u", "o", "e", "admin", 1, b"n", "k", 0, "d", "pull")


def end_with_room(room_bytes: int, *, speaks_v1: bool = True) -> PullServerEnd:
    rows = np.arange(PAGES * 32, dtype=np.uint8).reshape(PAGES, 32)
    block, slot = np.zeros(PAGES, np.uint32), np.zeros(PAGES, np.uint16)
    end = PullServerEnd(None, CLAIMS, lambda: room_bytes)  # type: ignore[arg-type]
    end._selection = PullSelection(PageMap(SIZE, rows, block, slot, BlockTable.empty()))
    end._speaks_v1 = speaks_v1
    return end


@pytest.mark.parametrize(
    ("room_bytes", "at_once"), [(PAGES * SIZE, ((1, PAGES),)), (PAGES * SIZE - 1, ())]
)
def test_what_does_not_fit_the_outbox_waits_for_complete(
    room_bytes: int, at_once: tuple[tuple[int, int], ...]
) -> None:
    """A client that announces a large file before it reads once waited for us, and we for it."""
    end = end_with_room(room_bytes)
    announced = CompareHashes(((1, bytes(32 * PAGES)),))
    assert asyncio.run(end.compare_hashes(announced)).runs == at_once
    assert end._selected.runs() == ((1, PAGES),)


def test_v2_is_told_all_that_differs() -> None:
    end = end_with_room(0, speaks_v1=False)
    announced = CompareHashes(((1, bytes(32 * PAGES)),))
    assert asyncio.run(end.compare_hashes(announced)).runs == ((1, PAGES),)
