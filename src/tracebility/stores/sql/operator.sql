-- Leader election, loop results and pruning of the operator. Single rows, or by primary key.

-- name: try_lead
SELECT pg_try_advisory_lock($1)

-- name: terminate_hung_leader
-- Terminates the connection of a leader that has sent no query for $2 seconds, which releases its lock. O(locks held).
SELECT pg_terminate_backend(holder.pid)
FROM pg_locks AS holder
JOIN pg_stat_activity AS activity ON activity.pid = holder.pid
WHERE
    holder.locktype = 'advisory' AND holder.granted AND holder.objsubid = 1
    AND (holder.classid::bigint << 32 | holder.objid::bigint) = $1
    AND activity.datname = current_database()
    AND activity.state_change < clock_timestamp() - make_interval(secs => $2)

-- name: start_term
UPDATE operator_leader SET fence = fence + 1, since = clock_timestamp(), name = $1 RETURNING fence

-- name: current_fence
SELECT fence FROM operator_leader

-- name: record_loop
-- Updates no row for a deposed leader. The lock keeps a new term from starting in between.
INSERT INTO operator_loop (name, last_success, last_duration_s, last_error, fence)
SELECT $1, CASE WHEN $3 = '' THEN clock_timestamp() END, $2, $3, fence FROM operator_leader WHERE fence = $4 FOR SHARE
ON CONFLICT (name) DO UPDATE
SET
    last_success = coalesce(excluded.last_success, operator_loop.last_success),
    last_duration_s = excluded.last_duration_s,
    last_error = excluded.last_error,
    fence = excluded.fence

-- name: age_of_loop
-- Seconds since the loop last succeeded.
SELECT extract(epoch FROM clock_timestamp() - last_success)::double precision FROM operator_loop WHERE name = $1

-- name: operator_is_known
-- Whether the schema has the tables of the operator.
SELECT to_regclass('operator_loop') IS NOT NULL

-- name: loops
SELECT
    name,
    last_success,
    extract(epoch FROM clock_timestamp() - last_success)::double precision AS age_s,
    last_duration_s,
    last_error,
    fence
FROM operator_loop
ORDER BY name

-- name: prune_tenant_changes
-- Uses the index on `at`; limited, so that no statement runs long.
DELETE FROM tenant_change
WHERE rev IN (
    SELECT rev FROM tenant_change WHERE at < clock_timestamp() - $1 * interval '1 second' ORDER BY at LIMIT $2
)
