-- name: engine_clock
-- The engine's clock, read before a recompute and used as its version. Of two recomputes of a run, the one with the
-- higher version began later, so it includes every span that was inserted before the earlier one began. (Inside the
-- recompute, the clock could be read after the parts were selected.)
SELECT toUnixTimestamp64Micro(now64(6));

-- name: recompute_runs
-- Rows of `run` for `traces`, computed from all of their spans. Several projects may use the same trace id; each of them
-- gets its row. Runs in `apart` are left out, because they are computed alone.
-- Cost: the bloom filter of trace_id and the primary key pass over what cannot hold the traces; copies of a span go by
-- LIMIT 1 BY, newest first. FINAL would read whole granules before it filters: 230 us a span with 5 M stored.
-- Everything is linear in the spans of a trace, n * log(n)^2 where calls have something below them. And the engine
-- reads the statement itself anew each time, for some 90 ms: an alias costs as often as it is used, a stage does not.
INSERT INTO run
(
    org_id, workspace_id, project_id, run_id, name, kind, status, error_message, start_time, end_time, root_span_id,
    span_count, error_count, models, input_tokens, output_tokens, total_tokens, cost, input_preview, output_preview,
    session_id, user_id, tags, environment, accepted_at, version
)
WITH
    -- Which of `ids` are among `some`. Everything about usage is sets of ids of one trace: linear, and no join.
    (ids, some) -> arrayMap(
        place -> place <= length(arrayDistinct(some)),
        arraySlice(arrayEnumerateDense(arrayConcat(arrayDistinct(some), ids)), length(arrayDistinct(some)) + 1)
    ) AS are_among,
    -- What `numbers` have at `places`, 0 at place 0; all are below 2^31. Each question is sorted behind what it asks
    -- for: a lambda that took `numbers` along would copy them for each place. (One-element arrays keep a result that is
    -- used more than once.)
    (numbers, places) -> arrayMap(
        sorted -> arrayMap(pair -> pair % 4294967296, arraySort(arrayFilter(pair -> pair != 0, arrayMap(
            (one, answer) -> if(bitTest(one, 32), one % 4294967296 * 4294967296 + answer % 4294967296, 0),
            sorted, arrayFill(one -> NOT bitTest(one, 32), sorted))))),
        [arraySort(arrayConcat(
            [0],
            arrayMap((number, nth) -> nth * 8589934592 + number, numbers, arrayEnumerate(numbers)),
            arrayMap((place, nth) -> place * 8589934592 + 4294967296 + nth, places, arrayEnumerate(places))))]
    )[1] AS looked_up,
    -- Marks (8 times a span's place, and what for) for all that is above those in `marks`. Steps lead from a span's
    -- place to its parent's, then to that of the second, fourth, eighth ... above: log2(spans) rounds for any depth.
    -- They are given back too: in the end they lead to 0, but from spans in a circle of parents or below one.
    (steps, marks) -> arrayFold(
        (state, round) -> arrayMap(
            (found, count, marks) -> (
                arraySlice(found, 1, count),
                arrayDistinct(arrayConcat(marks, arrayFilter(mark -> mark >= 8, arrayMap(
                    (place, mark) -> place * 8 + mark % 8, arraySlice(found, count + 1), marks))))),
            [looked_up(state.1, arrayConcat(state.1, arrayMap(mark -> intDiv(mark, 8), state.2)))],
            [length(state.1)],
            [state.2]
        )[1],
        range(toUInt32(ceil(log2(length(steps) + 1)))), (steps, marks)
    ) AS marked_above,
    -- Calls that repeat what a call of their kind below says. In a circle, which is where last steps lead, nobody can
    -- tell who repeats whom: what its calls say counts, the same only once.
    (codes, measure, walk, said) -> arrayMap(
        in_circle -> arrayMap(
            (is_marked, is_in_circle, nth) -> if(is_in_circle, nth > 1, is_marked),
            are_among(arrayMap((code, nth) -> nth * 8 + code + measure, codes, arrayEnumerate(codes)), walk.2),
            in_circle, arrayEnumerateUniq(in_circle, said)),
        [are_among(arrayEnumerate(codes), walk.1)]
    )[1] AS repeats,
    -- Spans whose parent says it too.
    (ids, parents) -> are_among(parents, ids) AS are_parts,
    (numbers, are_passed) -> arraySum(arrayMap((number, is_passed) -> if(is_passed, 0, number), numbers, are_passed))
        AS sum_of,
    spans AS
    (
        SELECT
            org_id, workspace_id, project_id, trace_id, span_id, parent_span_id, name, kind, status, status_message,
            start_time, end_time, model, input_tokens, output_tokens, total_tokens, cost, input_preview, output_preview,
            session_id, user_id, tags, environment, accepted_at,
            kind IN ('llm', 'embedding', 'reranker') AS is_call,
            input_tokens + output_tokens + total_tokens > 0 AS has_tokens,
            isNotNull(cost) AS has_cost,
            tuple(input_tokens, output_tokens, total_tokens) AS tokens,
            is_call AND (has_tokens OR has_cost) AS is_used,
            sipHash64(span_id) AS own,
            if(parent_span_id IN ('', span_id), 0, sipHash64(parent_span_id)) AS up,
            up != 0 AND kind != 'tool' AND NOT is_used AS is_between,
            -- The top of a trace comes first in this order: the root; without one the span that begins first, and of
            -- those that begin together the one that ends last, which encloses the others.
            bitShiftLeft(toUInt128(parent_span_id != ''), 126)
                + bitShiftLeft(toUInt128(toUnixTimestamp64Nano(start_time)), 63)
                + toUInt128(9223372036854775807 - ifNull(toUnixTimestamp64Nano(end_time), 9223372036854775807))
                AS place
        FROM span
        PREWHERE trace_id IN {traces:Array(String)} AND org_id IN {orgs:Array(UUID)}
            AND (org_id, trace_id) NOT IN {apart:Array(Tuple(UUID, String))}
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
            argMin(s.tokens, s.place) AS top_tokens,
            argMin(s.has_tokens, s.place) AS top_has_tokens,
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
            -- Calls that say what they used. The code is of their kind, for a model's answer is not repeated by an
            -- embedding, and leaves room for what is measured: tokens or cost.
            groupArrayIf(s.own, s.is_used) AS call,
            groupArrayIf(s.up, s.is_used) AS above_call,
            groupArrayIf(toUInt8(2 * indexOf(['embedding', 'reranker'], s.kind)), s.is_used) AS call_code,
            groupArrayIf(s.tokens, s.is_used) AS call_tokens,
            groupArrayIf(s.has_tokens, s.is_used) AS with_tokens,
            groupArrayIf(ifNull(s.cost, 0), s.is_used) AS call_cost,
            groupArrayIf(s.has_cost, s.is_used) AS with_cost,
            -- What else is between a call and one above. Not tools: a model that is called in one is another call.
            groupArrayIf(s.own, s.is_between) AS between,
            groupArrayIf(s.up, s.is_between) AS above_between,
            -- Others, whose usage counts when no call has any.
            groupArrayIf(s.own, NOT s.is_call AND s.has_tokens) AS other,
            groupArrayIf(s.up, NOT s.is_call AND s.has_tokens) AS above_other,
            groupArrayIf(s.tokens, NOT s.is_call AND s.has_tokens) AS other_tokens,
            groupArrayIf(s.own, NOT s.is_call AND s.has_cost) AS other_paid,
            groupArrayIf(s.up, NOT s.is_call AND s.has_cost) AS above_other_paid,
            groupArrayIf(assumeNotNull(s.cost), NOT s.is_call AND s.has_cost) AS other_cost,
            arraySort(groupUniqArrayIf(100)(s.model, s.is_call AND s.model != '')) AS models,
            arraySort(groupUniqArrayArray(1000)(s.tags)) AS tags,
            min(s.accepted_at) AS accepted_at
        FROM spans AS s
        GROUP BY org_id, project_id, trace_id
    ),
    walks AS
    (
        SELECT
            *,
            -- In most traces no call has anything below it; what is behind this `if` is computed for the others only.
            has(are_among(call, arrayConcat(above_call, above_between)), 1) AS is_tangled,
            arrayConcat(call, between) AS node,
            arrayMap(
                place -> if(place > length(node), 0, toUInt64(place)),
                arraySlice(arrayEnumerateDense(arrayConcat(node, above_call, above_between)), length(node) + 1)
            ) AS parents,
            if(
                is_tangled,
                marked_above(parents, arrayFilter(mark -> mark >= 8, arrayConcat(
                    arrayMap(
                        (place, code, has) -> has * (place * 8 + code),
                        arrayResize(parents, length(call)), call_code, with_tokens),
                    arrayMap(
                        (place, code, has) -> has * (place * 8 + code + 1),
                        arrayResize(parents, length(call)), call_code, with_cost)))),
                ([], [])
            ) AS walk
        FROM traces
    ),
    passes AS
    (
        SELECT
            *,
            has(with_tokens, 1) AS calls_have_tokens,
            has(with_cost, 1) AS calls_have_cost,
            -- What calls say, unless one below says it too. Without such calls what the top says, or else those below.
            multiIf(
                NOT calls_have_tokens, are_parts(other, above_other),
                is_tangled, repeats(call_code, 0, walk, call_tokens),
                arrayMap(id -> 0, call)
            ) AS is_token_passed,
            multiIf(
                NOT calls_have_cost, are_parts(other_paid, above_other_paid),
                is_tangled, repeats(call_code, 1, walk, call_cost),
                arrayMap(id -> 0, call)
            ) AS is_cost_passed,
            if(calls_have_tokens, call_tokens, other_tokens) AS all_tokens,
            if(calls_have_cost, call_cost, other_cost) AS all_cost
        FROM walks
    ),
    totals AS
    (
        SELECT
            *,
            if(
                NOT calls_have_tokens AND top_has_tokens,
                top_tokens,
                (
                    sum_of(all_tokens.1, is_token_passed),
                    sum_of(all_tokens.2, is_token_passed),
                    sum_of(all_tokens.3, is_token_passed)
                )
            ) AS said_tokens,
            multiIf(
                NOT calls_have_cost AND isNotNull(top_cost), top_cost,
                empty(all_cost), NULL,
                sum_of(all_cost, is_cost_passed)
            ) AS said_cost
        FROM passes
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
    said_tokens.1,
    said_tokens.2,
    said_tokens.3,
    -- The column ends at a billion. Not `least`, which passes over NULL: the cost of a run may be unknown.
    CAST(if(said_cost > 999999999, 999999999, said_cost), 'Nullable(Decimal(18, 9))'),
    if(top_input != '', top_input, first_input),
    if(top_output != '', top_output, last_output),
    if(top_session != '', top_session, first_session),
    if(top_user != '', top_user, first_user),
    tags,
    if(top_environment != '', top_environment, first_environment),
    accepted_at,
    {version:UInt64}
FROM totals;

-- name: run_sizes
-- The number of rows in `span` of each of `traces`, including copies, if it is at least `least`.
-- Cost: reads three columns of the granules that a recompute reads: 60 ms for 2,500 traces beside 3 M spans, a fifth of
-- what the recompute takes; 20 ms for one of 400,000 spans.
SELECT org_id, trace_id, count() AS spans
FROM span
PREWHERE trace_id IN {traces:Array(String)} AND org_id IN {orgs:Array(UUID)}
GROUP BY org_id, trace_id
HAVING spans >= {least:UInt64};
