-- The shard map. Rows are few: one for each change that was ever made to it.

-- name: shard_map_since
-- What stands of what changed after the epoch $1: by primary key.
SELECT DISTINCT ON (org_id) epoch, org_id, shards, state, weight, replaced, moved_at, moved_by, reason
FROM shard_map
WHERE epoch > $1
ORDER BY org_id, epoch DESC

-- name: shard_map_of_org
-- What stands for an org: the first of its index.
SELECT epoch, org_id, shards, state, weight, replaced, moved_at
FROM shard_map
WHERE org_id = $1
ORDER BY epoch DESC
LIMIT 1

-- name: shard_map_at
SELECT epoch, shards, state, weight, replaced FROM shard_map WHERE epoch = $1

-- name: lock_shard_map
-- The lock of the trigger, before any org is locked, so that two changes of several orgs do not wait for each other.
SELECT pg_advisory_xact_lock(hashtextextended('shard_map', 0))

-- name: insert_shard_move
-- The trigger gives it its epoch.
INSERT INTO shard_map (org_id, shards, weight, state, replaced, moved_at, moved_by, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
RETURNING epoch

-- name: shards_ever_of_orgs
-- Every shard that the map ever gave an org: where its books may be, beside its hash's.
SELECT org_id, array_agg(DISTINCT shard) AS shards
FROM shard_map
CROSS JOIN unnest(shards) AS shard
GROUP BY org_id

-- name: orgs_by_usage
-- The orgs that used the most of a meter in the periods $2, at most $3; deleted ones send nothing. Reads every org: an
-- installation has thousands, and only its operator asks.
SELECT org.id
FROM org
LEFT JOIN quota_period ON quota_period.org_id = org.id AND quota_period.meter = $1 AND quota_period.period = ANY ($2)
WHERE org.deleted_at IS NULL
GROUP BY org.id
ORDER BY coalesce(sum(quota_period.used_amount), 0) DESC, org.id DESC
LIMIT $3
