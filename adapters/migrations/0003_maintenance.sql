-- None of these is a projection: they say what is going on, not what has happened.
-- Who may look after storage now. `token` grows with every holder.
CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    token BIGINT NOT NULL,
    expires_at DOUBLE PRECISION NOT NULL
);

-- Running pushes, pulls and compactions. `pin_no` grows, so that a pin taken later has a greater
-- one; `version` is the lowest that the session uses.
CREATE TABLE pins (
    pin_no INTEGER PRIMARY KEY AUTOINCREMENT,
    pin_id TEXT NOT NULL UNIQUE,
    org_id TEXT NOT NULL,
    database_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    expires_at DOUBLE PRECISION NOT NULL
);
CREATE INDEX pins_of_org ON pins (org_id, pin_no);

-- Objects that nothing referred to when they were seen; pins up to `last_pin_no` may still hold them.
CREATE TABLE gc_candidates (
    object_key TEXT PRIMARY KEY,
    org_id TEXT NOT NULL,
    seen_at DOUBLE PRECISION NOT NULL,
    last_pin_no BIGINT NOT NULL
);
CREATE INDEX gc_candidates_of_org ON gc_candidates (org_id);

-- Deleted databases whose objects nothing refers to any more; `freed` once there are none left.
CREATE TABLE gc_released (
    database_id TEXT PRIMARY KEY,
    freed INTEGER NOT NULL
);

-- What map objects refer to: a copy of what they say, since reading them all again would cost.
CREATE TABLE gc_map_segments (
    map_key TEXT PRIMARY KEY,
    database_id TEXT NOT NULL,
    segments TEXT NOT NULL
);
CREATE INDEX gc_map_segments_of_database ON gc_map_segments (database_id);

-- When an organization was last looked at as a whole.
CREATE TABLE gc_looks (
    org_id TEXT PRIMARY KEY,
    looked_at DOUBLE PRECISION NOT NULL
);

-- Folds of long streams up to `seq`, so that nobody reads all of them again. May be deleted.
CREATE TABLE stream_snapshots (
    stream TEXT PRIMARY KEY,
    seq BIGINT NOT NULL,
    state TEXT NOT NULL
);
CREATE TABLE stream_snapshot_chunks (
    stream TEXT NOT NULL,
    number BIGINT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (stream, number)
);

-- Up to which event of its stream a database was looked at for compaction.
CREATE TABLE compaction_checks (
    database_id TEXT PRIMARY KEY,
    seq BIGINT NOT NULL
);
