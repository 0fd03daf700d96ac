"""Which codec a batch of pages travels in, and decoding what arrives.

zstd at level 1 halves typical database pages at about half a gigabyte a second: worth it whenever
the link is slower than that. `auto` compresses the first batches, because a small sync costs
nothing either way; after that it compresses if sending has to wait for the link, and never over
loopback. A batch that zstd does not shrink by a twentieth goes raw.
"""

from collections.abc import Callable
from typing import Literal

import zstandard

from ..events.errors import ProtocolViolation
from ..events.limits import AUTO_COMPRESSED_BYTES, BATCH_DECODED_BYTES_MAX
from ..events.messages import Codec

CompressMode = Literal["auto", "always", "never"]
_LEVEL = 1
_WORTHWHILE = 0.95
_BLOCKED_SHARE = 0.25
"""Share of the time spent waiting for the link from which on compression pays."""


class Compressor:
    """Encodes batches. `blocked_share` tells how much of the time sending has waited so far."""

    def __init__(
        self, mode: CompressMode, *, loopback: bool, blocked_share: Callable[[], float]
    ) -> None:
        self._mode = mode
        self._loopback = loopback
        self._blocked_share = blocked_share
        self._bytes = 0
        self._zstd = zstandard.ZstdCompressor(level=_LEVEL)

    def encode(self, data: bytes) -> tuple[Codec, bytes]:
        self._bytes += len(data)
        if not self._pays():
            return "raw", data
        packed = self._zstd.compress(data)
        if len(packed) > len(data) * _WORTHWHILE:
            return "raw", data
        return "zstd", packed

    def _pays(self) -> bool:
        if self._mode != "auto":
            return self._mode == "always"
        if self._bytes <= AUTO_COMPRESSED_BYTES:
            return True
        return not self._loopback and self._blocked_share() > _BLOCKED_SHARE


def decode(codec: Codec, untrusted_data: bytes, expected_bytes: int) -> bytes:
    """The pages of a batch: exactly `expected_bytes`, or `ProtocolViolation`.

    A zstd frame says how much it decodes to; one that says more, or nothing, is refused before
    anything is decoded.
    """
    if expected_bytes > BATCH_DECODED_BYTES_MAX:
        raise ProtocolViolation(
            f"a batch of {expected_bytes} bytes; at most {BATCH_DECODED_BYTES_MAX}"
        )
    if codec == "raw":
        if len(untrusted_data) != expected_bytes:
            raise ProtocolViolation("page data is not whole pages of the announced size")
        return untrusted_data
    try:
        if zstandard.frame_content_size(untrusted_data) != expected_bytes:
            raise ProtocolViolation("a batch decodes to another size than its pages have")
        data = zstandard.ZstdDecompressor().decompress(
            untrusted_data, max_output_size=expected_bytes, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise ProtocolViolation(f"a batch that is not zstd: {error}") from error
    if len(data) != expected_bytes:
        raise ProtocolViolation("a batch decodes to another size than its pages have")
    return data
