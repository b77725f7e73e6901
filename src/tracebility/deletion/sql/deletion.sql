-- Deletions that were asked for, and how long projects keep their data. By primary key or the index named.

-- name: insert_deletion
INSERT INTO deletion_job (id, kind, org_id, project_id, target, requested_by_type, requested_by)
VALUES ($1, $2, $3, $4, $5, $6, $7)

-- name: unfinished_deletion
-- The same that was asked for before. deletion_job_unfinished serves it.
SELECT * FROM deletion_job
WHERE org_id = $1 AND kind = $2 AND target = $3 AND coalesce(project_id, org_id) = coalesce($4, $1)
    AND state IN ('queued', 'running')

-- name: ask_deletion_again
-- A row when the same was asked for before and nothing is done of it yet: then it is as if it was asked for now.
-- deletion_job_unfinished serves it.
UPDATE deletion_job
SET requested_at = clock_timestamp(), moves = moves + 1
WHERE org_id = $1 AND kind = $2 AND target = $3 AND coalesce(project_id, org_id) = coalesce($4, $1)
    AND state IN ('queued', 'running') AND step = 'drain'
RETURNING *

-- name: last_deletion_of_org
-- deletion_job_of_org serves it.
SELECT * FROM deletion_job WHERE org_id = $1 AND kind = 'org' ORDER BY requested_at DESC, id DESC LIMIT 1

-- name: read_deletion
SELECT * FROM deletion_job WHERE id = $1

-- name: read_deletions_of_org
-- A page, the newest first, before ($2, $3). deletion_job_of_org serves it.
SELECT * FROM deletion_job
WHERE org_id = $1 AND (requested_at, id) < ($2, $3)
ORDER BY requested_at DESC, id DESC
LIMIT $4

-- name: next_deletions
-- The oldest unfinished one of each org. deletion_job_unfinished serves it.
SELECT DISTINCT ON (org_id) * FROM deletion_job
WHERE state IN ('queued', 'running')
ORDER BY org_id, requested_at, id

-- name: count_unfinished_deletions
SELECT count(*) FROM deletion_job WHERE state IN ('queued', 'running')

-- What has changed since it was read, $2, stays as it is: another operator has gone on, or the same was asked for again.

-- name: note_deletion
UPDATE deletion_job
SET
    state = 'running',
    step = $3,
    progress = $4,
    counts_before = $5,
    started_at = coalesce(started_at, clock_timestamp()),
    error = '',
    moves = moves + 1
WHERE id = $1 AND moves = $2 AND state IN ('queued', 'running')

-- name: finish_deletion
UPDATE deletion_job
SET
    state = 'done',
    finished_at = $3,
    counts_after = $4,
    certificate = $5,
    certificate_hash = $6,
    error = '',
    moves = moves + 1
WHERE id = $1 AND moves = $2 AND state = 'running'

-- name: deletion_stumbled
UPDATE deletion_job
SET
    tries = tries + 1,
    error = $3,
    state = CASE WHEN tries + 1 >= $4 THEN 'failed' ELSE 'running' END,
    moves = moves + 1
WHERE id = $1 AND moves = $2 AND state IN ('queued', 'running')
RETURNING state

-- name: deletions_to_sweep
-- What was removed not long ago; of what was asked for more than once, the last. deletion_job_finished serves it.
SELECT DISTINCT ON (org_id, kind, target, project_id) * FROM deletion_job
WHERE state = 'done' AND finished_at > clock_timestamp() - $1 * interval '1 day'
ORDER BY org_id, kind, target, project_id, requested_at DESC

-- name: mark_org_deleted
UPDATE org SET deleted_at = $2, suspended_at = coalesce(suspended_at, $2) WHERE id = $1

-- name: mark_project_deleted
UPDATE project SET deleted_at = $2 WHERE id = $1 AND deleted_at IS NULL

-- name: lock_live_keys_of_project
-- All before the first is changed, in order: who ends a single key has it before the trail's head. api_key_project
-- serves it.
SELECT public_id FROM api_key WHERE project_id = $1 AND revoked_at IS NULL ORDER BY public_id FOR NO KEY UPDATE

-- name: take_key_from_project
UPDATE api_key SET project_id = NULL WHERE public_id = $1

-- name: projects_of_org
SELECT project.id FROM project JOIN workspace ON workspace.id = project.workspace_id
WHERE workspace.org_id = $1
ORDER BY project.id

-- What of the control plane goes with projects, and then with an org, in this order.

-- name: remove_api_keys_of_projects
DELETE FROM api_key WHERE project_id = ANY ($1::uuid[])

-- name: remove_datasets
DELETE FROM dataset WHERE project_id = ANY ($1::uuid[])

-- name: remove_evaluators
DELETE FROM evaluator WHERE project_id = ANY ($1::uuid[])

-- name: remove_projects
DELETE FROM project WHERE id = ANY ($1::uuid[])

-- name: remove_api_keys_of_org
DELETE FROM api_key WHERE org_id = $1

-- name: leave_workspaces
UPDATE session SET workspace_id = NULL WHERE workspace_id IN (SELECT id FROM workspace WHERE org_id = $1)

-- name: remove_workspace_members
DELETE FROM workspace_member WHERE workspace_id IN (SELECT id FROM workspace WHERE org_id = $1)

-- name: remove_org_members
DELETE FROM org_member WHERE org_id = $1

-- name: remove_workspaces
DELETE FROM workspace WHERE org_id = $1

-- name: retentions
-- Every project with how long it keeps its data: its own time, never longer than its org's or the org's plan's.
SELECT
    workspace.org_id,
    project.id AS project_id,
    least(project.retention_days, coalesce(org.retention_days, plan.retention_days)) AS days
FROM project
JOIN workspace ON workspace.id = project.workspace_id
JOIN org ON org.id = workspace.org_id
JOIN plan ON plan.name = org.plan
WHERE least(project.retention_days, coalesce(org.retention_days, plan.retention_days)) IS NOT NULL
ORDER BY days, project.id

-- name: kept_days_of_project
-- How long one project keeps its data now; null: without an end. By primary keys.
SELECT least(project.retention_days, coalesce(org.retention_days, plan.retention_days))
FROM project
JOIN workspace ON workspace.id = project.workspace_id
JOIN org ON org.id = workspace.org_id
JOIN plan ON plan.name = org.plan
WHERE project.id = $1

-- name: lock_project
SELECT id, name, workspace_id, retention_days FROM project WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE

-- name: keep_project_for
UPDATE project SET retention_days = $2 WHERE id = $1

-- name: named_deletion
SELECT org_id, id AS job_id FROM deletion_job WHERE id = $1 AND ($2::uuid IS NULL OR org_id = $2)

-- name: owner_of_deletion
SELECT org_id FROM deletion_job WHERE id = $1

-- name: named_project_or_deleted
-- One that is being deleted too: whoever asks for that again is told of the job that there is.
SELECT workspace.org_id, workspace.id AS workspace_id, project.id AS project_id
FROM project
JOIN workspace ON workspace.id = project.workspace_id
WHERE project.id = $1 AND ($2::uuid IS NULL OR workspace.org_id = $2)
