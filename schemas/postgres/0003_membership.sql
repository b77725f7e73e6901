-- Who belongs where, and as what. A role in the org holds in all of its workspaces; one in a workspace only there.
CREATE TABLE org_member
(
    org_id uuid NOT NULL REFERENCES org (id),
    user_id uuid NOT NULL REFERENCES app_user (id),
    role text NOT NULL CHECK (role IN ('owner', 'admin', 'member')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, user_id)
);

CREATE INDEX org_member_user ON org_member (user_id);

CREATE TABLE workspace_member
(
    workspace_id uuid NOT NULL REFERENCES workspace (id),
    user_id uuid NOT NULL REFERENCES app_user (id),
    role text NOT NULL CHECK (role IN ('admin', 'editor', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (workspace_id, user_id)
);

CREATE INDEX workspace_member_user ON workspace_member (user_id);
