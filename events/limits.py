"""Every named limit of the project, with its unit last in the name.

Protocol bounds are constants; what an operator may tune is a setting (`app.settings`) whose
default stands here.
"""

from typing import Final

# SQLite (fileformat2 §1.3.2, limits.html §13)
PAGE_SIZE_BYTES_MIN: Final = 512
PAGE_SIZE_BYTES_MAX: Final = 65_536
PAGE_NUMBER_MAX: Final = 0xFFFF_FFFE
LOCK_BYTE_OFFSET: Final = 0x4000_0000

DIGEST_BYTES: Final = 32

# Wire
FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
CLIENT_FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
"""What a client takes from a server: more than any message that it accepts. A frame is held in up
to four copies until it is refused."""
BATCH_DECODED_BYTES_MAX: Final = 1024 * 1024
AUTO_COMPRESSED_BYTES: Final = 16 * 1024 * 1024
"""What `--compress auto` compresses before it has measured the link: enough to make up for the
hashes of a first push of 1 GiB, so that it is smaller than its pages."""
HASH_WINDOW_PAGES: Final = 4096
"""Page hashes announced in one v2 `page_hashes` frame, at most."""
HASH_WINDOW_BYTES: Final = 4 * 1024 * 1024
"""Page content that one announced window stands for, at most."""
DRILL_DOWN_PAGES: Final = (4096, 512, 64, 8)
"""Pages a range in each round of a drill-down; below the last, pages are announced."""
CLOCK_TICK_SECONDS: Final = 0.005
SETTLE_ATTEMPTS_MAX: Final = 4
"""Times that a file written within the last tick of the clock is looked at again."""
SPOOL_BYTES_IN_MEMORY_MAX: Final = 32 * 1024 * 1024
"""Changed pages held in memory, so that the file's read transaction can end early."""
PULLED_BYTES_IN_MEMORY_MAX: Final = 16 * 1024 * 1024
"""Pages for an existing file held in memory until all have come; more go to a file beside it."""
ANNOUNCED_WINDOWS_MAX: Final = 4
"""Windows a v2 client announces ahead of the server's answers."""
PAGES_PER_FRAME_MAX: Final = 65_536
"""Pages that one frame of either version may name."""
RUNS_PER_FRAME_MAX: Final = 65_536
RANGES_PER_FRAME_MAX: Final = 65_536
RANGE_PAGES_MAX: Final = 65_536
"""Pages one announced range may span (drill-down in v2, `page_hash_batch` in v1)."""
INBOUND_BYTES_MAX: Final = 4 * 1024 * 1024
"""Received frames that wait to be handled; beyond it the socket is not read."""
OUTBOUND_BYTES_MAX: Final = 4 * 1024 * 1024
"""Frames that wait to be sent to a peer that does not read; beyond it the session waits."""
CLOSE_SECONDS_MAX: Final = 10.0
RETRY_SECONDS_MAX: Final = 15.0
RETRY_AFTER_SECONDS_MAX: Final = 60.0
"""How long a client lets a server put it off, at most, before it tries again."""
RETRY_AFTER_DIGITS_MAX: Final = 9
"""Of a `Retry-After` that a client reads; Python refuses to read a number of thousands."""
CONNECT_SECONDS_MAX: Final = 20.0
PING_IDLE_SECONDS: Final = 60.0
"""Not less than the reply's: picows refuses to connect otherwise."""
PING_REPLY_SECONDS_MAX: Final = 60.0
MSGPACK_DEPTH_MAX: Final = 8
MSGPACK_ITEMS_MAX: Final = 5 * 65_536
"""Values in one frame, nested ones included; about 25 MiB in memory at most."""
MSGPACK_TEXT_BYTES_MAX: Final = 1024 * 1024
"""All strings of one frame together, keys included."""
ERROR_CODE_CHARS_MAX: Final = 64
ERROR_MESSAGE_CHARS_MAX: Final = 4096
VERSION_MESSAGE_CHARS_MAX: Final = 4096
CONFLICT_RUNS_MAX: Final = 4096
TABLES_NAMED_MAX: Final = 100
TABLES_NAMED_BYTES_MAX: Final = 256 * 1024 * 1024
"""A larger file is not walked to name the tables of a conflict."""
V1_ANNOUNCED_PAGES_MAX: Final = 32_768
"""Pages that a v1 pull announces; the frames of so many fit into the server's inbound queue."""
COALESCED_FRAMES_MAX: Final = 512
"""v1 frames taken together as one event."""

