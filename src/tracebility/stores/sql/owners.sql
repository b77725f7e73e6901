-- Whose a project is, for envelopes from before the shards.

-- name: owner_of_legacy_project
SELECT org_id, workspace_id FROM project_tenant_view WHERE project_id = $1
