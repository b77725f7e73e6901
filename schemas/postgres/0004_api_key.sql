-- API keys. Only a SHA-256 of the secret is kept: the secret has 256 random bits, which no slow hash makes safer.
CREATE TABLE api_key
(
    public_id text PRIMARY KEY CHECK (public_id ~ '^[0-9A-Za-z]{12}$'),
    org_id uuid,
    workspace_id uuid,
    project_id uuid,
    name text NOT NULL,
    secret_hash bytea NOT NULL CHECK (length(secret_hash) = 32),
    scopes text[] NOT NULL CHECK (scopes <@ ARRAY ['ingest:write', 'read', 'admin', 'operator'] AND scopes <> '{}'),
    created_by uuid REFERENCES app_user (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    -- The tenant tuple of a key is whole and of one tenant; an operator's key has none.
    FOREIGN KEY (workspace_id, org_id) REFERENCES workspace (id, org_id),
    FOREIGN KEY (project_id, workspace_id) REFERENCES project (id, workspace_id),
    CONSTRAINT api_key_operator_has_no_org CHECK ((org_id IS NULL) = ('operator' = ANY (scopes))),
    CONSTRAINT api_key_operator_is_nothing_else CHECK (org_id IS NOT NULL OR scopes = '{operator}'),
    CONSTRAINT api_key_tenant_is_whole CHECK ((org_id IS NULL) = (workspace_id IS NULL)
        AND (project_id IS NULL OR workspace_id IS NOT NULL))
);

CREATE INDEX api_key_org ON api_key (org_id, created_at);
CREATE INDEX api_key_project ON api_key (project_id, created_at);
