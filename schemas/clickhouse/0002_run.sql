-- Runs: one row per trace, recomputed from its spans after every batch that touches it, so that it is right whatever came first.
CREATE TABLE IF NOT EXISTS run
(
    project_id UUID,
    run_id String CODEC(ZSTD(1)),
    name LowCardinality(String),
    kind LowCardinality(String),
    status LowCardinality(String),
    error_message String CODEC(ZSTD(1)),
    start_time DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    end_time Nullable(DateTime64(9, 'UTC')) CODEC(ZSTD(1)),
    root_span_id String CODEC(ZSTD(1)),
    span_count UInt32 CODEC(ZSTD(1)),
    error_count UInt32 CODEC(ZSTD(1)),
    models Array(LowCardinality(String)) CODEC(ZSTD(1)),
    input_tokens UInt64 CODEC(ZSTD(1)),
    output_tokens UInt64 CODEC(ZSTD(1)),
    total_tokens UInt64 CODEC(ZSTD(1)),
    cost Nullable(Decimal(18, 9)) CODEC(ZSTD(1)),
    input_preview String CODEC(ZSTD(1)),
    output_preview String CODEC(ZSTD(1)),
    session_id String CODEC(ZSTD(1)),
    user_id String CODEC(ZSTD(1)),
    tags Array(LowCardinality(String)) CODEC(ZSTD(1)),
    environment LowCardinality(String),
    accepted_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    version UInt64 CODEC(Delta, ZSTD(1)),
    INDEX start_time_minmax start_time TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(accepted_at)
ORDER BY (project_id, run_id)
-- Parts up to 256 MB are one file: a part of many small files cost a fifth of an insert's time in making them.
SETTINGS index_granularity = 1024, min_bytes_for_wide_part = 268435456;
