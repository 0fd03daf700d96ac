"""What hostile input costs in memory: the largest resident set a process has had since."""

from pathlib import Path

from .victims import Violation

GROWN_KIB_MAX = 64 * 1024


class Meter:
    """The peak resident set (VmHWM) of a process, this one or another, counted from now."""

    def __init__(self, process: int | str = "self") -> None:
        self._process = Path(f"/proc/{process}")
        (self._process / "clear_refs").write_text("5")  # proc(5): reset VmHWM
        self._before = self._peak()

    def _peak(self) -> int:
        for line in (self._process / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
        raise Violation("no VmHWM in /proc")

    def grown_kib(self) -> int:
        return self._peak() - self._before

    def require_grown(self, whose: str, kib_max: int = GROWN_KIB_MAX) -> int:
        """How many KiB it has grown; a violation if more than it may."""
        grown = self.grown_kib()
        if grown > kib_max:
            raise Violation(f"the memory of the {whose} grew by {grown} KiB")
        return grown
