-- The org of a project, for legacy envelopes.

-- name: owner_of_legacy_project
SELECT org_id, workspace_id FROM project_tenant_view WHERE project_id = $1
