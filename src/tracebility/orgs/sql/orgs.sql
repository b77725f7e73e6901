-- Orgs, and the look-ups of their ids. All use primary keys, except the list.

-- name: lock_org
SELECT plan, suspended_at, retention_days, deleted_at FROM org WHERE id = $1 FOR NO KEY UPDATE

-- name: update_org
UPDATE org SET plan = $2, suspended_at = $3, retention_days = $4 WHERE id = $1

-- name: read_org
SELECT id, name, plan, suspended_at, retention_days, created_at, deleted_at FROM org WHERE id = $1

-- name: read_orgs
-- A page of orgs in order of creation, after ($1, $2). Reads every org; an installation has thousands, and only operators
-- run this.
SELECT id, name, plan, suspended_at, retention_days, created_at, deleted_at
FROM org
WHERE (created_at, id) > ($1, $2)
ORDER BY created_at, id
LIMIT $3

-- name: read_quotas
-- Usage of each of the meters $3 in period $2, including unused ones.
SELECT
    org.plan,
    asked.meter,
    coalesce(
        CASE WHEN metered_at >= watermark THEN metered_amount ELSE used_amount END,
        0
    ) AS used,
    plan_meter_limit.hard_limit,
    plan_meter_limit.soft_limit,
    CASE WHEN isfinite(greatest(watermark, metered_at)) THEN greatest(watermark, metered_at) END AS as_of
FROM org
CROSS JOIN unnest($3::text[]) WITH ORDINALITY AS asked (meter, place)
LEFT JOIN plan_meter_limit ON plan_meter_limit.plan = org.plan AND plan_meter_limit.meter = asked.meter
LEFT JOIN quota_period
    ON quota_period.org_id = org.id AND quota_period.period = $2 AND quota_period.meter = asked.meter
WHERE org.id = $1
ORDER BY asked.place

-- Ids from a URL, if they belong to org $2. Operators pass null and find the ids of all orgs.

-- name: named_org
SELECT id AS org_id FROM org WHERE id = $1 AND ($2::uuid IS NULL OR id = $2)

-- name: named_workspace
SELECT org_id, id AS workspace_id FROM workspace WHERE id = $1 AND ($2::uuid IS NULL OR org_id = $2)

-- name: named_project
SELECT workspace.org_id, workspace.id AS workspace_id, project.id AS project_id
FROM project
JOIN workspace ON workspace.id = project.workspace_id
WHERE project.id = $1 AND project.deleted_at IS NULL AND ($2::uuid IS NULL OR workspace.org_id = $2)

-- The org of an id that was refused. Null or no row: the id does not exist.

-- name: owner_of_org
SELECT id FROM org WHERE id = $1

-- name: owner_of_workspace
SELECT org_id FROM workspace WHERE id = $1

-- name: owner_of_project
SELECT workspace.org_id
FROM project
JOIN workspace ON workspace.id = project.workspace_id
WHERE project.id = $1

-- name: owner_of_api_key
SELECT org_id FROM api_key WHERE public_id = $1
