"""Page hashes, fingerprints and roots: the arithmetic both ends must agree on.

A page's hash is BLAKE3-256 of its bytes; a root is BLAKE3 of the hashes in page order. The
lock-byte page has no content: its hash is 32 zero bytes, its fingerprint 8, and it is never read,
sent or written. A fingerprint is a keyed xxh3: fast, good enough to find the pages worth hashing,
and never shown to the other side.

`first_page` tells these functions where `data` stands in the file; without it, no page is special.
Reading and storing are left to the callers.
"""

from typing import Final

from blake3 import blake3
from xxhash import xxh3_64_digest

from ..events.limits import DIGEST_BYTES
from ..events.pages import lock_byte_page
from .ports import Buffer

FINGERPRINT_BYTES: Final = 8
NO_DIGEST: Final = bytes(DIGEST_BYTES)
"""The hash of the lock-byte page."""

_MASKED: Final = (slice(18, 20), slice(24, 28), slice(40, 44), slice(92, 100))
_HEADER_BYTES: Final = 100


def masked_page_one(data: Buffer) -> bytes:
    """Page 1 without what a connection may rewrite though the content stays the same.

    Zeroed: the journal mode (bytes 18-19), the change counter (24-27), the schema cookie (40-43;
    `local_apply` says why it may differ), version-valid-for and the library's version (92-99);
    fileformat2 §1.3. `data` may be the page or only its header.
    """
    masked = bytearray(data)
    for part in _MASKED:
        masked[part] = bytes(part.stop - part.start)
    return bytes(masked)


def hash_pages(data: Buffer, page_size: int, first_page: int = 0) -> bytes:
    """The joined BLAKE3-256 digests of the pages in `data`, 32 bytes each."""
    view = memoryview(data)
    hasher = blake3()  # one for all: a twelfth faster than one for each
    digests = []
    for start in range(0, len(view), page_size):
        hasher.reset()
        digests.append(hasher.update(view[start : start + page_size]).digest())
    skipped = lock_byte_page(page_size) - first_page
    if first_page and 0 <= skipped < len(digests):
        digests[skipped] = NO_DIGEST
    return b"".join(digests)


def fingerprints(data: Buffer, page_size: int, seed: int, first_page: int = 0) -> bytes:
    """The joined 8-byte fingerprints of the pages in `data`, under the key `seed` (64 bits).

    Page 1 is taken masked, so that equal fingerprints mean equal content.
    """
    view = memoryview(data)
    prints = [
        xxh3_64_digest(view[start : start + page_size], seed)
        for start in range(0, len(view), page_size)
    ]
    if first_page == 1 and prints:
        prints[0] = xxh3_64_digest(masked_page_one(view[:page_size]), seed)
    skipped = lock_byte_page(page_size) - first_page
    if first_page and 0 <= skipped < len(prints):
        prints[skipped] = bytes(FINGERPRINT_BYTES)
    return b"".join(prints)


def root_of(*hashes: Buffer) -> bytes:
    """The range hash of the joined page hashes: design §4. Pieces count as if concatenated."""
    hasher = blake3()
    for piece in hashes:
        hasher.update(piece)
    return hasher.digest()
