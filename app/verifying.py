"""Whether a place holds what its log says: every kept version of every database, by its root.

The map of a version is checked against the root that its `VersionCommitted` names, and the pages
that changed since the version before are read and hashed. So every page of every version is read
once, and every damaged or missing object is found.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..adapters.event_log import EventLog
from ..adapters.page_storage import PageMap, PageStorage
from ..adapters.ports import Clock, Ids, ObjectStore, Repo
from ..events.limits import DATABASES_PER_READ_MAX
from .history import DatabaseHistory, History
from .sync_services import version_refs


@dataclass(slots=True)
class Verified:
    """What was read and found right; deleted databases have no content to be read."""

    databases: int = 0
    versions: int = 0
    pages: int = 0


async def verify(
    repo: Repo,
    store: ObjectStore,
    clock: Clock,
    ids: Ids,
    progress: Callable[[Verified], None] = lambda _: None,
) -> Verified:
    """Read everything; `StorageError` or `NotFound` names the first object that is not right."""
    storage = PageStorage(store, ids)
    histories = DatabaseHistory(EventLog(repo, clock))
    done, after = Verified(), ""
    while True:
        rows = await repo.all(
            "SELECT database_id, org_id FROM databases "
            "WHERE deleted_at IS NULL AND database_id > ? ORDER BY database_id LIMIT ?",
            after,
            DATABASES_PER_READ_MAX,
        )
        for row in rows:
            history = await histories.open(row["database_id"], row["org_id"])
            await _verify_database(storage, history, done, progress)
            histories.forget(history.database_id)
            done.databases += 1
        if len(rows) < DATABASES_PER_READ_MAX:
            return done
        after = rows[-1]["database_id"]


async def _verify_database(
    storage: PageStorage,
    history: History,
    done: Verified,
    progress: Callable[[Verified], None],
) -> None:
    before: PageMap | None = None
    for version in range(history.oldest, history.head_version + 1):
        page_map = await storage.open_map(version_refs(history, version), version)
        if before is None or before.page_size != page_map.page_size:
            before = PageMap.empty(page_map.page_size)
        runs = page_map.diff(before)
        reader = storage.reader(page_map, history.org_id)
        async for batch in reader.batches(runs, codecs=("raw", "zstd"), verify=True):
            done.pages += sum(last - first + 1 for first, last in batch.runs)
        done.versions += 1
        before = page_map
        progress(done)
