-- A control plane that another installation made, used by one that has no keys for it yet. Run once per start at most.

-- name: oldest_project
SELECT
    org.id AS org_id,
    workspace.id AS workspace_id,
    project.id AS project_id,
    (
        SELECT app_user.email
        FROM org_member
        JOIN app_user ON app_user.id = org_member.user_id
        WHERE org_member.org_id = org.id AND org_member.role = 'owner'
        ORDER BY org_member.created_at
        LIMIT 1
    ) AS admin_email
FROM project
JOIN workspace ON workspace.id = project.workspace_id
JOIN org ON org.id = workspace.org_id
ORDER BY org.created_at, workspace.created_at, project.created_at
LIMIT 1
