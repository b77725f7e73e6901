-- Gives the eight tables of the data plane their tenant, and puts it first in the sort key: ORDER BY (org_id, project_id, ...),
-- for billing_meter (org_id, period, meter, event_id). A sort key cannot be changed in place, so each table gets a successor that
-- is filled and swapped in by RENAME. The old table stays as <table>_v1 for one release: rollback/0006_tenant_columns.sql goes back.
--
-- While this runs ingest goes on, but ingest-worker must stand still: what clients send waits in the queue. Rows that are written
-- all the same are found by the comparison before each swap, which then refuses; run the migration again and that table is
-- copied anew.
--
-- Rows whose project is unknown get the sentinel tenant ffffffff-..., never the nil UUID: that is what an unset tenant reads as in
-- a row policy. The columns come to the old table first, with the sentinel as default, so that row policies hold for it as well.
--
-- Memory is bounded whatever the size: one reading and one writing thread, blocks of at most 64 MB.

-- Whose each project is. Copied here, so that ClickHouse needs no way to PostgreSQL and holds no password of it. The dictionary is
-- read from this engine itself, which on a server means as its user `default`, from localhost.
CREATE TABLE IF NOT EXISTS project_tenant
(
    project_id UUID,
    workspace_id UUID,
    org_id UUID
)
ENGINE = MergeTree
ORDER BY project_id;

TRUNCATE TABLE project_tenant;

-- @load postgres project_tenants into project_tenant

CREATE OR REPLACE DICTIONARY project_tenant_dict
(
    project_id UUID,
    workspace_id UUID DEFAULT 'ffffffff-ffff-ffff-ffff-ffffffffffff',
    org_id UUID DEFAULT 'ffffffff-ffff-ffff-ffff-ffffffffffff'
)
PRIMARY KEY project_id
SOURCE(CLICKHOUSE(TABLE 'project_tenant'))
LAYOUT(COMPLEX_KEY_HASHED())
LIFETIME(0);

SYSTEM RELOAD DICTIONARY project_tenant_dict;

-- span
-- @unless table span_v1
ALTER TABLE span
    ADD COLUMN IF NOT EXISTS org_id UUID DEFAULT toUUID('ffffffff-ffff-ffff-ffff-ffffffffffff') FIRST,
    ADD COLUMN IF NOT EXISTS workspace_id UUID DEFAULT toUUID('ffffffff-ffff-ffff-ffff-ffffffffffff') AFTER org_id;

CREATE TABLE IF NOT EXISTS span_v2 AS span
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(accepted_at)
ORDER BY (org_id, project_id, trace_id, span_id)
SETTINGS index_granularity = 1024, min_bytes_for_wide_part = 268435456;

TRUNCATE TABLE span_v2;

INSERT INTO span_v2
SELECT
    dictGet('project_tenant_dict', 'org_id', project_id),
    dictGet('project_tenant_dict', 'workspace_id', project_id),
    * EXCEPT (org_id, workspace_id)
FROM span
SETTINGS max_threads = 1, max_insert_threads = 1, min_insert_block_size_bytes = 67108864, max_partitions_per_insert_block = 0;

SELECT throwIf(
    (SELECT (count(), sum(cityHash64(project_id, trace_id, span_id, version))) FROM span FINAL)
    != (SELECT (count(), sum(cityHash64(project_id, trace_id, span_id, version))) FROM span_v2 FINAL),
    'rows of span changed while it was copied. Stop ingest-worker; its queue keeps what arrives.')
SETTINGS do_not_merge_across_partitions_select_final = 0;

RENAME TABLE span TO span_v1, span_v2 TO span;
-- @end
-- @unless table span
RENAME TABLE span_v2 TO span; -- died between the two renames above
-- @end

-- run
-- @unless table run_v1
ALTER TABLE run
    ADD COLUMN IF NOT EXISTS org_id UUID DEFAULT toUUID('ffffffff-ffff-ffff-ffff-ffffffffffff') FIRST,
    ADD COLUMN IF NOT EXISTS workspace_id UUID DEFAULT toUUID('ffffffff-ffff-ffff-ffff-ffffffffffff') AFTER org_id;

CREATE TABLE IF NOT EXISTS run_v2 AS run
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(accepted_at)
ORDER BY (org_id, project_id, run_id)
SETTINGS index_granularity = 1024, min_bytes_for_wide_part = 268435456;

TRUNCATE TABLE run_v2;

INSERT INTO run_v2
SELECT
    dictGet('project_tenant_dict', 'org_id', project_id),
    dictGet('project_tenant_dict', 'workspace_id', project_id),
    * EXCEPT (org_id, workspace_id)
