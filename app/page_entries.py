"""What is known of each page of a version on its way, as fixed-width entries that grow as it comes.

A server says how many pages a version has before it sends one. Room is made for what has really
come, and for as many pages between as an honest server, which sends in the order of its storage,
may leave open for a while; entries still further ahead wait aside, each piece by itself.

What the entries are (hashes, fingerprints) is left to the callers.
"""

from operator import itemgetter

from ..events.errors import ProtocolViolation, RootMismatch
from ..events.limits import PAGES_AHEAD_MAX


class PageEntries:
    """`width` bytes for each page from 1 on; `joined` begins with those of the pages held.

    Pages may come in any order, and once or more. Zeros stand for what has not come.
    """

    def __init__(self, width: int, joined: bytearray | None = None) -> None:
        self._width = width
        self.joined = bytearray() if joined is None else joined
        self._room = len(self.joined) + PAGES_AHEAD_MAX * width
        self._ahead: list[tuple[int, bytes]] = []

    def cut(self, page_count: int) -> None:
        """Forget the pages behind `page_count`."""
        del self.joined[page_count * self._width :]

    def put(self, first: int, entries: bytes) -> None:
        """The entries of the pages from `first` on."""
        at = (first - 1) * self._width
        end = at + len(entries)
        self._room += len(entries)
        if end > self._room:
            self._ahead.append((at, entries))
            return
        if at > len(self.joined):
            self.joined.extend(bytes(at - len(self.joined)))
        self.joined[at:end] = entries

    def settle(self, page_count: int) -> bytearray:
        """The entries of all pages up to `page_count`, when everything has come.

        A single page that has no entry is zeros: the lock-byte page, or one that the caller finds
        missing. Before more of them get any room: `RootMismatch`.
        """
        ahead, self._ahead = sorted(self._ahead, key=itemgetter(0)), []
        for at, entries in ahead:
            self._fill_up(at)
            place = slice(at, at + len(entries))
            if any(self.joined[place]):
                raise ProtocolViolation(f"page {at // self._width + 1} or one behind it came twice")
            self.joined[place] = entries
        self._fill_up(page_count * self._width)
        return self.joined

    def _fill_up(self, length: int) -> None:
        gap = length - len(self.joined)
        if gap > self._width:
            raise RootMismatch(
                f"page {len(self.joined) // self._width + 1} never came; nothing was installed"
            )
        self.joined.extend(bytes(max(0, gap)))
