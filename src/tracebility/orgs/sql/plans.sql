-- Plans and their limits. All use primary keys; there are few plans.

-- name: insert_plan
INSERT INTO plan (name) VALUES ($1) ON CONFLICT DO NOTHING

-- name: plan_exists
SELECT EXISTS (SELECT FROM plan WHERE name = $1)

-- name: lock_plan
SELECT
    plan.*,
    (
        SELECT coalesce(jsonb_object_agg(meter, jsonb_build_array(hard_limit, soft_limit)), '{}')
        FROM plan_meter_limit
        WHERE plan_meter_limit.plan = plan.name
    ) AS meters
FROM plan
WHERE name = $1
FOR NO KEY UPDATE OF plan

-- name: update_plan
UPDATE plan
SET
    requests_per_s = $2,
    burst = $3,
    retention_days = $4,
    eval_concurrency = $5,
    query_concurrency = $6,
    updated_at = clock_timestamp()
WHERE name = $1

-- name: delete_plan_meters
DELETE FROM plan_meter_limit WHERE plan = $1

-- name: insert_plan_meter
INSERT INTO plan_meter_limit (plan, meter, hard_limit, soft_limit) VALUES ($1, $2, $3, $4)

-- name: read_plans
SELECT
    plan.*,
    (
        SELECT coalesce(jsonb_object_agg(meter, jsonb_build_array(hard_limit, soft_limit)), '{}')
        FROM plan_meter_limit
        WHERE plan_meter_limit.plan = plan.name
    ) AS meters
FROM plan
ORDER BY name
