-- The runner of migrations: PostgreSQL's part first, then ClickHouse's. All of these tables are small.

-- name: create_migrations_table
CREATE TABLE IF NOT EXISTS schema_migration
(
    number integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)

-- name: create_steps_table
CREATE TABLE IF NOT EXISTS schema_migration_step
(
    number integer,
    step integer,
    checksum text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    PRIMARY KEY (number, step)
)

-- name: migration_tables_exist
SELECT to_regclass('schema_migration') IS NOT NULL AND to_regclass('schema_migration_step') IS NOT NULL

-- name: migrations_applied
SELECT number, name, checksum, applied_at FROM schema_migration ORDER BY number

-- name: record_migration
INSERT INTO schema_migration (number, name, checksum) VALUES ($1, $2, $3)

-- name: forget_steps
DELETE FROM schema_migration_step WHERE number = $1

-- name: start_step
INSERT INTO schema_migration_step (number, step, checksum) VALUES ($1, $2, $3)

-- name: finish_step
UPDATE schema_migration_step SET finished_at = now() WHERE number = $1 AND step = $2

-- name: steps_begun
SELECT number, max(step) AS step FROM schema_migration_step GROUP BY number

-- name: try_lock_migrations
SELECT pg_try_advisory_lock($1)

-- name: lock_migrations
SELECT pg_advisory_lock($1)

-- name: holder_of_migrations_lock
SELECT pid FROM pg_locks
WHERE locktype = 'advisory' AND granted AND (classid::bigint << 32 | objid::bigint) = $1 AND objsubid = 1

-- name: project_tenants
SELECT project_id, workspace_id, org_id FROM project_tenant_view

-- name: create_files_table
CREATE TABLE IF NOT EXISTS schema_migration
(
    number UInt32,
    name String,
    checksum String,
    state Enum8('started' = 1, 'done' = 2, 'undone' = 3),
    at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(at)
ORDER BY number

-- name: files_recorded
SELECT number, name, checksum, state = 'done' AS finished, at
FROM schema_migration FINAL
WHERE state != 'undone'
ORDER BY number

-- name: record_file
INSERT INTO schema_migration (number, name, checksum, state)
SELECT {number:UInt32}, {name:String}, {checksum:String}, {state:String}

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
