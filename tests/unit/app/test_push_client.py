"""The client's end of a push, without a server."""

import asyncio
from typing import Any, cast

from edgereplica.adapters.hashing import hash_pages
from edgereplica.app.compression import Compressor
from edgereplica.app.local_content import LocalContent
from edgereplica.app.push_client import PushClientEnd
from edgereplica.fsm.effects import HashWindow

PAGES = b"a" * 512 + b"b" * 512


class Snapshot:
    """Two pages of 512 bytes."""

    def read(self, first: int, last: int) -> memoryview:
        return memoryview(PAGES)[(first - 1) * 512 : last * 512]


def test_a_base_of_another_page_size_than_the_file_announces_everything() -> None:
    """The head may have the file's page size where the base has not (a forced push), and an empty
    base any: the sidecar then says nothing of which pages changed."""
    content = LocalContent(cast(Any, Snapshot()), 512, 2, changed=None)
    compressor = Compressor("never", loopback=True, blocked_share=lambda: 0.0)
    end = PushClientEnd(content, compressor, lambda: None)
    window = asyncio.run(end.hash_window(HashWindow(relative_to_base=True)))
    assert window.windows == ((1, hash_pages(PAGES, 512)),)
    assert window.last
