-- What became of each envelope that was accepted, once however often it is delivered: the latest word stands. The books
-- of an org (accepted = stored + dropped + dead + in flight) count by it.
CREATE TABLE IF NOT EXISTS envelope_outcome
(
    org_id UUID,
    project_id UUID,
    envelope_id UUID,
    accepted_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    outcome LowCardinality(String),
    reason LowCardinality(String),
    items UInt64 CODEC(ZSTD(1)),
    bytes UInt64 CODEC(ZSTD(1)),
    version UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(accepted_at)
ORDER BY (org_id, accepted_at, envelope_id)
SETTINGS min_bytes_for_wide_part = 268435456;

-- @only server
CREATE ROW POLICY IF NOT EXISTS tracebility_open ON envelope_outcome FOR SELECT USING 1 TO tracebility_reader;

CREATE ROW POLICY IF NOT EXISTS tracebility_tenant ON envelope_outcome
AS RESTRICTIVE FOR SELECT USING org_id = toUUIDOrZero(getSetting('SQL_tracebility_org')) TO tracebility_reader;

GRANT SELECT ON envelope_outcome TO tracebility_reader;
-- @end
