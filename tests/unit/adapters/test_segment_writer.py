"""Uploads of one push: what fails is remembered, the first of them."""

import asyncio
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pytest
from blake3 import blake3

from edgereplica.adapters.ports import ObjectStore
from edgereplica.adapters.segment_writer import SegmentWriter, StagedSegment
from edgereplica.events.errors import StorageError
from edgereplica.events.limits import SEGMENT_BYTES_MAX


@dataclass
class Uploads:
    """A store whose uploads end when they are told to; ids are the numbers of the segments."""

    endings: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    ids: int = 0
    both: asyncio.Event = field(default_factory=asyncio.Event)

    def new_id(self) -> str:
        self.ids += 1
        return str(self.ids)

    async def put(self, key: str, _data: object) -> None:
        self.endings[key[-1]] = asyncio.get_running_loop().create_future()
        if len(self.endings) == 2:
            self.both.set()
        await self.endings[key[-1]]


def append(writer: SegmentWriter) -> None:
    page = bytes(512)
    writer.append(np.array([1], np.uint32), 512, "raw", page, blake3(page).digest())


async def _fail_in_order(first: str, second: str) -> str:
    """What a push is told when two uploads fail, `first` before `second`."""
    uploads = Uploads()

    async def report(_: StagedSegment) -> None: ...

    writer = SegmentWriter(cast(ObjectStore, uploads), uploads, "o", report)
    append(writer)
    writer.close()
    append(writer)
    await writer.make_room(SEGMENT_BYTES_MAX)
    await uploads.both.wait()
    uploads.endings[first].set_exception(StorageError(f"upload {first}", reason="failed"))
    uploads.endings[second].set_exception(StorageError(f"upload {second}", reason="failed"))
    with pytest.raises(StorageError) as failed:
        await writer.finish(())
    return failed.value.message


@pytest.mark.parametrize(("first", "second"), [("1", "2"), ("2", "1")])
def test_of_two_uploads_that_fail_the_first_is_told(first: str, second: str) -> None:
    """Tasks are hashed by where they lie: in a set now one and now the other came first."""
    for _ in range(8):
        assert asyncio.run(_fail_in_order(first, second)) == f"upload {first}"
