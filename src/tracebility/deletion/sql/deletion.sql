-- Deletion jobs, and the retention times of projects. Queries use the primary key or the index that they name.

-- name: insert_deletion
INSERT INTO deletion_job (id, kind, org_id, project_id, target, requested_by_type, requested_by)
VALUES ($1, $2, $3, $4, $5, $6, $7)

-- name: unfinished_deletion
-- An unfinished job for the same target. Uses deletion_job_unfinished.
SELECT * FROM deletion_job
WHERE org_id = $1 AND kind = $2 AND target = $3 AND coalesce(project_id, org_id) = coalesce($4, $1)
    AND state IN ('queued', 'running')

-- name: ask_deletion_again
-- Renews the request time of a job for the same target that has not begun to remove rows; returns no row otherwise.
-- Uses deletion_job_unfinished.
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
-- The oldest unfinished job of each org. Uses deletion_job_unfinished.
SELECT DISTINCT ON (org_id) * FROM deletion_job
WHERE state IN ('queued', 'running')
ORDER BY org_id, requested_at, id

-- name: count_unfinished_deletions
SELECT count(*) FROM deletion_job WHERE state IN ('queued', 'running')

-- These update a job only if it is unchanged since it was read ($2 = moves). Otherwise another operator has advanced it,
-- or the request was repeated.

-- name: advance_deletion
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

-- name: record_deletion_failure
UPDATE deletion_job
SET
    tries = tries + 1,
    error = $3,
    state = CASE WHEN tries + 1 >= $4 THEN 'failed' ELSE 'running' END,
    moves = moves + 1
WHERE id = $1 AND moves = $2 AND state IN ('queued', 'running')
RETURNING state

-- name: deletions_to_sweep
-- Jobs finished in the last $1 days; the latest of each target. Uses deletion_job_finished.
SELECT DISTINCT ON (org_id, kind, target, project_id) * FROM deletion_job
WHERE state = 'done' AND finished_at > clock_timestamp() - $1 * interval '1 day'
ORDER BY org_id, kind, target, project_id, requested_at DESC

-- name: mark_org_deleted
UPDATE org SET deleted_at = $2, suspended_at = coalesce(suspended_at, $2) WHERE id = $1

-- name: mark_project_deleted
UPDATE project SET deleted_at = $2 WHERE id = $1 AND deleted_at IS NULL

-- name: lock_live_keys_of_project
-- Locks all keys before the first is changed, in order, because revoking a single key also locks it before the audit
-- log's head. Uses api_key_project.
SELECT public_id FROM api_key WHERE project_id = $1 AND revoked_at IS NULL ORDER BY public_id FOR NO KEY UPDATE

-- name: detach_key_from_project
UPDATE api_key SET project_id = NULL WHERE public_id = $1

-- name: projects_of_org
SELECT project.id FROM project JOIN workspace ON workspace.id = project.workspace_id
WHERE workspace.org_id = $1
ORDER BY project.id

-- Removal of PostgreSQL rows: those of projects first, then those of an org, in this order.

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

-- name: detach_sessions
UPDATE session SET workspace_id = NULL WHERE workspace_id IN (SELECT id FROM workspace WHERE org_id = $1)

-- name: remove_workspace_members
DELETE FROM workspace_member WHERE workspace_id IN (SELECT id FROM workspace WHERE org_id = $1)

-- name: remove_org_members
DELETE FROM org_member WHERE org_id = $1

-- name: remove_workspaces
DELETE FROM workspace WHERE org_id = $1

-- name: retentions
-- The retention of every project: its own, but at most its org's or the plan's.
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

-- name: set_project_retention
UPDATE project SET retention_days = $2 WHERE id = $1

-- name: named_deletion
SELECT org_id, id AS job_id FROM deletion_job WHERE id = $1 AND ($2::uuid IS NULL OR org_id = $2)

-- name: owner_of_deletion
SELECT org_id FROM deletion_job WHERE id = $1

-- name: named_project_or_deleted
-- Includes projects that are being deleted, so that a repeated request finds their job.
SELECT workspace.org_id, workspace.id AS workspace_id, project.id AS project_id
FROM project
JOIN workspace ON workspace.id = project.workspace_id
WHERE project.id = $1 AND ($2::uuid IS NULL OR workspace.org_id = $2)
