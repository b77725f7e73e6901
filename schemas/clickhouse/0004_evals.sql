-- Scores of runs and spans by evaluators and people, and their hourly aggregates.
CREATE TABLE IF NOT EXISTS eval_score
(
    project_id UUID,
    score_id UUID,
    run_id String CODEC(ZSTD(1)),
    span_id String CODEC(ZSTD(1)),
    evaluator LowCardinality(String),
    name LowCardinality(String),
    value Nullable(Float64) CODEC(ZSTD(1)),
    label LowCardinality(String),
    comment String CODEC(ZSTD(1)),
    created_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    version UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(created_at)
ORDER BY (project_id, run_id, score_id);

CREATE TABLE IF NOT EXISTS eval_aggregate
(
    project_id UUID,
    evaluator LowCardinality(String),
    name LowCardinality(String),
    hour DateTime('UTC') CODEC(Delta, ZSTD(1)),
    scores UInt64 CODEC(ZSTD(1)),
    value_sum Float64 CODEC(ZSTD(1)),
    version UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(hour)
ORDER BY (project_id, evaluator, name, hour);
