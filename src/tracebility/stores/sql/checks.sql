-- What `tracebility status` and `doctor` ask. They run as the owner, and read the engine's and the server's own tables.

-- name: check_tables
-- Rows and bytes of each table that holds tenants' rows.
SELECT table, sum(rows) AS rows, sum(bytes_on_disk) AS bytes, count() AS parts
FROM system.parts
WHERE active AND database = currentDatabase() AND table IN {tables:Array(String)}
GROUP BY table

-- name: check_disk
-- Free and whole size of the disk that new parts go to.
SELECT free_space, total_space FROM system.disks WHERE name = 'default'

-- name: check_engine
-- The engine's clock and version.
SELECT toUnixTimestamp64Milli(now64(3)) AS now_ms, version() AS version

-- name: check_tenant_tables
-- Tables that hold tenants' rows: those with an org_id, whatever they are called.
SELECT DISTINCT table FROM system.columns
WHERE database = currentDatabase() AND name = 'org_id'
ORDER BY table

-- name: check_visible_rows
-- How many rows of a table this session sees.
SELECT count() AS rows FROM {table:Identifier}

-- name: check_control_plane
-- The control plane's clock and version.
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms, current_setting('server_version_num')::int AS version
