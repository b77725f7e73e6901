-- The first tenant of an installation.

-- name: lock_bootstrap
SELECT pg_advisory_xact_lock($1)

-- name: any_org
SELECT EXISTS (SELECT FROM org)

-- name: insert_org
INSERT INTO org (id, name, plan) VALUES ($1, $2, $3)

-- name: insert_workspace
INSERT INTO workspace (id, org_id, name) VALUES ($1, $2, $3)

-- name: insert_project
INSERT INTO project (id, workspace_id, name) VALUES ($1, $2, $3)

-- name: insert_user
INSERT INTO app_user (id, email, name, password_hash) VALUES ($1, $2, $3, $4)

-- name: insert_org_member
INSERT INTO org_member (org_id, user_id, role) VALUES ($1, $2, $3)
