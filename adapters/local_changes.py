"""Which pages of a local file differ in content from the version last synced.

Three nets, each finer and dearer than the one before: the log says which pages were written at all
(`LocalSnapshot.changed_since`; without its help, all of them), the fingerprints say which of those
are not what they were, and only these are hashed with BLAKE3. Page 1 is compared masked: a reader
that only switched the journal mode changed nothing, and the version's own hash of page 1 stands.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..events.errors import FileReplaced
from ..events.limits import DIGEST_BYTES
from ..events.pages import (
    Run,
    Runs,
    count_pages,
    lock_byte_page,
    runs_of,
    split_runs,
    without_page,
)
from ..events.value import Value
from .hashing import FINGERPRINT_BYTES, fingerprints, hash_pages
from .local_snapshot import LocalSnapshot
from .local_state import FileState, unchanged
from .sidecar import Sidecar

_PIECE_BYTES: Final = 256 * 1024
"""Read and fingerprinted at once: small enough to stay in the processor's cache."""


class LocalChanges(Value, frozen=True):
    """`runs` differ from the synced version, or were not in it; never the lock-byte page.

    `hashes` and `fingerprints` are those of the snapshot's content, page 1's hash the version's
    own if only its masked bytes differ. `differ` is whether there is anything to push: `runs`, or
    a file that only became shorter. `pages_read` says what it cost to know.
    """

    runs: Runs
    differ: bool
    hashes: bytearray
    fingerprints: bytearray
    pages_read: int


def find_changes(
    snapshot: LocalSnapshot, sidecar: Sidecar, *, read_everything: bool = False
) -> LocalChanges:
    """Compare `snapshot` with what `sidecar` remembers.

    The sidecar's arrays are taken over and brought up to date in place. `read_everything` trusts
    neither file times nor the log.
    """
    search = _Search(snapshot, sidecar)
    written = None if read_everything else snapshot.changed_since(sidecar.header.state)
    if written is None:
        written = ((1, snapshot.page_count),) if snapshot.page_count else ()
    return search.run(written)


class _Search:
    def __init__(self, snapshot: LocalSnapshot, sidecar: Sidecar) -> None:
        self._snapshot = snapshot
        self._seed = sidecar.header.seed
        same_size = snapshot.page_size == sidecar.header.page_size
        self._resized = sidecar.header.page_count != snapshot.page_count or not same_size
        self._known = min(sidecar.header.page_count, snapshot.page_count) if same_size else 0
        self._hashes, self._prints = sidecar.hashes, sidecar.fingerprints
        for array, width in ((self._hashes, DIGEST_BYTES), (self._prints, FINGERPRINT_BYTES)):
            del array[self._known * width :]
            array.extend(bytes((snapshot.page_count - self._known) * width))

    def run(self, written: Runs) -> LocalChanges:
        if self._snapshot.page_count > self._known:  # whatever else is known, these are new
            written = tuple(_cut(written, self._known))
            written = (*written, (self._known + 1, self._snapshot.page_count))
        size = self._snapshot.page_size
        buffer = memoryview(bytearray(max(1, _PIECE_BYTES // size) * size))
        changed: list[int] = []
        for group in split_runs(written, len(buffer) // size):
            data = buffer[: count_pages(group) * size]
            self._snapshot.read_runs_into(group, data)
            changed += self._compare(group, data)
        runs = without_page(runs_of(changed), lock_byte_page(size))
        return LocalChanges(
            runs, bool(runs) or self._resized, self._hashes, self._prints, count_pages(written)
        )

    def _compare(self, group: Runs, data: memoryview) -> list[int]:
        """The pages of `data` that differ; their hashes and fingerprints are brought up to date."""
        size, width = self._snapshot.page_size, FINGERPRINT_BYTES
        new = _fingerprints_of(group, data, size, self._seed)
        changed: list[int] = []
        start = 0
        for first, last in group:
            end = start + last - first + 1
            place = slice((first - 1) * width, last * width)
            run_new, run_old = new[start * width : end * width], self._prints[place]
            if run_new != run_old or last > self._known:
                self._prints[place] = run_new
                for at in range(end - start):
                    mine = slice(at * width, (at + 1) * width)
                    if first + at > self._known or run_new[mine] != run_old[mine]:
                        changed.append(first + at)
                        self._rehash(
                            first + at, data[(start + at) * size : (start + at + 1) * size]
                        )
            start = end
        return changed

    def _rehash(self, page: int, content: memoryview) -> None:
        digest = hash_pages(content, self._snapshot.page_size, page)
        self._hashes[(page - 1) * DIGEST_BYTES : page * DIGEST_BYTES] = digest


def _fingerprints_of(group: Runs, data: memoryview, size: int, seed: int) -> bytes:
    """Of the pages of `group`, joined; all at once where no page among them is special."""
    lock_page = lock_byte_page(size)
    if group[0][0] > 1 and not group[0][0] <= lock_page <= group[-1][1]:
        return fingerprints(data, size, seed)
    prints, start = [], 0
    for first, last in group:
        end = start + (last - first + 1) * size
        prints.append(fingerprints(data[start:end], size, seed, first))
        start = end
    return b"".join(prints)


def _cut(runs: Runs, last_page: int) -> Iterator[Run]:
    for first, last in runs:
        if first <= last_page:
            yield first, min(last, last_page)


def require_unchanged(path: Path, known: FileState) -> None:
    """Raise FileReplaced unless the file at `path` is in the state `known`.

    Exact where `local_state.unchanged` must guess, since it looks inside a transaction. Made for
    `apply_version(check=…)`: it may be called with the write lock held by this process.
    """
    if unchanged(path, known):
        return
    with LocalSnapshot.open(path, busy_timeout_seconds=0) as snapshot:
        if snapshot.changed_since(known) != ():
            raise FileReplaced(
                f"{path} was changed by another process in the meantime; nothing was overwritten",
                path=str(path),
            )
