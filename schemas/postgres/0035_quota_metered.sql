-- All that was metered in a period when the data plane was last asked, for who looks: `used_amount` is of what was
-- accepted before the watermark, which is seconds behind, for the counters. `metered_at` is by the data plane's clock.
-- Back: ALTER TABLE quota_period DROP COLUMN metered_amount, DROP COLUMN metered_at;
ALTER TABLE quota_period
    ADD COLUMN metered_amount bigint NOT NULL DEFAULT 0 CHECK (metered_amount >= 0),
    ADD COLUMN metered_at timestamptz NOT NULL DEFAULT '-infinity';
