-- The tenancy seam in the control plane: what an org has bought, what it has used, and whose each project is.

-- A null limit is no limit, here and below.
CREATE TABLE plan
(
    name text PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    requests_per_s integer CHECK (requests_per_s > 0),
    burst integer CHECK (burst > 0),
    retention_days integer CHECK (retention_days > 0),
    eval_concurrency integer CHECK (eval_concurrency > 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- A meter without a row here is unlimited; a hard limit of 0 refuses everything.
CREATE TABLE plan_meter_limit
(
    plan text NOT NULL REFERENCES plan (name) ON UPDATE CASCADE ON DELETE CASCADE,
    meter text NOT NULL CHECK (meter IN ('spans', 'bytes')),
    hard_limit bigint CHECK (hard_limit >= 0),
    soft_limit bigint CHECK (soft_limit >= 0),
    PRIMARY KEY (plan, meter),
    CONSTRAINT plan_meter_limit_soft_below_hard CHECK (soft_limit <= hard_limit)
);

-- The plans every installation begins with; an operator gives them limits. Orgs older than plans go on unlimited.
INSERT INTO plan (name) VALUES ('free'), ('team'), ('enterprise'), ('internal');

ALTER TABLE org ADD COLUMN plan text NOT NULL DEFAULT 'internal' REFERENCES plan (name) ON UPDATE CASCADE;
ALTER TABLE org ALTER COLUMN plan SET DEFAULT 'free';
ALTER TABLE org ADD COLUMN retention_days integer CHECK (retention_days > 0); -- null: the plan's

-- What an org has used in a period, as last summed from the data plane up to the watermark.
CREATE TABLE quota_period
(
    org_id uuid NOT NULL REFERENCES org (id),
    period text NOT NULL CHECK (period ~ '^[0-9]{4}-(0[1-9]|1[0-2])$'),
    meter text NOT NULL,
    used_amount bigint NOT NULL DEFAULT 0 CHECK (used_amount >= 0),
    watermark timestamptz NOT NULL DEFAULT '-infinity',
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, period, meter)
);

-- Whose a project is: the source of the data plane's backfill (ClickHouse 0006).
CREATE VIEW project_tenant_view AS
SELECT project.id AS project_id, workspace.id AS workspace_id, workspace.org_id
FROM project
JOIN workspace ON workspace.id = project.workspace_id;
