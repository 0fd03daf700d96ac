-- The log. `position` orders all events as they were appended; (stream, seq) is the key that an
-- append takes or loses.
CREATE TABLE events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    stream TEXT NOT NULL,
    seq BIGINT NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    recorded_at DOUBLE PRECISION NOT NULL,
    UNIQUE (stream, seq)
);

-- Projections: nothing below stands that a fold over the log would not make again.
CREATE TABLE users (
    user_id TEXT PRIMARY KEY,
    email TEXT NOT NULL,
    email_key TEXT NOT NULL UNIQUE,
    created_at DOUBLE PRECISION NOT NULL
);

CREATE TABLE identities (
    provider TEXT NOT NULL,
    subject TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES users (user_id),
    linked_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (provider, subject)
);
CREATE INDEX identities_of_user ON identities (user_id);

CREATE TABLE organizations (
    org_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    personal INTEGER NOT NULL,
    created_at DOUBLE PRECISION NOT NULL
);

CREATE TABLE memberships (
    org_id TEXT NOT NULL REFERENCES organizations (org_id),
    user_id TEXT NOT NULL REFERENCES users (user_id),
    role TEXT NOT NULL,
    added_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (org_id, user_id)
);
CREATE INDEX memberships_of_user ON memberships (user_id, added_at);

-- head_* describe the newest version; head_version 0 is the empty database.
CREATE TABLE databases (
    database_id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL REFERENCES organizations (org_id),
    name TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    deleted_at DOUBLE PRECISION,
    head_version BIGINT NOT NULL,
    head_root TEXT,
    head_at DOUBLE PRECISION,
    page_size BIGINT,
    page_count BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL
);
CREATE UNIQUE INDEX databases_by_name ON databases (org_id, name) WHERE deleted_at IS NULL;

-- Segments that no version refers to yet; what is left here too long is garbage.
CREATE TABLE staged_segments (
    segment_id TEXT PRIMARY KEY,
    database_id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    stored_bytes BIGINT NOT NULL,
    pages BIGINT NOT NULL,
    staged_at DOUBLE PRECISION NOT NULL
);
CREATE INDEX staged_segments_of_database ON staged_segments (database_id, staged_at);
CREATE INDEX staged_segments_by_age ON staged_segments (staged_at);

-- Not a projection: secrets are state, not history, so no hash outlives the password it is of.
CREATE TABLE credentials (
    user_id TEXT PRIMARY KEY,
    password_hash TEXT NOT NULL
);
