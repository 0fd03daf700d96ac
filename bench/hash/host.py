"""Hash pages on the host, from Python: one call a page, as the engine does it."""

import hashlib
import time
from array import array
from collections.abc import Callable

import xxhash
from blake3 import blake3

Hasher = Callable[[memoryview], bytes]

HASHERS: dict[str, Hasher] = {
    "SHA-256": lambda page: hashlib.sha256(page).digest(),
    "BLAKE2b": lambda page: hashlib.blake2b(page, digest_size=32).digest(),
    "BLAKE2s": lambda page: hashlib.blake2s(page, digest_size=32).digest(),
    "BLAKE3": lambda page: blake3(page).digest(),
    "XXH3": xxhash.xxh3_128_digest,
}


def sample(page_bytes: int, pages: int) -> bytes:
    """The same bytes as `wasm.js` makes: a multiplied counter, in words of 32 bits."""
    words = page_bytes * pages // 4
    return array("I", [(at * 2_654_435_761) & 0xFFFF_FFFF for at in range(words)]).tobytes()


def first_digests(page_bytes: int) -> dict[str, str]:
    page = memoryview(sample(page_bytes, 1))
    return {name: hasher(page).hex() for name, hasher in HASHERS.items()}


def measure(page_bytes: int, pages: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of every round by algorithm; the algorithms take turns."""
    data = memoryview(sample(page_bytes, pages))
    cut = [data[at : at + page_bytes] for at in range(0, len(data), page_bytes)]
    seconds: dict[str, list[float]] = {name: [] for name in HASHERS}
    for _ in range(rounds):
        for name, hasher in HASHERS.items():
            started = time.perf_counter()
            for page in cut:
                hasher(page)
            seconds[name].append(time.perf_counter() - started)
    return seconds
