"""Page hashes, fingerprints, roots."""

from blake3 import blake3

from edgereplica.adapters.hashing import (
    NO_DIGEST,
    fingerprints,
    hash_pages,
    masked_page_one,
    root_of,
)
from edgereplica.events.pages import lock_byte_page

SIZE = 65536
LOCK = lock_byte_page(SIZE)


def test_a_page_hash_is_blake3_of_the_page() -> None:
    data = b"a" * 512 + b"b" * 512
    expected = blake3(b"a" * 512).digest() + blake3(b"b" * 512).digest()
    assert hash_pages(data, 512) == hash_pages(memoryview(data), 512, 5) == expected


def test_the_lock_byte_page_has_no_content() -> None:
    data = b"x" * (3 * SIZE)
    digests = hash_pages(data, SIZE, LOCK - 1)
    assert digests[32:64] == NO_DIGEST
    assert digests[:32] == digests[64:] == blake3(b"x" * SIZE).digest()
    prints = fingerprints(data, SIZE, 7, LOCK - 1)
    assert prints[8:16] == bytes(8) != prints[:8] == prints[16:]


def test_a_root_is_blake3_of_the_hashes_in_pieces_or_not() -> None:
    hashes = bytes(range(96))
    assert root_of(hashes) == root_of(hashes[:32], hashes[32:]) == blake3(hashes).digest()
    assert root_of(b"") == blake3(b"").digest()


def test_a_fingerprint_of_page_one_is_taken_masked() -> None:
    page = bytearray(b"p" * 512)
    before = fingerprints(page, 512, 1, 1)
    for at in (18, 19, 24, 27, 40, 43, 92, 99):
        page[at] ^= 0xFF
    assert fingerprints(page, 512, 1, 1) == before != fingerprints(page, 512, 1, 2)
    for at in (17, 20, 23, 28, 39, 44, 91, 100):
        other = bytearray(page)
        other[at] ^= 1
        assert fingerprints(other, 512, 1, 1) != before


def test_a_fingerprint_depends_on_its_seed() -> None:
    assert fingerprints(b"p" * 512, 512, 1) != fingerprints(b"p" * 512, 512, 2)


def test_masking_leaves_the_rest() -> None:
    page = bytes(range(1, 201))
    masked = masked_page_one(page)
    zeroed = {at for at in range(200) if masked[at] == 0}
    assert zeroed == {18, 19, *range(24, 28), *range(40, 44), *range(92, 100)}
    assert all(masked[at] == page[at] for at in range(200) if at not in zeroed)
