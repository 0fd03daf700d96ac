"""What must hold when a run is over. The oracle knows every content that a push began with.

- A version is byte for byte one pushed content, the one whose push names it, and each push makes
  at most one version. Versions are linear.
- What a client was told stands: an acknowledged version is in the history with that root, and it
  was the head at some moment between the push's beginning and its end, also where the server only
  said that it holds this already. Where no version is told (wire v1), the content is that of one
  which was the head in between.
- A reader gets exactly the version it was told, and that is the one it asked for: a version by its
  number, or else what was the head at some moment between the pull's beginning and its end.
- What is written stays: a history is only added to, and retention takes no version that it was told
  to keep (`World.keep_last`).
- A history read from its snapshot is the one that lies in the log.
- An unforced push replaces only the version it was based on.
- A push is not refused because its own content is the head already (`World.push_refused`).
- A page that the server holds is not sent again (`watched`).
- A command that fails says why, with a code that this world can be the reason of (`excuses`).
- When the faults end, every client gets on: it pulls the head, and a change pushed by one reaches
  the others (`scenario`).
- Nobody waits for ever (`Deadlock`), and no task ends by an error that is not the product's own.
"""

from edgereplica.adapters.event_log import EventLog
from edgereplica.adapters.page_storage import PageStorage
from edgereplica.app.history import DatabaseHistory, History, fold
from edgereplica.app.sync_services import Opened
from edgereplica.app.tokens import VerifiedClaims
from edgereplica.events.domain import VersionCommitted, database_stream
from edgereplica.events.pages import pages_of

from .beginning import DATABASE, ORG
from .replica import Content
from .world import Attempt, Pulled, Violation, World


async def judge(world: World) -> None:
    """Raises `Violation`."""
    if world.defects:
        raise Violation(f"a task ended by {world.defects[0]!r}") from world.defects[0]
    versions = world.all_versions()
    for number, version in enumerate(versions, 1):
        if (version.version, version.parent) != (number, number - 1):
            raise Violation(f"version {version.version} of {version.parent} is number {number}")
    await _check_contents(world, versions)
    _check_authors(world, versions)
    for message, attempt in world.attempts.items():
        if attempt.acknowledged:
            _check_acknowledged(message, attempt, versions)
    for pulled in world.pulls:
        _check_pulled(pulled, versions)


def _check_acknowledged(message: str, attempt: Attempt, versions: list[VersionCommitted]) -> None:
    told, first, last = attempt.version, attempt.head, attempt.head_then
    if told is not None:
        _check_is(told, attempt.content, versions, f"push {message}")
        # An old version may hold the same.
        if not first <= told <= last:
            raise Violation(
                f"push {message} was acknowledged as {told}: the head was {first} to {last}"
            )
    # In wire v1 a session that announces no page changes nothing.
    elif attempt.content.pages and not any(
        version.root == attempt.content.root for version in _from(first, versions[:last])
    ):
        raise Violation(f"push {message} was acknowledged, and is no version")


def _check_pulled(pulled: Pulled, versions: list[VersionCommitted]) -> None:
    asked, told = pulled.asked, pulled.version
    if told is None:
        heads = _from(asked.head, versions[: pulled.head])
        if not any(version.root == pulled.content.root for version in heads) and (
            asked.head or pulled.content.pages
        ):
            raise Violation(f"{asked.name} pulled over v1 what was not the head")
        return
    _check_is(told, pulled.content, versions, f"a pull of {asked.name}")
    if asked.at is not None and told != asked.at:
        raise Violation(f"{asked.name} asked for version {asked.at} and was told {told}")
    if asked.at is None and not asked.head <= told <= pulled.head:
        raise Violation(f"{asked.name} pulled {told}: the head was {asked.head} to {pulled.head}")


def _from(head: int, versions: list[VersionCommitted]) -> list[VersionCommitted]:
    """The version that was the head, and all later ones."""
    return versions[max(0, head - 1) :]


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
    whole = fold(History(DATABASE), await log.stored(database_stream(DATABASE)))
    if _told_of(history) != _told_of(whole):
        raise Violation("a history read from its snapshot is not the one in the log")
    claims = VerifiedClaims("sync", "", ORG, "", "", 1 << 40, b"", "", 0)
    opened = Opened(history, claims)
    world.counts["versions let go"] += history.oldest - 1
    kept = len(versions) if world.keep_last is None else world.keep_last
    if history.oldest > max(1, len(versions) - kept + 1):
        raise Violation(f"versions to {history.oldest - 1} of {len(versions)} are gone")
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


def _told_of(history: History) -> tuple[object, ...]:
    return (
        history.seq,
        history.oldest,
        history.head_version,
        history.retention,
        list(history.outlines()),
    )


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
