-- The way back from 0006: puts the tables of before tenancy in place again, without losing what was written since.
--
-- Every row is copied to the old table first; rows that are there already are the same version of the same key, and merge away.
-- The tables with tenant columns stay as <table>_v2, and 0006 fills them anew when it is applied again. ingest-worker must stand
-- still; the comparison before each swap refuses when a row is missing. The release before this one must run afterwards: this
-- one needs the tenant columns, of which the old tables have only the sentinel.

-- span
-- @unless table span
RENAME TABLE span_v1 TO span; -- died between the two renames below
-- @end
-- @when table span_v1
INSERT INTO span_v1
SELECT *
FROM span
SETTINGS max_threads = 1, max_insert_threads = 1, min_insert_block_size_bytes = 67108864, max_partitions_per_insert_block = 0;

SELECT throwIf(
    (SELECT (count(), sum(cityHash64(project_id, trace_id, span_id, version))) FROM span_v1 FINAL)
    != (SELECT (count(), sum(cityHash64(project_id, trace_id, span_id, version))) FROM span FINAL),
    'rows of span changed while they were copied. Stop ingest-worker; its queue keeps what arrives.')
SETTINGS do_not_merge_across_partitions_select_final = 0;

RENAME TABLE span TO span_v2, span_v1 TO span;
-- @end

-- run
-- @unless table run
RENAME TABLE run_v1 TO run; -- died between the two renames below
-- @end
-- @when table run_v1
INSERT INTO run_v1
SELECT *
FROM run
SETTINGS max_threads = 1, max_insert_threads = 1, min_insert_block_size_bytes = 67108864, max_partitions_per_insert_block = 0;

SELECT throwIf(
    (SELECT (count(), sum(cityHash64(project_id, run_id, version))) FROM run_v1 FINAL)
    != (SELECT (count(), sum(cityHash64(project_id, run_id, version))) FROM run FINAL),
    'rows of run changed while they were copied. Stop ingest-worker; its queue keeps what arrives.')
SETTINGS do_not_merge_across_partitions_select_final = 0;

RENAME TABLE run TO run_v2, run_v1 TO run;
-- @end

-- billing_meter
-- @unless table billing_meter
RENAME TABLE billing_meter_v1 TO billing_meter; -- died between the two renames below
-- @end
-- @when table billing_meter_v1
INSERT INTO billing_meter_v1
SELECT *
FROM billing_meter
SETTINGS max_threads = 1, max_insert_threads = 1, min_insert_block_size_bytes = 67108864, max_partitions_per_insert_block = 0;

SELECT throwIf(
    (SELECT (count(), sum(cityHash64(project_id, period, meter, event_id, version))) FROM billing_meter_v1 FINAL)
    != (SELECT (count(), sum(cityHash64(project_id, period, meter, event_id, version))) FROM billing_meter FINAL),
    'rows of billing_meter changed while they were copied. Stop ingest-worker; its queue keeps what arrives.')
SETTINGS do_not_merge_across_partitions_select_final = 0;

RENAME TABLE billing_meter TO billing_meter_v2, billing_meter_v1 TO billing_meter;
-- @end

-- eval_score
-- @unless table eval_score
RENAME TABLE eval_score_v1 TO eval_score; -- died between the two renames below
-- @end
-- @when table eval_score_v1
INSERT INTO eval_score_v1
SELECT *
FROM eval_score
SETTINGS max_threads = 1, max_insert_threads = 1, min_insert_block_size_bytes = 67108864, max_partitions_per_insert_block = 0;

SELECT throwIf(
    (SELECT (count(), sum(cityHash64(project_id, run_id, score_id, version))) FROM eval_score_v1 FINAL)
    != (SELECT (count(), sum(cityHash64(project_id, run_id, score_id, version))) FROM eval_score FINAL),
    'rows of eval_score changed while they were copied. Stop ingest-worker; its queue keeps what arrives.')
SETTINGS do_not_merge_across_partitions_select_final = 0;

RENAME TABLE eval_score TO eval_score_v2, eval_score_v1 TO eval_score;
-- @end

