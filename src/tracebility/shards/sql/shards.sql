-- The shard map: one row for each change ever made, so it is small.

-- name: shard_map_since
-- The current row of each org that changed after epoch $1. Uses the primary key.
SELECT DISTINCT ON (org_id) epoch, org_id, shards, state, weight, replaced, moved_at, moved_by, reason
FROM shard_map
WHERE epoch > $1
ORDER BY org_id, epoch DESC

-- name: shard_map_of_org
-- The current row of an org: the first in its index.
SELECT epoch, org_id, shards, state, weight, replaced, moved_at
FROM shard_map
WHERE org_id = $1
ORDER BY epoch DESC
LIMIT 1

-- name: shard_map_at
SELECT epoch, shards, state, weight, replaced FROM shard_map WHERE epoch = $1

-- name: lock_shard_map
-- Takes the trigger's lock before locking any org, so that concurrent changes of several orgs cannot deadlock.
SELECT pg_advisory_xact_lock(hashtextextended('shard_map', 0))

-- name: insert_shard_move
-- A trigger assigns the epoch.
INSERT INTO shard_map (org_id, shards, weight, state, replaced, moved_at, moved_by, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
RETURNING epoch

-- name: shards_ever_of_orgs
-- All shards that the map ever assigned to an org. Its ledger counters may be on these and on its default shard.
SELECT org_id, array_agg(DISTINCT shard) AS shards
FROM shard_map
CROSS JOIN unnest(shards) AS shard
GROUP BY org_id

-- name: orgs_by_usage
-- The $3 orgs with the most usage of meter $1 in periods $2, without deleted orgs. Reads every org; an installation has
-- thousands, and only operators run this.
SELECT org.id
FROM org
LEFT JOIN quota_period ON quota_period.org_id = org.id AND quota_period.meter = $1 AND quota_period.period = ANY ($2)
WHERE org.deleted_at IS NULL
GROUP BY org.id
ORDER BY coalesce(sum(quota_period.used_amount), 0) DESC, org.id DESC
LIMIT $3
