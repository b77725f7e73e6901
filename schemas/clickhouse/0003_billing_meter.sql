-- What is billed, keyed by the identity of what is billed: sent or delivered twice, it is still one row.
CREATE TABLE IF NOT EXISTS billing_meter
(
    project_id UUID,
    period LowCardinality(String),
    meter LowCardinality(String),
    event_id UUID,
    qty UInt64 CODEC(ZSTD(1)),
    accepted_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    version UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(accepted_at)
ORDER BY (project_id, period, meter, event_id)
SETTINGS min_bytes_for_wide_part = 268435456;