# A database
PAGES_PER_DATABASE_MAX: Final = 64 * 1024 * 1024
"""256 GiB at 4 KiB pages."""

# Storage
SEGMENT_BYTES_MAX: Final = 8 * 1024 * 1024
MALLOC_ARENAS_MAX: Final = 2
FREED_BYTES_KEPT_MAX: Final = 16 * 1024 * 1024
"""Freed memory that a process with a large session keeps to itself. glibc takes 32 MiB at most."""
GARBAGE_OBJECTS_MAX: Final = 10_000
"""New objects of a server after which Python looks for garbage cycles."""
LARGE_SESSION_BYTES: Final = 16 * 1024 * 1024
"""A session that moved more gives freed memory back to the system when it ends."""
SEGMENT_UPLOADS_IN_FLIGHT_MAX: Final = 2
"""Segments of one push in memory while the store takes them."""
SEGMENTS_UNREPORTED_MAX: Final = 8
"""Segments of one push that the store has taken and that are not yet durable and reported."""
SEGMENT_FOOTER_READ_BYTES: Final = 256 * 1024
"""How much of a segment's end is read at once: the whole footer of 4,096 pages and more."""
SEGMENT_FOOTERS_IN_FLIGHT_MAX: Final = 8
SEGMENT_READ_BYTES_MAX: Final = 4 * 1024 * 1024
SEGMENT_READ_GAP_BYTES_MAX: Final = 64 * 1024
"""Unwanted bytes between two blocks that are cheaper to read than another request."""
SEGMENT_READS_IN_FLIGHT_MAX: Final = 4
READ_PLAN_PAGES_MAX: Final = 262_144
"""Pages put in storage order together; a longer pull is planned piece by piece."""
PAGES_AHEAD_MAX: Final = READ_PLAN_PAGES_MAX
"""Pages of a pull for which the client makes room before those that precede them have come."""
PAGE_ORDER_WINDOW_BYTES: Final = 16 * 1024 * 1024
"""What is held in memory to hand out pages in page order."""
SEGMENTS_RESUMED_MAX: Final = 4096
"""Staged segments whose pages a resumed push may count on."""
STORE_RETRIES_MAX: Final = 5
"""Of one request to a remote store that fails with a 5xx or loses its connection."""
STORE_RETRY_SECONDS_MAX: Final = 20.0
STORE_BACKOFF_SECONDS_MAX: Final = 2.0
MAP_DELTAS_PER_SNAPSHOT_MAX: Final = 32
MAP_READS_IN_FLIGHT_MAX: Final = 8
MAP_CACHE_BYTES_MAX: Final = 32 * 1024 * 1024

# Looking after storage
CLOCK_SKEW_SECONDS_MAX: Final = 60.0
"""How far the clocks of two servers may be apart without either waiting for the other in vain."""
LEASE_SECONDS: Final = 300.0
PIN_SECONDS: Final = 3600.0
PIN_RENEW_SECONDS: Final = 600.0
"""A working session writes its pin anew this often."""
STAGED_TTL_SECONDS: Final = 7 * 86_400
"""How long an interrupted push may wait to be resumed."""
GC_GRACE_SECONDS: Final = 6 * 3600
"""Between the moment an object is first seen without references and its deletion, at least."""
GC_INTERVAL_SECONDS: Final = 3600
GC_LOOK_SECONDS: Final = 86_400
"""A server looks at all of an organization's objects this often; at one with candidates whose grace
is over, every time. A look is a LIST for each database."""
GC_DELETES_IN_FLIGHT_MAX: Final = 8
KEEP_LAST_VERSIONS_MAX: Final = 1_000_000_000
KEEP_DAYS_MAX: Final = 36_500
HISTORY_CHUNK_VERSIONS: Final = 256
HISTORY_CHUNK_BYTES_MAX: Final = HISTORY_CHUNK_VERSIONS * 64 * 1024
HISTORY_SNAPSHOT_EVENTS: Final = 512
"""Events after which a long history is written down anew."""
COMPACT_PIECES_MAX: Final = 64
"""Small segments of a history, or blocks of a head, that are left as they are."""
COMPACT_BLOCKS_FACTOR_MAX: Final = 4
"""Blocks of a head, as a multiple of what it needs, beyond which it is written anew."""
COMPACT_SMALL_SEGMENT_BYTES: Final = SEGMENT_BYTES_MAX // 8
"""Segments below this are joined."""
COMPACT_WASTE_PERCENT_MAX: Final = 50
"""Of the pages in blocks that a fresh pull has to read, those that it throws away."""
COMPACT_MAPS_PER_EVENT_MAX: Final = 256
COMPACT_MAPS_IN_MEMORY_MAX: Final = 2048
COMPACT_MAP_BYTES_IN_MEMORY_MAX: Final = 32 * 1024 * 1024
"""Of map objects that are rewritten together, so that they share segments."""

