-- org > workspace > project. A suspended org keeps its data and is refused at every door.
CREATE TABLE org
(
    id uuid PRIMARY KEY,
    name text NOT NULL CHECK (name <> ''),
    created_at timestamptz NOT NULL DEFAULT now(),
    suspended_at timestamptz
);

CREATE TABLE workspace
(
    id uuid PRIMARY KEY,
    org_id uuid NOT NULL REFERENCES org (id),
    name text NOT NULL CHECK (name <> ''),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (org_id, name),
    UNIQUE (id, org_id) -- lets others point at a workspace together with its org, so that the two cannot disagree
);

CREATE TABLE project
(
    id uuid PRIMARY KEY,
    workspace_id uuid NOT NULL REFERENCES workspace (id),
    name text NOT NULL CHECK (name <> ''),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (workspace_id, name),
    UNIQUE (id, workspace_id)
);
