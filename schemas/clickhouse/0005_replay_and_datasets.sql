-- What a replayer needs of a run, what replays found, and the items of datasets.
CREATE TABLE IF NOT EXISTS replay_capture
(
    project_id UUID,
    run_id String CODEC(ZSTD(1)),
    span_id String CODEC(ZSTD(1)),
    kind LowCardinality(String),
    content_hash FixedString(32),
    content String CODEC(ZSTD(1)),
    captured_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    version UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(captured_at)
ORDER BY (project_id, run_id, span_id);

CREATE TABLE IF NOT EXISTS replay_run
(
    project_id UUID,
    replay_id UUID,
    run_id String CODEC(ZSTD(1)),
    status LowCardinality(String),
    diverged_at_span_id String CODEC(ZSTD(1)),
    report String CODEC(ZSTD(1)),
    started_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    version UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(started_at)
ORDER BY (project_id, replay_id);

CREATE TABLE IF NOT EXISTS dataset_item
(
    project_id UUID,
    dataset_id UUID,
    item_id UUID,
    inputs String CODEC(ZSTD(1)),
    expected String CODEC(ZSTD(1)),
    metadata Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    created_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    version UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(created_at)
ORDER BY (project_id, dataset_id, item_id);
