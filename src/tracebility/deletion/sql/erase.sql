-- Counting and removing rows in ClickHouse. Counts are by partition, and each removal covers one partition: the mutation
-- finds the affected parts by their sort key, which begins with the org, and rewrites each of them once. Rows from before
-- tenancy are stored under `nobody` and identified by their project.

-- name: existing_tables
SELECT name FROM system.tables WHERE database = currentDatabase() AND name IN {tables:Array(String)}

-- name: mutations_under_way
SELECT count() AS waiting, anyIf(latest_fail_reason, latest_fail_reason != '') AS reason
FROM system.mutations
WHERE database = currentDatabase() AND table = {table:String} AND NOT is_done

-- name: rows_of_org
SELECT _partition_id AS partition, count() AS found
FROM {table:Identifier}
WHERE org_id = {org:UUID} OR (org_id = {nobody:UUID} AND project_id IN {projects:Array(UUID)})
GROUP BY partition
ORDER BY partition

-- name: erase_of_org
ALTER TABLE {table:Identifier} DELETE IN PARTITION ID {partition:String}
WHERE org_id = {org:UUID} OR (org_id = {nobody:UUID} AND project_id IN {projects:Array(UUID)})

-- name: rows_of_project
SELECT _partition_id AS partition, count() AS found
FROM {table:Identifier}
WHERE org_id IN ({org:UUID}, {nobody:UUID}) AND project_id = {project:UUID}
GROUP BY partition
ORDER BY partition

-- name: erase_of_project
ALTER TABLE {table:Identifier} DELETE IN PARTITION ID {partition:String}
WHERE org_id IN ({org:UUID}, {nobody:UUID}) AND project_id = {project:UUID}

-- Of runs, what was accepted up to a moment, in microseconds.

-- name: rows_of_runs
SELECT _partition_id AS partition, count() AS found
FROM {table:Identifier}
WHERE org_id IN ({org:UUID}, {nobody:UUID}) AND project_id = {project:UUID} AND {run:Identifier} IN {runs:Array(String)}
    AND {arrived:Identifier} <= fromUnixTimestamp64Micro({until_us:Int64}, 'UTC')
GROUP BY partition
ORDER BY partition

-- name: erase_of_runs
ALTER TABLE {table:Identifier} DELETE IN PARTITION ID {partition:String}
WHERE org_id IN ({org:UUID}, {nobody:UUID}) AND project_id = {project:UUID} AND {run:Identifier} IN {runs:Array(String)}
    AND {arrived:Identifier} <= fromUnixTimestamp64Micro({until_us:Int64}, 'UTC')

-- name: known_of_run
-- Rows of a run that arrived by {until_us} (microseconds).
SELECT count() AS found
FROM {table:Identifier}
WHERE org_id IN ({org:UUID}, {nobody:UUID}) AND project_id = {project:UUID} AND {run:Identifier} IN {runs:Array(String)}
    AND {arrived:Identifier} <= fromUnixTimestamp64Micro({until_us:Int64}, 'UTC')

-- name: known_of_user
-- Rows that name a user and arrived by {until_us}. Scans the org's user_id column.
SELECT count() AS found
FROM {table:Identifier}
WHERE (org_id = {org:UUID} OR (org_id = {nobody:UUID} AND project_id IN {projects:Array(UUID)}))
    AND user_id = {user:String} AND {arrived:Identifier} <= fromUnixTimestamp64Micro({until_us:Int64}, 'UTC')

-- name: users_with_rows
-- Those of these users that still have rows. Scans the org's user_id column.
SELECT DISTINCT user_id
FROM {table:Identifier}
WHERE (org_id = {org:UUID} OR (org_id = {nobody:UUID} AND project_id IN {projects:Array(UUID)}))
    AND user_id IN {users:Array(String)}

-- name: runs_of_user
-- Some of the runs that name a user, grouped by project.
SELECT DISTINCT project_id, {run:Identifier} AS run_id
FROM {table:Identifier}
WHERE (org_id = {org:UUID} OR (org_id = {nobody:UUID} AND project_id IN {projects:Array(UUID)}))
    AND user_id = {user:String} AND {arrived:Identifier} <= fromUnixTimestamp64Micro({until_us:Int64}, 'UTC')
ORDER BY project_id, run_id
LIMIT {most:UInt64}

-- name: rows_aged
-- Rows of these projects that started before {before} (seconds), or that arrived before it with a later start time.
SELECT _partition_id AS partition, count() AS found
FROM {table:Identifier}
WHERE org_id IN {orgs:Array(UUID)} AND project_id IN {projects:Array(UUID)}
    AND ({began:Identifier} < toDateTime({before:UInt32}, 'UTC') OR {arrived:Identifier} < toDateTime({before:UInt32}, 'UTC'))
GROUP BY partition
ORDER BY partition

-- name: orgs_aged
SELECT DISTINCT org_id
FROM {table:Identifier}
WHERE org_id IN {orgs:Array(UUID)} AND project_id IN {projects:Array(UUID)}
    AND ({began:Identifier} < toDateTime({before:UInt32}, 'UTC') OR {arrived:Identifier} < toDateTime({before:UInt32}, 'UTC'))

-- name: erase_aged
ALTER TABLE {table:Identifier} DELETE IN PARTITION ID {partition:String}
WHERE org_id IN {orgs:Array(UUID)} AND project_id IN {projects:Array(UUID)}
    AND ({began:Identifier} < toDateTime({before:UInt32}, 'UTC') OR {arrived:Identifier} < toDateTime({before:UInt32}, 'UTC'))
