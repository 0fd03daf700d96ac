"""What a push is about to commit, written down before it says so: `FILE-pushed-edgereplica`.

The answer to a push may be lost when its version stands already. Where the application goes on
writing, the file is then neither the head nor what the sidecar remembers, and the next push would
be a conflict with its own version. So the sidecar to be is written aside before `complete`, and the
next push first asks whether the head is that version. If it is, it becomes the sidecar. Else it is
dropped: the push never came to its end, or somebody has pushed on top of it, which is a conflict.

Whatever makes the file another version, or finds that it is one, forgets it first.
"""

from dataclasses import replace
from pathlib import Path

from ..adapters.local_files import pushed_path
from ..adapters.local_state import unchanged
from ..adapters.sidecar import Sidecar, SidecarHeader
from ..events.errors import Conflict
from ..events.messages import HelloReply
from ..events.session import PushPlanned
from ..events.wire import V2
from ..fsm.client_push import ClientPush
from .client_session import ClientTransport, Options, run_session
from .compression import Compressor
from .local_content import LocalContent, StaleSidecar
from .push_client import PushClientEnd


def is_unheard_head(path: Path, reply: HelloReply) -> bool:
    """Whether the head that a server describes is what such a push was about to make."""
    header = Sidecar.load_header(pushed_path(path))
    if header is None:
        return False
    described = (reply.head, reply.root, reply.database)
    return described == (header.version, header.root, header.database)


async def adopt_unheard(path: Path, options: Options) -> None:
    """Find out what became of a push whose end nobody heard (wire v2). The sync lock is held.

    Nobody has to ask for a file that was not written to since: by its root it is known as the head.
    Raises what a session raises, but for a conflict, which is an answer.
    """
    note = pushed_path(path)
    header = Sidecar.load_header(note)
    if header is not None and unchanged(path, header.state):
        return
    reply = await _ask_in_sync(note, header, options) if header is not None else None
    if reply is not None and is_unheard_head(path, reply):
        Sidecar.move(note, path)
    else:
        Sidecar.remove(note)


async def _ask_in_sync(note: Path, header: SidecarHeader, options: Options) -> HelloReply | None:
    """The head, if it has that very content: as a dry run of a push of it, which is in sync."""

    def digests() -> bytearray:
        sidecar = Sidecar.load(note)
        if sidecar is None:
            raise StaleSidecar(f"{note} is damaged")
        return sidecar.hashes

    asked = PushPlanned(
        page_size=header.page_size,
        page_count=header.page_count,
        base=header.version,
        base_root=header.root,
        root=header.root,
        dry_run=True,
    )
    content = LocalContent(None, header.page_size, header.page_count, digests=digests)

    def make(transport: ClientTransport) -> tuple[ClientPush, PushClientEnd, PushPlanned]:
        compressor = Compressor("never", loopback=True, blocked_share=lambda: 0.0)
        return ClientPush(V2), PushClientEnd(content, compressor, lambda: None), asked

    try:
        machine, _ = await run_session(replace(options, record=None), V2, "push", make)
    except (Conflict, StaleSidecar):
        return None
    assert isinstance(machine, ClientPush)
    return machine.reply if machine.state_id == "unchanged" else None
