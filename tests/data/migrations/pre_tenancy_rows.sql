-- Rows in the data plane of before tenancy, of the four projects given, by table. Keys repeat, so that versions compete.

-- name: span
INSERT INTO span (project_id, trace_id, span_id, parent_span_id, name, kind, start_time, end_time, status, model,
    input_tokens, output_tokens, cost, cost_source, inputs, outputs, tags, metadata, attributes, accepted_at,
    event_id, version, input_preview)
SELECT {projects:Array(UUID)}[number % 4 + 1], lower(hex(intDiv(number, 40))), lower(hex(number)),
    if(number % 10 = 0, '', lower(hex(number - 1))), concat('step ', toString(number % 50)), 'llm',
    toDateTime64('2026-03-01 00:00:00', 9, 'UTC') + number, if(number % 100 = 1, NULL, now64(9, 'UTC')), 'ok',
    'some-model', number, number % 7, if(number % 3 = 0, NULL, toDecimal64(number / 1000, 9)), 'priced',
    repeat(concat('in ü ', toString(number)), 10), 'out', ['a', toString(number % 3)], map('k', toString(number)),
    map('x', 'y', 'n', toString(number)), toDateTime64('2026-03-01 00:00:00', 6, 'UTC') + number * 30,
    generateUUIDv4(), number, leftUTF8(repeat(concat('in ü ', toString(number)), 10), 200)
FROM numbers({rows:UInt64})

-- name: run
INSERT INTO run (project_id, run_id, name, status, start_time, span_count, models, cost, tags, accepted_at, version)
SELECT {projects:Array(UUID)}[number % 4 + 1], lower(hex(intDiv(number, 2))), 'run', 'ok', now64(9, 'UTC'), 3,
    ['m'], NULL, ['t'], toDateTime64('2026-03-01 00:00:00', 6, 'UTC') + number * 3000, number
FROM numbers({rows:UInt64})

-- name: billing_meter
INSERT INTO billing_meter (project_id, period, meter, event_id, qty, accepted_at, version)
SELECT {projects:Array(UUID)}[number % 4 + 1], '2026-03', if(number % 2, 'spans', 'bytes'),
    toUUID('00000000-0000-0000-0000-000000000001'), number,
    toDateTime64('2026-03-01 00:00:00', 6, 'UTC') + number, number
FROM numbers({rows:UInt64})

-- name: eval_score
INSERT INTO eval_score (project_id, score_id, run_id, evaluator, name, value, created_at, version)
SELECT {projects:Array(UUID)}[number % 4 + 1], generateUUIDv4(), toString(number), 'e', 'n',
    if(number % 5 = 0, NULL, number / 3), toDateTime64('2026-03-01 00:00:00', 6, 'UTC') + number, number
FROM numbers({rows:UInt64})

-- name: eval_aggregate
INSERT INTO eval_aggregate (project_id, evaluator, name, hour, scores, value_sum, version)
SELECT {projects:Array(UUID)}[number % 4 + 1], 'e', 'n', toDateTime('2026-03-01 00:00:00', 'UTC') + number * 3600,
    number, number / 7, number
FROM numbers({rows:UInt64})

-- name: replay_capture
INSERT INTO replay_capture (project_id, run_id, span_id, kind, content_hash, content, captured_at, version)
SELECT {projects:Array(UUID)}[number % 4 + 1], 'r', toString(number), 'llm', SHA256(toString(number)),
    toString(number), toDateTime64('2026-03-01 00:00:00', 6, 'UTC') + number, number
FROM numbers({rows:UInt64})

-- name: replay_run
INSERT INTO replay_run (project_id, replay_id, run_id, status, report, started_at, version)
SELECT {projects:Array(UUID)}[number % 4 + 1], generateUUIDv4(), toString(number), 'ok', 'same',
    toDateTime64('2026-03-01 00:00:00', 6, 'UTC') + number, number
FROM numbers({rows:UInt64})

-- name: dataset_item
INSERT INTO dataset_item (project_id, dataset_id, item_id, inputs, metadata, created_at, version)
SELECT {projects:Array(UUID)}[number % 4 + 1], generateUUIDv4(), generateUUIDv4(), toString(number), map('a', 'b'),
    toDateTime64('2026-03-01 00:00:00', 6, 'UTC') + number, number
FROM numbers({rows:UInt64})
