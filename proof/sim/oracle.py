"""What must hold when a run is over. The oracle knows every content that a push began with.

- A version is byte for byte one pushed content, the one whose push names it, and each push makes
  at most one version. Versions are linear.
- What a client was told stands: an acknowledged version is in the history with that root.
- A reader gets exactly the version it was told.
- An unforced push replaces only the version it was based on.
- A push is not refused because its own content is the head already (`World.push_refused`).
- A page that the server holds is not sent again (`watched`).
- When the faults end, every client gets on: it pulls the head, and a change pushed by one reaches
  the others (`scenario`).
- Nobody waits for ever (`Deadlock`), and no task ends by an error that is not the product's own.
"""

from edgereplica.adapters.event_log import EventLog
from edgereplica.adapters.page_storage import PageStorage
from edgereplica.app.history import DatabaseHistory
from edgereplica.app.sync_services import Opened
from edgereplica.app.tokens import VerifiedClaims
from edgereplica.events.domain import VersionCommitted
from edgereplica.events.pages import pages_of

from .beginning import DATABASE, ORG
from .replica import Content
from .world import Violation, World


async def judge(world: World) -> None:
    """Raises `Violation`."""
    if world.defects:
        raise Violation(f"a task ended by {world.defects[0]!r}") from world.defects[0]
    versions = world.versions_now()
    for number, version in enumerate(versions, 1):
        if (version.version, version.parent) != (number, number - 1):
            raise Violation(f"version {version.version} of {version.parent} is number {number}")
    await _check_contents(world, versions)
    _check_authors(world, versions)
    for message, attempt in world.attempts.items():
        if attempt.acknowledged and attempt.version is not None:
            _check_is(attempt.version, attempt.content, versions, f"push {message}")
    for told, content in world.pulls:
        _check_is(told, content, versions, "a pull")
    pushed = [attempt.content for attempt in world.attempts.values()]
    for content in world.unnumbered_pulls:
        if content.pages and content not in pushed:
            raise Violation("a v1 client pulled what nobody pushed")


def _check_is(version: int, content: Content, versions: list[VersionCommitted], who: str) -> None:
    if not version:
        if content.pages:
            raise Violation(f"{who} got pages of version 0")
    elif version > len(versions) or versions[version - 1].root != content.root:
        raise Violation(f"{who} was told version {version}, which is something else")


async def _check_contents(world: World, versions: list[VersionCommitted]) -> None:
    """Every version, read by a server that has cached nothing, is a pushed content."""
    pushed = {attempt.content.root: attempt.content for attempt in world.attempts.values()}
    log = EventLog(world.repo, world.clock)
    storage = PageStorage(world.store, world.ids)
    history = await DatabaseHistory(log).open(DATABASE, ORG)
    claims = VerifiedClaims("sync", "", ORG, "", "", 1 << 40, b"", "", 0)
    opened = Opened(history, claims)
    for version in versions:
        if version.version < history.oldest:
            continue
        page_map = await opened.open_map(storage, version.version)
        pages: dict[int, bytes] = {}
        runs = ((1, version.page_count),) if version.page_count else ()
        async for batch in storage.reader(page_map, ORG).batches(runs):
            size = version.page_size
            for at, page in enumerate(pages_of(batch.runs)):
                pages[page] = bytes(batch.data[at * size : (at + 1) * size])
        found = Content(version.page_size, tuple(pages[n] for n in sorted(pages)))
        if pushed.get(version.root) != found:
            raise Violation(f"version {version.version} is torn: nobody pushed it")


def _check_authors(world: World, versions: list[VersionCommitted]) -> None:
    """Each version against the push that made it. Wire v1 carries no message, and no base."""
    seen: set[str] = set()
    for version in versions:
        if not version.message:
            continue
        attempt = world.attempts[version.message]
        # Forced and heard twice, it may replace what came between.
        if version.message in seen and not (attempt.force and attempt.doubled):
            raise Violation(f"push {version.message} made two versions")
        seen.add(version.message)
        if attempt.content.root != version.root:
            raise Violation(f"version {version.version} is not what its push began with")
        base = attempt.base.version if attempt.base else None
        if not attempt.force and version.parent and base != version.parent:
            raise Violation(f"version {version.version} replaced one it was not based on")
