-- Queries of `tracebility status` and `doctor`. They run as the owner and read system tables.

-- name: check_tables
-- Rows and bytes of each table with tenant rows.
SELECT table, sum(rows) AS rows, sum(bytes_on_disk) AS bytes, count() AS parts
FROM system.parts
WHERE active AND database = currentDatabase() AND table IN {tables:Array(String)}
GROUP BY table

-- name: check_disk
-- Free and total size of the disk for new parts.
SELECT free_space, total_space FROM system.disks WHERE name = 'default'

-- name: check_engine
-- The engine's clock and version.
SELECT toUnixTimestamp64Milli(now64(3)) AS now_ms, version() AS version

-- name: check_tenant_tables
-- Tables with tenant rows: those with an org_id.
SELECT DISTINCT table FROM system.columns
WHERE database = currentDatabase() AND name = 'org_id'
ORDER BY table

-- name: check_visible_rows
-- Tables of which this session sees rows. Spelled out, because a read-only session cannot take a table name as parameter.
SELECT table FROM (
SELECT 'run' AS table, count() AS rows FROM run
UNION ALL SELECT 'span' AS table, count() AS rows FROM span
UNION ALL SELECT 'eval_score' AS table, count() AS rows FROM eval_score
UNION ALL SELECT 'eval_aggregate' AS table, count() AS rows FROM eval_aggregate
UNION ALL SELECT 'replay_capture' AS table, count() AS rows FROM replay_capture
UNION ALL SELECT 'replay_run' AS table, count() AS rows FROM replay_run
UNION ALL SELECT 'dataset_item' AS table, count() AS rows FROM dataset_item
UNION ALL SELECT 'billing_meter' AS table, count() AS rows FROM billing_meter
UNION ALL SELECT 'audit_log' AS table, count() AS rows FROM audit_log
UNION ALL SELECT 'audit_reconciliation_gap' AS table, count() AS rows FROM audit_reconciliation_gap
UNION ALL SELECT 'envelope_outcome' AS table, count() AS rows FROM envelope_outcome
)
WHERE rows > 0

-- name: check_visible_rows_before_tenancy
-- The same for the tables that migration 0006 keeps for its rollback.
SELECT table FROM (
SELECT 'run_v1' AS table, count() AS rows FROM run_v1
UNION ALL SELECT 'span_v1' AS table, count() AS rows FROM span_v1
UNION ALL SELECT 'eval_score_v1' AS table, count() AS rows FROM eval_score_v1
UNION ALL SELECT 'eval_aggregate_v1' AS table, count() AS rows FROM eval_aggregate_v1
UNION ALL SELECT 'replay_capture_v1' AS table, count() AS rows FROM replay_capture_v1
UNION ALL SELECT 'replay_run_v1' AS table, count() AS rows FROM replay_run_v1
UNION ALL SELECT 'dataset_item_v1' AS table, count() AS rows FROM dataset_item_v1
UNION ALL SELECT 'billing_meter_v1' AS table, count() AS rows FROM billing_meter_v1
)
WHERE rows > 0

-- name: check_control_plane
-- The control plane's clock and version.
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms, current_setting('server_version_num')::int AS version
