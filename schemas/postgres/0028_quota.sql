-- When an org was told that it passed the soft limit of a meter: once a period.
ALTER TABLE quota_period ADD COLUMN soft_told_at timestamptz;

-- Up to when everyone's usage is settled: what was accepted before it is billed as it is.
CREATE TABLE quota_watermark
(
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    watermark timestamptz NOT NULL
);