FROM run
SETTINGS max_threads = 1, max_insert_threads = 1, min_insert_block_size_bytes = 67108864, max_partitions_per_insert_block = 0;

SELECT throwIf(
    (SELECT (count(), sum(cityHash64(project_id, run_id, version))) FROM run FINAL)
    != (SELECT (count(), sum(cityHash64(project_id, run_id, version))) FROM run_v2 FINAL),
    'rows of run changed while it was copied. Stop ingest-worker; its queue keeps what arrives.')
SETTINGS do_not_merge_across_partitions_select_final = 0;

RENAME TABLE run TO run_v1, run_v2 TO run;
-- @end
-- @unless table run
RENAME TABLE run_v2 TO run; -- died between the two renames above
-- @end

-- billing_meter
-- @unless table billing_meter_v1
ALTER TABLE billing_meter
    ADD COLUMN IF NOT EXISTS org_id UUID DEFAULT toUUID('ffffffff-ffff-ffff-ffff-ffffffffffff') FIRST,
    ADD COLUMN IF NOT EXISTS workspace_id UUID DEFAULT toUUID('ffffffff-ffff-ffff-ffff-ffffffffffff') AFTER org_id;

CREATE TABLE IF NOT EXISTS billing_meter_v2 AS billing_meter
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(accepted_at)
ORDER BY (org_id, period, meter, event_id)
SETTINGS min_bytes_for_wide_part = 268435456;

TRUNCATE TABLE billing_meter_v2;

INSERT INTO billing_meter_v2
SELECT
    dictGet('project_tenant_dict', 'org_id', project_id),
    dictGet('project_tenant_dict', 'workspace_id', project_id),
    * EXCEPT (org_id, workspace_id)
FROM billing_meter
SETTINGS max_threads = 1, max_insert_threads = 1, min_insert_block_size_bytes = 67108864, max_partitions_per_insert_block = 0;

SELECT throwIf(
    (SELECT (count(), sum(cityHash64(project_id, period, meter, event_id, version))) FROM billing_meter FINAL)
    != (SELECT (count(), sum(cityHash64(project_id, period, meter, event_id, version))) FROM billing_meter_v2 FINAL),
    'rows of billing_meter changed while it was copied. Stop ingest-worker; its queue keeps what arrives.')
SETTINGS do_not_merge_across_partitions_select_final = 0;

RENAME TABLE billing_meter TO billing_meter_v1, billing_meter_v2 TO billing_meter;
-- @end
-- @unless table billing_meter
RENAME TABLE billing_meter_v2 TO billing_meter; -- died between the two renames above
-- @end

-- eval_score
-- @unless table eval_score_v1
ALTER TABLE eval_score
    ADD COLUMN IF NOT EXISTS org_id UUID DEFAULT toUUID('ffffffff-ffff-ffff-ffff-ffffffffffff') FIRST,
    ADD COLUMN IF NOT EXISTS workspace_id UUID DEFAULT toUUID('ffffffff-ffff-ffff-ffff-ffffffffffff') AFTER org_id;

CREATE TABLE IF NOT EXISTS eval_score_v2 AS eval_score
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(created_at)
ORDER BY (org_id, project_id, run_id, score_id);

TRUNCATE TABLE eval_score_v2;

INSERT INTO eval_score_v2
SELECT
    dictGet('project_tenant_dict', 'org_id', project_id),
    dictGet('project_tenant_dict', 'workspace_id', project_id),
    * EXCEPT (org_id, workspace_id)
FROM eval_score
SETTINGS max_threads = 1, max_insert_threads = 1, min_insert_block_size_bytes = 67108864, max_partitions_per_insert_block = 0;

SELECT throwIf(
    (SELECT (count(), sum(cityHash64(project_id, run_id, score_id, version))) FROM eval_score FINAL)
    != (SELECT (count(), sum(cityHash64(project_id, run_id, score_id, version))) FROM eval_score_v2 FINAL),
    'rows of eval_score changed while it was copied. Stop ingest-worker; its queue keeps what arrives.')
SETTINGS do_not_merge_across_partitions_select_final = 0;

RENAME TABLE eval_score TO eval_score_v1, eval_score_v2 TO eval_score;
-- @end
-- @unless table eval_score
RENAME TABLE eval_score_v2 TO eval_score; -- died between the two renames above
-- @end

-- eval_aggregate
-- @unless table eval_aggregate_v1
ALTER TABLE eval_aggregate
    ADD COLUMN IF NOT EXISTS org_id UUID DEFAULT toUUID('ffffffff-ffff-ffff-ffff-ffffffffffff') FIRST,
    ADD COLUMN IF NOT EXISTS workspace_id UUID DEFAULT toUUID('ffffffff-ffff-ffff-ffff-ffffffffffff') AFTER org_id;

