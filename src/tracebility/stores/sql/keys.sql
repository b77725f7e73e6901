-- API keys. Look-ups are by primary key.

-- name: key_by_public_id
SELECT
    api_key.public_id,
    api_key.org_id,
    api_key.workspace_id,
    api_key.project_id,
    coalesce(org.plan, '') AS plan,
    api_key.scopes,
    api_key.secret_hash,
    api_key.expires_at,
    api_key.revoked_at
FROM api_key
LEFT JOIN org ON org.id = api_key.org_id
WHERE api_key.public_id = $1

-- name: insert_key
INSERT INTO api_key (public_id, org_id, workspace_id, project_id, name, secret_hash, scopes)
VALUES ($1, $2, $3, $4, $5, $6, $7)
