-- name: read_projects_of_org
-- A page of an org's projects in the order of their creation, after ($2, $3). An org has tens: its workspaces' keys
-- serve it.
SELECT project.id AS project_id, project.name, workspace.id AS workspace_id, workspace.name AS workspace_name,
       project.created_at
FROM project JOIN workspace ON workspace.id = project.workspace_id
WHERE workspace.org_id = $1 AND project.deleted_at IS NULL AND (project.created_at, project.id) > ($2, $3)
ORDER BY project.created_at, project.id
LIMIT $4

-- name: read_project_of_org
-- One project, only if it is of this org. Two primary keys.
SELECT project.id AS project_id, project.name, workspace.id AS workspace_id, workspace.name AS workspace_name,
       project.created_at
FROM project JOIN workspace ON workspace.id = project.workspace_id
WHERE workspace.org_id = $1 AND project.id = $2 AND project.deleted_at IS NULL
