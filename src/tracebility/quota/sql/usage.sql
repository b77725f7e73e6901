-- Usage of orgs per period. The amount includes everything accepted before the watermark; a slot is five seconds.

-- name: usage_of_period
SELECT
    meter,
    used_amount,
    CASE WHEN isfinite(watermark) THEN (extract(epoch FROM watermark) / 5)::bigint - 1 ELSE 0 END AS watermark
FROM quota_period
WHERE org_id = $1 AND period = $2

-- name: limits_of_orgs
-- The plan limits of these orgs by meter. Missing and deleted orgs have no row: deletion settles an org's usage itself,
-- and nothing may recreate its counter in Redis afterwards.
SELECT org.id AS org_id, plan_meter_limit.meter, plan_meter_limit.hard_limit, plan_meter_limit.soft_limit
FROM org
LEFT JOIN plan_meter_limit ON plan_meter_limit.plan = org.plan
WHERE org.id = ANY ($1::uuid[]) AND org.deleted_at IS NULL

-- name: settle_usage
-- Only a newer watermark is written, so a late or repeated settlement changes nothing.
INSERT INTO quota_period (org_id, period, meter, used_amount, watermark)
VALUES ($1, $2, $3, $4, to_timestamp(($5::bigint + 1) * 5))
ON CONFLICT (org_id, period, meter) DO UPDATE
SET used_amount = excluded.used_amount, watermark = excluded.watermark, updated_at = clock_timestamp()
WHERE quota_period.watermark < excluded.watermark

-- name: record_metered
-- All metered usage as of time $5 (microseconds, ClickHouse's clock). The newer of two sums wins.
UPDATE quota_period
SET metered_amount = $4, metered_at = to_timestamp($5::bigint / 1000000.0)
WHERE org_id = $1 AND period = $2 AND meter = $3 AND metered_at < to_timestamp($5::bigint / 1000000.0)

-- name: mark_soft_limit_reported
-- Returns a row if the soft limit was not reported before.
UPDATE quota_period
SET soft_told_at = clock_timestamp()
WHERE org_id = $1 AND period = $2 AND meter = $3 AND soft_told_at IS NULL
RETURNING org_id

-- name: settled_hour
-- Hours since 1970 before this one are settled.
SELECT floor(extract(epoch FROM watermark) / 3600)::bigint FROM quota_watermark

-- name: advance_watermark
INSERT INTO quota_watermark (watermark)
VALUES (to_timestamp(($1::bigint + 1) * 5))
ON CONFLICT (one) DO UPDATE SET watermark = greatest(quota_watermark.watermark, excluded.watermark)

-- name: usage_by_hour
SELECT intDiv(toUnixTimestamp(accepted_at), 3600) AS hour, meter, sum(qty) AS quantity
FROM billing_meter FINAL
WHERE org_id = {org:UUID}
    AND accepted_at >= toDateTime({first:UInt64} * 3600, 'UTC')
    AND accepted_at < toDateTime({end:UInt64} * 3600, 'UTC')
GROUP BY hour, meter
ORDER BY hour, meter
SETTINGS do_not_merge_across_partitions_select_final = 0;

-- name: metered_usage
-- Billed usage of these orgs in a period: up to the watermark, and in total. FINAL deduplicates by identity and keeps the
-- copy that was accepted first.
SELECT
    org_id,
    meter,
    sumIf(qty, accepted_at < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC')) AS used,
    sum(qty) AS metered,
    toUnixTimestamp64Micro(now64(6)) AS at_us
FROM billing_meter FINAL
WHERE org_id IN {orgs:Array(UUID)} AND period = {period:String}
GROUP BY org_id, meter
SETTINGS do_not_merge_across_partitions_select_final = 0;