CREATE TABLE IF NOT EXISTS eval_aggregate_v2 AS eval_aggregate
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(hour)
ORDER BY (org_id, project_id, evaluator, name, hour);

TRUNCATE TABLE eval_aggregate_v2;

INSERT INTO eval_aggregate_v2
SELECT
    dictGet('project_tenant_dict', 'org_id', project_id),
    dictGet('project_tenant_dict', 'workspace_id', project_id),
    * EXCEPT (org_id, workspace_id)
FROM eval_aggregate
SETTINGS max_threads = 1, max_insert_threads = 1, min_insert_block_size_bytes = 67108864, max_partitions_per_insert_block = 0;

SELECT throwIf(
    (SELECT (count(), sum(cityHash64(project_id, evaluator, name, hour, version))) FROM eval_aggregate FINAL)
    != (SELECT (count(), sum(cityHash64(project_id, evaluator, name, hour, version))) FROM eval_aggregate_v2 FINAL),
    'rows of eval_aggregate changed while it was copied. Stop ingest-worker; its queue keeps what arrives.')
SETTINGS do_not_merge_across_partitions_select_final = 0;

RENAME TABLE eval_aggregate TO eval_aggregate_v1, eval_aggregate_v2 TO eval_aggregate;
-- @end
-- @unless table eval_aggregate
RENAME TABLE eval_aggregate_v2 TO eval_aggregate; -- died between the two renames above
-- @end

-- replay_capture
-- @unless table replay_capture_v1
ALTER TABLE replay_capture
    ADD COLUMN IF NOT EXISTS org_id UUID DEFAULT toUUID('ffffffff-ffff-ffff-ffff-ffffffffffff') FIRST,
    ADD COLUMN IF NOT EXISTS workspace_id UUID DEFAULT toUUID('ffffffff-ffff-ffff-ffff-ffffffffffff') AFTER org_id;

CREATE TABLE IF NOT EXISTS replay_capture_v2 AS replay_capture
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(captured_at)
ORDER BY (org_id, project_id, run_id, span_id);

TRUNCATE TABLE replay_capture_v2;

INSERT INTO replay_capture_v2
SELECT
    dictGet('project_tenant_dict', 'org_id', project_id),
    dictGet('project_tenant_dict', 'workspace_id', project_id),
    * EXCEPT (org_id, workspace_id)
FROM replay_capture
SETTINGS max_threads = 1, max_insert_threads = 1, min_insert_block_size_bytes = 67108864, max_partitions_per_insert_block = 0;

SELECT throwIf(
    (SELECT (count(), sum(cityHash64(project_id, run_id, span_id, version))) FROM replay_capture FINAL)
    != (SELECT (count(), sum(cityHash64(project_id, run_id, span_id, version))) FROM replay_capture_v2 FINAL),
    'rows of replay_capture changed while it was copied. Stop ingest-worker; its queue keeps what arrives.')
SETTINGS do_not_merge_across_partitions_select_final = 0;

RENAME TABLE replay_capture TO replay_capture_v1, replay_capture_v2 TO replay_capture;
-- @end
-- @unless table replay_capture
RENAME TABLE replay_capture_v2 TO replay_capture; -- died between the two renames above
-- @end

-- replay_run
-- @unless table replay_run_v1
ALTER TABLE replay_run
    ADD COLUMN IF NOT EXISTS org_id UUID DEFAULT toUUID('ffffffff-ffff-ffff-ffff-ffffffffffff') FIRST,
    ADD COLUMN IF NOT EXISTS workspace_id UUID DEFAULT toUUID('ffffffff-ffff-ffff-ffff-ffffffffffff') AFTER org_id;

CREATE TABLE IF NOT EXISTS replay_run_v2 AS replay_run
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(started_at)
ORDER BY (org_id, project_id, replay_id);

TRUNCATE TABLE replay_run_v2;

INSERT INTO replay_run_v2
SELECT
    dictGet('project_tenant_dict', 'org_id', project_id),
    dictGet('project_tenant_dict', 'workspace_id', project_id),
    * EXCEPT (org_id, workspace_id)
FROM replay_run
SETTINGS max_threads = 1, max_insert_threads = 1, min_insert_block_size_bytes = 67108864, max_partitions_per_insert_block = 0;

SELECT throwIf(
    (SELECT (count(), sum(cityHash64(project_id, replay_id, version))) FROM replay_run FINAL)
    != (SELECT (count(), sum(cityHash64(project_id, replay_id, version))) FROM replay_run_v2 FINAL),
    'rows of replay_run changed while it was copied. Stop ingest-worker; its queue keeps what arrives.')
