"""The sockets: small protocols behind which everything that touches the world sits.

Every adapter of a port, the in-memory one included, passes the same contract tests
(`tests/contract`). Who implements what is said once, in `app.bootstrap`.
"""

from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from ..events.value import Value

if TYPE_CHECKING:
    from ..events.oauth import ProviderIdentity

Buffer = bytes | bytearray | memoryview
Row = Mapping[str, Any]


class Clock(Protocol):
    """Time as the project sees it."""

    def now(self) -> float:
        """Seconds since the Unix epoch, UTC."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class Ids(Protocol):
    """Where randomness comes from."""

    def new_id(self) -> str:
        """A fresh identifier: 32 lower-case hex digits, ordered by time (UUIDv7)."""
        ...

    def token_bytes(self, count: int) -> bytes:
        """`count` bytes fit for secrets."""
        ...


class Statement(NamedTuple):
    """One SQL statement with `?` placeholders, in the dialect common to SQLite and PostgreSQL."""

    sql: str
    parameters: tuple[Any, ...] = ()


class Repo(Protocol):
    """A D1-like SQL database: four calls, and `batch` is one atomic transaction.

    A unique or primary-key violation raises `events.errors.AlreadyExists`; any other failure of
    the database raises `events.errors.StorageError`. Both name the table in `details["table"]` when
    it was a row that the database refused. A NUL character in a text may come back as U+FFFD.
    """

    async def execute(self, sql: str, *parameters: Any) -> int:
        """Run one statement in its own transaction; the number of rows it changed."""
        ...

    async def first(self, sql: str, *parameters: Any) -> Row | None: ...

    async def all(self, sql: str, *parameters: Any) -> list[Row]: ...

    async def batch(self, statements: Sequence[Statement] | AsyncIterable[Statement]) -> None:
        """Run all statements in one transaction: all of them hold, or none.

        An async iterable is consumed inside the transaction, which has by then locked out every
        other writer: what it reads through the same repo stands still.
        """
        ...

    async def close(self) -> None: ...


class ObjectInfo(Value, frozen=True):
    key: str
    size_bytes: int
    modified_at: float


class Payload(list[Buffer]):
    """The parts of an object on their way into a store that need not be held until it is durable.

    A store that can tell calls `release` when it has taken them; `on_release` is called once.
    """

    def __init__(self, parts: Iterable[Buffer], on_release: Callable[[], None]) -> None:
        super().__init__(parts)
        self._on_release: Callable[[], None] | None = on_release

    def release(self) -> None:
        self.clear()
        if self._on_release is not None:
            self._on_release()
            self._on_release = None


class ObjectStore(Protocol):
    """Immutable objects under string keys, none ever written twice.

    A key is segments of `[A-Za-z0-9._-]` joined by slashes. A failure of the store raises
    `events.errors.StorageError` with details `key` and `reason`: "disk_full", "denied",
    "truncated" or "failed".
    """

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Create `key` from the joined parts; durable and whole when this returns.

        A `Payload` may be released before.
        `events.errors.AlreadyExists` if there is such an object: it stays as it is.
        """
        ...

    async def get(self, key: str) -> memoryview:
        """The whole object; `events.errors.NotFound` if there is none."""
        ...

    async def get_range(self, key: str, offset: int, length: int) -> memoryview:
        """Exactly `length` bytes from `offset`; `StorageError` where the object ends earlier."""
        ...

    async def get_tail(self, key: str, length: int) -> tuple[memoryview, int]:
        """The last `length` bytes, or all of a shorter object, and the object's size in bytes."""
        ...

    async def delete(self, key: str) -> None:
        """Remove `key`; nothing happens if there is none."""
        ...

    async def list(self, prefix: str) -> list[ObjectInfo]:
        """All objects under `prefix/`, by key. The prefix is whole segments of a key."""
        ...

    async def check(self) -> None:
        """Raise unless the store can be written and read now (for `/readyz`)."""
        ...


class Change(NamedTuple):
    """What happened to which database. After `resumed` (no id) any number were missed."""

    topic: Literal["head", "deleted", "resumed"]
    database_id: str = ""


class Notifier(Protocol):
    """Tells every server of changes, usually within milliseconds. Nothing may depend on it.

    A change carries an id and no content: whoever hears it reads the log. It may be lost, doubled
    or late, so it may spare a wait and never replace a check.
    """

    def publish(self, change: Change) -> None:
        """Tell this process at once and all others soon; never waits and never raises."""
        ...

    def subscribe(self, heard: Callable[[Change], None]) -> None:
        """Have `heard` called in the event loop with every change, this process's own included."""
        ...

    async def start(self) -> None:
        """Begin to hear others; returns when nothing published from now on is missed."""
        ...

    async def close(self) -> None: ...


class CodeProof(Value, frozen=True):
    """A provider's code, and what shows that it was asked for here: all of it secret."""

    code: str
    redirect_uri: str
    code_verifier: str
    nonce: str
    secret: ClassVar[frozenset[str]] = frozenset(("code", "redirect_uri", "code_verifier", "nonce"))


class IdentityProvider(Protocol):
    """Who a person is, by the word of somebody that he has an account with (OAuth 2, PKCE S256)."""

    @property
    def name(self) -> str: ...

    def authorize_url(
        self, *, public_state: str, redirect_uri: str, code_challenge: str, nonce: str
    ) -> str:
        """Where the provider asks its user for consent."""
        ...

    async def identity(self, proof: CodeProof, now: float) -> "ProviderIdentity":
        """Whom the code stands for.

        `events.errors.Unauthenticated` if the provider refuses the code or its word does not hold,
        `IdentityProviderFailed` if it does not answer or makes no sense.
        """
        ...

    async def close(self) -> None: ...


class Transport(Protocol):
    """One connection that carries whole binary frames, in order, both ways."""

    async def send(self, frame: Buffer) -> None:
        """Queue one frame; waits while the peer does not read. `NetworkError` when closed."""
        ...

    async def receive(self) -> bytes:
        """The next frame. `TextFrameReceived` for a text frame, `NetworkError` at the end."""
        ...

    def receive_nowait(self) -> bytes | None:
        """The next frame if one has already arrived."""
        ...

    def push_back(self, frame: bytes) -> None:
        """Let `frame` be the next one received."""
        ...

    async def close(self, code: int, reason: str) -> None: ...
