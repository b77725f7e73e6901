-- What was done, by whom, to what: relayed from PostgreSQL, which has it first, and append-only. Kept for two years.
CREATE TABLE IF NOT EXISTS audit_log
(
    event_id UUID,
    event_time DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    event_type LowCardinality(String),
    org_id UUID,
    actor_type LowCardinality(String),
    actor_user_id String CODEC(ZSTD(1)),
    target_type LowCardinality(String),
    target_id String CODEC(ZSTD(1)),
    details String CODEC(ZSTD(1)),
    INDEX actor_user_id_bloom actor_user_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX target_id_bloom target_id TYPE bloom_filter(0.01) GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(event_time)
ORDER BY (org_id, event_time, event_type)
TTL toDateTime(event_time) + INTERVAL 730 DAY;

-- What a reconciliation run found missing or changed in audit_log, what it found instead, and when it was put right.
CREATE TABLE IF NOT EXISTS audit_reconciliation_gap
(
    detection_run_id UUID,
    detected_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    org_id UUID,
    event_id UUID,
    event_time DateTime64(6, 'UTC') CODEC(ZSTD(1)),
    event_type LowCardinality(String),
    target_type LowCardinality(String),
    target_id String CODEC(ZSTD(1)),
    kind LowCardinality(String),
    found String CODEC(ZSTD(1)),
    repaired_at Nullable(DateTime64(6, 'UTC')) CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(detected_at)
ORDER BY (org_id, detected_at, event_id);

-- @only server
CREATE ROW POLICY IF NOT EXISTS tracebility_open ON audit_log, audit_reconciliation_gap
FOR SELECT USING 1 TO tracebility_reader;

CREATE ROW POLICY IF NOT EXISTS tracebility_tenant ON audit_log, audit_reconciliation_gap
AS RESTRICTIVE FOR SELECT USING org_id = toUUIDOrZero(getSetting('SQL_tracebility_org')) TO tracebility_reader;

GRANT SELECT ON audit_log TO tracebility_reader;

GRANT SELECT ON audit_reconciliation_gap TO tracebility_reader;
-- @end