SETTINGS do_not_merge_across_partitions_select_final = 0;

RENAME TABLE replay_run TO replay_run_v1, replay_run_v2 TO replay_run;
-- @end
-- @unless table replay_run
RENAME TABLE replay_run_v2 TO replay_run; -- died between the two renames above
-- @end

-- dataset_item
-- @unless table dataset_item_v1
ALTER TABLE dataset_item
    ADD COLUMN IF NOT EXISTS org_id UUID DEFAULT toUUID('ffffffff-ffff-ffff-ffff-ffffffffffff') FIRST,
    ADD COLUMN IF NOT EXISTS workspace_id UUID DEFAULT toUUID('ffffffff-ffff-ffff-ffff-ffffffffffff') AFTER org_id;

CREATE TABLE IF NOT EXISTS dataset_item_v2 AS dataset_item
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(created_at)
ORDER BY (org_id, project_id, dataset_id, item_id);

TRUNCATE TABLE dataset_item_v2;

INSERT INTO dataset_item_v2
SELECT
    dictGet('project_tenant_dict', 'org_id', project_id),
    dictGet('project_tenant_dict', 'workspace_id', project_id),
    * EXCEPT (org_id, workspace_id)
FROM dataset_item
SETTINGS max_threads = 1, max_insert_threads = 1, min_insert_block_size_bytes = 67108864, max_partitions_per_insert_block = 0;

SELECT throwIf(
    (SELECT (count(), sum(cityHash64(project_id, dataset_id, item_id, version))) FROM dataset_item FINAL)
    != (SELECT (count(), sum(cityHash64(project_id, dataset_id, item_id, version))) FROM dataset_item_v2 FINAL),
    'rows of dataset_item changed while it was copied. Stop ingest-worker; its queue keeps what arrives.')
SETTINGS do_not_merge_across_partitions_select_final = 0;

RENAME TABLE dataset_item TO dataset_item_v1, dataset_item_v2 TO dataset_item;
-- @end
-- @unless table dataset_item
RENAME TABLE dataset_item_v2 TO dataset_item; -- died between the two renames above
-- @end

-- The dictionary has no row policy and cannot have one, so it does not outlive its use.
DROP DICTIONARY IF EXISTS project_tenant_dict;

DROP TABLE IF EXISTS project_tenant;

-- Who reads for a request, and what it sees: rows of the org that the request names, none when it names none. The embedded engine
-- has the same in its configuration. A restrictive policy cannot be widened by another; it needs a permissive one to restrict.
-- @only server
CREATE ROLE IF NOT EXISTS tracebility_reader
SETTINGS readonly = 1, SQL_tracebility_org = '' CHANGEABLE_IN_READONLY;

CREATE ROW POLICY IF NOT EXISTS tracebility_open ON
    span, run, billing_meter, eval_score, eval_aggregate, replay_capture, replay_run, dataset_item, span_v1,
    run_v1, billing_meter_v1, eval_score_v1, eval_aggregate_v1, replay_capture_v1, replay_run_v1,
    dataset_item_v1, span_v2, run_v2, billing_meter_v2, eval_score_v2, eval_aggregate_v2, replay_capture_v2,
    replay_run_v2, dataset_item_v2
FOR SELECT USING 1 TO tracebility_reader;

CREATE ROW POLICY IF NOT EXISTS tracebility_tenant ON
    span, run, billing_meter, eval_score, eval_aggregate, replay_capture, replay_run, dataset_item, span_v1,
    run_v1, billing_meter_v1, eval_score_v1, eval_aggregate_v1, replay_capture_v1, replay_run_v1,
    dataset_item_v1, span_v2, run_v2, billing_meter_v2, eval_score_v2, eval_aggregate_v2, replay_capture_v2,
    replay_run_v2, dataset_item_v2
AS RESTRICTIVE FOR SELECT USING org_id = toUUIDOrZero(getSetting('SQL_tracebility_org')) TO tracebility_reader;

GRANT SELECT ON span TO tracebility_reader;

GRANT SELECT ON run TO tracebility_reader;

GRANT SELECT ON billing_meter TO tracebility_reader;

GRANT SELECT ON eval_score TO tracebility_reader;

GRANT SELECT ON eval_aggregate TO tracebility_reader;

GRANT SELECT ON replay_capture TO tracebility_reader;

GRANT SELECT ON replay_run TO tracebility_reader;

GRANT SELECT ON dataset_item TO tracebility_reader;
-- @end
