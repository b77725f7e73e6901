-- How long data is kept, and how it is removed for good.

-- A project may keep its data for less time than its org. Null: as long as its org does.
ALTER TABLE project ADD COLUMN retention_days integer CHECK (retention_days > 0);

-- From when on there is no such project or org for anyone, while its data is being removed. A project's row goes in the
-- end. An org's stays: usage and the audit trail name it.
ALTER TABLE project ADD COLUMN deleted_at timestamptz;
ALTER TABLE org ADD COLUMN deleted_at timestamptz;

-- Deletions that were asked for. `step` is the one to be done next; `progress` is what a step has to remember, so that
-- whoever takes over goes on where the one before it ended. No foreign key to the project: it goes before its job does.
CREATE TABLE deletion_job
(
    id uuid PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('run', 'project', 'user', 'org')),
    org_id uuid NOT NULL REFERENCES org (id),
    project_id uuid,
    target text NOT NULL,
    state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done', 'failed')),
    step text NOT NULL DEFAULT 'drain' CHECK (step IN ('drain', 'count', 'erase', 'forget', 'certify')),
    requested_by_type text NOT NULL,
    requested_by text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at timestamptz,
    finished_at timestamptz,
    progress jsonb NOT NULL DEFAULT '{}',
    counts_before jsonb NOT NULL DEFAULT '{}',
    counts_after jsonb,
    certificate jsonb,
    certificate_hash text,
    error text NOT NULL DEFAULT '',
    tries integer NOT NULL DEFAULT 0,
    CONSTRAINT deletion_job_done_is_certified CHECK ((state = 'done') = (certificate_hash IS NOT NULL))
);

-- Whoever asks for the same again is given the job that there is.
CREATE UNIQUE INDEX deletion_job_same ON deletion_job (org_id, kind, target, coalesce(project_id, org_id))
WHERE state IN ('queued', 'running');

CREATE INDEX deletion_job_of_org ON deletion_job (org_id, requested_at DESC, id DESC);
CREATE INDEX deletion_job_unfinished ON deletion_job (org_id, requested_at, id) WHERE state IN ('queued', 'running');
CREATE INDEX deletion_job_finished ON deletion_job (finished_at) WHERE state = 'done';