# Accounts
EMAIL_CHARS_MAX: Final = 254
EMAIL_TYPED_CHARS_MAX: Final = 4 * EMAIL_CHARS_MAX
"""Before it is brought into its one spelling, in which up to four characters become one."""
PASSWORD_CHARS_MIN: Final = 8
PASSWORD_CHARS_MAX: Final = 1024
DATABASE_NAME_CHARS_MAX: Final = 64

# Repository, log and histories
REPO_READERS_MAX: Final = 3
REPO_BUSY_SECONDS_MAX: Final = 15.0
REPO_BUSY_PAUSE_SECONDS: Final = 0.002
"""Between two questions for SQLite's write lock, while another process holds it."""
REPO_CONNECT_SECONDS_MAX: Final = 5.0
REPO_RECONNECT_SECONDS: Final = 0.1
"""Between two attempts to reach a PostgreSQL that is starting or gone."""
REPO_ATTEMPTS_MAX: Final = 4
"""Attempts at a transaction that did nothing: a dead connection, a deadlock."""
POSTGRES_CONNECTIONS_MIN: Final = 2
POSTGRES_CONNECTIONS_DEFAULT: Final = 8
"""A server process uses one more, to listen."""
NOTIFICATIONS_QUEUED_MAX: Final = 4096
"""Beyond it the oldest are lost."""
NOTIFICATION_BYTES_MAX: Final = 7000
"""PostgreSQL takes payloads of less than 8,000 bytes."""
STATEMENTS_IN_FLIGHT_MAX: Final = 256
EVENTS_PER_READ_MAX: Final = 1000
APPEND_ATTEMPTS_MAX: Final = 16
HISTORIES_CACHED_MAX: Final = 4096
VERSIONS_CACHED_MAX: Final = 50_000
"""Versions that all cached histories may hold together (about 1.5 KiB each)."""

DATABASES_PER_READ_MAX: Final = 1000
COPY_OBJECTS_IN_FLIGHT_MAX: Final = 4
"""Each is held in memory whole."""
COPY_PREFIXES_AT_ONCE_MAX: Final = 16

# Client
LOGIN_WAIT_SECONDS_MAX: Final = 600.0
"""How long `oauth login` waits for the browser: as long as a state is good by default."""
PENDING_LOGINS_KEPT_MAX: Final = 16
"""Logins with a provider that the configuration file remembers until they are completed."""
CONFIG_BYTES_MAX: Final = 1024 * 1024
TOKEN_FILE_BYTES_MAX: Final = 64 * 1024
ADMIN_ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
ADMIN_TIMEOUT_SECONDS: Final = 30.0
PROGRESS_INTERVAL_SECONDS: Final = 0.1
SERVER_START_SECONDS_MAX: Final = 30.0
"""How long the demo waits for its server to listen, and to stop."""
SERVER_STOP_SECONDS_MAX: Final = 20.0

RECORDING_LINE_CHARS_MAX: Final = 16 * 1024 * 1024
"""One event of a recorded session; page content is left out of it."""

# Tokens
TOKEN_CHARS_MAX: Final = 4096
TOKEN_CAVEATS_MAX: Final = 32
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 16

REVOCATIONS_CACHED_MAX: Final = 65_536
INVITATION_SECONDS: Final = 7 * 86_400
SESSIONS_LISTED_MAX: Final = 1000
CLIENT_TEXT_CHARS_MAX: Final = 200
"""Of an address or a User-Agent that is kept with a session."""

