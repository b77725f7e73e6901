-- The runner of migrations: PostgreSQL's part first, then ClickHouse's. All of these tables are small.

-- name: create_migrations_table
CREATE TABLE IF NOT EXISTS schema_migration
(
    number integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)

-- name: migrations_table_exists
SELECT to_regclass('schema_migration') IS NOT NULL

-- name: migrations_applied
SELECT number, name, checksum, applied_at FROM schema_migration ORDER BY number

-- name: record_migration
INSERT INTO schema_migration (number, name, checksum) VALUES ($1, $2, $3)

-- name: try_lock_migrations
SELECT pg_try_advisory_lock($1)

-- name: lock_migrations
SELECT pg_advisory_lock($1)

-- name: holder_of_migrations_lock
SELECT pid FROM pg_locks
WHERE locktype = 'advisory' AND granted AND (classid::bigint << 32 | objid::bigint) = $1 AND objsubid = 1

-- name: project_tenants
SELECT project_id, workspace_id, org_id FROM project_tenant_view

-- name: create_steps_table
CREATE TABLE IF NOT EXISTS schema_migration
(
    number UInt32,
    step UInt32,
    name String,
    checksum String,
    state Enum8('started' = 1, 'done' = 2, 'undone' = 3),
    at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(at)
ORDER BY (number, step)

-- name: steps_recorded
SELECT
    number,
    anyIf(recorded.name, step = 0) AS name,
    anyIf(recorded.checksum, step = 0) AS checksum,
    countIf(step = 0 AND state = 'done') = 1 AS finished,
    anyIf(recorded.at, step = 0) AS at,
    arrayCount(
        done -> done >= anyIf(recorded.at, step = 0), groupArrayIf(recorded.at, step > 0 AND state = 'done')
    ) AS steps_done
FROM schema_migration AS recorded FINAL
GROUP BY number
HAVING countIf(step = 0 AND state != 'undone') = 1
ORDER BY number

-- name: record_step
INSERT INTO schema_migration (number, step, name, checksum, state)
SELECT {number:UInt32}, {step:UInt32}, {name:String}, {checksum:String}, {state:String}

-- name: left_over_statements
SELECT query_id
FROM system.processes
WHERE position(query, concat('/* tracebility ', 'migrate */')) > 0 AND current_database = currentDatabase()

-- name: end_left_over_statements
KILL QUERY WHERE position(query, concat('/* tracebility ', 'migrate */')) > 0 AND current_database = currentDatabase() ASYNC

-- name: table_exists
SELECT name FROM system.tables WHERE database = currentDatabase() AND name = {table:String}

-- name: writable_access_storages
SELECT name FROM system.user_directories WHERE type NOT IN ('users_xml', 'users.xml', 'ldap')
