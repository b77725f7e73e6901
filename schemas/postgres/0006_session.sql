-- Sessions of the web UI: the cookie's SHA-256, never the cookie.
CREATE TABLE session
(
    token_hash bytea PRIMARY KEY CHECK (length(token_hash) = 32),
    user_id uuid NOT NULL REFERENCES app_user (id),
    workspace_id uuid REFERENCES workspace (id), -- the one selected in the switcher
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);

CREATE INDEX session_of_user ON session (user_id);
CREATE INDEX session_expiry ON session (expires_at);
