-- Projections.
-- Tokens minted under an earlier epoch than their user's are revoked.
CREATE TABLE token_epochs (
    user_id TEXT PRIMARY KEY,
    epoch BIGINT NOT NULL
);

-- Tokens revoked one by one; with `descendants`, so are those that a session issued.
CREATE TABLE revoked_tokens (
    nonce TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    descendants INTEGER NOT NULL,
    revoked_at DOUBLE PRECISION NOT NULL
);

-- Not projections: where a user was and what is half done is state that ends, not history.
CREATE TABLE sessions (
    nonce TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    method TEXT NOT NULL,
    address TEXT NOT NULL,
    agent TEXT NOT NULL,
    opened_at DOUBLE PRECISION NOT NULL,
    expires_at DOUBLE PRECISION NOT NULL
);
CREATE INDEX sessions_of_user ON sessions (user_id, opened_at);
CREATE INDEX sessions_by_end ON sessions (expires_at);

-- Logins with a provider that have begun. The key is what the provider sees of the state; what
-- completes the login is known to whoever began it, and to nobody else.
CREATE TABLE oauth_logins (
    public_state TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    purpose TEXT NOT NULL,
    user_id TEXT,
    loopback_port BIGINT,
    expires_at DOUBLE PRECISION NOT NULL,
    claimed_at DOUBLE PRECISION
);
CREATE INDEX oauth_logins_by_end ON oauth_logins (expires_at);
