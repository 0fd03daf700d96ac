"""Where identifiers and secrets come from: the system's randomness, or a seed."""

import hashlib
import secrets

from .clock import SystemClock
from .ports import Clock


def _uuid7(now: float, random_bits: int) -> str:
    """A UUIDv7 (RFC 9562 §5.7) as 32 hex digits: 48 bits of milliseconds, then 74 random bits."""
    milliseconds = int(now * 1000) & (1 << 48) - 1
    high = random_bits >> 62 & 0xFFF
    low = random_bits & (1 << 62) - 1
    value = milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low
    return f"{value:032x}"


class SystemIds:
    """Identifiers and secrets from the operating system."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def new_id(self) -> str:
        return _uuid7(self._clock.now(), secrets.randbits(74))

    def token_bytes(self, count: int) -> bytes:
        return secrets.token_bytes(count)


class SeededIds:
    """The same identifiers again for the same seed and clock: for simulations and tests only."""

    def __init__(self, seed: int, clock: Clock) -> None:
        self._seed = seed
        self._drawn = 0
        self._clock = clock

    def new_id(self) -> str:
        return _uuid7(self._clock.now(), int.from_bytes(self.token_bytes(10)))

    def token_bytes(self, count: int) -> bytes:
        self._drawn += 1
        return hashlib.shake_128(f"{self._seed}:{self._drawn}".encode()).digest(count)