-- eval_aggregate
-- @unless table eval_aggregate
RENAME TABLE eval_aggregate_v1 TO eval_aggregate; -- died between the two renames below
-- @end
-- @when table eval_aggregate_v1
INSERT INTO eval_aggregate_v1
SELECT *
FROM eval_aggregate
SETTINGS max_threads = 1, max_insert_threads = 1, min_insert_block_size_bytes = 67108864, max_partitions_per_insert_block = 0;

SELECT throwIf(
    (SELECT (count(), sum(cityHash64(project_id, evaluator, name, hour, version))) FROM eval_aggregate_v1 FINAL)
    != (SELECT (count(), sum(cityHash64(project_id, evaluator, name, hour, version))) FROM eval_aggregate FINAL),
    'rows of eval_aggregate changed while they were copied. Stop ingest-worker; its queue keeps what arrives.')
SETTINGS do_not_merge_across_partitions_select_final = 0;

RENAME TABLE eval_aggregate TO eval_aggregate_v2, eval_aggregate_v1 TO eval_aggregate;
-- @end

-- replay_capture
-- @unless table replay_capture
RENAME TABLE replay_capture_v1 TO replay_capture; -- died between the two renames below
-- @end
-- @when table replay_capture_v1
INSERT INTO replay_capture_v1
SELECT *
FROM replay_capture
SETTINGS max_threads = 1, max_insert_threads = 1, min_insert_block_size_bytes = 67108864, max_partitions_per_insert_block = 0;

SELECT throwIf(
    (SELECT (count(), sum(cityHash64(project_id, run_id, span_id, version))) FROM replay_capture_v1 FINAL)
    != (SELECT (count(), sum(cityHash64(project_id, run_id, span_id, version))) FROM replay_capture FINAL),
    'rows of replay_capture changed while they were copied. Stop ingest-worker; its queue keeps what arrives.')
SETTINGS do_not_merge_across_partitions_select_final = 0;

RENAME TABLE replay_capture TO replay_capture_v2, replay_capture_v1 TO replay_capture;
-- @end

-- replay_run
-- @unless table replay_run
RENAME TABLE replay_run_v1 TO replay_run; -- died between the two renames below
-- @end
-- @when table replay_run_v1
INSERT INTO replay_run_v1
SELECT *
FROM replay_run
SETTINGS max_threads = 1, max_insert_threads = 1, min_insert_block_size_bytes = 67108864, max_partitions_per_insert_block = 0;

SELECT throwIf(
    (SELECT (count(), sum(cityHash64(project_id, replay_id, version))) FROM replay_run_v1 FINAL)
    != (SELECT (count(), sum(cityHash64(project_id, replay_id, version))) FROM replay_run FINAL),
    'rows of replay_run changed while they were copied. Stop ingest-worker; its queue keeps what arrives.')
SETTINGS do_not_merge_across_partitions_select_final = 0;

RENAME TABLE replay_run TO replay_run_v2, replay_run_v1 TO replay_run;
-- @end

-- dataset_item
-- @unless table dataset_item
RENAME TABLE dataset_item_v1 TO dataset_item; -- died between the two renames below
-- @end
-- @when table dataset_item_v1
INSERT INTO dataset_item_v1
SELECT *
FROM dataset_item
SETTINGS max_threads = 1, max_insert_threads = 1, min_insert_block_size_bytes = 67108864, max_partitions_per_insert_block = 0;

SELECT throwIf(
    (SELECT (count(), sum(cityHash64(project_id, dataset_id, item_id, version))) FROM dataset_item_v1 FINAL)
    != (SELECT (count(), sum(cityHash64(project_id, dataset_id, item_id, version))) FROM dataset_item FINAL),
    'rows of dataset_item changed while they were copied. Stop ingest-worker; its queue keeps what arrives.')
SETTINGS do_not_merge_across_partitions_select_final = 0;

RENAME TABLE dataset_item TO dataset_item_v2, dataset_item_v1 TO dataset_item;
-- @end
