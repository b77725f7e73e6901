-- An event keeps its number and its hash (hexadecimal) here too: what PostgreSQL's chain said when the event was relayed.
-- So a chain that was cut off or written anew there no longer fits what is here.
ALTER TABLE audit_log ADD COLUMN IF NOT EXISTS seq UInt64 CODEC(Delta, ZSTD(1));

ALTER TABLE audit_log ADD COLUMN IF NOT EXISTS hash String CODEC(NONE);

ALTER TABLE audit_log ADD INDEX IF NOT EXISTS seq_minmax seq TYPE minmax GRANULARITY 1;
