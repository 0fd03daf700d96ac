"""Write the sidecar: what the file and the server last agreed on.

And look for what a push has written down of an end that nobody heard of, of which `unheard` tells.
"""

from pathlib import Path

from ..adapters.hashing import root_of
from ..adapters.local_files import pushed_path, sidecar_path
from ..adapters.local_state import FileState
from ..adapters.sidecar import Sidecar, SidecarHeader
from .local_plan import Fingerprints


def save_sidecar(
    path: Path,
    *,
    server: str,
    database: str,
    version: int | None,
    page_size: int,
    page_count: int,
    state: FileState,
    digests: bytearray,
    prints: Fingerprints,
    durable: bool = False,
) -> None:
    """The content with these `digests` is `version` of `database`, and stood in `state`."""
    header = SidecarHeader(
        server=server,
        database=database,
        version=version,
        root=root_of(digests),
        page_size=page_size,
        page_count=page_count,
        state=state,
        seed=prints.seed,
    )
    Sidecar.save(path, header, digests, prints.joined, durable=durable)


def is_unheard(path: Path) -> bool:
    return sidecar_path(pushed_path(path)).exists()


def forget_unheard(path: Path) -> None:
    Sidecar.remove(pushed_path(path))