# Logging in with a provider
OAUTH_STATE_BYTES: Final = 32
OAUTH_LOGINS_PENDING_MAX: Final = 100_000
"""Logins begun and not yet expired; a row is about 150 bytes."""
OAUTH_LOGIN_KEPT_SECONDS: Final = 3600
"""After it expired, so that who comes too late is told that, and not that it never was."""
OAUTH_PARAMETER_CHARS_MAX: Final = 2048
"""Of a state or a code."""
PROVIDER_SECONDS_MAX: Final = 10.0
"""For each request to an identity provider."""
PROVIDER_ANSWER_BYTES_MAX: Final = 1024 * 1024
PROVIDER_KEYS_REFETCH_SECONDS: Final = 60.0
"""An unknown key id asks the provider for its keys at most this often."""
PROVIDER_CLOCK_SKEW_SECONDS: Final = 60

# Server edge: defaults of settings (`app.edge_settings`)
FRAME_BYTES_SETTING_MIN: Final = 2 * 1024 * 1024
"""A batch of `BATCH_DECODED_BYTES_MAX` must fit into a frame."""
LOGIN_ATTEMPTS_PER_ACCOUNT_PER_MINUTE: Final = 10
LOGIN_ATTEMPTS_PER_ADDRESS_PER_MINUTE: Final = 120
SYNC_OPENS_PER_TOKEN_PER_MINUTE: Final = 600
SYNC_OPENS_PER_ADDRESS_PER_MINUTE: Final = 1200
CONNECTIONS_PER_ADDRESS_MAX: Final = 256
SESSIONS_PER_DATABASE_MAX: Final = 64
SESSIONS_PER_ADDRESS_MAX: Final = 64
SESSION_HELLO_SECONDS: Final = 30
"""For a client's first frame."""
SESSION_IDLE_SECONDS: Final = 300
"""Long enough for one frame of 1 MiB over a link of 32 kbit/s."""
SESSION_SECONDS_MAX: Final = 86_400
DATABASES_PER_ORG_MAX: Final = 1000
ORG_STORED_BYTES_MAX: Final = 1024**4
QUOTA_KNOWN_SECONDS: Final = 10.0
"""How long an answer is used again about an organization that is far below its bound …"""
QUOTA_ROOM_BYTES_MIN: Final = 64 * 1024**3
"""… by more than anybody stores in that time."""
QUOTA_ORGANIZATIONS_KNOWN_MAX: Final = 65_536

# Server edge
REQUEST_SECONDS_MAX: Final = 20.0
"""For a request to arrive, head and body."""
RATE_BUCKETS_MAX: Final = 65_536
"""Accounts, addresses or tokens whose rate is remembered, each kind; about 200 bytes each."""
FORWARDED_HOPS_MAX: Final = 16
SESSION_SLOT_RETRY_SECONDS: Final = 5
DEADLINE_TICKS: Final = 4
"""How often in a deadline a session is looked at: it is met up to a quarter late."""
PASSWORD_THREADS_MAX: Final = 2
PASSWORD_QUEUE_MAX: Final = 64
"""Passwords that may wait for those threads; each check takes tens of milliseconds."""
PASSWORD_RETRY_SECONDS: Final = 2
METRICS_PORTS_MAX: Final = 64
"""Ports that are tried for metrics, so that each of several workers finds one."""
RPC_MESSAGE_BYTES_MAX: Final = 64 * 1024
RPC_JSON_DEPTH_MAX: Final = 100
"""Brackets in brackets; as deep as the binary form may be."""
REQUEST_ID_CHARS_MAX: Final = 64
READY_SECONDS_MAX: Final = 5.0
READY_CACHE_SECONDS: Final = 1.0
SHUTDOWN_GRACE_SECONDS: Final = 10.0
WORKERS_MAX: Final = 64
WORKER_RESTART_SECONDS: Final = 0.1
"""Before a crashed worker is started again; doubled while it crashes at once."""
WORKER_RESTART_SECONDS_MAX: Final = 5.0
WORKER_PROVEN_SECONDS: Final = 10.0
"""A worker that ran so long had started well."""
WORKER_STOP_SECONDS_MAX: Final = 25.0
"""Longer than a worker's own two graces."""
KEEP_ALIVE_SECONDS: Final = 30
LISTEN_BACKLOG_MAX: Final = 1024
LOG_VALUE_CHARS_MAX: Final = 16_384
"""A longer text in a log line is cut."""
SECRET_CHARS_MIN: Final = 6
"""Shorter texts are not looked for in log lines: no password and no token is that short."""
PING_INTERVAL_SECONDS: Final = 30
PING_TIMEOUT_SECONDS: Final = 120
"""Generous: while page storage is slow the server does not read, and so sees no pong either."""
