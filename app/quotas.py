"""How much: what a database and an organization may hold.

What an organization stores is what its pushes have uploaded, corrected by what garbage collection
found in the store when it last looked: so a history that is thinned, a database that is deleted and
a compaction give room when their objects are gone, and not before. It is asked when a push opens,
with each segment that it stages, and before it commits. Pushes that run beside each other may so
pass the bound by what they have in flight, some segments of 8 MiB each; and an organization far
below its bound is not asked about at every step.
"""

from dataclasses import dataclass, field

from ..adapters.ports import Repo
from ..events.errors import LimitExceeded
from ..events.limits import (
    BATCH_DECODED_BYTES_MAX,
    DATABASES_PER_ORG_MAX,
    FRAME_BYTES_MAX,
    ORG_STORED_BYTES_MAX,
    PAGES_PER_DATABASE_MAX,
    PAGES_PER_FRAME_MAX,
    QUOTA_KNOWN_SECONDS,
    QUOTA_ORGANIZATIONS_KNOWN_MAX,
    QUOTA_ROOM_BYTES_MIN,
)

_STORED = (
    "SELECT u.uploaded AS uploaded, u.uploaded + COALESCE("
    "(SELECT correction_bytes FROM gc_looks WHERE org_id = ?), 0) AS stored FROM (SELECT "
    "COALESCE((SELECT SUM(stored_bytes) FROM databases WHERE org_id = ?), 0) "
    "+ COALESCE((SELECT SUM(stored_bytes) FROM staged_segments WHERE org_id = ?), 0) "
    "AS uploaded) AS u"
)
_DATABASES = "SELECT COUNT(*) AS n FROM databases WHERE org_id = ? AND deleted_at IS NULL"


@dataclass(frozen=True, slots=True)
class Quotas:
    """The bounds; every refusal is `LimitExceeded` with details `limit` and `value`."""

    frame_bytes_max: int = FRAME_BYTES_MAX
    batch_decoded_bytes_max: int = BATCH_DECODED_BYTES_MAX
    pages_per_database_max: int = PAGES_PER_DATABASE_MAX
    databases_per_org_max: int = DATABASES_PER_ORG_MAX
    org_stored_bytes_max: int = ORG_STORED_BYTES_MAX
    _known: dict[str, tuple[int, float]] = field(default_factory=dict, repr=False, compare=False)
    """What organizations stored that are far below the bound, and when that was asked."""

    def told(self) -> dict[str, int]:
        """What `hello_reply` tells a client of v2."""
        return {
            "frame_bytes_max": self.frame_bytes_max,
            "batch_decoded_bytes_max": self.batch_decoded_bytes_max,
            "pages_per_frame_max": PAGES_PER_FRAME_MAX,
            "pages_per_database_max": self.pages_per_database_max,
        }

    def check_pages(self, page_count: int) -> None:
        """Refuse a database of `page_count` pages, or a page of that number."""
        if page_count > self.pages_per_database_max:
            raise LimitExceeded(
                f"a database has at most {self.pages_per_database_max:,} pages here, "
                f"not {page_count:,}",
                limit="pages_per_database_max",
                value=self.pages_per_database_max,
            )

    def check_batch(self, decoded_bytes: int) -> None:
        if decoded_bytes > self.batch_decoded_bytes_max:
            raise LimitExceeded(
                f"a batch of pages decodes to at most {self.batch_decoded_bytes_max:,} bytes here",
                limit="batch_decoded_bytes_max",
                value=self.batch_decoded_bytes_max,
            )

    async def check_stored(self, repo: Repo, org_id: str, more_bytes: int, now: float) -> None:
        """Refuse if the organization would store too much with `more_bytes`."""
        known, asked_at = self._known.get(org_id, (0, 0.0))
        if 0 <= now - asked_at < QUOTA_KNOWN_SECONDS and self._is_far(known + more_bytes):
            return
        stored = await stored_bytes(repo, org_id)
        if stored + more_bytes > self.org_stored_bytes_max:
            raise LimitExceeded(
                f"the organization stores {stored:,} of at most {self.org_stored_bytes_max:,} "
                "bytes; delete databases or old versions, or ask the operator for more",
                limit="org_stored_bytes_max",
                value=self.org_stored_bytes_max,
                used=stored,
            )
        if len(self._known) >= QUOTA_ORGANIZATIONS_KNOWN_MAX:
            self._known.clear()  # forgetting costs a query each, nothing else
        self._known[org_id] = stored, now

    def _is_far(self, stored: int) -> bool:
        """Whether nobody can come from `stored` to the bound while an answer is used again."""
        return stored + QUOTA_ROOM_BYTES_MIN <= self.org_stored_bytes_max

    async def check_databases(self, repo: Repo, org_id: str) -> None:
        """Refuse one more database if the organization has as many as it may."""
        row = await repo.first(_DATABASES, org_id)
        if row is not None and row["n"] >= self.databases_per_org_max:
            raise LimitExceeded(
                f"an organization has at most {self.databases_per_org_max:,} databases here",
                limit="databases_per_org_max",
                value=self.databases_per_org_max,
            )


async def stored_bytes(repo: Repo, org_id: str) -> int:
    """Bytes of the page store that an organization takes."""
    row = await repo.first(_STORED, org_id, org_id, org_id)
    return max(0, int(row["stored"])) if row else 0


async def uploaded_bytes(repo: Repo, org_id: str) -> int:
    """What an organization's versions and staged segments brought, whatever became of it since:
    `stored_bytes` without the correction."""
    row = await repo.first(_STORED, org_id, org_id, org_id)
    return int(row["uploaded"]) if row else 0
