"""A small blocking client of `edgereplica.admin.v1.RetentionService`, as `admin_client` is of
`AdminService`."""

from dataclasses import asdict, dataclass
from typing import Any

from .admin_client import AdminClient


@dataclass(frozen=True, slots=True)
class KeptVersions:
    """The rule (None: no such rule) and what it has left: versions `oldest` to `head`, 0 if none
    was ever pushed."""

    keep_last: int | None
    keep_days: int | None
    oldest: int
    head: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class RetentionClient(AdminClient):
    """Calls to one server; errors as in `AdminClient`."""

    service = "edgereplica.admin.v1.RetentionService"

    def set_retention(
        self, database_id: str, keep_last: int | None, keep_days: int | None
    ) -> KeptVersions:
        asked = {"keepLast": keep_last or 0, "keepDays": keep_days or 0}
        return _kept(self._call("SetRetention", {"databaseId": database_id, **asked}))

    def get_retention(self, database_id: str) -> KeptVersions:
        return _kept(self._call("GetRetention", {"databaseId": database_id}))


def _kept(answer: Any) -> KeptVersions:
    # Proto3 JSON leaves out zeros, and writes 64-bit numbers as strings.
    number = {name: int(answer.get(name, 0)) for name in answer}
    return KeptVersions(
        keep_last=number.get("keepLast") or None,
        keep_days=number.get("keepDays") or None,
        oldest=number.get("oldestVersion", 0),
        head=number.get("headVersion", 0),
    )
