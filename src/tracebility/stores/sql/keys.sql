-- API keys. Look-ups are by primary key.

-- name: key_by_public_id
-- The keys of a deleted org count as revoked, because the deletion cannot be undone.
SELECT
    api_key.public_id,
    api_key.org_id,
    api_key.workspace_id,
    api_key.project_id,
    coalesce(org.plan, '') AS plan,
    api_key.scopes,
    api_key.secret_hash,
    api_key.expires_at,
    coalesce(api_key.revoked_at, org.deleted_at) AS revoked_at,
    org.suspended_at IS NOT NULL AS suspended,
    plan.requests_per_s,
    plan.burst,
    api_key.requests_per_s AS key_requests_per_s,
    api_key.burst AS key_burst,
    (
        SELECT coalesce(jsonb_object_agg(meter, jsonb_build_array(hard_limit, soft_limit)), '{}')
        FROM plan_meter_limit
        WHERE plan_meter_limit.plan = org.plan
    ) AS meters,
    api_key.rev AS key_rev,
    coalesce(org.rev, 0) AS org_rev,
    coalesce(plan.rev, 0) AS plan_rev
FROM api_key
LEFT JOIN org ON org.id = api_key.org_id
LEFT JOIN plan ON plan.name = org.plan
WHERE api_key.public_id = $1

-- name: insert_key
INSERT INTO api_key (public_id, org_id, workspace_id, project_id, name, secret_hash, scopes)
VALUES ($1, $2, $3, $4, $5, $6, $7)

-- name: tenant_changes
-- The latest change of each object in the last $1 seconds: a few rows.
SELECT max(rev) AS rev, kind, id
FROM tenant_change
WHERE at > clock_timestamp() - $1 * interval '1 second'
GROUP BY kind, id

-- name: insert_key_of_project
INSERT INTO api_key (
    public_id, org_id, workspace_id, project_id, name, secret_hash, scopes, expires_at, requests_per_s, burst
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)

-- name: insert_successor_key
-- A key with the scopes, rate limits and original expiry of key $1.
INSERT INTO api_key (
    public_id, org_id, workspace_id, project_id, name, secret_hash, scopes, expires_at, requests_per_s, burst
)
SELECT
    $2, org_id, workspace_id, project_id, name, $3, scopes,
    nullif(coalesce(expires_unless_rotated, expires_at), 'infinity'), requests_per_s, burst
FROM api_key
WHERE public_id = $1
RETURNING expires_at

-- name: place_of_key
SELECT org_id, project_id FROM api_key WHERE public_id = $1

-- name: lock_key
SELECT org_id, project_id, name, scopes, expires_at, revoked_at, requests_per_s, burst
FROM api_key
WHERE public_id = $1
FOR NO KEY UPDATE

-- name: moment
SELECT clock_timestamp()

-- name: end_rotated_key
UPDATE api_key
SET expires_at = $2, expires_unless_rotated = coalesce(expires_unless_rotated, expires_at, 'infinity')
WHERE public_id = $1

-- name: expire_key
UPDATE api_key SET expires_at = $2 WHERE public_id = $1

-- name: revoke_key
-- Returns a row if the key was not revoked before.
UPDATE api_key SET revoked_at = clock_timestamp() WHERE public_id = $1 AND revoked_at IS NULL
RETURNING org_id, project_id, name

-- name: key_was_used
-- Does not count as a change of the key. Updates in order, so that two processes cannot deadlock.
UPDATE api_key SET last_used_at = clock_timestamp()
FROM (
    SELECT public_id FROM api_key
    WHERE public_id = ANY ($1) AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '1 minute')
    ORDER BY public_id
    FOR NO KEY UPDATE SKIP LOCKED
) AS due
WHERE api_key.public_id = due.public_id

-- name: read_keys_of_operators
-- The $1 oldest operator keys. Reads all keys; used only by a command.
SELECT public_id, name, scopes, created_at, expires_at, revoked_at, last_used_at, requests_per_s, burst
FROM api_key
WHERE org_id IS NULL
ORDER BY created_at, public_id
LIMIT $1

-- name: key_is_of_project
SELECT EXISTS (SELECT FROM api_key WHERE public_id = $1 AND project_id = $2)

-- name: read_keys_of_project
-- A page of a project's keys in order of creation, after ($2, $3). Uses api_key_project.
SELECT public_id, name, scopes, created_at, expires_at, revoked_at, last_used_at, requests_per_s, burst
FROM api_key
WHERE project_id = $1 AND (created_at, public_id) > ($2, $3)
ORDER BY created_at, public_id
LIMIT $4
