-- Removing rows of the data plane. Each question answers by partition, and each removal is of one partition: a mutation
-- reads that month's parts by their sort key, and writes anew those that hold something of it, once for all its rows.
-- The org comes first in every sort key. Rows of before tenancy are under `nobody`, and known by their project.

-- name: tables_there
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
-- Rows of a run that came before a moment, in microseconds.
SELECT count() AS found
FROM {table:Identifier}
WHERE org_id IN ({org:UUID}, {nobody:UUID}) AND project_id = {project:UUID} AND {run:Identifier} IN {runs:Array(String)}
    AND {arrived:Identifier} <= fromUnixTimestamp64Micro({until_us:Int64}, 'UTC')

-- name: known_of_user
-- Rows that name a user, and came before a moment. Reads that column of all the org has.
SELECT count() AS found
FROM {table:Identifier}
WHERE (org_id = {org:UUID} OR (org_id = {nobody:UUID} AND project_id IN {projects:Array(UUID)}))
    AND user_id = {user:String} AND {arrived:Identifier} <= fromUnixTimestamp64Micro({until_us:Int64}, 'UTC')

-- name: users_there
-- Which of these users a row names. Reads that column of all the org has.
SELECT DISTINCT user_id
FROM {table:Identifier}
WHERE (org_id = {org:UUID} OR (org_id = {nobody:UUID} AND project_id IN {projects:Array(UUID)}))
    AND user_id IN {users:Array(String)}

-- name: runs_of_user
-- Some of the runs that name a user, those of one project together.
SELECT DISTINCT project_id, {run:Identifier} AS run_id
FROM {table:Identifier}
WHERE (org_id = {org:UUID} OR (org_id = {nobody:UUID} AND project_id IN {projects:Array(UUID)}))
    AND user_id = {user:String} AND {arrived:Identifier} <= fromUnixTimestamp64Micro({until_us:Int64}, 'UTC')
ORDER BY project_id, run_id
LIMIT {most:UInt64}

-- name: rows_aged
-- Rows of these projects that began before a moment, in seconds; or came before it, where they say that they began later.
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
