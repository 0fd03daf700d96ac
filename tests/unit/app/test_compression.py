"""When a batch of pages is compressed, and that it is."""

import random

import pytest
import zstandard

from edgereplica.app.compression import CompressMode, Compressor, decode
from edgereplica.events.errors import ProtocolViolation
from edgereplica.events.limits import AUTO_COMPRESSED_BYTES, BATCH_DECODED_BYTES_MAX

TEXT = b"the same words again and again " * 2048
NOISE = random.Random(1).randbytes(len(TEXT))


def compressor(
    mode: CompressMode = "auto", *, loopback: bool = False, blocked: float = 0.0
) -> Compressor:
    return Compressor(mode, loopback=loopback, blocked_share=lambda: blocked)


@pytest.mark.parametrize("loopback", [False, True])
def test_a_small_sync_is_compressed(loopback: bool) -> None:
    codec, data = compressor(loopback=loopback).encode(TEXT)
    assert codec == "zstd"
    assert len(data) < len(TEXT) / 10
    assert decode(codec, data, len(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("blocked", "loopback", "codec"),
    [(0.0, False, "raw"), (0.25, False, "raw"), (0.26, False, "zstd"), (1.0, True, "raw")],
)
def test_after_that_only_if_the_link_is_what_it_waits_for(
    blocked: float, loopback: bool, codec: str
) -> None:
    encode = compressor(loopback=loopback, blocked=blocked).encode
    batch = bytes(BATCH_DECODED_BYTES_MAX)
    for _ in range(AUTO_COMPRESSED_BYTES // len(batch)):
        assert encode(batch)[0] == "zstd"
    assert encode(batch)[0] == codec


def test_always_and_never_mean_it() -> None:
    always, never = compressor("always", loopback=True), compressor("never", blocked=1.0)
    for _ in range(2 + AUTO_COMPRESSED_BYTES // len(TEXT)):
        assert always.encode(TEXT)[0] == "zstd"
        assert never.encode(TEXT) == ("raw", TEXT)


def test_what_zstd_does_not_shrink_goes_raw() -> None:
    assert compressor("always").encode(NOISE) == ("raw", NOISE)
    mixed = NOISE[: len(NOISE) * 97 // 100] + bytes(len(NOISE) * 3 // 100)
    assert compressor("always").encode(mixed)[0] == "raw"
    mixed = NOISE[: len(NOISE) * 90 // 100] + bytes(len(NOISE) * 10 // 100)
    assert compressor("always").encode(mixed)[0] == "zstd"


def _without_size(data: bytes) -> bytes:
    writer = zstandard.ZstdCompressor(write_content_size=False)
    return writer.compress(data)


PACKED = zstandard.ZstdCompressor().compress(TEXT)


@pytest.mark.parametrize(
    ("codec", "data", "expected"),
    [
        ("raw", TEXT, len(TEXT) - 1),
        ("raw", bytes(BATCH_DECODED_BYTES_MAX + 1), BATCH_DECODED_BYTES_MAX + 1),
        ("zstd", PACKED, len(TEXT) - 1),
        ("zstd", PACKED, len(TEXT) + 1),
        ("zstd", PACKED[:-1], len(TEXT)),
        ("zstd", PACKED + b"x", len(TEXT)),
        ("zstd", _without_size(TEXT), len(TEXT)),
        ("zstd", TEXT, len(TEXT)),
        ("zstd", b"", 0),
    ],
)
def test_what_is_not_exactly_its_pages_is_refused(codec: str, data: bytes, expected: int) -> None:
    with pytest.raises(ProtocolViolation):
        decode("zstd" if codec == "zstd" else "raw", data, expected)
