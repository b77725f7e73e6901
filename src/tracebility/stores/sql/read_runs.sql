-- Reads of the API. Every one runs through ScopedClickHouse: {org} and {project} are the scope's, and the row policy
-- filters by the tenant whatever stands here.

-- name: read_runs_newest
-- One page of candidates, newest first, after {before} and {before_id} (empty: from {before} on). Without FINAL, so rows may be of versions that
-- were replaced since: the caller keeps those that read_runs_versions says are the latest, which gives exactly the newest
-- runs, because every latest version is a row too. Served by the prefix (org_id, project_id) of the primary key and by
-- the minmax index on start_time, which also skips what cannot be among the newest: a list needs no time range to be
-- cheap. The wide columns are read for the rows of the page only. Measured (engine 26.9, two cores): 15 ms in a project of
-- 5,000 runs beside 1.2 million of others, 37 ms in one of 1,000,000; with FINAL 21 and 194 ms. A projection by
-- start_time gained nothing: reading it in reverse order took 51 ms. Texts are cut, because clients choose their length:
-- a page of 25 runs with a megabyte of tags each was 236 MB.
SELECT
    run_id, leftUTF8(name, 1024) AS name, kind, status, leftUTF8(error_message, 1024) AS error_message,
    toUnixTimestamp64Nano(start_time) AS start_ns, toUnixTimestamp64Nano(end_time) AS end_ns,
    span_count, error_count, arrayMap(model -> leftUTF8(model, 256), arraySlice(models, 1, 64)) AS models,
    input_tokens, output_tokens, total_tokens, cost, leftUTF8(input_preview, 1024) AS input_preview,
    leftUTF8(output_preview, 1024) AS output_preview, leftUTF8(session_id, 1024) AS session_id,
    leftUTF8(user_id, 1024) AS user_id, arrayMap(tag -> leftUTF8(tag, 256), arraySlice(tags, 1, 64)) AS tags,
    leftUTF8(environment, 256) AS environment, version
FROM run
WHERE org_id = {org:UUID} AND project_id = {project:UUID}
    AND start_time >= fromUnixTimestamp64Nano({from:Int64}) AND start_time <= fromUnixTimestamp64Nano({last:Int64})
    AND start_time <= fromUnixTimestamp64Nano({before:Int64})
    AND (start_time < fromUnixTimestamp64Nano({before:Int64}) OR {before_id:String} = '' OR run_id < {before_id:String})
ORDER BY start_time DESC, run_id DESC, version DESC
LIMIT {limit:UInt32}

-- name: read_runs_versions
-- Where the latest version of each of {ids} stands in the order: at most as many as a page has rows, found by the
-- primary key. {least} is the lowest version that any of them was found with: rows of lower ones say nothing new.
-- 24 ms of CPU in a project of 100,000 runs in 14 parts, with it or without; 38 instead of 48 in one of 500,000.
SELECT run_id, toUnixTimestamp64Nano(argMax(start_time, version)) AS start_ns
FROM run
WHERE org_id = {org:UUID} AND project_id = {project:UUID} AND run_id IN {ids:Array(String)}
    AND version >= {least:UInt64}
GROUP BY run_id

-- name: read_run
-- One run by its whole primary key: a granule of each part. The newest version is the run, so FINAL would say nothing
-- new. 14 ms of CPU with 10 M spans stored.
SELECT
    run_id, name, kind, status, error_message,
    toUnixTimestamp64Nano(start_time) AS start_ns, toUnixTimestamp64Nano(end_time) AS end_ns,
    span_count, error_count, models, input_tokens, output_tokens, total_tokens, cost,
    input_preview, output_preview, session_id, user_id, tags, environment
FROM run
WHERE org_id = {org:UUID} AND project_id = {project:UUID} AND run_id = {run_id:String}
ORDER BY version DESC
LIMIT 1

-- name: read_run_spans
-- The first {limit} spans of one run in the order of their start: a range of the primary key, (org_id, project_id,
-- trace_id). ScopedClickHouse bounds its bytes.
SELECT
    trace_id, span_id, parent_span_id, name, kind, otel_kind, toUnixTimestamp64Nano(start_time) AS start_ns,
    toUnixTimestamp64Nano(end_time) AS end_ns, status, status_message, error_type, model, request_model, provider,
    input_tokens, output_tokens, total_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, cost,
    cost_source, time_to_first_token_ns, inputs, outputs, session_id, user_id, tags, metadata, attributes, resource,
    scope_name, scope_version, environment, events, links, source, toUnixTimestamp64Micro(accepted_at) AS accepted_us
FROM span FINAL
WHERE org_id = {org:UUID} AND project_id = {project:UUID} AND trace_id = {run_id:String}
ORDER BY start_time, span_id
LIMIT {limit:UInt32}
