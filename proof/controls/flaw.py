"""What a flaw is, and what design §9 lists."""

from dataclasses import dataclass

DESIGN = (
    "torn copy",
    "no truncation",
    "outside a transaction",
    "pull token",
    "page size",
    "ranges",
    "last writer wins",
    "lock-byte page",
    "login",
    "token file",
    "PKCE",
    "Google",
    "compression",
    "history",
    "resume",
    "metrics",
)
"""What design §9 lists; a test checks that each has a flaw here."""


@dataclass(frozen=True)
class Flaw:
    """`new` in place of `old` in `file`; `check` is what must turn red (a pytest selection).

    `item` is the one of `DESIGN` that it brings back, or empty for a flaw of our own. `red` is how
    the first failure must read, a pattern to be found in "test id - message" of pytest's summary:
    a check that fails for another cause, say because the flaw lets nothing work at all, has not
    seen it. Of a check that never ends, what is searched are the words of `copies.NEVER_ENDED`.
    """

    name: str
    item: str
    says: str
    file: str
    old: str
    new: str
    check: tuple[str, ...]
    red: str
