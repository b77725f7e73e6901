-- name: engine_clock
-- The engine's clock, read before a recompute: its version. Of two recomputes of a run the one with the higher version
-- began later, so it saw every span whose insert had ended when the earlier one began. (Inside the recompute itself
-- the clock could be read after the parts to read were chosen.)
SELECT toUnixTimestamp64Micro(now64(6));

-- name: recompute_runs
-- Rows of `run` for the traces in `traces`, from all of their spans. An id may be a trace of several projects; each of
-- them is a run and gets its row, which is right whether or not this batch touched it.
-- Cost: the bloom filter of trace_id and the primary key pass over what cannot hold the traces; copies of a span go by
-- LIMIT 1 BY, newest first. FINAL would read whole granules before it filters: 230 us a span with 5 M stored.
-- Everything is linear in the spans of a trace.
INSERT INTO run
(
    org_id, workspace_id, project_id, run_id, name, kind, status, error_message, start_time, end_time, root_span_id,
    span_count, error_count, models, input_tokens, output_tokens, total_tokens, cost, input_preview, output_preview,
    session_id, user_id, tags, environment, accepted_at, version
)
WITH
    spans AS
    (
        SELECT
            org_id, workspace_id, project_id, trace_id, span_id, parent_span_id, name, kind, status, status_message,
            start_time, end_time, model, input_tokens, output_tokens, total_tokens, cost, input_preview, output_preview,
            session_id, user_id, tags, environment, accepted_at,
            kind IN ('llm', 'embedding', 'reranker') AS is_call,
            is_call AND (input_tokens + output_tokens + total_tokens > 0 OR isNotNull(cost)) AS has_usage,
            -- The top of a trace comes first in this order: the root; without one the span that begins first, and of
            -- those that begin together the one that ends last, which encloses the others.
            bitShiftLeft(toUInt128(parent_span_id != ''), 126)
                + bitShiftLeft(toUInt128(toUnixTimestamp64Nano(start_time)), 63)
                + toUInt128(9223372036854775807 - ifNull(toUnixTimestamp64Nano(end_time), 9223372036854775807))
                AS place
        FROM span
        PREWHERE trace_id IN {traces:Array(String)} AND org_id IN {orgs:Array(UUID)}
        ORDER BY org_id, project_id, trace_id, span_id, version DESC
        LIMIT 1 BY org_id, project_id, trace_id, span_id
    ),
    traces AS
    (
        SELECT
            org_id, project_id, trace_id,
            any(s.workspace_id) AS workspace_id,
            countIf(s.parent_span_id = '') > 0 AS has_root,
            argMin(s.span_id, s.place) AS top_id,
            argMin(s.name, s.place) AS top_name,
            argMin(s.kind, s.place) AS top_kind,
            argMin(s.status, s.place) AS top_status,
            argMin(s.status_message, s.place) AS top_message,
            argMin(isNull(s.end_time), s.place) AS top_runs,
            argMin(s.input_tokens, s.place) AS top_input_tokens,
            argMin(s.output_tokens, s.place) AS top_output_tokens,
            argMin(s.total_tokens, s.place) AS top_total_tokens,
            argMin(tuple(s.cost), s.place).1 AS top_cost,
            argMin(s.input_preview, s.place) AS top_input,
            argMin(s.output_preview, s.place) AS top_output,
            argMin(s.session_id, s.place) AS top_session,
            argMin(s.user_id, s.place) AS top_user,
            argMin(s.environment, s.place) AS top_environment,
            argMinIf(s.status_message, s.start_time, s.status = 'error') AS first_error,
            argMinIf(s.input_preview, s.start_time, s.input_preview != '') AS first_input,
            argMaxIf(s.output_preview, s.end_time, s.output_preview != '') AS last_output,
            argMinIf(s.session_id, s.start_time, s.session_id != '') AS first_session,
            argMinIf(s.user_id, s.start_time, s.user_id != '') AS first_user,
            argMinIf(s.environment, s.start_time, s.environment != '') AS first_environment,
            min(s.start_time) AS start_time,
            max(s.end_time) AS end_time,
            count() AS span_count,
            countIf(s.status = 'error') AS error_count,
            countIf(s.has_usage) AS calls,
            -- Each call under its own id and, with nothing but a mark, under its parent's: a marked one repeats what the
            -- calls below it say.
            sumMapIf(
                [sipHash64(s.span_id), sipHash64(s.parent_span_id)],
                [s.input_tokens, 0], [s.output_tokens, 0], [s.total_tokens, 0],
                [ifNull(s.cost, 0), 0], [toUInt64(isNotNull(s.cost)), 0], [toUInt64(0), 1],
                s.has_usage) AS usage,
            arrayMap(marks -> marks = 0, usage.7) AS is_leaf,
            arraySort(groupUniqArrayIf(100)(s.model, s.is_call AND s.model != '')) AS models,
            arraySort(groupUniqArrayArray(1000)(s.tags)) AS tags,
            min(s.accepted_at) AS accepted_at
        FROM spans AS s
        GROUP BY org_id, project_id, trace_id
    )
SELECT
    org_id,
    workspace_id,
    project_id,
    trace_id,
    top_name,
    top_kind,
    multiIf(
        top_status = 'error', 'error',
        top_runs, 'running',
        NOT has_root AND error_count > 0, 'error',
        'ok'),
    multiIf(error_count = 0, '', top_status = 'error' AND top_message != '', top_message, first_error),
    start_time,
    end_time,
    top_id,
    span_count,
    error_count,
    models,
    if(calls > 0, arraySum(arrayMap((tokens, leaf) -> tokens * leaf, usage.2, is_leaf)), top_input_tokens),
    if(calls > 0, arraySum(arrayMap((tokens, leaf) -> tokens * leaf, usage.3, is_leaf)), top_output_tokens),
    if(calls > 0, arraySum(arrayMap((tokens, leaf) -> tokens * leaf, usage.4, is_leaf)), top_total_tokens),
    -- The column ends at a billion. Not `least`, which passes over NULL: the cost of a run may be unknown.
    CAST(
        if(
            (multiIf(
                calls = 0, top_cost,
                arraySum(arrayMap((costs, leaf) -> costs * leaf, usage.6, is_leaf)) > 0,
                arraySum(arrayMap((cost, leaf) -> if(leaf, cost, 0), usage.5, is_leaf)),
                NULL) AS run_cost) > 999999999,
            999999999,
            run_cost),
        'Nullable(Decimal(18, 9))'),
    if(top_input != '', top_input, first_input),
    if(top_output != '', top_output, last_output),
    if(top_session != '', top_session, first_session),
    if(top_user != '', top_user, first_user),
    tags,
    if(top_environment != '', top_environment, first_environment),
    accepted_at,
    {version:UInt64}
FROM traces;
